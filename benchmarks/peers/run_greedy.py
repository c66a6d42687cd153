"""Greedy (Yushkevich; pip package picsl_greedy) on one pair: runs in its own environment.

    python run_greedy.py FIXED MOVING FOLDER [METRIC]

Affine, then deformable registration with the commands of its documentation for brains (NCC over 5³ voxels,
unless METRIC is another, such as NMI), but with 30 instead of 10 iterations at full resolution, which is
better and slower. See `accuracy.py` for what lies in FOLDER.
"""

import json
import sys
import time
from pathlib import Path

from picsl_greedy import Greedy3D

fixed, moving, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
greedy = Greedy3D()
metric = sys.argv[4] if len(sys.argv) > 4 else "NCC 2x2x2"
pair = f"-d 3 -threads 2 -i {fixed} {moving} -m {metric}"
began = time.perf_counter()
greedy.execute(f"{pair} -a -dof 12 -ia-image-centers -n 100x50x10 -o {folder}/affine.mat")
greedy.execute(f"{pair} -it {folder}/affine.mat -n 100x50x30 -o {folder}/warp.nii.gz")
seconds = time.perf_counter() - began
for method, name in (("NN", "labels"), ("LINEAR", "x"), ("LINEAR", "y"), ("LINEAR", "z")):
    greedy.execute(
        f"-d 3 -rf {fixed} -ri {method} -rm {folder}/{name}.nii {folder}/{name}_warped.nii "
        f"-r {folder}/warp.nii.gz {folder}/affine.mat"
    )
(folder / "seconds.json").write_text(json.dumps(seconds))
