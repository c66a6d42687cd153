"""Greedy (Yushkevich; pip package picsl_greedy) on one pair.

    python run_greedy.py FIXED MOVING FOLDER [METRIC]

Affine, then deformable registration with the commands of its documentation for brains (NCC over 5³ voxels,
unless METRIC is another, such as NMI), but with 30 instead of 10 iterations at full resolution, which is
better and slower.
"""

import protocol
from picsl_greedy import Greedy3D

greedy = Greedy3D()
folder = protocol.FOLDER
metric = protocol.ARGUMENTS[0] if protocol.ARGUMENTS else "NCC 2x2x2"
pair = f"-d 3 -threads 2 -i {protocol.FIXED} {protocol.MOVING} -m {metric}"
clock = protocol.Clock()
greedy.execute(f"{pair} -a -dof 12 -ia-image-centers -n 100x50x10 -o {folder}/affine.mat")
greedy.execute(
    f"{pair} -it {folder}/affine.mat -n 100x50x30 -o {folder}/warp.nii.gz -oinv {folder}/inverse.nii.gz"
)
clock.stop()
for names, reference, maps in (
    (protocol.FORWARD, protocol.FIXED, f"{folder}/warp.nii.gz {folder}/affine.mat"),
    (protocol.BACKWARD, protocol.MOVING, f"{folder}/affine.mat,-1 {folder}/inverse.nii.gz"),
):
    for name in names:
        method = "NN" if name == "labels" else "LINEAR"
        images = f"-rm {protocol.source(name)} {protocol.target(name)}"
        greedy.execute(f"-d 3 -rf {reference} -ri {method} {images} -r {maps}")
