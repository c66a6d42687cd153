import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph.spatial.sampling import sample_label, sample_linear, sample_nearest
from patchmorph.training.data.packed import PackedVolumes, Trilinear

CPU = torch.device("cpu")
INDEX = torch.tensor([1, 0, 1])


@pytest.fixture(params=[torch.uint8, torch.int16])
def volumes(request):
    generator = torch.Generator().manual_seed(0)
    shapes = [((20, 22, 24), "LAS"), ((30, 16, 18), "oblique")]
    return [
        (
            torch.randint(0, 255, (1, 1, *shape), generator=generator).to(request.param),
            grid_around(shape, AFFINES[name] * 1.3),
        )
        for shape, name in shapes
    ]


@pytest.fixture
def packed(volumes):
    result = PackedVolumes([volume.numel() + 7 for volume, _ in volumes], CPU, volumes[0][0].dtype)
    for slot, (volume, grid) in enumerate(volumes):
        result.put(slot, volume, grid)
    return result


@pytest.fixture
def points():
    """Most of them inside both volumes, the others at their borders and far outside."""
    reach = torch.tensor([9.0] * 290 + [14.0] * 50 + [30.0] * 60)[:, None]
    return (torch.rand(3, 400, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * reach


def expected(volumes, points, sample):
    return torch.cat(
        [
            sample(volumes[k][0], volumes[k][1].to_voxel(points[row : row + 1]))
            for row, k in enumerate(INDEX.tolist())
        ]
    )


def test_samples_are_those_of_the_volumes(volumes, packed, points):
    direct = expected(volumes, points, lambda data, voxel: sample_linear(data.float(), voxel, "zeros"))
    # 255 times the rounding of coordinates, about 1e-6 of a voxel's step.
    torch.testing.assert_close(packed.sample(INDEX, points), direct, atol=2e-3, rtol=0)


def test_the_gpus_reader_gives_the_cpus_values_and_gradients(packed, points):
    """`Trilinear` is what runs on CUDA; here uncompiled."""
    points.requires_grad_()
    results = []
    for values in (
        packed.sample(INDEX, points)[:, 0],
        Trilinear.apply(points, packed.world_to_voxel[INDEX], *packed._look_up(INDEX)),
    ):
        (gradient,) = torch.autograd.grad((values / 255).square().sum(), points)
        results.append((values.detach(), gradient))
    torch.testing.assert_close(results[1][0], results[0][0], atol=2e-3, rtol=0)
    torch.testing.assert_close(results[1][1], results[0][1], atol=1e-4, rtol=0)
    assert results[0][1].abs().max() > 0.1


def test_the_points_are_inside_at_the_border_and_outside(volumes, packed, points):
    """What the other tests compare is neither zero everywhere nor the inside alone."""
    for row, k in enumerate(INDEX.tolist()):
        grid = volumes[k][1]
        voxel, last = grid.to_voxel(points[row : row + 1])[0], torch.tensor(grid.shape) - 1
        inside = ((voxel >= 0) & (voxel <= last)).all(-1)
        outside = ((voxel < -1) | (voxel > last + 1)).any(-1)
        assert inside.float().mean() > 0.6
        assert outside.float().mean() > 0.1
        assert (~inside & ~outside).sum() >= 3
        assert packed.sample(INDEX, points)[row, 0, outside].abs().max() == 0
        assert packed.sample(INDEX, points)[row, 0, inside].std() > 20


def test_labels_are_painted_with_the_mean_colour_around_a_point():
    """By hand: half a voxel off along each axis, the eight corners of a voxel's cube, and their labels."""
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8)
    labels[0, 0, 2] = 1
    labels[0, 0, 2, 2, 2] = 2
    grid = grid_around((4, 4, 4), AFFINES["LAS"] * 2, (1.0, 2.0, 3.0))
    packed = PackedVolumes([64], CPU)
    packed.put(0, labels, grid)
    matrix = grid.voxel_to_world[0].float()
    voxel = torch.tensor([[1.5, 0.9, 1.1], [2.0, 1.5, 1.5], [1.0, 1.0, 1.0], [20.0, 1, 1]])
    points = (voxel @ matrix[:3, :3].T + matrix[:3, 3])[None]
    colours = torch.tensor([[0.5, 0.25, 1.0]])
    found = packed.painted(torch.tensor([0]), points, colours, 0.9)
    # Half on label 1; two of eight on label 2; all on 0; outside is label 0.
    expected_values = [(0.5 + 0.25) / 2, (6 * 0.25 + 2 * 1.0) / 8, 0.5, 0.5]
    torch.testing.assert_close(found[0, 0], torch.tensor(expected_values))


def test_nearest_is_the_nearest(volumes, packed, points):
    assert torch.equal(packed.nearest(INDEX, points), expected(volumes, points, sample_nearest))


def test_corners_vote_as_label_interpolation_does(volumes, packed, points):
    labels = [(volume % 3, grid) for volume, grid in volumes]
    for slot, (volume, grid) in enumerate(labels):
        packed.put(slot, volume, grid)
    corners, weights = packed.corners(INDEX, points)
    votes = torch.stack([(weights * (corners == label)).sum(1) for label in range(3)])
    torch.testing.assert_close(weights.sum(1), torch.ones(3, 400))
    winners = expected(labels, points, sample_label)[:, 0]
    most, second = votes.topk(2, dim=0).values
    clear = most - second > 1e-4  # ties may fall either way
    assert clear.float().mean() > 0.99
    assert torch.equal(votes.argmax(0)[clear], winners[clear].long())
    inside = points.abs().amax(-1) < 9
    assert all((winners[inside] == label).float().mean() > 0.2 for label in range(3))


def test_points_of_any_arrangement(packed, points):
    block = points[:, :60].reshape(3, 3, 4, 5, 3)
    assert torch.equal(
        packed.sample(INDEX, block).flatten(2)[:, 0], packed.sample(INDEX, points[:, :60])[:, 0]
    )


def test_a_slot_takes_another_volume(volumes, packed, points):
    packed.put(0, *volumes[1])
    index = torch.tensor([0, 0, 0])
    assert torch.equal(packed.sample(index, points), packed.sample(index + 1, points))
    with pytest.raises(AssertionError, match="voxels in a slot of"):
        packed.put(1, *volumes[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_page_locked_memory_is_read_in_place(volumes, points):
    device = torch.device("cuda")
    values = []
    for on_host in (False, True):
        packed = PackedVolumes([v.numel() for v, _ in volumes], device, volumes[0][0].dtype, on_host=on_host)
        for slot, (volume, grid) in enumerate(volumes):
            packed.put(slot, volume, grid)
        values.append(packed.sample(INDEX.to(device), points.to(device)))
        assert packed.on_host == on_host
    assert torch.equal(*values)
