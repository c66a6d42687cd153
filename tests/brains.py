"""MNI152, and itself under a known map, as files."""

from pathlib import Path
from unittest import mock

import torch

from patchmorph import demo
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.transforms.base import Transform
from patchmorph.transforms.resample import resample


def moved_brain(mni: Image, folder: Path, smoothly: bool) -> tuple[Path, Path, Transform]:
    """Write MNI152 and itself under a known map; both paths and the map, fixed → moving world."""
    pose, flow = demo.known_map(mni.grid)
    truth = pose @ flow if smoothly else pose
    with mock.patch.object(demo, "LIA", 1.6 * demo.LIA):  # a quarter of the voxels
        grid = demo.moving_grid(pose, mni.grid.center_world)
    moving = resample(mni, truth.inverse(), grid)
    save_image(mni, folder / "fixed.nii.gz")
    save_image(moving, folder / "moving.nii.gz")
    return folder / "fixed.nii.gz", folder / "moving.nii.gz", truth


def inside(mni: Image) -> torch.Tensor:
    """Points of the brain."""
    return mni.grid.points_world()[:, ::2, ::2, ::2][mni.data[:, 0, ::2, ::2, ::2] > 0.1][None]
