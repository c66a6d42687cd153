"""The moving image, which is interpolated twice when a refinement compares it, is not blurred by that."""

import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph.images.volume import Image
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.stages import compared
from patchmorph.registration.stages.compared import ComparedVolumes
from patchmorph.registration.stages.velocity_refinement import REFINEMENT
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform

MM = 2.0
GRID = grid_around((32, 30, 28), AFFINES["RAS"] * MM)
INNER = (slice(None), slice(None), slice(8, 24), slice(8, 22), slice(8, 20))


@pytest.fixture(scope="module")
def speckles() -> Image:
    """Each voxel differs from its neighbours, so that any blur shows."""
    data = torch.rand(1, 1, *GRID.shape, generator=torch.Generator().manual_seed(4))
    inside = (GRID.points_world().norm(dim=-1) < 24)[:, None]
    return Image(torch.where(inside, 0.2 + 0.8 * data, 0.0), GRID)


def there_and_back(image: Image, shift_voxels: float) -> tuple[ComparedVolumes, torch.Tensor]:
    """What a map so far has shifted, and the voxels that shift it back."""
    shift = AffineTransform.translation(torch.tensor([[MM * shift_voxels, 0, 0]]))
    volumes = ComparedVolumes(prepare_pair(image, image), shift, GRID, MM)
    axes = [torch.arange(side.start, side.stop, dtype=torch.float32) for side in INNER[2:]]
    back = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None] - torch.tensor([shift_voxels, 0, 0])
    return volumes, back


def test_half_a_voxel_there_and_back_is_no_difference(speckles, monkeypatch):
    volumes, back = there_and_back(speckles, 0.5)
    assert volumes.fineness == 2
    assert float(volumes.dissimilarity(INNER, back, REFINEMENT)) < 1e-5  # rounding
    monkeypatch.setattr(compared, "FINENESS", 1)
    coarse, back = there_and_back(speckles, 0.5)
    assert float(coarse.dissimilarity(INNER, back, REFINEMENT)) > 0.1


def test_the_fixed_image_is_at_the_voxels_of_the_grid(speckles):
    volumes, _ = there_and_back(speckles, 0.0)
    shown = speckles.normalized().values()
    assert volumes.fixed.shape == shown.shape
    assert torch.allclose(volumes.fixed, shown, atol=1e-6)
    assert torch.allclose(volumes.moving[..., ::2, ::2, ::2], shown, atol=1e-6)


def test_an_image_of_too_many_voxels_is_as_coarse_as_the_grid(speckles, monkeypatch):
    whole = 8 * speckles.data.numel()
    for most, fineness in ((whole, 2), (whole - 1, 1)):
        monkeypatch.setattr(compared, "MAX_FINE_VOXELS", most)
        volumes, _ = there_and_back(speckles, 0.0)
        assert volumes.fineness == fineness
        assert volumes.moving.shape[2:] == tuple(fineness * count for count in GRID.shape)


def test_oblique_images_are_compared_at_the_points_of_the_grid(speckles):
    """The finer grid has the axes and the first voxel of the grid, wherever that lies."""
    shifted = Grid.centered((16, 14, 12), 1.3, torch.tensor([[1.7, -2.2, 0.4]]))
    volumes = ComparedVolumes(prepare_pair(speckles, speckles), AffineTransform.identity(), shifted, 1.3)
    expected = speckles.normalized().sample(shifted.points_world(), 1.3)
    assert torch.allclose(volumes.fixed, expected, atol=1e-5)
    assert torch.allclose(volumes.moving[..., ::2, ::2, ::2], expected, atol=1e-5)
