"""Volumes of the regions of an atlas in an image, and points in each region, left and right."""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Num
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.chunked import StoredImage
from patchmorph.images.interpolation import interpolator
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.io.atomic import whole_file
from patchmorph.io.region_names import RegionName
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.resample import resample

BLOCK_SIDE = 128
LEFT, RIGHT = 1, 2
"""Values of an image of hemispheres, as BrainGlobe defines them."""
UNNAMED = RegionName("")


@dataclass(frozen=True)
class Annotation:
    """The regions of an atlas.

    Attributes:
        labels: the id of the region at each voxel, 0 outside.
        hemispheres: `LEFT` or `RIGHT` at each voxel of a grid in the same world; ``None``: unknown.
        names: by id.
    """

    labels: StoredImage
    hemispheres: AbstractVolume | None = None
    names: Mapping[int, RegionName] = field(default_factory=dict)

    def ids(self) -> list[int]:
        """Ids of its regions, in their order.

        Raises:
            PatchMorphError: values that are no whole numbers, or none above 0.
        """
        found = set[int]()
        for _, values in self.labels.blocks():
            ids = torch.unique(values)
            if ids.is_floating_point() and not torch.equal(ids, ids.round()):
                raise PatchMorphError(f"annotation must hold whole numbers, got {self.labels.name}")
            found.update(map(int, ids.tolist()))
        if not (found := {label for label in found if label > 0}):
            raise PatchMorphError(f"annotation must hold ids above 0, got none in {self.labels.name}")
        return sorted(found)


Counts = Counter[tuple[int, int]]
"""How often a pair of id and hemisphere occurs; hemisphere 0 is unknown."""


@dataclass(frozen=True)
class RegionTable:
    """What was measured of each region.

    Attributes:
        annotation: the atlas.
        voxels: of the image.
        voxel_mm3: volume of one of them.
        cells: in the image; ``None``: none were given.
    """

    annotation: Annotation
    voxels: Counts
    voxel_mm3: float
    cells: Counts | None = None

    def rows(self) -> list[dict[str, str | int | float]]:
        """A row for each region of the atlas, in the order of ids."""
        return [self._row(label) for label in self.annotation.ids()]

    def _row(self, label: int) -> dict[str, str | int | float]:
        name = self.annotation.names.get(label, UNNAMED)
        voxels, mm3 = _total(self.voxels, label), self.voxel_mm3
        row = {"id": label, "acronym": name.acronym, "name": name.name, "voxels": voxels, "mm3": voxels * mm3}
        sides = {} if self.annotation.hemispheres is None else {"left": LEFT, "right": RIGHT}
        row |= {f"{side}_mm3": self.voxels[label, of] * mm3 for side, of in sides.items()}
        if self.cells is not None:
            cells = _total(self.cells, label)
            row |= {"cells": cells} | {f"{side}_cells": self.cells[label, of] for side, of in sides.items()}
            row["cells_per_mm3"] = cells / row["mm3"] if voxels else ""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}

    def save(self, path: Path) -> None:
        """Write the rows as CSV."""
        rows = self.rows()
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def measure_regions(
    annotation: Annotation, to_atlas: Transform, grid: Grid, cells: Float[Tensor, "n 3"] | None = None
) -> RegionTable:
    """Volumes of regions in an image, and cells in each region.

    Args:
        annotation: of the atlas.
        to_atlas: the image's world → the atlas's world, RAS+ mm.
        grid: of the image; its voxels are counted, block by block.
        cells: points in the image's world, RAS+ mm.

    Raises:
        PatchMorphError: no voxel of the image is in any region, or the annotation has none.
    """
    voxels = Counts()
    for _, block in grid.blocks(BLOCK_SIDE):
        labels = resample(annotation.labels, to_atlas, block, "label").data.flatten()
        voxels += _counted(labels, _sides(annotation, to_atlas, block))
    if not any(label > 0 for label, _ in voxels):
        annotation.ids()  # an annotation without regions is another error
        name = annotation.labels.name
        raise PatchMorphError(f"image must show regions of the annotation, got none of {name} in its voxels")
    volume = float(torch.linalg.det(grid.voxel_to_world[0, :3, :3]).abs())
    found = None if cells is None else count_points(annotation, to_atlas(cells[None])[0])
    return RegionTable(annotation, voxels, volume, found)


def count_points(annotation: Annotation, points: Float[Tensor, "n 3"]) -> Counts:
    """How many points (RAS+ mm of the atlas) lie in each region; those in none, or not finite, have id 0."""
    counts = Counts({(0, 0): int((~points.isfinite().all(-1)).sum())})
    points = points[points.isfinite().all(-1)]
    blocks = (annotation.labels.grid.to_voxel(points[None])[0] / BLOCK_SIDE).floor().long()
    for block in torch.unique(blocks, dim=0):
        near = points[(blocks == block).all(-1)][None]
        labels = interpolator(annotation.labels, "label")(near).flatten()
        sides = None
        if annotation.hemispheres is not None:
            sides = interpolator(annotation.hemispheres, "nearest")(near).flatten()
        counts += _counted(labels, sides)
    return counts


def halves(grid: Grid) -> Image:
    """The two halves of an atlas as hemispheres: the plane in the middle of ``grid`` separates them."""
    axis = next(k for k, letter in enumerate(grid.orientation) if letter in "LR")
    shape = [1, 1, 1]
    shape[axis] = 2
    values = torch.tensor([LEFT, RIGHT] if grid.orientation[axis] == "R" else [RIGHT, LEFT])
    ratio = torch.tensor([count / half for count, half in zip(grid.shape, shape, strict=True)]).double()
    to_voxel = torch.eye(4, dtype=torch.float64)
    to_voxel[:3, :3], to_voxel[:3, 3] = torch.diag(ratio), (ratio - 1) / 2
    half = Grid((shape[0], shape[1], shape[2]), grid.voxel_to_world @ to_voxel)
    return Image(values.to(torch.uint8).reshape(1, 1, *shape), half, "halves")


def _sides(annotation: Annotation, to_atlas: Transform, grid: Grid) -> Num[Tensor, " n"] | None:
    """The hemisphere of each voxel of ``grid``."""
    if annotation.hemispheres is None:
        return None
    return resample(annotation.hemispheres, to_atlas, grid, "nearest").data.flatten()


def _counted(labels: Num[Tensor, " n"], sides: Num[Tensor, " n"] | None) -> Counts:
    """Pairs of id and hemisphere among voxels or points."""
    labels = labels.long()
    pairs = torch.stack([labels, torch.zeros_like(labels) if sides is None else sides.long()], -1)
    unique, counts = torch.unique(pairs, dim=0, return_counts=True)
    return Counts(
        {(label, side): n for (label, side), n in zip(unique.tolist(), counts.tolist(), strict=True)}
    )


def _total(counts: Counts, label: int) -> int:
    return sum(counts[label, side] for side in (0, LEFT, RIGHT))
