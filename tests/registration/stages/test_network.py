"""Each network stage on its own, with networks in closed form, so that the result is known."""

import math
import threading
import time
import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch
from estimators import Scripted, Wave, estimating_model
from pairs import given_pair, normalized
from synthetic import AFFINES, grid_around, lopsided, rotation, smooth_velocity
from torch.utils._python_dispatch import TorchDispatchMode

from patchmorph import memory, workers
from patchmorph.images.cache import ChunkCache
from patchmorph.images.chunked import ChunkedImage, StoredLevel
from patchmorph.images.foreground import Content
from patchmorph.images.stores import ArrayStore
from patchmorph.images.volume import Image
from patchmorph.memory import GIB, limited
from patchmorph.networks.batches import CUDA_BATCH, Batches
from patchmorph.networks.model import ModelSpec, NetworkSpec, PatchMorphModel
from patchmorph.patches.blending import Blend
from patchmorph.patches.lattice import PatchLattice
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pair import PreparedImage, PreparedPair
from patchmorph.registration.pipeline import estimate_pose
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.schedule import detail_schedule, keeps_agreement, schedule
from patchmorph.registration.stages import network
from patchmorph.registration.stages.base import GuardedStage
from patchmorph.registration.stages.nearest_affine import NearestAffineStage
from patchmorph.registration.stages.network import (
    AffineNetworkStage,
    DenseNetworkStage,
    velocity_variance,
)
from patchmorph.registration.uncertainty import uncertainty
from patchmorph.spatial.grid import Grid
from patchmorph.transforms import velocity
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import FLOW_DEGREE, VelocityField

