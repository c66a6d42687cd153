"""Write the files of this folder with the tools themselves; see README.md for their versions.

It runs in an environment with ``picsl-greedy``, ``antspyx``, ``dipy``, ``surfa``, ``voxelmorph`` (pip), and
NiftyReg's and MRtrix3's programs on the path: ``python make.py FOLDER``.
"""

import os
import subprocess
import sys
from pathlib import Path

import ants
import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
import surfa
import torch
from dipy.align import write_mapping
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import SSDMetric
from dipy.io.image import save_nifti
from picsl_greedy import Greedy3D
from voxelmorph.nn.modules import SpatialTransformer
from voxelmorph.py.utils import save_volfile


def rotation(degrees: float) -> np.ndarray:
    """About a skew axis (Rodrigues)."""
    cross = np.cross(np.eye(3), np.array([1.0, 2, 2]) / 3)
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine(shape, linear, center) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = np.array(center) - linear @ ((np.array(shape) - 1) / 2)
    return matrix


FIXED = (9, 10, 8), affine((9, 10, 8), np.diag([-17.0, 16, 18]), (4, -2, 1))
MOVING = (10, 8, 11), affine((10, 8, 11), rotation(25) @ np.diag([16.0, 18, 15]), (9, 3, -5))
SHARED = (9, 10, 8), affine((9, 10, 8), rotation(25) @ np.diag([-17.0, 16, 18]), (4, -2, 1))
MAP = affine((1, 1, 1), rotation(9) @ np.diag([1.08, 0.95, 1.04]), (10, -6, 4))


def voxels(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)


def world(shape, matrix):
    return voxels(shape) @ matrix[:3, :3].T + matrix[:3, 3]


def mapped(points):
    """A bent and turned head: the moving image at these points is the fixed one."""
    x, y, z = np.moveaxis(points, -1, 0)
    bent = points + np.stack([5 * np.sin(y / 30), 4 * np.cos(z / 33), 4 * np.sin(x / 27)], -1)
    return bent @ MAP[:3, :3].T + MAP[:3, 3]


def head(points):
    x, y, z = np.moveaxis(points, -1, 0)
    inside = 1 / (1 + np.exp(6 * (((x + 8) / 60) ** 2 + ((y - 10) / 72) ** 2 + (z / 55) ** 2 - 1)))
    folds = 1 + 0.4 * np.sin(x / 17) * np.cos(y / 21) + 0.3 * np.sin(z / 19 + x / 40)
    spot = 200 * np.exp(-((x - 25) ** 2 + (y - 30) ** 2 + (z - 15) ** 2) / 600)
    return (1000 * inside * folds + spot).astype(np.float32)


def save(name, data, matrix):
    image = nibabel.Nifti1Image(data, matrix)
    image.set_sform(matrix, 1)
    image.set_qform(matrix, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, name)


def shell(commands: str) -> None:
    for line in commands.strip().splitlines():
        subprocess.run(line.split(), check=True, stdout=subprocess.DEVNULL)


def greedy():
    tool, images = Greedy3D(), "-i fixed.nii.gz moving.nii.gz -m SSD -threads 1"
    warp = "-rf fixed.nii.gz -rm moving.nii.gz"
    tool.execute(f"{images} -a -dof 12 -ia-image-centers -n 100x50 -o greedy.mat")
    tool.execute(f"{images} -it greedy.mat -n 60x40 -s 1.5vox 0.7vox -o greedy_warp.nii.gz")
    tool.execute(f"{warp} greedy_affine_warped.nii.gz -r greedy.mat")
    tool.execute(f"{warp} greedy_warped.nii.gz -r greedy_warp.nii.gz greedy.mat")


def niftyreg():
    pair, spline = "-ref fixed.nii.gz -flo moving.nii.gz", "-aff niftyreg.txt -sx -3 -lp 1 -ln 1"
    shell(f"""
    reg_aladin {pair} -aff niftyreg.txt -res x.nii.gz -lp 1 -ln 1
    reg_resample {pair} -trans niftyreg.txt -res niftyreg_affine_warped.nii.gz -inter 1
    reg_f3d {pair} {spline} -cpp niftyreg_cpp.nii.gz -res x.nii.gz -maxit 60 -be 0.0005
    reg_f3d -vel {pair} {spline} -cpp niftyreg_vel.nii.gz -res x.nii.gz -maxit 20
    reg_transform -ref fixed.nii.gz -def niftyreg_cpp.nii.gz niftyreg_def.nii.gz
    reg_transform -ref fixed.nii.gz -disp niftyreg_cpp.nii.gz niftyreg_disp.nii.gz
    reg_resample {pair} -trans niftyreg_def.nii.gz -res niftyreg_warped.nii.gz -inter 1
    """)


