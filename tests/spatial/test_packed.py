import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph.spatial.packed import PackedVolumes, Trilinear
from patchmorph.spatial.sampling import sample_label, sample_linear, sample_nearest

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
    """Inside, at the border and far outside."""
    return torch.rand(3, 400, 3, generator=torch.Generator().manual_seed(1)) * 60 - 30


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
    assert (votes.argmax(0) == winners).float().mean() > 0.99  # exact ties may fall either way


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
