"""The order of the ways, with maps in the place of networks; the packaged models are in tests/end_to_end."""

import functools
from dataclasses import replace

import pytest
import torch
from starts import start_at
from synthetic import AFFINES, grid_around, smooth_image, smooth_velocity

from patchmorph.images.in_memory import Image
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.registration import cross_contrast as bridge
from patchmorph.registration.cross_contrast import (
    REFINED,
    in_one_contrast,
    mean_by_intensity,
    refined,
    register_contrasts,
    relation,
    roughness,
    shared,
)
from patchmorph.registration.pair import Start
from patchmorph.registration.pipeline import Options
from patchmorph.registration.result import Registration
from patchmorph.spatial.affine import from_translation
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

IDENTITY = AffineTransform.identity()
NAMES = ("one", "any")
SAME, OTHER = PatchMorphModel(ModelSpec()), PatchMorphModel(ModelSpec())
NO_OPTIONS = Options()


def shifted(mm: float) -> AffineTransform:
    return AffineTransform(from_translation(torch.tensor([[mm, 0.0, 0.0]])))


@functools.cache
def image_of() -> Image:
    return smooth_image(grid_around((75, 90, 70), AFFINES["RAS"] * 2))


@functools.cache
def inverted_pair() -> tuple[Image, Start]:
    image = image_of()
    other = Image(torch.where(image.data > 0.05, 1.1 - image.data, 0), image.grid, "inverted")
    return image, start_at(image, other, alike=False)


@functools.cache
def alike() -> Start:
    return start_at(image_of(), image_of())


@pytest.fixture
def few_points(monkeypatch):
    """Images are compared at a 27th of the points: mutual information at all of them takes seconds."""
    monkeypatch.setattr(bridge, "POINTS", 32)


@pytest.fixture
def ways(monkeypatch):
    """Register by maps that a test gives; what was asked for is kept."""
    asked = []

    def set_maps(maps):
        def proceed(start, model, options=NO_OPTIONS, restarts=0):
            asked.append((model, options))
            found = maps(start, model)
            return Registration(start.fixed, start.moving, found, (IDENTITY, found), start.notes)

        monkeypatch.setattr(bridge, "proceed", proceed)
        monkeypatch.setattr(bridge, "REFINED_BY", ())
        return asked

    return set_maps


def test_means_by_intensity_follow_any_curve():
    of = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    means = mean_by_intensity(of, torch.sin(4 * of))
    steps = torch.linspace(0, 1, len(means))
    # The kernel smooths over three bins of 0.02: at a curvature of 16 by some thousandths, more at the ends.
    torch.testing.assert_close(means[2:-2], torch.sin(4 * steps)[2:-2], atol=0.01, rtol=0)
    some = mean_by_intensity(0.3 + 0.1 * of, torch.full_like(of, 0.7))
    torch.testing.assert_close(some, torch.full_like(some, 0.7))  # empty bins, too


def test_either_image_comes_into_the_contrast_of_the_other():
    image, start = inverted_pair()
    for side in ("moving", "fixed"):
        made = in_one_contrast(start, IDENTITY, side)
        subject, model = (
            (made.moving_seen, start.fixed_seen) if side == "moving" else (made.fixed_seen, start.moving_seen)
        )
        inside = image.data > 0.15
        pair = torch.stack([subject.image.data[inside], model.image.data[inside]])
        assert torch.corrcoef(pair)[0, 1] > 0.98
        assert subject.content is (start.moving_seen if side == "moving" else start.fixed_seen).content


def test_the_order_of_maps_is_that_of_their_errors():
    _, start = inverted_pair()
    maps = [IDENTITY, shifted(2.0), shifted(8.0)]
    values = [shared(start, found) for found in maps]
    assert values == sorted(values, reverse=True)
    relations = [relation(alike(), found) for found in maps]
    assert relations[0].line > 0.99
    assert relations[0].straight > 0.97  # of one and the same image, but for the width of bins
    assert relations[0].line > relations[1].line > relations[2].line


def test_one_contrast_takes_one_registration(ways):
    start = alike()
    asked = ways(lambda start, model: IDENTITY)
    options = Options(refine=3)
    found = register_contrasts(start, SAME, OTHER, options, NAMES)
    assert asked == [(SAME, options)]
    assert found.notes == ("the contrasts are alike: model one",)


def test_a_poor_agreement_asks_the_other_model(ways):
    """Which tells whether bright goes with bright."""
    start = alike()
    asked = ways(lambda start, model: shifted(8.0) if model is SAME else IDENTITY)
    found = register_contrasts(start, SAME, OTHER, Options(), NAMES)
    assert [model for model, _ in asked] == [SAME, OTHER]
    assert found.notes == ("the contrasts are alike: model one",)


@pytest.mark.parametrize(("mm", "asked_for"), [(1.5, 1), (3.0, 2)])
def test_the_agreement_that_one_contrast_needs(ways, mm, asked_for):
    """Squared correlations of 0.95 and of 0.82: 0.9 is enough."""
    start = alike()
    line = relation(start, shifted(mm)).line
    assert 0.91 < line < 0.97 if asked_for == 1 else 0.78 < line < 0.89
    asked = ways(lambda start, model: shifted(mm))
    register_contrasts(start, SAME, OTHER, Options(), NAMES)
    assert [model for model, _ in asked] == [SAME, OTHER][:asked_for]


