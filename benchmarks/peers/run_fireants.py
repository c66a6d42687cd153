"""FireANTs (Jena et al., 2024; pip package fireants) on one pair: runs in its own environment.

    python run_fireants.py FIXED MOVING FOLDER DEVICE

Centres of mass, affine and greedy registration as its documentation does for brains. See `accuracy.py` for
what lies in FOLDER.
"""

import json
import sys
import time
from pathlib import Path

import SimpleITK as sitk  # noqa: N813
from fireants.io import BatchedImages, Image
from fireants.registration.affine import AffineRegistration
from fireants.registration.greedy import GreedyRegistration
from fireants.registration.moments import MomentsRegistration

fixed, moving, folder, device = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
began = time.perf_counter()
images = [BatchedImages([Image.load_file(path, device=device)]) for path in (fixed, moving)]
moments = MomentsRegistration(4, *images)  # centres of mass: headers do not place people in one space
moments.optimize()
affine = AffineRegistration(
    [4, 2, 1], [200, 100, 50], *images, optimizer="Adam", optimizer_lr=3e-3, cc_kernel_size=5,
    init_rigid=moments.get_affine_init(),
)  # fmt: skip
affine.optimize()
greedy = GreedyRegistration(
    scales=[4, 2, 1], iterations=[200, 100, 25], fixed_images=images[0], moving_images=images[1],
    cc_kernel_size=5, deformation_type="compositive", smooth_grad_sigma=1, optimizer="adam", optimizer_lr=0.5,
    init_affine=affine.get_affine_matrix().detach(),
)  # fmt: skip
greedy.optimize()
seconds = time.perf_counter() - began
greedy.save_as_ants_transforms(f"{folder}/warp.nii.gz")
field = sitk.DisplacementFieldTransform(sitk.ReadImage(f"{folder}/warp.nii.gz", sitk.sitkVectorFloat64))
reference = sitk.ReadImage(fixed)
for method, name in (
    (sitk.sitkNearestNeighbor, "labels"),
    (sitk.sitkLinear, "x"),
    (sitk.sitkLinear, "y"),
    (sitk.sitkLinear, "z"),
):
    warped = sitk.Resample(sitk.ReadImage(f"{folder}/{name}.nii"), reference, field, method)
    sitk.WriteImage(warped, f"{folder}/{name}_warped.nii")
(folder / "seconds.json").write_text(json.dumps(seconds))
