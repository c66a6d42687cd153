"""Conversion of transforms to affine maps and displacement fields, which the files of other tools contain."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch

from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.velocity import InverseFlow, VelocityField

REFINEMENT = 1.6
"""Spacing of a field over that of its tabulated inverse, which has finer detail where the field contracts."""

TOLERANCE_MM = 0.01
"""Tolerance of tabulated inverses; their interpolation error is ten times as large (docs/decisions/005)."""

InverseParts = InverseFlow | InverseDisplacement


def as_fields(transform: Transform) -> tuple[AffineTransform | DisplacementField, ...]:
    """The parts, outermost first, each affine or a displacement field on its own grid.

    A velocity field becomes the displacement field of its flow, so that a coarse part stays small. Inverses
    of fields have no grid of their own: adjacent inverses are tabulated together, on one grid that is
    `REFINEMENT` times finer than their finest field.
    """
    fields: list[AffineTransform | DisplacementField] = []
    for without_grid, parts in groupby(transform.parts(), lambda part: isinstance(part, InverseParts)):
        for part in [_tabulated(list(parts))] if without_grid else parts:
            field = part.flow if isinstance(part, VelocityField) else part
            assert isinstance(field, AffineTransform | DisplacementField), (
                f"{type(part).__name__} has no field"
            )
            fields.append(field)
    return tuple(fields)


def _domain_corners(part: Transform) -> torch.Tensor:
    """Corners of the domain of an inverse, RAS+ mm: its field's grid, mapped if u is not zero there."""
    assert isinstance(part, InverseParts)
    corners = part.forward.grid.corners_world()[0]
    return corners if part.support() is not None else part.forward(corners[None].float())[0].double()


def _tabulated(parts: Sequence[Transform]) -> DisplacementField:
    """The composition of inverses as one displacement field on an axis-aligned grid over all of them."""
    grids = [part.forward.grid for part in parts if isinstance(part, InverseParts)]
    corners = torch.cat([_domain_corners(part) for part in parts])
    lower, upper = corners.amin(0), corners.amax(0)
    spacing = min(float(grid.spacing_mm.min()) for grid in grids) / REFINEMENT
    shape = triple(math.ceil(length / spacing) + 1 for length in (upper - lower).tolist())
    inverses = [part.within(TOLERANCE_MM) for part in parts if isinstance(part, InverseParts)]
    transform = compose(*inverses)
    return DisplacementField.tabulate(transform, Grid.centered(shape, spacing, (lower + upper)[None] / 2))
