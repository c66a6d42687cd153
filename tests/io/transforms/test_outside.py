"""Beyond its grid a field of another tool is zero, whatever file it passes through."""

import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.transforms.native import stored
from patchmorph.transforms.displacement import DisplacementField

PAIR = GridPair(
    grid_around((8, 9, 10), AFFINES["LIA"] * 4, (3, 2, 1)),
    grid_around((9, 8, 7), AFFINES["LAS"] * 4, (1, 2, 3)),
)
SHIFT = torch.tensor([5.0, -7.0, 3.0])
FORMATS = [
    (".safetensors", "patchmorph"),
    (".h5", "itk"),
    (".nii.gz", "itk"),
    (".nii.gz", "fsl"),
    (".mgz", "freesurfer"),
    (".x5", "x5"),
    (".zarr", "ngff"),
]


def shift_on_a_grid(outside):
    values = SHIFT.reshape(1, 3, 1, 1, 1).expand(1, 3, *PAIR.fixed.shape).contiguous()
    return DisplacementField(values, PAIR.fixed, outside)


@pytest.mark.parametrize(("ending", "tool"), FORMATS)
def test_a_field_that_ends_with_its_grid_still_does(tmp_path, ending, tool):
    field = shift_on_a_grid("zeros")
    path = tmp_path / f"field{ending}"
    save_transform(field, path, tool, PAIR)
    loaded = load_transform(path, tool, PAIR)
    inside = PAIR.fixed.points_world()
    torch.testing.assert_close(loaded(inside), inside + SHIFT, atol=1e-3, rtol=0)  # float32 or int16 numbers
    beyond = inside + torch.tensor([80.0, 90.0, -100.0])
    torch.testing.assert_close(loaded(beyond), beyond, atol=1e-5, rtol=0)


@pytest.mark.parametrize("outside", ["zeros", "border"])
@pytest.mark.parametrize("inverse", [False, True])
def test_our_own_file_keeps_either(tmp_path, outside, inverse):
    field = shift_on_a_grid(outside)
    transform = rotation() @ (field.inverse() if inverse else field)
    save_transform(transform, tmp_path / "field.safetensors")
    far = PAIR.fixed.points_world() + torch.tensor([80.0, 90.0, -100.0])
    moved = far + (0 if outside == "zeros" else -SHIFT if inverse else SHIFT)
    for kept in (load_transform(tmp_path / "field.safetensors"), stored(transform)):
        torch.testing.assert_close(kept(far), rotation()(moved), atol=2e-3, rtol=0)


def test_our_own_file_keeps_steps_and_variance_of_an_inverse_too(tmp_path):
    """The inverse of a flow is the flow and a flag: all that belongs to the flow comes with it."""
    flow = smooth_velocity(grid_around((8, 8, 8), AFFINES["oblique"] * 5), 3.0)
    flow.steps = 4
    flow.variance = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)).half().float()
    save_transform(flow.inverse(), tmp_path / "inverse.safetensors")
    back = load_transform(tmp_path / "inverse.safetensors").inverse()
    assert back.steps == 4
    assert torch.equal(back.variance, flow.variance)
    torch.testing.assert_close(back.velocity, flow.velocity, atol=2e-4, rtol=0)  # int16 steps
    torch.testing.assert_close(back.grid.voxel_to_world, flow.grid.voxel_to_world)


@pytest.mark.parametrize(("ending", "tool"), FORMATS)
def test_the_order_of_a_chain_survives(tmp_path, ending, tool):
    """A turn after a shift is not a shift after a turn: 15 mm apart here."""
    field = shift_on_a_grid("zeros")
    chain = rotation(40) @ field @ rotation(-15)
    other = rotation(-15) @ field @ rotation(40)
    path = tmp_path / f"chain{ending}"
    save_transform(chain, path, tool, PAIR)
    loaded = load_transform(path, tool, PAIR)
    points = PAIR.fixed.points_world()[:, 3:5, 4:6, 4:6]  # dense formats stand on the fixed grid's points
    assert (chain(points) - other(points)).norm(dim=-1).min() > 2
    torch.testing.assert_close(loaded(points), chain(points), atol=2e-3, rtol=0)
