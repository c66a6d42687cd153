"""Any chain as affine maps and displacement fields: what other tools' files hold."""

import functools
import math
import operator
from collections.abc import Sequence
from itertools import groupby

import torch

from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.velocity import InverseFlow, VelocityField

REFINEMENT = 1.6
"""How much finer than its forward field an inverse is tabulated: it has detail where that one shrinks."""

TOLERANCE_MM = 0.01
"""Of tabulated inverses, which are ten times as far off between their points (docs/decisions/005)."""

InverseParts = InverseFlow | InverseDisplacement


def as_fields(transform: Transform) -> tuple[AffineTransform | DisplacementField, ...]:
    """The parts, outermost first, each affine or a displacement field on its own grid.

    Each velocity field becomes the displacement field of its flow, so a coarse part stays small. Inverses of
    fields have no grid of their own: neighbours among them are tabulated together, on one a little finer
    than their finest.
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


def _reached(part: Transform) -> torch.Tensor:
    """Corners of the grid of an inverse's field, or where these go if it has an offset: RAS+ mm."""
    assert isinstance(part, InverseParts)
    corners = part.forward.grid.corners_world()[0]
    return corners if part.support() is not None else part.forward(corners[None].float())[0].double()


def _tabulated(parts: Sequence[Transform]) -> DisplacementField:
    """Inverses of fields, composed, on one axis-aligned grid over all of them."""
    grids = [part.forward.grid for part in parts if isinstance(part, InverseParts)]
    # Where a field does not fade, its inverse lives where it takes its grid.
    corners = torch.cat([_reached(part) for part in parts])
    lower, upper = corners.amin(0), corners.amax(0)
    spacing = min(float(grid.spacing_mm.min()) for grid in grids) / REFINEMENT
    shape = triple(math.ceil(length / spacing) + 1 for length in (upper - lower).tolist())
    near = [part.within(TOLERANCE_MM) for part in parts if isinstance(part, InverseParts)]
    transform = functools.reduce(operator.matmul, near)
    return DisplacementField.tabulate(transform, Grid.centered(shape, spacing, (lower + upper)[None] / 2))
