"""A registration as a page shows it, read from its results folder."""

import math
from collections.abc import Callable
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.labels import load_labels
from patchmorph.images.chunked import StoredImage
from patchmorph.images.volume import Image
from patchmorph.io.chunked import open_image
from patchmorph.io.formats.registry import is_image
from patchmorph.io.images import load_image
from patchmorph.io.stated import stated_of
from patchmorph.io.transforms.formats import load_transform
from patchmorph.registration.result import fill_of
from patchmorph.report.layers import PairView
from patchmorph.results.folder import FORMATS, TRANSFORM, UNCERTAINTY, WARPED, WARPED_LABELS
from patchmorph.results.summary import SUMMARY, Summary
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.merging import with_merged_splines
from patchmorph.transforms.resample import resample


def load_view(folder: Path, summary: Summary) -> PairView:
    """Read what a page shows; what the folder does not hold is made, or left out.

    Raises:
        PatchMorphError: images that have moved, or a file that cannot be read.
    """
    images = {side: _source(folder, summary, side) for side in ("fixed", "moving")}
    points = math.prod(images["fixed"].grid.shape)
    transform = with_merged_splines(load_transform(folder / TRANSFORM), points)  # as when it was registered
    warped, labels = _result(folder, WARPED), _result(folder, WARPED_LABELS)
    fixed_labels = summary.files.get("fixed_labels")
    uncertainty = _result(folder, UNCERTAINTY)
    stated, path = stated_of(summary.arguments, "fixed"), fixed_labels and folder / fixed_labels
    grid = images["fixed"].overview.grid
    return PairView(
        **images,
        transform=transform,
        warped=open_image(warped) if warped else _warped(images["moving"], transform, grid),
        fixed_labels=load_labels(path, stated) if labels and path and is_image(path) else None,
        warped_labels=load_labels(labels) if labels else None,
        uncertainty=_on_grids(load_image(uncertainty)) if uncertainty else None,
    )


def _warped(moving: StoredImage, transform: Transform, grid: Grid) -> Image:
    return resample(moving, transform, grid, background=fill_of(moving))


def _source(folder: Path, summary: Summary, side: str) -> StoredImage:
    path = folder / summary.files.get(side, "")
    if not is_image(path):
        raise PatchMorphError(
            f"{side} image must be where the summary says, got nothing at {path} (of {folder})"
        )
    background = summary.arguments.get("background")
    if not isinstance(background, float | int | None):
        raise PatchMorphError(f"background must be a number, got {background!r:.80} in {folder / SUMMARY}")
    return open_image(path, stated_of(summary.arguments, side)).with_background(background)


def _on_grids(image: Image) -> Callable[[Grid], Image]:
    return lambda grid: Image(image.sample_grid(grid, float(grid.spacing_mm.min())), grid, image.name)


def _result(folder: Path, name: str) -> Path | None:
    """The file of an image of the results, in any format."""
    return next((path for form in FORMATS if (path := folder / f"{name}.{form}").exists()), None)
