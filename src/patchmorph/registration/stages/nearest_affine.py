"""The affine or rigid map nearest to a deformation."""

from dataclasses import dataclass

import torch

from patchmorph.images.foreground import foreground
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.stages.base import Stage
from patchmorph.transforms.base import AffineTransform, Transform

POINTS = 64
"""Points along the longest side of the fixed content's box at which the maps are compared."""

MIN_POINTS = 100
"""Points of content with a counterpart, at least."""


@dataclass(frozen=True)
class NearestAffineStage(Stage):
    """Replaces a map by the affine map nearest to it where the content has a counterpart.

    Dense stages that start again from there need not undo what was estimated wrongly before.

    Attributes:
        rigid: the nearest rotation and shift instead.
    """

    rigid: bool = False

    @property
    def label(self) -> str:
        """What is done."""
        return "nearest linear map"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """The map with the least sum of squared distances to ``transform``."""
        grid = pair.fixed.content.grid(POINTS)
        points = grid.points_world()
        mapped = transform(points)
        counted = foreground(pair.fixed.image.sample(points, float(grid.spacing_mm[0, 0])))[:, 0]
        visible = pair.moving.image.in_field_of_view(mapped)
        counted = counted if visible is None else counted & visible
        if int(counted.sum()) < MIN_POINTS:
            mapped, counted = transform.affine_part()(points), torch.ones_like(counted)
        nearest = AffineTransform.nearest_rigid if self.rigid else AffineTransform.nearest
        return nearest(points[counted][None], mapped[counted][None])
