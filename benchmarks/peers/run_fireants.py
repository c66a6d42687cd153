"""FireANTs (Jena et al., 2024; pip package fireants) on one pair.

    python run_fireants.py FIXED MOVING FOLDER DEVICE

Centres of mass, affine and greedy registration as its documentation does for brains.
"""

import protocol
import SimpleITK as sitk  # noqa: N813
import with_sitk
from fireants.io import BatchedImages, Image
from fireants.registration.affine import AffineRegistration
from fireants.registration.greedy import GreedyRegistration
from fireants.registration.moments import MomentsRegistration

device = protocol.ARGUMENTS[0]
clock = protocol.Clock()
images = [BatchedImages([Image.load_file(path, device=device)]) for path in (protocol.FIXED, protocol.MOVING)]
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
clock.stop()
path = str(protocol.FOLDER / "warp.nii.gz")
greedy.save_as_ants_transforms(path)
with_sitk.warp(sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64)))
