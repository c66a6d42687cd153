"""The verdict: each limit by itself, and the figures of maps that are known, right and wrong."""

import functools
import math
from dataclasses import asdict, fields, replace

import pytest
import torch
from pairs import given_pair, normalized
from registered import registered
from scans import GRIDS
from synthetic import AFFINES, grid_around, lopsided, oblique, rotation, smooth_velocity
from torch import Tensor

from patchmorph.images.volume import Image
from patchmorph.registration.acceptance import LINEAR_VERDICT, VERDICT, Limit
from patchmorph.registration.result import Registration
from patchmorph.registration.verdict import LEVELS, Evidence, Verdict, judge, measure_evidence
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample

IDENTITY = AffineTransform.identity()
GOOD = Evidence(
    local_correlation=0.95,
    correlation_ratio=0.95,
    overlap=0.98,
    folding_percent=0.0,
    sd_log_jacobian=0.3,
    scaling=1.05,
    stretch=1.1,
    rotation_degrees=8.0,
    without_counterpart=0.0,
)
LIMITS = {limit.figure: limit for limit in VERDICT}


class Formula(Transform):
    """A map given by a function of points; nobody asks for its inverse."""

    def __init__(self, function):
        self.function = function

    def __call__(self, points: Tensor) -> Tensor:
        return self.function(points)

    def inverse(self) -> Transform:
        raise NotImplementedError

    def to(self, device) -> Transform:
        return self


def linear_map(matrix, shift=(0.0, 0.0, 0.0)) -> AffineTransform:
    matrix = torch.as_tensor(matrix, dtype=torch.float64)[None]
    return AffineTransform(from_linear(matrix, torch.tensor([shift], dtype=torch.float64)))


# Limits


def test_linear_maps_are_judged_by_limits_that_leave_shapes_different():
    affine = replace(GOOD, local_correlation=0.62, correlation_ratio=0.65, overlap=0.94, sd_log_jacobian=0.0)
    shifted = replace(affine, local_correlation=0.51, correlation_ratio=0.52, overlap=0.93)
    wrong = replace(affine, local_correlation=0.34, correlation_ratio=0.25, overlap=0.88)
    levels = [judge(evidence, limits=LINEAR_VERDICT).level for evidence in (affine, shifted, wrong)]
    assert levels == ["pass", "check", "fail"]
    assert judge(affine).level == "check"
    assert [limit.figure for limit in LINEAR_VERDICT] == [limit.figure for limit in VERDICT]


def test_the_limits_follow_the_kind_of_the_map():
    """A brain on itself, off by so much that an affine map is to be looked at and a deformable one fails."""
    fixed = lopsided(grid_around((40, 44, 38), AFFINES["RAS"] * 4))
    shift = linear_map(torch.eye(3), (9.5, 0, 0))
    nothing = smooth_velocity(grid_around((12, 12, 12), AFFINES["RAS"] * 18), 1e-3)
    linear, bent = (registered(fixed, fixed, transform) for transform in (shift, shift @ nothing))
    assert [one.verdict.level for one in (linear, bent)] == ["check", "fail"]


def test_every_figure_has_one_limit():
    assert tuple(LIMITS) == tuple(figure.name for figure in fields(Evidence))
    assert len(VERDICT) == len(LIMITS)
    for limit in VERDICT:
        assert limit.fail < limit.check if limit.falling else limit.check < limit.fail
        assert not limit.doubts(getattr(GOOD, limit.figure))


def test_good_figures_pass():
    assert judge(GOOD) == Verdict("pass", ())
    assert LEVELS == ("pass", "check", "fail")


@pytest.mark.parametrize("limit", VERDICT, ids=list(LIMITS))
def test_each_limit_by_itself(limit):
    """What lies at a limit misses it."""
    step = -1e-6 if limit.falling else 1e-6
    between = (limit.check + limit.fail) / 2
    values = [limit.check - step, limit.check, between, limit.fail - step, limit.fail, limit.fail + step]
    levels = [judge(replace(GOOD, **{limit.figure: value})).level for value in values]
    assert levels == ["pass", "check", "check", "check", "fail", "fail"]
    for value in values[1:]:
        (reason,) = judge(replace(GOOD, **{limit.figure: value})).reasons
        assert reason == limit.reason(value)
        assert reason.startswith(f"{limit.words} must be {'above' if limit.falling else 'below'} ")


