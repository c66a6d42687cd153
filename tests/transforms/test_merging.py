"""Maps of many points, for which splines are merged and every few points suffice."""

import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.spatial.bsplines import sample_spline, spline_through
from patchmorph.transforms import merging
from patchmorph.transforms.base import AffineTransform, compose
from patchmorph.transforms.blocks import mapped_blocks, mapped_points
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.merging import with_merged_splines
from patchmorph.transforms.velocity import VelocityField

MANY = 10**9
TOLERANCE_MM = 0.01


def spline(shape, mm, seed=0, center=(0.0, 0, 0), linear=None):
    """A flow as a registration finds it: zero at the faces of its grid, along the axes of the world."""
    flow = smooth_velocity(
        grid_around(shape, (np.eye(3) if linear is None else linear) * mm, center), 6.0, seed
    )
    return VelocityField(flow.velocity * fade(shape), flow.grid, degree=5)


def fade(shape):
    """A window that is zero at the faces of an array."""
    window = torch.ones(shape)
    for axis, count in enumerate(shape):
        profile = torch.sin(torch.pi * torch.arange(count) / (count - 1)) ** 2
        window = window * profile.reshape([-1 if k == axis else 1 for k in range(3)])
    return window


def cascade():
    """Three splines, coarse to fine, whose grids begin and end elsewhere, in a rotated pose."""
    parts = (
        spline((11, 12, 10), 8.0, center=(1.0, 2, 0)),
        spline((20, 21, 19), 4.0, 1),
        spline((38, 40, 36), 2.0, 2),
    )
    return rotation(10), *parts


def points_around(count=4000):
    return torch.rand(1, count, 3, generator=torch.Generator().manual_seed(0)) * 110 - 55


def apart(one, other, points):
    return float((one(points) - other(points)).norm(dim=-1).max())


def test_coarse_splines_become_one_that_maps_alike():
    pose, *parts = cascade()
    transform = compose(pose, *parts)
    found = with_merged_splines(transform, MANY)
    assert len(found.parts()) == 3
    assert found.parts()[0] is pose
    assert found.parts()[2] is parts[2]
    assert apart(found, transform, points_around()) < TOLERANCE_MM
    assert apart(transform, compose(pose, parts[2]), points_around()) > 1


def test_what_is_merged_covers_all_grids():
    parts = (
        spline((11, 12, 10), 8.0, center=(30.0, -25, 5)),
        spline((20, 21, 19), 4.0, 1),
        spline((38, 40, 36), 2.0, 2),
    )
    transform = compose(*parts)
    points = points_around() + torch.tensor([30.0, -25, 5])
    assert apart(with_merged_splines(transform, MANY), transform, points) < TOLERANCE_MM
    assert apart(transform, compose(*parts[1:]), points) > 1


def test_few_points_are_mapped_by_the_parts_themselves():
    transform = compose(*cascade())
    assert with_merged_splines(transform, 1000) is transform


def test_a_lattice_that_memory_would_not_hold_is_not_made(monkeypatch):
    transform = compose(*cascade())
    monkeypatch.setattr(merging, "MOST", 1000)
    assert with_merged_splines(transform, MANY) is transform


def test_what_was_merged_is_found_again():
    pose, *parts = cascade()
    first, again = (
        with_merged_splines(compose(pose, *parts), MANY),
        with_merged_splines(compose(*parts), MANY),
    )
    assert first.parts()[1] is again.parts()[0]
    other = compose(spline((11, 12, 10), 8.0, 5), *parts[1:])
    assert apart(with_merged_splines(other, MANY), other, points_around()) < TOLERANCE_MM


@pytest.mark.parametrize("between", ["affine", "trilinear", "oblique", "goes on"])
def test_other_parts_stay_as_they_are(between):
    _, coarse, _, fine = cascade()
    grid = grid_around((20, 21, 19), AFFINES["oblique" if between == "oblique" else "RAS"] * 4)
    other = {
        "affine": rotation(3),
        "trilinear": VelocityField(spline((20, 21, 19), 4.0, 1).velocity, grid),
        "oblique": spline((20, 21, 19), 4.0, 1, linear=AFFINES["oblique"]),
        "goes on": DisplacementField(torch.ones(1, 3, *grid.shape), grid, degree=5),
    }[between]
    transform = compose(coarse, other, fine)
    assert with_merged_splines(transform, MANY).parts() == transform.parts()


def test_the_spline_through_values_has_them():
    values = torch.randn(1, 3, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    points = grid_around((6, 7, 8), np.eye(3)).points_voxel()
    found = sample_spline(spline_through(values), points, ends="odd")
    torch.testing.assert_close(found, values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("halo", [0, 1])
def test_blocks_of_small_voxels_are_mapped_as_their_points(linear, halo):
    """Voxels of 0.5 mm under fields of 2 mm that bend at each point, on a grid longer than a block."""
    pose, *coarse, fine = cascade()
    noise = torch.randn(fine.velocity.shape, generator=torch.Generator().manual_seed(3)) * fade(
        fine.grid.shape
    )
    transform = compose(pose, *coarse, VelocityField(fine.velocity + 0.2 * noise, fine.grid, degree=5))
    grid = grid_around((72, 12, 10), linear / 2, (3.0, 2, 1))
    for block in mapped_blocks(transform, grid, halo):
        assert (block.mapped - transform(block.points)).norm(dim=-1).max() < TOLERANCE_MM


def test_blocks_of_small_voxels_follow_the_edges_of_trilinear_fields():
    grid = grid_around((20, 20, 20), np.eye(3) * 4)
    noise = torch.randn(1, 3, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    transform = spline((11, 12, 10), 8.0) @ DisplacementField(noise, grid, outside="zeros")
    for block in mapped_blocks(transform, grid_around((40, 20, 18), np.eye(3) / 2)):
        torch.testing.assert_close(block.mapped, transform(block.points), atol=1e-3, rtol=0)


def test_points_of_a_small_grid_are_mapped_in_slabs():
    transform = compose(*cascade()) @ AffineTransform.translation(torch.tensor([[1.0, 2, 3]]))
    grid = grid_around((35, 9, 8), AFFINES["RAS"] * 3)
    torch.testing.assert_close(
        mapped_points(transform, grid), transform(grid.points_world()), atol=1e-3, rtol=0
    )


def test_fields_with_a_variance_stay_apart():
    pose, *parts = cascade()
    with_variance = [
        VelocityField(part.velocity, part.grid, part.steps, torch.ones(part.velocity[:, :1].shape), True)
        for part in parts
    ]
    transform = compose(pose, *with_variance)
    assert with_merged_splines(transform, MANY) is transform
