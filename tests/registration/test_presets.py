"""Presets choose scales and refinement; what is chosen explicitly comes first."""

import pytest
from estimators import estimating_model
from pairs import given_pair
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.registration.options import PRESETS, RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.schedule import CLASSICAL_PASSES, schedule
from patchmorph.registration.stages.network import DenseNetworkStage
from patchmorph.registration.stages.velocity_refinement import VelocityRefinementStage

SPACINGS = [8.0, 4.0, 2.0]


@pytest.fixture(scope="module")
def pair() -> PreparedPair:
    image = smooth_image(grid_around((40, 46, 38), AFFINES["RAS"] * 4))
    return given_pair(image, image)


def stages(pair: PreparedPair, with_model: bool = True, **options) -> tuple[list[float], list[int]]:
    """Spacings of the dense stages relative to the coarsest, and passes of refinement."""
    model = estimating_model(spacings_mm=SPACINGS) if with_model else None
    found = schedule(model, pair, RegistrationOptions(**options))
    dense = [stage.spacing_mm for stage in found if isinstance(stage, DenseNetworkStage)]
    refined = [stage for stage in found if isinstance(stage, VelocityRefinementStage)]
    dense = dense if with_model else [stage.spacing_mm for stage in refined]
    return [round(dense[0] / mm) for mm in dense], [stage.passes for stage in refined]


def test_fast_leaves_out_the_finest_scale_and_best_refines(pair):
    assert stages(pair) == ([1, 2, 4], [])
    assert stages(pair, preset="fast") == ([1, 2], [])
    assert stages(pair, preset="best") == ([1, 2, 4], [12])


def test_maps_of_networks_are_refined_by_small_steps_and_volumes_are_kept_where_lncc_compares(pair):
    """Other comparisons have the settings that they were measured with."""

    def settings(with_model: bool, **options) -> set[tuple[float, float, float, str]]:
        model = estimating_model(spacings_mm=SPACINGS) if with_model else None
        found = schedule(model, pair, RegistrationOptions(refine=2, **options))
        stages = [stage for stage in found if isinstance(stage, VelocityRefinementStage)]
        return {
            (one.rate, one.objective.diffusion, one.objective.volume, one.objective.similarity)
            for one in stages
        }

    assert settings(True) == {(0.04, 0.04, 0.1, "lncc")}
    assert settings(True, similarity="mind") == {(0.15, 0.08, 0.0, "mind")}
    assert settings(False) == {(0.15, 0.04, 0.1, "lncc")}
    assert settings(False, similarity="mi") == {(0.15, 0.08, 0.0, "mi")}


def test_a_number_of_passes_overrides_the_preset(pair):
    assert stages(pair, preset="best", refine=0) == ([1, 2, 4], [])
    assert stages(pair, preset="best", refine=7) == ([1, 2, 4], [7])
    assert stages(pair, preset="fast", refine=7) == ([1, 2], [7])


def test_one_scale_is_left_always(pair):
    model = estimating_model(spacings_mm=SPACINGS[:1])
    found = schedule(model, pair, RegistrationOptions(preset="fast"))
    assert sum(isinstance(stage, DenseNetworkStage) for stage in found) == 1


def test_without_networks_fast_leaves_out_the_finest_scale_too(pair):
    assert stages(pair, with_model=False) == ([1, 2, 4], [CLASSICAL_PASSES] * 3)
    assert stages(pair, with_model=False, preset="fast") == ([1, 2], [CLASSICAL_PASSES] * 2)


def test_two_contrasts_are_refined_by_what_they_share_unless_that_takes_too_long():
    refines = {name: RegistrationOptions(preset=name).refines_between_contrasts for name in PRESETS}
    assert refines == {"fast": False, "default": True, "best": True}
    assert not RegistrationOptions(refine=3).refines_between_contrasts
    assert not RegistrationOptions(transform="affine").refines_between_contrasts


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_presets_go_with_any_kind_of_map(pair, kind):
    for preset in PRESETS:
        found = schedule(
            estimating_model(spacings_mm=SPACINGS), pair, RegistrationOptions(transform=kind, preset=preset)
        )
        assert not [stage for stage in found if isinstance(stage, VelocityRefinementStage)]


def test_an_unknown_preset_is_refused():
    with pytest.raises(PatchMorphError, match="preset must be one of fast, default, best, got quick"):
        RegistrationOptions(preset="quick")