@pytest.mark.parametrize("figure", LIMITS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_are_no_numbers_fail(figure, value):
    harmless = value == (math.inf if LIMITS[figure].falling else -math.inf)
    verdict = judge(replace(GOOD, **{figure: value}))
    assert verdict.level == ("pass" if harmless else "fail")


def test_reasons_name_the_limit_that_is_missed_and_the_value():
    falling = Limit("overlap", "overlap", check=0.94, fail=0.9, falling=True)
    assert falling.reason(0.9312) == "overlap must be above 0.94, got 0.931"
    assert falling.reason(0.2) == "overlap must be above 0.9, got 0.2"
    rising = Limit("folding_percent", "folding", check=0.2, fail=1.0, unit=" %")
    assert rising.reason(0.5) == "folding must be below 0.2 %, got 0.5 %"
    assert rising.reason(12.345) == "folding must be below 1 %, got 12.3 %"
    assert rising.reason(math.nan) == "folding must be below 1 %, got nan %"


def test_reasons_are_failures_then_checks_then_doubts():
    bad = {name: (LIMITS[name].check + LIMITS[name].fail) / 2 for name in ("local_correlation", "stretch")}
    evidence = replace(GOOD, **bad, scaling=LIMITS["scaling"].fail)
    verdict = judge(evidence, ("orientation unknown", "mask doubtful"))
    assert verdict.level == "fail"
    words = ("scaling", "local correlation", "stretch", "orientation unknown", "mask doubtful")
    assert len(verdict.reasons) == len(words)
    assert all(reason.startswith(word) for reason, word in zip(verdict.reasons, words, strict=True))


def test_a_doubt_alone_is_to_be_looked_at():
    assert judge(GOOD, ("orientation unknown",)) == Verdict("check", ("orientation unknown",))


# Figures by hand


@functools.cache
def brain(linear: str = "RAS") -> Image:
    return normalized(lopsided(grid_around((40, 48, 40), AFFINES[linear] * 4.5)))


def evidence_of(transform: Transform, fixed: Image | None = None, moving: Image | None = None) -> Evidence:
    """The figures of a map of normalised images."""
    fixed = brain() if fixed is None else fixed
    return measure_evidence(given_pair(fixed, fixed if moving is None else moving), transform)


@pytest.mark.parametrize("linear", GRIDS)
def test_an_image_on_itself_is_perfect(linear):
    """Whatever the orientations of the grids."""
    evidence = evidence_of(IDENTITY, brain(linear))
    assert evidence.local_correlation == pytest.approx(1, abs=1e-3)
    assert evidence.correlation_ratio == pytest.approx(1, abs=0.02)  # bins
    assert (evidence.overlap, evidence.folding_percent, evidence.without_counterpart) == (1, 0, 0)
    assert evidence.sd_log_jacobian == pytest.approx(0, abs=1e-4)
    assert (evidence.scaling, evidence.stretch) == pytest.approx((1, 1), abs=1e-5)
    assert evidence.rotation_degrees == pytest.approx(0, abs=0.01)


TURN = torch.from_numpy(oblique(40))
STRETCH = torch.diag(torch.tensor([1.5, 1.0, 0.8], dtype=torch.float64))


@pytest.mark.parametrize(
    ("matrix", "scaling", "stretch", "degrees"),
    [
        (torch.from_numpy(oblique(25)), 1, 1, 25),
        (torch.from_numpy(oblique(-120)), 1, 1, 120),
        (torch.diag(torch.tensor([-1.0, -1, 1])), 1, 1, 180),
        (2 * TURN, 2, 1, 40),
        (TURN / 3, 3, 1, 40),
        (STRETCH, 1.2 ** (1 / 3), 1.5 / 0.8, 0),
        (TURN @ STRETCH @ torch.from_numpy(oblique(-15)), 1.2 ** (1 / 3), 1.5 / 0.8, 25),
        (TURN @ torch.linalg.inv(STRETCH), 1.2 ** (1 / 3), 1.5 / 0.8, 40),
    ],
)
def test_scale_stretch_and_rotation_are_those_of_the_linear_map(matrix, scaling, stretch, degrees):
    """By hand: a rotation, times a symmetric matrix with known eigenvalues, times a rotation."""
    evidence = evidence_of(linear_map(matrix, (7.0, -4, 3)))
    assert (evidence.scaling, evidence.stretch) == pytest.approx((scaling, stretch), rel=1e-4)
    assert evidence.rotation_degrees == pytest.approx(degrees, abs=0.05)
    assert evidence.sd_log_jacobian == pytest.approx(0, abs=1e-3)
    assert evidence.folding_percent == 0


@pytest.mark.parametrize("diagonal", [(-1.0, 1, 1), (1.0, -1, 1), (-1.0, -1, -1), (1.0, 1, -2)])
def test_a_map_that_mirrors_folds_everywhere(diagonal):
    evidence = evidence_of(linear_map(torch.diag(torch.tensor(diagonal))))
    assert evidence.folding_percent == 100
    assert judge(evidence).level == "fail"


def test_a_map_onto_a_plane_fails():
    assert judge(evidence_of(linear_map(torch.diag(torch.tensor([1.0, 1, 0]))))).level == "fail"


def test_the_affine_figures_are_those_of_the_nearest_affine_map():
    """A bend that is nearly symmetrical leaves them alone."""
    bend = smooth_velocity(grid_around((12, 12, 12), AFFINES["RAS"] * 18), 9.0, seed=3)
    evidence = evidence_of(linear_map(1.3 * TURN) @ bend)
    assert evidence.scaling == pytest.approx(1.3, rel=0.03)
    assert evidence.rotation_degrees == pytest.approx(40, abs=2)
    assert 0.01 < evidence.sd_log_jacobian < 0.3


def box(lower, upper, shape=(32, 32, 32)) -> Image:
    """One in a box of voxels of 4 mm."""
    values = torch.zeros(1, 1, *shape)
    values[(0, 0, *(slice(a, b) for a, b in zip(lower, upper, strict=True)))] = 1
    return Image(values, grid_around(shape, AFFINES["RAS"] * 4))


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_the_overlap_of_two_boxes_is_their_dice(shift):
    """Of 16 voxels, the moving one is shorter by the shift, so that the grid over the fixed one covers it."""
    fixed, moving = box((4, 8, 8), (20, 24, 24)), box((4 + shift, 8, 8), (20, 24, 24))
    # Foreground reaches 0.94 of a voxel beyond each face of a box, towards the zeros: 17.9 voxels.
    share = 1 - shift / 17.9
    assert evidence_of(IDENTITY, fixed, moving).overlap == pytest.approx(2 * share / (1 + share), abs=0.01)


def test_a_box_inside_a_larger_one_overlaps_by_its_size():
    small, large = box((12, 12, 12), (20, 20, 20)), box((8, 8, 8), (24, 24, 24))
    volumes = (8 + 1.9) ** 3, (16 + 1.9) ** 3
    found = evidence_of(IDENTITY, large, small).overlap
    assert found == pytest.approx(2 * volumes[0] / sum(volumes), abs=0.03)  # corners are round
    back = AffineTransform.translation(torch.tensor([[16.0, 0, 0]]))
    assert evidence_of(back, large, box((12, 8, 8), (28, 24, 24))).overlap == pytest.approx(1, abs=0.01)


def test_images_that_have_nothing_in_common_fail():
    far = AffineTransform.translation(torch.tensor([[900.0, 0, 0]]))
    evidence = evidence_of(far)
    assert (evidence.overlap, evidence.correlation_ratio) == (0, 0)
    assert evidence.local_correlation < 0.2
    assert judge(evidence).level == "fail"


def test_folding_is_counted_inside_the_content():
    """Beyond 10 mm to the right, the map runs back: a part of the content by hand, and none of the rest."""

    def back(points: Tensor) -> Tensor:
        x, rest = points[..., :1], points[..., 1:]
        return torch.cat([torch.where(x > 10, 20 - x, x), rest], dim=-1)

    points = brain().grid.points_world()[brain().data[:, 0] > 0.06]
    evidence = evidence_of(Formula(back))
    assert evidence.folding_percent == pytest.approx(100 * float((points[:, 0] > 10).float().mean()), abs=2)
    outside = Formula(lambda points: torch.where(points[..., :1] > 90, -points, points))
    assert evidence_of(outside).folding_percent == 0


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_the_spread_of_the_log_jacobian_of_two_halves(factor):
    """By hand: SD of 0 and log f in fractions p and 1 − p of the content."""

    def stretched(points: Tensor) -> Tensor:
        x, rest = points[..., :1], points[..., 1:]
        return torch.cat([torch.where(x > 0, factor * x, x), rest], dim=-1)

    points = brain().grid.points_world()[brain().data[:, 0] > 0.06]
    share = float((points[:, 0] > 0).float().mean())
    expected = math.log(factor) * math.sqrt(share * (1 - share))
    assert evidence_of(Formula(stretched)).sd_log_jacobian == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("other", [lambda v: 1.2 - v, lambda v: v.sqrt(), lambda v: 0.2 + v.square()])
def test_two_contrasts_of_one_brain_explain_each_other(other):
    image = brain()
    moving = Image(torch.where(image.data > 0.06, other(image.data), 0), image.grid)
    evidence = evidence_of(IDENTITY, image, moving)
    # Between tissue and background, interpolation gives intensities that are those of neither contrast.
    assert evidence.correlation_ratio > 0.7
    assert evidence.local_correlation > 0.6
    assert evidence.overlap > 0.95


def test_noise_explains_nothing():
    image = brain()
    noise = torch.rand(image.data.shape, generator=torch.Generator().manual_seed(0))
    evidence = evidence_of(IDENTITY, image, Image(0.1 + 0.9 * noise * (image.data > 0.06), image.grid))
    assert evidence.correlation_ratio < 0.2
    assert evidence.local_correlation < 0.4
    assert judge(evidence).level == "fail"


@pytest.mark.parametrize("side", [0, 1])
def test_what_the_moving_image_does_not_show_is_left_out_of_the_overlap(side):
    """Half of the brain is cut off: no counterpart for half, and full agreement of the rest."""
    image, half = brain(), 20
    data = image.data[:, :, half * side : half * (side + 1)]
    grid = image.grid.crop((half * side, 0, 0), (half, 48, 40))
    evidence = evidence_of(IDENTITY, image, Image(data, grid, "part", ((0, 1 - side),)))
    assert evidence.without_counterpart == pytest.approx(0.5, abs=0.04)
    assert evidence.overlap > 0.97
    assert evidence.local_correlation > 0.93  # windows at the cut contain its zeros
    assert evidence_of(IDENTITY, image, Image(data, grid)).overlap == pytest.approx(2 / 3, abs=0.04)


# Registrations


def moved(linear: str) -> tuple[Image, Image, Transform]:
    """A brain, the same brain in another pose on a grid of its own, and the map between them."""
    truth = rotation(12) @ AffineTransform.translation(torch.tensor([[5.0, -8, 4]]))
    fixed = lopsided(grid_around((44, 50, 42), AFFINES["RAS"] * 4))
    return fixed, resample(fixed, truth.inverse(), grid_around((48, 52, 48), AFFINES[linear] * 4)), truth


@pytest.mark.parametrize("linear", GRIDS)
def test_the_true_map_passes_and_wrong_maps_fail(linear):
    fixed, moving, truth = moved(linear)
    right = registered(fixed, moving, truth)
    assert right.verdict == Verdict("pass")
    assert right.evidence.rotation_degrees == pytest.approx(12, abs=0.1)
    wrong = {
        "overlap": AffineTransform.translation(torch.tensor([[18.0, 10, -12]])),
        "folding": linear_map(torch.diag(torch.tensor([-1.0, 1, 1]))),
        "scaling": linear_map(3 * torch.eye(3)),
        "rotation": linear_map(torch.diag(torch.tensor([1.0, -1, -1]))),
    }
    for word, change in wrong.items():
        verdict = registered(fixed, moving, truth @ change).verdict
        assert verdict.level == "fail"
        assert any(reason.startswith(word) for reason in verdict.reasons), word


def test_a_map_that_bends_too_much_fails():
    fixed, moving, truth = moved("RAS")
    wild = smooth_velocity(grid_around((24, 24, 24), AFFINES["RAS"] * 9), 60.0, seed=1)
    verdict = registered(fixed, moving, truth @ wild).verdict
    assert verdict.level == "fail"
    assert "log-Jacobian" in " ".join(verdict.reasons)


def smaller(image: Image) -> Image:
    matrix = image.grid.voxel_to_world.clone()
    matrix[:, :3] /= 12
    return Image(image.data, Grid(image.grid.shape, matrix), image.name)


def test_figures_have_no_unit_of_length():
    """A mouse's brain is judged as a human one."""
    fixed, moving, truth = moved("LIA")
    bend = smooth_velocity(grid_around((12, 12, 12), AFFINES["RAS"] * 18), 9.0, seed=3)
    human = registered(fixed, moving, truth @ bend).evidence
    small = Formula(lambda points: (truth @ bend)(12 * points) / 12)
    mouse = registered(smaller(fixed), smaller(moving), small).evidence
    for name in LIMITS:
        assert getattr(mouse, name) == pytest.approx(getattr(human, name), rel=1e-3, abs=1e-3), name


def test_doubts_about_files_are_reasons():
    fixed, moving, truth = moved("RAS")
    doubts = ("a.nii: orientation unknown", "b.nii: unit unknown")
    images = zip((fixed, moving), doubts, strict=True)
    found = registered(*(Image(image.data, image.grid, doubts=(doubt,)) for image, doubt in images), truth)
    assert found.verdict == Verdict("check", doubts)
    assert found.notes == doubts


def test_the_evidence_is_that_of_the_last_map_and_measured_once():
    fixed, moving, truth = moved("RAS")
    found: Registration = registered(fixed, moving, IDENTITY, truth)
    expected = asdict(measure_evidence(found.pair, truth))
    assert asdict(found.evidence) == pytest.approx(expected)
    assert expected["overlap"] > 0.1 + measure_evidence(found.pair, IDENTITY).overlap
    assert found.evidence is found.evidence
    assert found.verdict == judge(found.evidence)