IDENTITY = AffineTransform.identity()
TURN = [[0.0, -0.3, 0, 0], [0.3, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
"""Generator of a rotation by 0.3 about the third axis."""
SHIFT = [[0.0, 0, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
"""Of a shift by four voxels along the first axis."""


def shifted(*mm: float) -> AffineTransform:
    return AffineTransform.translation(torch.tensor([mm], dtype=torch.float64))


def error_mm(found, truth, points) -> float:
    return float((found(points) - truth(points)).norm(dim=-1).mean())


def box_content(lower: float, upper: float, margin_mm: float) -> Content:
    box = torch.tensor([[lower] * 3, [upper] * 3], dtype=torch.float64)
    return Content(box.mean(0, keepdim=True), box, (upper - lower) / 2, margin_mm)


@pytest.fixture(scope="module")
def moving() -> Image:
    return normalized(lopsided(grid_around((44, 52, 42), AFFINES["RAS"] * 4)))


@pytest.fixture(scope="module")
def turned(moving) -> tuple[Image, AffineTransform, torch.Tensor]:
    """A fixed image a quarter turn and some centimetres away, the map, and points of its content."""
    truth = rotation(8) @ shifted(20, -30, 10) @ rotation(90)
    center = truth.inverse()(torch.zeros(1, 1, 3))[0, 0].numpy()
    grid = grid_around((52, 52, 52), AFFINES["LPS"] * 4, center)
    fixed = normalized(resample(moving, truth, grid))
    return fixed, truth, grid.points_world()[fixed.data[:, 0] > 0.2][None]


def test_affine_residuals_are_composed_on_the_inner_side():
    """Patch voxels of 2 mm about (10, 20, 30); a rotation, then a shift, after a map that rotates."""
    image = Image(torch.rand(1, 1, 8, 8, 8), grid_around((8, 8, 8), AFFINES["RAS"] * 4))
    corners = torch.tensor([[-100.0, -90, -80], [120, 130, 140]], dtype=torch.float64)
    content = Content(corners.mean(0, keepdim=True), corners, 50.0, 5.0)
    start = shifted(1, 2, 3) @ rotation(35)
    network = Scripted([TURN, SHIFT])
    found = AffineNetworkStage(network, 2.0, 16, 2, "fp32").refine(given_pair(image, image, content), start)
    assert network.shapes == [(2, 16, 16, 16)] * 2
    cosine, sine = math.cos(0.3), math.sin(0.3)
    x = torch.tensor([17.0, 21, 28])
    inner = x + torch.tensor([8.0, 0, 0])  # four voxels of 2 mm: the last residual acts first
    away = inner - torch.tensor([10.0, 20, 30])
    turned = torch.tensor([cosine * away[0] - sine * away[1], sine * away[0] + cosine * away[1], away[2]])
    expected = start((turned + torch.tensor([10.0, 20, 30]))[None, None])
    torch.testing.assert_close(found(x[None, None]), expected, atol=1e-4, rtol=0)


def test_the_affine_stage_recovers_a_pose_from_a_start_that_turns(turned, moving):
    fixed, truth, points = turned
    start = truth @ rotation(7) @ shifted(5, -4, 6)
    stage = AffineNetworkStage(estimating_model().affine, 6.0, 32, 4, "fp32")
    pair = given_pair(fixed, moving)
    assert error_mm(start, truth, points) > 6
    # A tenth of a voxel of 4 mm: interpolation of the fixed image is what is left.
    assert error_mm(stage.refine(pair, start), truth, points) < 0.4
    once = replace(stage, passes=1).refine(pair, start)
    assert error_mm(once, truth, points) > 0.5  # so that the later passes were needed


def test_an_affine_network_computes_on_one_core_however_many_there_are(moving):
    class Watched(Scripted):
        def forward(self, pair):
            cores.append(torch.get_num_threads())
            return super().forward(pair)

    before, cores = torch.get_num_threads(), list[int]()
    torch.set_num_threads(3)
    AffineNetworkStage(Watched([SHIFT]), 8.0, 16, 2, "fp32").refine(given_pair(moving, moving), IDENTITY)
    assert (cores, torch.get_num_threads()) == ([1, 1], 3)
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", ["fixed", "moving", "neither"])
def test_an_affine_network_has_more_passes_where_an_image_is_truncated(moving, side):
    truncated = Image(moving.data, moving.grid, truncated_faces=((0, 1),))
    images = truncated if side == "fixed" else moving, truncated if side == "moving" else moving
    network = Scripted([SHIFT])
    AffineNetworkStage(network, 8.0, 16, 2, "fp32").refine(given_pair(*images), IDENTITY)
    assert network.calls == (2 if side == "neither" else 6)  # three times as often


@torch.no_grad()
def test_dense_stages_recover_a_flow_from_a_start_that_turns(turned, moving):
    posed, pose, _ = turned
    grid = posed.grid
    flow = smooth_velocity(Grid.centered((14, 14, 14), 18.0, grid.center_world), 9.0, seed=3)
    fixed = normalized(resample(moving, pose @ flow, grid))
    points = grid.points_world()[fixed.data[:, 0] > 0.2][None]
    pair = given_pair(fixed, moving)
    model = estimating_model(spacings_mm=[8.0, 4.0], reference_radius_mm=None)
    stages = schedule(model, pair, RegistrationOptions())
    assert len(stages) == 3
    transform, errors = pose, [error_mm(pose, pose @ flow, points)]
    for stage in stages[1:]:
        transform = stage.refine(pair, transform)
        errors.append(error_mm(transform, pose @ flow, points))
    # Coarse to fine, from 3 mm to a fraction of the voxels of 4 mm.
    assert errors[0] > 2
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.35 * errors[0]


def test_a_dense_stage_continues_one_velocity_in_the_order_of_the_passes(moving):
    """Two flows that do not commute: the later residual acts first."""
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    first, second = (
        DenseNetworkStage(
            Wave(axis, along, 2.0), 4.0, (32,), 0.25, 0.0, 6, skip_empty=False, precision="fp32"
        )
        for axis, along in ((0, 1), (1, 0))
    )
    start = shifted(3, 0, 0)
    one, two = (stage.refine(pair, IDENTITY) for stage in (first, second))
    both = second.refine(pair, first.refine(pair, start))
    assert [type(part) for part in both.parts()] == [AffineTransform, VelocityField]
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40
    expected, swapped = (start @ one @ two)(points), (start @ two @ one)(points)
    between = (expected - swapped).norm(dim=-1).mean()
    assert between > 0.5
    # The merged velocity is exact up to the third order in flows that bend by a quarter.
    assert (both(points) - expected).norm(dim=-1).mean() < 0.2 * between


@pytest.fixture
def batches(monkeypatch):
    """The batches of each stage that is run: filled up, as on CUDA."""
    made = list[Batches]()

    def filled(device, patch) -> Batches:
        made.append(Batches(device, patch))
        made[-1].fills, made[-1].size = True, CUDA_BATCH
        return made[-1]

    monkeypatch.setattr(network, "Batches", filled)
    monkeypatch.setattr(network, "FEW", 0)  # several patches at a time
    return made


def test_batches_that_are_filled_up_give_the_same_velocity(moving, batches, monkeypatch):
    """As on CUDA, where all batches of a stage have one size."""
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    sizes = []

    class Counted(Wave):
        def forward(self, pair):
            sizes.append(len(pair))
            return super().forward(pair)

    stage = DenseNetworkStage(Counted(0, 1, 2.0), 3.0, (32,), 0.25, 0.0, 6, precision="fp32")
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40
    found = stage.refine(pair, IDENTITY)(points)
    assert set(sizes) == {CUDA_BATCH}
    sizes.clear()
    monkeypatch.setattr(network, "Batches", Batches)
    expected = stage.refine(pair, IDENTITY)(points)
    assert set(sizes) != {CUDA_BATCH}
    torch.testing.assert_close(found, expected)


def test_batches_are_halved_where_memory_does_not_hold_them_and_the_map_is_the_same(moving, batches, caplog):
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    stage = DenseNetworkStage(Wave(0, 1, 2.0), 3.0, (32,), 0.25, 0.0, 6, precision="fp32")
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40
    expected = stage.refine(pair, IDENTITY)(points)

    class Greedy(Wave):
        def forward(self, pair):
            if len(pair) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(pair)

    found = replace(stage, network=Greedy(0, 1, 2.0)).refine(pair, IDENTITY)(points)
    torch.testing.assert_close(found, expected)
    assert [one.size for one in batches] == [12, 3]
    assert caplog.messages == ["a GPU must hold 12 patches at a time, got too little memory: fewer are tried"]


def test_a_stage_within_little_memory_finds_the_same_map(moving, monkeypatch):
    """Its sums, its velocity and its flow lie in scratch files, and it continues one that does."""
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    stage = DenseNetworkStage(Wave(0, 1, 2.0), 3.0, (32,), 0.25, 0.5, 6, precision="fp32")
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40
    expected = stage.refine(pair, stage.refine(pair, shifted(1, 0, 0)))(points)
    monkeypatch.setattr(velocity, "WHOLE", 0)
    with limited(1e-6):
        found = stage.refine(pair, stage.refine(pair, shifted(1, 0, 0)))
        torch.testing.assert_close(found(points), expected, atol=1e-3, rtol=0)
    assert len(memory._scratch) >= 2


def test_a_patch_that_memory_does_not_hold_ends_the_registration(moving, batches):
    class Greedy(Wave):
        def forward(self, pair):
            raise torch.OutOfMemoryError("CUDA out of memory")

    stage = DenseNetworkStage(Greedy(), 3.0, (32,), 0.25, 0.0, 6, precision="fp32")
    with pytest.raises(torch.OutOfMemoryError):
        stage.refine(given_pair(moving, moving, box_content(-60, 60, 6.0)), IDENTITY)


@pytest.mark.parametrize("is_static", [True, False])
def test_patches_of_networks_without_state_are_computed_in_several_threads(moving, is_static, monkeypatch):
    """With the same velocity; a network that may keep a state stays in the thread of the caller."""
    threads = set[bool]()

    class Watched(Wave):
        def forward(self, pair):
            threads.add(threading.get_ident() == caller)
            time.sleep(0.01)
            return super().forward(pair)

    def velocity(count: int) -> torch.Tensor:
        monkeypatch.setattr(workers.torch, "get_num_threads", lambda: count)
        field = stage.refine(pair, IDENTITY).parts()[-1]
        monkeypatch.undo()
        return field.velocity

    pair, caller = given_pair(moving, moving, box_content(-60, 60, 6.0)), threading.get_ident()
    watched = Watched(0, 1, 2.0)
    watched.is_static = is_static
    stage = DenseNetworkStage(watched, 2.0, (32,), 0.25, 0.0, 6, precision="fp32")
    expected = velocity(1)
    assert threads == {True}
    threads.clear()
    assert torch.equal(velocity(3), expected)
    assert threads == {not is_static}


@torch.no_grad()
def test_a_map_does_not_depend_on_the_number_of_threads(moving):
    """Bit for bit: the pose, the affine network and the dense one."""
    torch.manual_seed(0)
    model = PatchMorphModel(ModelSpec(patch_size=32, spacings_mm=[6.0], dense=NetworkSpec(name="pyramid")))
    for layer in (model.affine.generator, *(decoder.residual for decoder in model.dense[0].decoders)):
        torch.nn.init.normal_(layer.weight, std=0.02)  # so that the networks move something
    fixed = normalized(resample(moving, rotation(5), moving.grid))
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        pair = prepare_pair(fixed, moving)
        (*_, pose), stages = estimate_pose(pair), schedule(model, pair, RegistrationOptions())
        affine = stages[0].stage.refine(pair, pose)
        found.append((pose.matrix, affine.matrix, stages[1].refine(pair, affine).parts()[-1].velocity))
    torch.set_num_threads(before)
    assert found[0][2].abs().max() > 0.5
    for one in found[1:]:
        assert all(torch.equal(*both) for both in zip(one, found[0], strict=True))


class Held(TorchDispatchMode):
    """The bytes of tensors that operations inside the block left, at most at once, those of views once."""

    def __init__(self):
        super().__init__()
        self.most, self._held, self._counts = 0, 0, Counter[int]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                self._count(storage.data_ptr(), storage.nbytes(), 1)
                weakref.finalize(one, self._count, storage.data_ptr(), storage.nbytes(), -1)
        return found

    def _count(self, place: int, size: int, change: int) -> None:
        before = self._counts[place]
        self._counts[place] += change
        self._held += size * ((before + change > 0) - (before > 0))
        self.most = max(self.most, self._held)


@torch.no_grad()
def test_images_of_long_lines_are_sampled_within_a_share_of_the_memory(moving, monkeypatch):
    """Each core samples one part of a line, and whatever their size, the map is the same."""
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    stage = DenseNetworkStage(Wave(0, 1, 2.0), 2.0, (32,), 0.25, 0.5, 6, precision="fp32")
    start = stage.refine(pair, stage.refine(pair, shifted(1, 0, 0)))
    held, sizes, inner = [], [], network.extract_pair

    def watched(fixed, moving, region, spacing_mm, transform):
        sizes.append(math.prod(region.shape))
        with Held() as mode:
            images = inner(fixed, moving, region, spacing_mm, transform)
        held.append(mode.most)
        return images

    monkeypatch.setattr(network, "extract_pair", watched)
    whole = stage.refine(pair, start).parts()[-1].velocity
    longest = max(sizes)
    assert longest > 1.8 * 32**3
    # Crops of images and fields are large for such small patches.
    assert max(one / size for one, size in zip(held, sizes, strict=True)) < 1.3 * network.VOXEL_BYTES
    sizes.clear()
    with limited(network.SAMPLING_SHARE * network.VOXEL_BYTES * 1.1 * 32**3 / GIB):
        found = stage.refine(pair, start).parts()[-1].velocity
    assert max(sizes) == 32**3
    torch.testing.assert_close(found, whole, atol=1e-3, rtol=0)


@torch.no_grad()
def test_flows_are_found_before_the_threads_that_need_them_begin(moving, monkeypatch):
    """By the caller, on all cores; not by each thread."""
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    stage = DenseNetworkStage(Wave(0, 1, 2.0), 3.0, (32,), 0.25, 0.0, 6, precision="fp32")
    start, threads, inner = stage.refine(pair, IDENTITY), [], velocity.integrate

    def watched(*arguments):
        threads.append(threading.get_ident())
        return inner(*arguments)

    monkeypatch.setattr(velocity, "integrate", watched)
    monkeypatch.setattr(network, "FEW", 0)
    monkeypatch.setattr(workers.torch, "get_num_threads", lambda: 3)
    stage.refine(pair, start)
    assert threads == [threading.get_ident()]


def test_the_velocity_fades_over_the_margin_and_is_whole_inside(moving):
    """A network that moves all by one voxel: 4 mm inside the content, nothing at the rim of its box."""

    class Everywhere(torch.nn.Module):
        def forward(self, pair):
            side = pair.shape[-1] // 2
            return torch.tensor([0.0, 1.0, 0.0])[None, :, None, None, None].expand(
                len(pair), 3, side, side, side
            )

    pair = given_pair(moving, moving, box_content(-64, 64, 17.0))
    stage = DenseNetworkStage(Everywhere(), 4.0, (32,), 0.25, 0.35, 6, skip_empty=False, precision="fp32")
    field = stage.refine(pair, IDENTITY).parts()[-1]
    velocity = field.velocity[0]
    assert field.support() is not None  # nothing moves beyond
    for axis in (1, 2, 3):
        for end in (0, velocity.shape[axis] - 1):
            assert velocity.select(axis, end).abs().max() == 0
    middle = [count // 2 for count in velocity.shape[1:]]
    profile = velocity[1, :, middle[1], middle[2]]
    # The margin holds two velocity voxels of 8 mm: zero, half way up a squared sine, then all of it.
    torch.testing.assert_close(profile[:4], torch.tensor([0.0, 2.0, 4.0, 4.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(velocity[[0, 2]], torch.zeros_like(velocity[[0, 2]]))
    center = field.grid.center_world.float()[:, None]
    # The spline nearest to a profile with kinks rings, and loses a third of that with each grid point.
    torch.testing.assert_close(field(center) - center, torch.tensor([[[0.0, 4, 0]]]), atol=3e-2, rtol=0)


def test_flows_of_dense_stages_are_splines_also_where_two_passes_are_merged(moving):
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    stage = DenseNetworkStage(Wave(0, 1), 4.0, (32,), 0.25, 0.0, 6, skip_empty=False, precision="fp32")
    once = stage.refine(pair, shifted(3, 0, 0))
    for transform in (once, stage.refine(pair, once)):
        (_, flow) = transform.parts()
        assert isinstance(flow, VelocityField)
        assert flow.degree == FLOW_DEGREE


def test_smoothing_and_squarings_of_a_dense_stage_count(moving):
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    stage = DenseNetworkStage(Wave(0, 1), 4.0, (32,), 0.25, 0.0, 6, skip_empty=False, precision="fp32")
    sharp, smoothed = (
        replace(stage, smoothing=deviation).refine(pair, IDENTITY).parts()[-1].velocity[0, 0]
        for deviation in (0.0, 0.7)
    )
    middle = sharp[sharp.shape[0] // 2, 4:-4, sharp.shape[2] // 2]
    after = smoothed[sharp.shape[0] // 2, 4:-4, sharp.shape[2] // 2]
    bend = middle[:-2] - 2 * middle[1:-1] + middle[2:]
    # A kernel of three points with the variance σ² adds σ² / 2 of the second difference.
    torch.testing.assert_close(after[1:-1] - middle[1:-1], 0.245 * bend, atol=2e-3, rtol=0.02)
    assert replace(stage, steps=3).refine(pair, IDENTITY).parts()[-1].steps == 3


def test_a_schedule_is_that_of_the_model(moving):
    spec = {
        "spacings_mm": [8.0, 4.0],
        "reference_radius_mm": 50.0,
        "affine_passes": 5,
        "passes": [1, 2],
        "overlap": 0.3,
        "smoothing": 0.5,
        "integration_steps": 4,
    }
    model, options = estimating_model(**spec), RegistrationOptions()
    pair = given_pair(moving, moving, box_content(-80, 120, 9.0))  # of a radius of 100 mm
    guarded, *dense = schedule(model, pair, options)
    assert isinstance(guarded, GuardedStage)
    assert guarded.accepts is keeps_agreement
    affine = guarded.stage
    assert isinstance(affine, AffineNetworkStage)
    assert (affine.network, affine.spacing_mm, affine.passes) == (model.affine, 16.0, 5)
    assert affine.patch_size == 32
    assert [stage.spacing_mm for stage in dense] == [16.0, 8.0, 8.0]
    assert [stage.network for stage in dense] == [model.dense[0], model.dense[1], model.dense[1]]
    for stage in dense:
        assert (stage.overlap, stage.smoothing, stage.steps, stage.sides) == (0.3, 0.5, 4, (32,))
        assert not stage.with_variance
        assert stage.jitter is None
    both = RegistrationOptions(jitter=True, uncertainty=True, seed=17)
    with_variance = schedule(model, pair, both)[1:]
    assert [stage.with_variance for stage in with_variance] == [False, False, True]
    assert [stage.overlap for stage in with_variance] == [0.3, 0.3, 0.5]  # half a patch: see decision 008
    generator = with_variance[0].jitter
    assert generator.initial_seed() == 17
    assert all(stage.jitter is generator for stage in with_variance)
    fixed_mm = schedule(estimating_model(**{**spec, "reference_radius_mm": None}), pair, options)
    assert [stage.spacing_mm for stage in (fixed_mm[0].stage, *fixed_mm[1:])] == [8.0, 8.0, 4.0, 4.0]
    assert len(schedule(estimating_model(**{**spec, "affine": None}), pair, options)) == 3


def test_networks_that_take_any_shape_get_patches_that_fit_but_for_uncertainty_and_jitter(moving):
    model = estimating_model(patch_size=64, spacings_mm=[8.0, 4.0], overlap=0.3)
    model.dense[1].any_shape = True
    pair = given_pair(moving, moving, box_content(-60, 60, 6.0))
    cubes, fitted = ((64,), 0.3), ((64, 80, 96, 112), 1 / 16)

    def shapes(stages):
        return [(stage.sides, stage.overlap) for stage in stages if isinstance(stage, DenseNetworkStage)]

    assert shapes(schedule(model, pair, RegistrationOptions())) == [cubes, fitted]
    uncertain = RegistrationOptions(uncertainty=True)
    assert shapes(schedule(model, pair, uncertain)) == [cubes, ((64,), 0.5)]
    assert shapes(schedule(model, pair, RegistrationOptions(jitter=True))) == [cubes, cubes]
    assert shapes(detail_schedule(model, pair, RegistrationOptions(finest=1.0))) == [cubes, fitted] * 2
    small = estimating_model(patch_size=32, spacings_mm=[8.0])
    small.dense[0].any_shape = True
    assert shapes(schedule(small, pair, RegistrationOptions())) == [((32, 48), 1 / 16)]  # multiples of 16
    large = estimating_model(patch_size=256, spacings_mm=[8.0])
    large.dense[0].any_shape = True
    assert shapes(schedule(large, pair, RegistrationOptions())) == [
        ((256,), 1 / 16)
    ]  # at most 128, or its own


def test_patches_that_fit_give_the_velocity_of_cubes(moving):
    """Of a network that answers for each voxel alone; the box is 60, 100 and 44 mm long."""
    box = torch.tensor([[-30.0, -50, -22], [30, 50, 22]], dtype=torch.float64)
    pair = given_pair(moving, moving, Content(torch.zeros(1, 3, dtype=torch.float64), box, 40.0, 3.0))
    shapes = set()

    class Pointwise(torch.nn.Module):
        def forward(self, pair):
            shapes.add(tuple(pair.shape[2:]))
            return torch.nn.functional.avg_pool3d(pair, 2)[:, [0, 1, 0]]

    cubes = DenseNetworkStage(Pointwise(), 1.0, (32,), 0.25, 0.0, 6, precision="fp32")
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(0)) * 30 - 15
    expected = cubes.refine(pair, IDENTITY)(points)
    assert shapes == {(32, 32, 32)}
    shapes.clear()
    found = replace(cubes, sides=(32, 48, 64), overlap=1 / 16).refine(pair, IDENTITY)(points)
    assert shapes == {(64, 64, 48)}
    assert (expected - points).abs().max() > 0.9
    # Their velocity grids lie half a voxel apart, and images are smooth at 4 mm.
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_the_nearest_affine_map_is_that_of_points_with_a_counterpart(turned):
    """Beyond the truncated face of the moving image, the map bends without bound."""
    fixed, _, _ = turned
    truncated = Image(fixed.data, fixed.grid, truncated_faces=((0, 1),))
    normal = truncated.truncation_normals()[0].float()

    class Bent(Transform):
        """Shift by 2 mm, and by more the further a point lies beyond the face."""

        def parts(self):
            return (shifted(9, 9, 9),)

        def inverse(self):
            raise NotImplementedError

        def to(self, device):
            return self

        def __call__(self, points):
            face = fixed.grid.to_voxel(points)[..., 0] > fixed.grid.shape[0] - 0.5
            beyond = (points * normal).sum(-1).clamp(min=0) * face
            return points + torch.tensor([2.0, 0, 0]) + beyond[..., None] * normal

    lower, upper = fixed.grid.corners_world()[0].aminmax(dim=0)
    content = Content(fixed.grid.center_world, torch.stack([lower - 60, upper + 60]), 60.0, 5.0)
    bright = Image(torch.ones(1, 1, 90, 90, 90), Grid.centered((90, 90, 90), 4.0, fixed.grid.center_world))
    found = NearestAffineStage().refine(given_pair(bright, truncated, content), Bent())
    torch.testing.assert_close(found.matrix, shifted(2, 0, 0).matrix, atol=1e-4, rtol=0)
    empty = Image(torch.zeros(1, 1, 90, 90, 90), bright.grid)
    nowhere = NearestAffineStage().refine(given_pair(empty, truncated, content), Bent())
    torch.testing.assert_close(nowhere.matrix, shifted(9, 9, 9).matrix)


def test_the_variance_of_patches_that_agree_is_that_of_their_correction():
    box = torch.tensor([[0.0, 0, 0], [12, 8, 8]], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 1.0, (8, 8, 8), overlap=0.5)
    blend = Blend(lattice, with_squares=True)
    blend.add(lattice.starts, torch.tensor([1.0, 2.0, 2.0])[:, None, None, None].expand(2, 3, 8, 8, 8))
    # A tenth of the square of a correction of 3 mm (decision 008).
    torch.testing.assert_close(velocity_variance(blend), torch.full((1, 1, 12, 8, 8), 0.9), atol=1e-3, rtol=0)


def ramp(sign: float, speed_mm: float = 6.0) -> VelocityField:
    """A flow along x at constant speed; its variance in mm² is 50 + x, or 50 − x."""
    grid = Grid.centered((101, 11, 11), 1.0, torch.zeros(1, 3))
    velocity = torch.zeros(1, 3, *grid.shape)
    velocity[:, 0] = speed_mm
    return VelocityField(velocity, grid, variance=50 + sign * grid.points_world()[None, ..., 0])


def test_uncertainty_is_that_of_each_velocity_where_it_meets_the_point():
    points = grid_around((5, 1, 1), AFFINES["RAS"], (10, 0, 0))  # x from 8 to 12
    x = torch.arange(8.0, 13)

    def variance(transform):
        return uncertainty(transform, points).data[0, 0, :, 0, 0].square()

    torch.testing.assert_close(variance(shifted(9, 0, 0) @ ramp(1)), 50 + x)
    torch.testing.assert_close(variance(ramp(1) @ shifted(9, 0, 0)), 50 + x + 9)
    # The outer one meets the points 6 mm further, where the inner one leaves them.
    torch.testing.assert_close(variance(ramp(-1) @ ramp(1)), (50 + x) + (50 - (x + 6)))
    torch.testing.assert_close(variance(ramp(1) @ ramp(-1, 3.0)), (50 - x) + (50 + x + 3))
    torch.testing.assert_close(variance(rotation(5)), torch.zeros(5))


@pytest.mark.parametrize("chunk", [(64, 8, 8), (8, 8, 64)])
def test_patches_go_along_the_thin_side_of_chunks_so_that_few_are_read_again(chunk):
    """With the velocity of images in memory; the cache holds 0.6 of both images."""
    image = normalized(lopsided(grid_around((64, 64, 64), AFFINES["RAS"] * 3)))
    data = image.values()[0, 0].numpy()
    cache = ChunkCache(6 * data.nbytes // 5)
    levels = [[StoredLevel(ArrayStore(data, chunk=chunk), image.grid)] for _ in range(2)]
    images = [ChunkedImage(level, cache=cache) for level in levels]
    content = box_content(-80, 80, 3.0)
    stage = DenseNetworkStage(Wave(), 3.0, (16,), 0.25, 0.0, 6, precision="fp32")
    found = [
        stage.refine(
            PreparedPair(*(PreparedImage(one, one.mapped(), content) for one in pair)), IDENTITY
        ).parts()[-1]
        for pair in (images, (image, image))
    ]
    torch.testing.assert_close(found[0].velocity, found[1].velocity, atol=1e-5, rtol=0)
    assert max(cache.bytes_read.values()) <= 2 * data.nbytes


def test_a_stage_that_goes_backwards_takes_the_chunks_that_are_still_kept():
    """And finds the same velocity; the cache holds half of both images."""
    image = normalized(lopsided(grid_around((48, 48, 48), AFFINES["RAS"] * 4)))
    data = image.values()[0, 0].numpy()
    cache = ChunkCache(data.nbytes)
    images = [
        ChunkedImage([StoredLevel(ArrayStore(data, chunk=(8, 8, 8)), image.grid)], cache=cache)
        for _ in range(2)
    ]
    content = box_content(-80, 80, 4.0)
    pair = PreparedPair(*(PreparedImage(one, one.mapped(), content) for one in images))
    forwards = DenseNetworkStage(Wave(), 4.0, (16,), 0.25, 0.0, 6, precision="fp32")
    read, velocities = [0], []
    for stage in (forwards, forwards, replace(forwards, backwards=True)):
        velocities.append(stage.refine(pair, IDENTITY).parts()[-1].velocity)
        read.append(sum(cache.bytes_read.values()))
    assert read[3] - read[2] < 0.9 * (read[2] - read[1])
    torch.testing.assert_close(velocities[2], velocities[0], atol=1e-5, rtol=0)
