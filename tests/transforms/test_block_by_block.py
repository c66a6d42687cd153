"""Large velocities are integrated and merged block by block, with the result of the whole."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from synthetic import smooth_velocity

from patchmorph.memory import limited
from patchmorph.spatial.grid import Grid
from patchmorph.transforms import velocity as module
from patchmorph.transforms.jacobian import jacobian_determinant
from patchmorph.transforms.velocity import VelocityField, integrate, merged

GRID = Grid.centered((48, 40, 34), 2.0, torch.tensor([[5.0, -10, 20]]))
TINY_GIB = 1e-6


def field(seed: int, degree: int = 5, largest_mm: float = 9.0) -> VelocityField:
    """Steep: points move by four voxels and more."""
    smooth = smooth_velocity(GRID, largest_mm, seed=seed)
    return VelocityField(smooth.velocity, GRID, 6, degree=degree)


@pytest.fixture
def blocks(monkeypatch):
    """Blocks that cut the grid in many places."""
    monkeypatch.setattr(module, "WHOLE", 0)
    monkeypatch.setattr(module, "SIDE", 28)


def points(count: int = 500) -> torch.Tensor:
    """In the grid and a little beyond."""
    ends = GRID.corners_world()[0].float()
    drawn = torch.rand(1, count, 3, generator=torch.Generator().manual_seed(1))
    return ends.amin(0) - 4 + drawn * (ends.amax(0) - ends.amin(0) + 8)


@pytest.mark.parametrize(("degree", "scratch"), [(5, True), (1, False)])
def test_a_flow_by_blocks_is_that_of_the_whole(blocks, monkeypatch, degree, scratch):
    with monkeypatch.context() as whole:
        whole.setattr(module, "WHOLE", GRID.shape[0] ** 3)
        expected = field(3, degree)
        expected_inverse = expected.inverse()(points())
        expected_jacobian = jacobian_determinant(expected, GRID)
        expected = expected(points())
    assert float((expected - points()).norm(dim=-1).max()) > 8
    with limited(TINY_GIB if scratch else None):
        found = field(3, degree)
        torch.testing.assert_close(found(points()), expected, atol=1e-3, rtol=0)
        torch.testing.assert_close(found.inverse()(points()), expected_inverse, atol=1e-3, rtol=0)
        torch.testing.assert_close(jacobian_determinant(found, GRID), expected_jacobian, atol=1e-3, rtol=0)


def test_blocks_without_motion_are_not_integrated(blocks, monkeypatch):
    seen = []

    def counted(velocity, grid, steps):
        seen.append(velocity.shape)
        return integrate(velocity, grid, steps)

    monkeypatch.setattr(module, "integrate", counted)
    velocity = torch.zeros(1, 3, *GRID.shape)
    velocity[:, :, 41:47, 34:38, 32:34] = 2.0
    flow = VelocityField(velocity, GRID, 6).flow.displacement
    assert len(seen) == 1  # of eight
    assert not flow[:, :, :28, :28, :28].any()
    assert float(flow.abs().max()) > 1


def test_velocities_are_merged_by_blocks_as_in_one(monkeypatch):
    pair = field(1), field(2)
    monkeypatch.setattr(module, "SIDE", max(GRID.shape))
    expected = merged(*pair).velocity
    monkeypatch.setattr(module, "SIDE", 7)
    torch.testing.assert_close(merged(*pair).velocity, expected, atol=1e-5, rtol=0)
    assert float((expected - pair[0].velocity - pair[1].velocity).abs().max()) > 0.5


def test_threads_that_need_a_flow_at_once_wait_for_one_integration(monkeypatch):
    seen = []

    def counted(velocity, grid, steps):
        seen.append(steps)
        time.sleep(0.05)
        return integrate(velocity, grid, steps)

    monkeypatch.setattr(module, "integrate", counted)
    one = field(3)
    with ThreadPoolExecutor(4) as pool:
        flows = [asked.result() for asked in [pool.submit(lambda: one.flow) for _ in range(4)]]
    assert seen == [6]
    assert all(flow is one.flow for flow in flows)
