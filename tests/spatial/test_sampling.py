import pytest
import torch
from synthetic import grid_around

from patchmorph.images.volume import Image
from patchmorph.spatial.sampling import sample_label, sample_linear, sample_nearest


def test_a_linear_ramp_is_sampled_exactly(linear):
    grid = grid_around((9, 10, 11), linear, (5, -3, 2))
    slope = torch.tensor([0.3, -0.7, 1.1])
    image = Image((grid.points_world() @ slope)[:, None], grid)
    generator = torch.Generator().manual_seed(0)
    inside = 0.5 + torch.rand(1, 50, 3, generator=generator) * (torch.tensor(grid.shape) - 2)
    points = (grid.voxel_to_world[0, :3, :3].float() @ inside[..., None])[..., 0] + grid.voxel_to_world[
        0, :3, 3
    ].float()
    # float32 rounding of coordinates around 10 voxels, times the slope
    torch.testing.assert_close(image.sample(points, 0.5)[:, 0], points @ slope, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("data_batch", "point_batch"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_batches_broadcast(data_batch, point_batch):
    data = torch.randn(data_batch, 2, 4, 5, 6)
    points = torch.rand(point_batch, 7, 2, 3) * 3
    values = sample_linear(data, points, "zeros")
    assert values.shape == (3 if 3 in (data_batch, point_batch) else 1, 2, 7, 2)
    for entry in range(len(values)):
        alone = sample_linear(data[entry % data_batch][None], points[entry % point_batch][None], "zeros")
        torch.testing.assert_close(values[entry], alone[0])


def test_outside_is_zero_for_images_and_the_border_for_fields():
    data = torch.ones(1, 1, 4, 4, 4)
    far = torch.tensor([[[-3.0, 1, 1], [9.0, 1, 1]]])
    assert sample_linear(data, far, "zeros").abs().max() == 0
    assert sample_linear(data, far, "border").min() == 1


def test_nearest_keeps_ids_and_rounds_halves_up():
    ids = torch.tensor([0, 2**24 + 1, 7, 9], dtype=torch.int32).reshape(1, 1, 4, 1, 1).expand(1, 1, 4, 2, 2)
    points = torch.tensor([[[0.5, 0, 0], [1.4, 1, 1], [3.2, 0, 0], [3.5, 0, 0], [-0.6, 0, 0]]])
    assert sample_nearest(ids, points).flatten().tolist() == [2**24 + 1, 2**24 + 1, 9, 0, 0]


def test_label_takes_the_majority_and_never_averages():
    ids = torch.zeros(1, 1, 2, 2, 2, dtype=torch.int32)
    ids[..., 1, :, :] = torch.tensor([[5, 5], [900, 5]])
    # Weights: 0.4 for label 0; 0.6 for the other face, of which 900 has a quarter.
    assert sample_label(ids, torch.tensor([[[0.6, 0.5, 0.5]]])).item() == 5
    # Each neighbour weighs 0.125: label 0 has four of them, 5 has three.
    assert sample_label(ids, torch.tensor([[[0.5, 0.5, 0.5]]])).item() == 0
