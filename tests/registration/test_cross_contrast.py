"""The order of candidates, with maps in the place of networks; packaged models are in tests/end_to_end."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from estimators import estimating_model
from pairs import history_at
from synthetic import AFFINES, grid_around, smooth_image, smooth_velocity

from patchmorph.images.volume import Image
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.registration import cross_contrast
from patchmorph.registration import schedule as schedules
from patchmorph.registration.cross_contrast import (
    POINTS,
    REFINED,
    Models,
    in_one_contrast,
    mean_by_intensity,
    register_any_contrast,
    shared_information,
)
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.result import Registration
from patchmorph.registration.schedule import RESTARTS
from patchmorph.registration.stages import network
from patchmorph.registration.stages.base import Stage
from patchmorph.registration.stages.velocity_refinement import BY_OTHERS, VelocityRefinementStage
from patchmorph.spatial.affine import from_translation
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform

IDENTITY = AffineTransform.identity()
SAME, ANY = PatchMorphModel(ModelSpec()), PatchMorphModel(ModelSpec())
MODELS = Models({"one": SAME, "any": ANY}.__getitem__, "one", "any")
DEFAULT = RegistrationOptions()
NETWORKS = RegistrationOptions(refine=0)
AT_IDENTITY = history_at()


def shifted(mm: float) -> AffineTransform:
    return AffineTransform(from_translation(torch.tensor([[mm, 0.0, 0.0]])))


@functools.cache
def image_of() -> Image:
    return smooth_image(grid_around((75, 90, 70), AFFINES["RAS"] * 2))


def inverted(image: Image) -> Image:
    return Image(torch.where(image.data > 0.05, 1.1 - image.data, 0), image.grid, "inverted")


def folded(image: Image) -> Image:
    """Dark and bright alike: intensities are lost, so nothing brings this into another contrast."""
    return Image(torch.where(image.data > 0.05, 0.1 + (image.data - 0.55).abs(), 0), image.grid, "folded")


@functools.cache
def inverted_pair() -> PreparedPair:
    return prepare_pair(image_of(), inverted(image_of()))


@functools.cache
def folded_pair() -> PreparedPair:
    return prepare_pair(image_of(), folded(image_of()))


@functools.cache
def alike() -> PreparedPair:
    return prepare_pair(image_of(), image_of())


def register(pair: PreparedPair, options=DEFAULT, models=MODELS) -> Registration:
    return register_any_contrast(pair, AT_IDENTITY, models, options)


@pytest.fixture
def few_points(monkeypatch):
    """Images are compared at a third of the points: mutual information at all of them takes seconds."""
    monkeypatch.setattr(cross_contrast, "POINTS", 64)


@dataclass(frozen=True)
class Run(Stage):
    """Stands for all networks of a model: returns a given map, and records that it ran."""

    model: PatchMorphModel
    options: RegistrationOptions
    restarts: int
    found: Transform
    runs: list

    @property
    def label(self) -> str:
        return "run"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        self.runs.append((self, pair, transform))
        return self.found


@pytest.fixture
def candidates(monkeypatch):
    """Networks whose maps a test gives, by pair and model; run, pair and map before of each are recorded."""
    runs: list[tuple[Run, PreparedPair, Transform]] = []

    def set_maps(maps: Callable[[PreparedPair, PatchMorphModel], Transform]) -> list:
        def schedule(model, pair, options, restarts) -> list[Stage]:
            return [Run(model, options, restarts, maps(pair, model), runs)]

        monkeypatch.setattr(cross_contrast, "schedule", schedule)
        monkeypatch.setattr(schedules, "CROSS_CONTRAST_PASSES", ())
        return runs

    return set_maps


@pytest.fixture
def refinements(monkeypatch):
    """Stages of refinement that move nothing; stage, pair and map of each are recorded."""
    runs: list[tuple] = []

    def refine(self, pair, transform):
        runs.append((self, pair, transform))
        return transform

    monkeypatch.setattr(VelocityRefinementStage, "refine", refine)
    return runs


def test_means_by_intensity_follow_any_curve():
    of = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    means = mean_by_intensity(of, torch.sin(4 * of))
    steps = torch.linspace(0, 1, len(means))
    # The kernel smooths over three bins of 0.02: at a curvature of 16 by some thousandths, more at the ends.
    torch.testing.assert_close(means[2:-2], torch.sin(4 * steps)[2:-2], atol=0.01, rtol=0)
    some = mean_by_intensity(0.3 + 0.1 * of, torch.full_like(of, 0.7))
    torch.testing.assert_close(some, torch.full_like(some, 0.7))  # empty bins, too


def test_either_image_is_mapped_into_the_contrast_of_the_other():
    image, pair = image_of(), inverted_pair()
    for side in ("moving", "fixed"):
        made = in_one_contrast(pair, IDENTITY, side)
        mapped, other = (made.moving, pair.fixed) if side == "moving" else (made.fixed, pair.moving)
        inside = image.data > 0.15
        values = torch.stack([mapped.image.values()[inside], other.image.values()[inside]])
        assert torch.corrcoef(values)[0, 1] > 0.98
        assert mapped.content is (pair.moving if side == "moving" else pair.fixed).content
        kept = "fixed" if side == "moving" else "moving"
        assert getattr(made, kept) is getattr(pair, kept)


def test_the_curve_maps_the_remapped_image_to_the_other():
    """A curve that is not its own inverse: the wrong one leaves intensities a tenth or more away."""
    image = image_of()
    other = Image(torch.where(image.data > 0.05, 0.1 + 0.9 * image.data**4, 0), image.grid)
    pair = prepare_pair(image, other)
    made = in_one_contrast(pair, IDENTITY, "moving").moving.image.values()
    inside = image.data > 0.15
    assert (made - pair.fixed.image.values())[inside].abs().mean() < 0.05


def test_the_order_of_maps_is_that_of_their_errors():
    maps = [IDENTITY, shifted(2.0), shifted(8.0)]
    values = [shared_information(inverted_pair(), found) for found in maps]
    assert values == sorted(values, reverse=True)
    agreements = [alike().agreement(found, POINTS) for found in maps]
    assert agreements[0].linear_r2 > 0.99
    assert agreements[0].linearity > 0.97  # of one and the same image, but for the width of bins
    assert agreements[0].linear_r2 > agreements[1].linear_r2 > agreements[2].linear_r2


def test_one_contrast_takes_one_run_of_the_networks_and_one_refinement(candidates, refinements):
    found_by_networks = shifted(0.1)
    runs = candidates(lambda pair, model: found_by_networks)
    options = RegistrationOptions(refine=3, jitter=True, uncertainty=True, seed=5)
    found = register(alike(), options)
    ((run, pair, before),) = runs
    assert (run.model, run.options, run.restarts) == (SAME, replace(options, refine=0), RESTARTS)
    assert pair is alike()
    assert before is AT_IDENTITY[-1]
    assert found.notes == ("the contrasts are alike: model one",)
    ((stage, refined_pair, before),) = refinements
    assert (stage.passes, stage.generator.initial_seed()) == (3, 5)
    assert stage.spacing_mm == pytest.approx(SAME.spec.spacings_for(pair.fixed.content.radius_mm)[-1])
    assert refined_pair is pair
    assert before is found_by_networks
    assert found.transform is found_by_networks
    assert len(found.history) == 2 + 1 + 1


def test_one_contrast_is_not_refined_by_default(candidates, refinements):
    candidates(lambda pair, model: IDENTITY)
    found = register(alike())
    assert len(found.history) == 2 + 1
    assert refinements == []


@pytest.mark.parametrize("transform", ["rigid", "affine"])
def test_a_linear_map_is_not_refined_whatever_the_preset(candidates, refinements, transform):
    """Velocities would make it deformable."""
    candidates(lambda pair, model: shifted(0.1))
    found = register(alike(), RegistrationOptions(transform=transform, preset="best"))
    assert refinements == []
    assert isinstance(found.transform, AffineTransform)


def test_a_poor_agreement_takes_a_run_of_the_other_model(candidates):
    """Its map tells whether bright corresponds to bright."""
    runs = candidates(lambda pair, model: shifted(8.0) if model is SAME else IDENTITY)
    found = register(alike())
    assert [run.model for run, *_ in runs] == [SAME, ANY]
    assert [run.restarts for run, *_ in runs] == [RESTARTS, 0]
    assert found.notes == ("the contrasts are alike: model one",)
    torch.testing.assert_close(found.transform.matrix, shifted(8.0).matrix)


@pytest.mark.parametrize(("mm", "count"), [(1.5, 1), (3.0, 2)])
def test_the_agreement_that_one_contrast_needs(candidates, mm, count):
    """Squared correlations of 0.95 and of 0.82: 0.9 is enough."""
    linear_r2 = alike().agreement(shifted(mm), POINTS).linear_r2
    assert 0.91 < linear_r2 < 0.97 if count == 1 else 0.78 < linear_r2 < 0.89
    runs = candidates(lambda pair, model: shifted(mm))
    register(alike())
    assert [run.model for run, *_ in runs] == [SAME, ANY][:count]


@pytest.mark.parametrize(("fraction", "one_contrast"), [(0.4, True), (0.55, False)])
def test_the_linearity_that_one_contrast_needs(candidates, monkeypatch, fraction, one_contrast):
    """Linearities of 0.97 and of 0.92: 0.95 is enough."""
    monkeypatch.setattr(cross_contrast, "POINTS", 64)
    image = image_of()
    values = image.data
    bent = (1 - fraction) * values + fraction * 2 * values * (1.1 - values)
    pair = prepare_pair(image, Image(torch.where(values > 0.05, bent, 0), image.grid))
    linearity = pair.agreement(IDENTITY, 64).linearity
    assert 0.955 < linearity < 0.98 if one_contrast else 0.9 < linearity < 0.945
    runs = candidates(lambda pair, model: shifted(8.0) if model is SAME else IDENTITY)
    found = register(pair)
    assert runs[0][0].model is SAME  # one contrast was possible
    assert found.notes[0].startswith("the contrasts are alike" if one_contrast else "the contrasts differ")


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(("mm", "is_taken"), [(1.0, True), (3.0, False)])
def test_the_agreement_that_images_brought_into_one_contrast_need(candidates, mm, is_taken):
    pair, rough, last = inverted_pair(), IDENTITY, shifted(0.5)
    in_one = in_one_contrast(pair, rough, "moving")
    linear_r2 = in_one.agreement(shifted(mm), 64).linear_r2
    assert 0.92 < linear_r2 < 0.97 if is_taken else 0.8 < linear_r2 < 0.88

    def found_by(given, model):
        return last if model is SAME else rough if given is pair else shifted(mm)

    runs = candidates(found_by)
    found = register(pair)
    assert [run.model for run, *_ in runs] == [ANY, ANY, ANY, SAME][: 4 if is_taken else 3]
    assert found.transform is (last if is_taken else rough)


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(("transform", "runs_of_one"), [("affine", 1), ("deformable", 0)])
def test_linear_maps_need_a_straight_relation_alone(candidates, transform, runs_of_one):
    """Brains stay different under them: 3 mm away R² is below 0.9, yet all that any function explains."""
    pair = inverted_pair()
    agreement = in_one_contrast(pair, IDENTITY, "moving").agreement(shifted(3.0), 64)
    assert agreement.linear_r2 < 0.88
    assert agreement.linearity > 0.96
    runs = candidates(lambda given, model: IDENTITY if given is pair else shifted(3.0))
    register(pair, RegistrationOptions(refine=0, transform=transform))
    assert [run.model for run, *_ in runs] == [ANY] * 3 + [SAME] * runs_of_one


@pytest.mark.usefixtures("few_points")
def test_a_remapped_pair_begins_at_the_affine_part_and_keeps_its_truncated_faces(candidates):
    given = inverted_pair()
    faces = ((2, 0),)
    pair = replace(given, moving=replace(given.moving, image=given.moving.image.with_truncated_faces(faces)))
    flow = smooth_velocity(image_of().grid, 0.5)
    rough, better, last = shifted(0.5) @ flow, shifted(1.0) @ flow, shifted(0.2) @ flow

    def found_by(given, model):
        return last if model is SAME else rough if given is pair else better

    runs = candidates(found_by)
    found = register(pair)
    assert len(runs) == 4
    for (_, remapped, before), mm in zip(runs[1:], (0.5, 0.5, 1.0), strict=True):
        torch.testing.assert_close(before.matrix, shifted(mm).matrix)
        assert remapped.moving.image.truncated_faces == faces
        assert remapped.fixed.image.truncated_faces == ()
    assert found.transform is last
    assert found.history[: len(AT_IDENTITY)] == AT_IDENTITY
    assert len(found.history) == len(AT_IDENTITY) + 2  # where the last one began, and what it found
    moving = runs[1][1].moving
    by_rough = in_one_contrast(pair, rough, "moving").moving.image.values()
    torch.testing.assert_close(moving.image.values(), by_rough, atol=0, rtol=0)
    background = pair.moving.image.values() <= 0.02
    assert (moving.image.values()[background] == 0).all()
    assert (moving.image.values() != pair.moving.image.values()).float().mean() > 0.1


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_two_contrasts_take_the_better_side(candidates, refinements, side):
    pair = inverted_pair()
    options = RegistrationOptions(refine=3, jitter=True, seed=4)

    def found_by(given, model):
        if model is SAME:
            return IDENTITY
        remapped = getattr(given, side) is not getattr(pair, side)
        return shifted(0.5 if given is pair else 0.25 if remapped else 6.0)

    runs = candidates(found_by)
    found = register(pair, options)
    networks_alone = replace(options, refine=0)
    assert [(run.model, run.options, run.restarts) for run, *_ in runs] == [
        (model, networks_alone, 0) for model in (ANY, ANY, ANY, SAME)
    ]
    assert [type(part) for part in found.history] == [AffineTransform] * 5
    torch.testing.assert_close(found.history[2].matrix, shifted(0.25).matrix)  # where the last one began
    assert found.transform is IDENTITY
    note = f"the contrasts differ: model any, then one with the {side} image in the contrast of the other"
    assert found.notes == (note,)
    ((stage, refined_pair, before),) = refinements
    assert (stage.passes, stage.objective.similarity, stage.generator.initial_seed()) == (3, "lncc", 4)
    assert refined_pair is runs[-1][1]  # the images that the accepted map was found on
    assert before is IDENTITY
    refinements.clear()
    assert register(pair, replace(options, refine=0)).notes == (note,)
    assert register(pair, replace(options, refine=None)).notes == (note,)
    assert refinements == []


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(("rough", "turned", "note"), [(0, 4, ""), (4, 0, ", with the ")])
def test_lost_intensities_take_the_map_that_tells_most(candidates, rough, turned, note):
    """The model for one contrast would follow wrong edges, and is not run."""
    pair = folded_pair()
    runs = candidates(lambda given, model: shifted(rough if given is pair else turned))
    found = register(pair)
    assert [run.model for run, *_ in runs] == [ANY] * 3
    assert found.transform is runs[0 if rough < turned else 1][0].found
    assert found.notes[0].startswith(f"the contrasts differ: model any{note}")
    assert found.notes[1:] == (REFINED,)


@pytest.mark.usefixtures("few_points")
def test_the_last_map_of_two_contrasts_is_refined_by_what_they_share(candidates, monkeypatch):
    pair, flow = folded_pair(), smooth_velocity(image_of().grid, 2.0)
    before = IDENTITY @ flow
    candidates(lambda pair, model: before)
    monkeypatch.setattr(schedules, "CROSS_CONTRAST_PASSES", (("mi", 3), ("mind", 3)))
    models = {name: PatchMorphModel(ModelSpec(spacings_mm=(6.0,))) for name in ("one", "any")}
    after = register(pair, models=Models(models.__getitem__, "one", "any"))
    assert after.notes[-1] == REFINED
    assert len(after.notes) == 2
    kept = len(after.history) - 2  # two stages
    assert after.history[kept - 1] is before
    assert after.history[-1] is after.transform
    points = pair.fixed.content.center_world[:, None].float() + torch.randn(1, 500, 3) * 25
    errors = [(found(points) - points).norm(dim=-1).mean() for found in (before, after.transform)]
    assert errors[1] < 0.9 * errors[0]  # 0.83 here, by six passes of which some intensities tell nothing


@pytest.mark.parametrize(("voxel", "smoothness"), [(0.7, 1), (1.3, 1), (1.5, 1.5), (3, 3)])
def test_two_contrasts_are_refined_by_what_they_share_and_smoother_between_voxels(voxel, smoothness):
    """Sides of the moving image's voxels in those of the finest patches."""
    pair = inverted_pair()
    finest = ANY.spec.spacings_for(pair.fixed.content.radius_mm)[-1]
    images = [
        Image(torch.ones(1, 1, 4, 4, 4), Grid.centered((4, 4, 4), side * finest, torch.zeros(1, 3)))
        for side in (0.5, voxel)
    ]
    sides = (
        replace(one, original=image) for one, image in zip((pair.fixed, pair.moving), images, strict=True)
    )
    pair = PreparedPair(*sides)
    stages = schedules.cross_contrast_refinement_schedule(ANY, pair, RegistrationOptions(seed=6))
    assert [(stage.objective.similarity, stage.passes) for stage in stages] == [("mi", 10), ("mind", 10)]
    assert [stage.generator.initial_seed() for stage in stages] == [6, 6]
    assert [stage.spacing_mm for stage in stages] == pytest.approx([finest] * 2)
    weights = [stage.objective.diffusion for stage in stages]
    assert weights == pytest.approx([smoothness * BY_OTHERS.diffusion] * 2)
    assert {stage.objective.folding for stage in stages} == {BY_OTHERS.folding}