def mrtrix():
    flip = np.diag([-1.0, -1, 1])
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((flip @ MAP[:3, :3] @ flip).ravel().tolist())
    transform.SetTranslation((flip @ MAP[:3, 3]).tolist())
    sitk.WriteTransform(transform, "map_itk.txt")
    warp, steps = "mrtransform moving.nii.gz -interp linear", "-nl_scale 1 -nl_niter 20"
    both = "moving.nii.gz fixed.nii.gz -type nonlinear"
    shell(f"""
    transformconvert map_itk.txt itk_import mrtrix.txt
    {warp} -linear mrtrix.txt -template fixed.nii.gz -oversample 1,1,1 mrtrix_affine_warped.nii.gz
    mrregister {both} {steps} -nl_warp mrtrix_warp.nii.gz back.nii.gz
    {warp} -warp mrtrix_warp.nii.gz mrtrix_warped.nii.gz
    warpconvert mrtrix_warp.nii.gz deformation2displacement mrtrix_displacement.nii.gz
    mrgrid mrtrix_warp.nii.gz pad -uniform 1 mrtrix_zeros.nii.gz
    warpcorrect mrtrix_zeros.nii.gz mrtrix_nan.nii.gz
    {warp} -warp mrtrix_nan.nii.gz mrtrix_nan_warped.nii.gz
    """)


def dipy_and_ants():
    fixed, moving = nibabel.load("fixed.nii.gz"), nibabel.load("moving.nii.gz")
    images = [image.get_fdata().astype(np.float32) for image in (fixed, moving)]
    registration = SymmetricDiffeomorphicRegistration(SSDMetric(3), level_iters=[30])
    places = {"static_grid2world": fixed.affine, "moving_grid2world": moving.affine}
    found = registration.optimize(*images, **places)
    save_nifti("dipy.nii.gz", np.asarray(found.get_forward_field(), np.float32), fixed.affine)
    save_nifti("dipy_warped.nii.gz", found.transform(images[1]), fixed.affine)
    write_mapping(found, "dipy_mapping.nii.gz")

    fixed, moving = ants.image_read("fixed.nii.gz"), ants.image_read("moving.nii.gz")
    options = {"reg_iterations": (20,), "aff_iterations": (50,), "grad_step": 0.3, "flow_sigma": 1}
    levels = {"aff_shrink_factors": (1,), "aff_smoothing_sigmas": (0,)}
    found = ants.registration(fixed, moving, "SyN", outprefix="ants_", **options, **levels)
    ants.image_write(ants.apply_transforms(fixed, moving, found["fwdtransforms"]), "ants_warped.nii.gz")


def freesurfer():
    fixed, moving = surfa.load_volume("fixed.nii.gz"), surfa.load_volume("moving.nii.gz")
    shift = (mapped(world(*FIXED)) - world(*FIXED)).astype(np.float32)
    warp = surfa.Warp(shift, source=moving.geom, target=fixed.geom, format=surfa.Warp.Format.disp_ras)
    warp.save("surfa.nii.gz")
    warp.transform(moving, method="linear").save("surfa_warped.nii.gz")


def voxelmorph():
    """Both images on one flipped, oblique grid, as VoxelMorph requires."""
    moving = head(world(*SHARED))
    save("voxelmorph_moving.nii.gz", moving, SHARED[1])
    x, y, z = np.moveaxis(voxels(SHARED[0]), -1, 0)
    shift = np.stack([0.5 * np.sin(y / 3) + 0.3, 0.4 * np.cos(z / 3), 0.5 * np.sin(x / 4) - 0.6])
    shift = torch.from_numpy(shift.astype(np.float32))
    warped = SpatialTransformer()(torch.from_numpy(moving)[None, None], shift[None])
    save_volfile(shift.numpy().transpose(1, 2, 3, 0), "voxelmorph.nii.gz", SHARED[1])  # TensorFlow's order
    save_volfile(shift.numpy(), "voxelmorph_torch.nii.gz", SHARED[1])
    save_volfile(warped[0, 0].numpy(), "voxelmorph_warped.nii.gz", SHARED[1])


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    os.chdir(sys.argv[1])
    save("moving.nii.gz", head(world(*MOVING)), MOVING[1])
    save("fixed.nii.gz", head(mapped(world(*FIXED))), FIXED[1])
    for write in (greedy, niftyreg, mrtrix, dipy_and_ants, freesurfer, voxelmorph):
        write()