@pytest.mark.parametrize(("share", "one_contrast"), [(0.4, True), (0.55, False)])
def test_the_straightness_that_one_contrast_needs(ways, share, one_contrast):
    """Shares of a line of 0.97 and of 0.92: 0.95 is enough."""
    image = image_of()
    values = image.data
    bent = (1 - share) * values + share * 2 * values * (1.1 - values)
    start = start_at(image, Image(torch.where(values > 0.05, bent, 0), image.grid))
    straight = relation(start, IDENTITY).straight
    assert 0.955 < straight < 0.98 if one_contrast else 0.9 < straight < 0.945
    ways(lambda start, model: shifted(8.0) if model is SAME else IDENTITY)
    found = register_contrasts(start, SAME, OTHER, Options(), NAMES)
    assert found.notes[0].startswith("the contrasts are alike" if one_contrast else "the contrasts differ")


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(("ratio", "is_taken"), [(1.12, True), (1.28, False)])
def test_a_last_map_may_be_a_fifth_rougher_than_the_one_before(ways, ratio, is_taken):
    _, start = inverted_pair()
    flow = smooth_velocity(start.fixed.grid, 2.0)
    rougher = VelocityField(flow.velocity * ratio, flow.grid)
    maps = {"last": IDENTITY @ rougher, "better": shifted(4.0) @ flow, "rough": shifted(9.0) @ flow}
    assert roughness(start, maps["last"]) == pytest.approx(ratio * roughness(start, maps["better"]), rel=0.02)
    values = [shared(start, maps[name]) for name in ("last", "better", "rough")]
    assert values == sorted(values, reverse=True)  # or else it would not be taken anyway

    def way(given, model):
        turned = given.fixed_seen is not start.fixed_seen or given.moving_seen is not start.moving_seen
        return maps["last" if model is SAME else "better" if turned else "rough"]

    ways(way)
    found = register_contrasts(start, SAME, OTHER, Options(), NAMES)
    assert found.transform is maps["last" if is_taken else "better"]


def test_a_turned_start_begins_at_the_affine_part_and_keeps_its_cuts():
    _, start = inverted_pair()
    flow = smooth_velocity(start.fixed.grid, 2.0)
    seen = start.moving_seen
    cut = replace(seen, image=Image(seen.image.data, seen.image.grid, cuts=((2, 0),)))
    made = in_one_contrast(replace(start, moving_seen=cut), shifted(1.0) @ flow, "moving")
    torch.testing.assert_close(made.history[-1].matrix, shifted(1.0).matrix)
    assert made.history[:-1] == start.history
    assert made.moving_seen.image.cuts == ((2, 0),)
    background = seen.image.data <= 0.02
    assert (made.moving_seen.image.data[background] == 0).all()


def test_roughness_is_the_spread_of_the_logarithm_of_volume():
    start = alike()
    assert roughness(start, AffineTransform(torch.diag(torch.tensor([2.0, 1, 1, 1]))[None])) < 1e-4
    grid = Grid.centered((64, 64, 64), 4.0, torch.zeros(1, 3))
    x = grid.points_world()[..., 0]
    displacement = torch.zeros(1, 3, 64, 64, 64)
    displacement[:, 0] = 0.001 * x.square() / 2  # so that the volume changes by 1 + x / 1000
    # Points of an ellipsoid with a semi-axis of 68 mm spread by 68 / √5 along it.
    expected = 0.068 / 5**0.5
    assert roughness(start, IDENTITY @ DisplacementField(displacement, grid)) == pytest.approx(
        expected, rel=0.05
    )


@pytest.mark.usefixtures("few_points")
def test_two_contrasts_go_by_way_of_the_better_side(ways):
    _, start = inverted_pair()
    options = Options(refine=3)

    def fixed_is_better(given, model):
        turned = given.fixed_seen is not start.fixed_seen
        return IDENTITY if model is SAME else shifted(2.0 if turned else 6.0)

    asked = ways(fixed_is_better)
    found = register_contrasts(start, SAME, OTHER, options, NAMES)
    assert asked == [*[(OTHER, NO_OPTIONS)] * 3, (SAME, NO_OPTIONS), (SAME, options)]
    assert found.transform is IDENTITY
    said = "the contrasts differ: model any, then one with the fixed image in the contrast of the other"
    assert found.notes == (said, REFINED)
    assert register_contrasts(start, SAME, OTHER, options, NAMES, finish=False).notes == (said,)


@pytest.mark.usefixtures("few_points")
def test_a_worse_last_way_is_not_taken(ways):
    _, start = inverted_pair()
    ways(lambda given, model: shifted(11.0) if model is SAME else IDENTITY)
    found = register_contrasts(start, SAME, OTHER, Options(), NAMES)
    assert found.transform is IDENTITY
    assert found.notes == ("the contrasts differ: model any", REFINED)


def test_the_last_map_of_two_contrasts_is_refined(monkeypatch):
    monkeypatch.setattr(bridge, "REFINED_BY", (("mi", 3), ("mind", 3)))
    _, start = inverted_pair()
    flow = smooth_velocity(start.fixed.grid, 2.0)
    before = Registration(start.fixed, start.moving, IDENTITY @ flow, (IDENTITY, IDENTITY @ flow), ("said",))
    after = refined(start, before, PatchMorphModel(ModelSpec(spacings_mm=(6.0,))), 0)
    assert after.notes == ("said", REFINED)
    assert len(after.history) == 2 + 2
    assert after.history[-1] is after.transform
    points = start.fixed_seen.content.center_world[:, None].float() + torch.randn(1, 500, 3) * 25
    errors = [(found.transform(points) - points).norm(dim=-1).mean() for found in (before, after)]
    assert errors[1] < 0.8 * errors[0]