@pytest.fixture(scope="module")
def small_pair() -> PreparedPair:
    """Two contrasts at 4 mm, on which networks take a second."""
    image = smooth_image(grid_around((40, 46, 38), AFFINES["RAS"] * 4))
    moved = Grid(image.grid.shape, shifted(5.0).matrix @ image.grid.voxel_to_world)
    return prepare_pair(image, folded(Image(image.data, moved)))


@pytest.mark.usefixtures("few_points")
def test_networks_run_as_often_whatever_the_options_and_refinement_runs_once(
    small_pair, refinements, monkeypatch
):
    """With two contrasts, refinement begins at the map that was accepted."""
    spec = {"spacings_mm": [12.0, 8.0], "affine_passes": 1}
    models = Models({name: estimating_model(**spec) for name in ("one", "any")}.__getitem__, "one", "any")
    calls, predict = [], network.predict
    monkeypatch.setattr(network, "predict", lambda *given: calls.append(given[0]) or predict(*given))

    def counted(options) -> tuple[Registration, list]:
        calls.clear()
        refinements.clear()
        found = register(small_pair, options, models)
        assert found.notes[0].startswith("the contrasts differ")
        return found, list(calls)

    default, networks = counted(DEFAULT)
    assert len(networks) >= 3 * 3  # three candidates of three stages each
    assert [run[0].objective.similarity for run in refinements] == ["mi", "mind"]
    assert all(run[1] is small_pair for run in refinements)  # the images as given
    seeded, again = counted(RegistrationOptions(seed=1))
    assert again == networks
    assert [run[0].generator.initial_seed() for run in refinements] == [1, 1]
    unrefined, again = counted(NETWORKS)
    assert again == networks
    assert refinements == []
    refined, again = counted(RegistrationOptions(refine=3))
    assert again == networks
    ((stage, _, accepted),) = refinements
    assert stage.passes == 3
    assert accepted is refined.transform
    assert refined.notes == unrefined.notes == default.notes[:1] == seeded.notes[:1]
    points = small_pair.fixed.content.grid(12).points_world()
    for found in (refined, default, seeded):  # refinement moves nothing here
        torch.testing.assert_close(found.transform(points), unrefined.transform(points), atol=1e-4, rtol=0)
    assert (unrefined.transform(points) - points).norm(dim=-1).mean() > 1
