"""Whatever moves to another device arrives whole: every tensor there, everything else as it was.

PyTorch's ``meta`` device is another device that every machine has: its tensors have no numbers, so one that
was left behind shows.
"""

import pytest
import torch
from synthetic import AFFINES, grid_around, rotation

from patchmorph.images.volume import Image
from patchmorph.io.grids import GridPair
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

GRID = grid_around((4, 5, 6), AFFINES["oblique"] * 3)
VALUES = torch.rand(1, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
FIELD = DisplacementField(VALUES, GRID, outside="zeros")
FLOW = VelocityField(VALUES, GRID, steps=3, variance=VALUES[:, :1])

MOVABLE = {
    "grid": GRID,
    "affine": rotation(),
    "field": FIELD,
    "field, border": DisplacementField(VALUES, GRID),
    "inverse of a field": FIELD.inverse().within(0.5),
    "flow": FLOW,
    "flow without variance": VelocityField(VALUES, GRID, 2),
    "spline": VelocityField(VALUES, GRID, 2, degree=5),
    "field of a spline": DisplacementField(VALUES, GRID, degree=5),
    "inverse of a spline": VelocityField(VALUES, GRID, 2, degree=5).inverse(),
    "inverse of a flow": FLOW.inverse().within(0.5),
    "chain": rotation() @ FLOW @ FIELD.inverse(),
    "pair": GridPair(GRID, grid_around((3, 3, 3), AFFINES["LAS"]), ("--a", "--b")),
    "half a pair": GridPair(None, GRID),
    "image": Image(VALUES, GRID, "sub-07", ((0, 1), (2, 0)), grid_around((3, 3, 3), AFFINES["LAS"])),
}


def described(value, device=None):
    """All that an object is made of, but for the numbers; tensors with their device (or ``device``).

    Matrices stay in the processor's memory, and a grid says where its points are.
    """
    if isinstance(value, torch.Tensor):
        is_matrix = value.dtype == torch.float64 and value.shape[1:] == (4, 4)
        moved = value.device.type if is_matrix else device or value.device.type
        return tuple(value.shape), value.dtype, moved
    if isinstance(value, Grid):
        return value.shape, described(value.voxel_to_world), device or value.device.type
    if isinstance(value, tuple | list):
        return [described(item, device) for item in value]
    if hasattr(value, "__dict__"):
        parts = {name: described(part, device) for name, part in vars(value).items()}
        return type(value).__name__, parts
    return value


@pytest.mark.parametrize("name", MOVABLE)
def test_nothing_is_lost_or_left_behind_on_the_way_to_another_device(name):
    assert described(MOVABLE[name].to("meta")) == described(MOVABLE[name], "meta")


@pytest.mark.parametrize("name", [name for name in MOVABLE if isinstance(MOVABLE[name], Transform)])
def test_a_transform_that_was_moved_takes_points_to_the_same_places(name):
    points = torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(1)) * 60 - 30  # also outside
    assert torch.equal(MOVABLE[name].to("cpu")(points), MOVABLE[name](points))
