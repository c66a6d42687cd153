"""Label maps of a pair: read, checked, warped, compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation import metrics
from patchmorph.evaluation.overlap import ids_of
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.io.stated import Stated
from patchmorph.registration.result import Registration
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import Interpolation
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

MAX_FRACTION = 0.01
"""Distance from a whole number up to which a value stored as a float is an id."""


def load_labels(path: str | Path, stated: Stated | None = None) -> Image:
    """Read a label map; ids that are stored as floats are rounded.

    Raises:
        PatchMorphError: as for `load_image`, values that are no whole numbers, or 0 only.
    """
    labels = load_image(path, stated)
    values = labels.values()
    if values.is_floating_point():
        wrong = ~((values - values.round()).abs() <= MAX_FRACTION)
        if wrong.any():
            raise PatchMorphError(f"labels must be whole numbers, got {float(values[wrong][0]):g} in {path}")
        values = values.round().to(torch.int32)
    if not (values > 0).any():
        raise PatchMorphError(f"labels must hold ids above 0, got none in {path}")
    return Image(values, labels.grid, labels.name, notes=labels.notes, doubts=labels.doubts)


@dataclass(frozen=True)
class PairLabels:
    """The label maps of a pair, each in the world of its image and on a grid of its own.

    Attributes:
        fixed: of the fixed image.
        moving: of the moving image.
    """

    fixed: Image | None = None
    moving: Image | None = None

    @classmethod
    def load(cls, paths: PairPaths, stated: Mapping[str, Stated] | None = None) -> "PairLabels":
        """Read the labels of a pair, with what is stated of the files of each side.

        Raises:
            PatchMorphError: as for `load_labels`.
        """
        files = {"fixed": paths.fixed_labels, "moving": paths.moving_labels}
        known = stated or {}
        return cls(**{side: load_labels(path, known.get(side)) for side, path in files.items() if path})

    def check(self, fixed: Grid, moving: Grid) -> None:
        """Check, before any work starts, that labels can be warped and compared.

        Args:
            fixed: grid of the fixed image.
            moving: grid of the moving image.

        Raises:
            PatchMorphError: labels outside their image, of the fixed image alone, or without a common id.
        """
        for labels, grid in ((self.fixed, fixed), (self.moving, moving)):
            if labels is not None and not _reach(labels, grid):
                raise PatchMorphError(f"labels must lie inside their image, got none there in {labels.name}")
        if self.fixed is None:
            return
        if self.moving is None:
            raise PatchMorphError(f"labels must be given for the moving image, too, got {self.fixed.name}")
        if not set(ids_of(self.fixed.values())) & set(ids_of(self.moving.values())):
            raise PatchMorphError(
                f"labels must share an id, got none in both {self.fixed.name} and {self.moving.name}"
            )

    def fixed_on(self, grid: Grid) -> Image:
        """The fixed labels on the grid of their image (nearest neighbour)."""
        assert self.fixed is not None
        fixed = self.fixed.to(grid.device)
        if fixed.grid.equals(grid):
            return fixed
        return resample(fixed, AffineTransform.identity(), grid, "nearest")

    def warped(self, registration: Registration, interpolation: Interpolation = "label") -> Image:
        """The moving labels on the fixed grid."""
        assert self.moving is not None
        return registration.warped(self.moving, interpolation)

    def dice(self, warped: Image) -> dict[int, float]:
        """Dice of every id of the fixed labels that ``warped`` or these have on the fixed grid."""
        fixed = self.fixed_on(warped.grid).values()[0, 0].long()
        return metrics.dice(fixed, warped.values()[0, 0].long(), ids_of(fixed))


def _reach(labels: Image, grid: Grid) -> bool:
    """Whether any label lies inside ``grid``."""
    last = torch.tensor(grid.shape) - 0.5
    for box, values in labels.blocks():
        index = (values[0, 0] > 0).nonzero() + torch.tensor(box.start)
        voxel = grid.to_voxel(apply_affine(labels.grid.voxel_to_world, index[None].float()))
        if ((voxel > -0.5) & (voxel < last)).all(-1).any():
            return True
    return False
