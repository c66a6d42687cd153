"""Conversion of transforms to affine maps and displacement fields, which the files of other tools contain."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch

from patchmorph.spatial.bsplines import nearest_linear
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.merging import with_merged_splines
from patchmorph.transforms.velocity import InverseFlow, VelocityField

REFINEMENT = 1.6
"""Spacing of a field over that of its table, which is trilinear where a spline or an inverse bends."""

TOLERANCE_MM = 0.01
"""Tolerance of tabulated inverses; their interpolation error is larger (docs/decisions/005, 018)."""


def as_fields(transform: Transform) -> tuple[AffineTransform | DisplacementField, ...]:
    """The parts, outermost first, each affine or a trilinear displacement field on its own grid.

    A trilinear velocity field becomes the displacement field of its flow. Splines and inverses are trilinear
    on no grid: adjacent ones are tabulated together, on one grid that is `REFINEMENT` times finer than their
    finest field, with the values whose interpolation is nearest to them (`bsplines.nearest_linear`).
    """
    fields: list[AffineTransform | DisplacementField] = []
    for bends, parts in groupby(transform.parts(), _bends):
        for part in [_tabulated(list(parts))] if bends else parts:
            field = part.flow if isinstance(part, VelocityField) else part
            assert isinstance(field, AffineTransform | DisplacementField), (
                f"{type(part).__name__} has no field"
            )
            fields.append(field)
    return tuple(fields)


def _bends(part: Transform) -> bool:
    """Whether ``part`` is neither affine nor trilinear on a grid of its own."""
    return isinstance(part, InverseFlow | InverseDisplacement) or (
        isinstance(part, VelocityField | DisplacementField) and part.degree > 1
    )


def _domain(part: Transform) -> tuple[float, torch.Tensor, torch.device]:
    """The spacing of a part's field, the corners of the part's domain (RAS+ mm), and the device."""
    inverse = isinstance(part, InverseFlow | InverseDisplacement)
    field = part.forward if inverse else part
    assert isinstance(field, VelocityField | DisplacementField)
    corners = field.grid.corners_world()[0]
    if inverse and part.support() is None:  # the field is not zero at its faces, and moves them
        corners = field(corners[None].float().to(field.grid.device))[0].double().cpu()
    return float(field.grid.spacing_mm.min()), corners, field.grid.device


def _roughly(part: Transform) -> Transform:
    """``part``, to `TOLERANCE_MM` if it is solved for."""
    return part.within(TOLERANCE_MM) if isinstance(part, InverseFlow | InverseDisplacement) else part


def _tabulated(parts: Sequence[Transform]) -> DisplacementField:
    """The composition of ``parts`` as one displacement field on an axis-aligned grid over their domains."""
    spacings, domains, devices = zip(*map(_domain, parts), strict=True)
    corners, spacing = torch.cat(domains), min(spacings) / REFINEMENT
    box = torch.stack([corners.amin(0) - spacing / 2, corners.amax(0) + spacing / 2])
    grid = Grid.covering(box, spacing).to(devices[0])
    whole = with_merged_splines(compose(*map(_roughly, parts)), math.prod(grid.shape))
    table = DisplacementField.tabulate(whole, grid)
    return DisplacementField(nearest_linear(table.displacement), table.grid)
