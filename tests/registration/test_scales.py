"""Scales: those of the model, and its two finest networks at halves of its spacing."""

import numpy as np
import pytest
import torch
from estimators import estimating_model
from pairs import given_image, given_pair
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import Content
from patchmorph.images.volume import Image
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.scales import native_mm, scales_of
from patchmorph.registration.schedule import detail_schedule, refinement_schedule, schedule
from patchmorph.registration.stages.network import DenseNetworkStage

SPACINGS = [4.0, 2.0, 1.0]


def pair_of(*voxels: tuple[float, float, float], radius_mm: float = 60.0) -> PreparedPair:
    """Two images of these voxel sizes whose content has a given radius."""
    box = torch.tensor([[-80.0] * 3, [80.0] * 3], dtype=torch.float64)
    content = Content(torch.zeros(1, 3, dtype=torch.float64), box, radius_mm, 4.0)
    images = []
    for voxel in voxels:
        grid = grid_around((20, 20, 20), AFFINES["RAS"] @ np.diag(voxel))
        images.append(given_image(Image(torch.rand(1, 1, 20, 20, 20), grid), content))
    return PreparedPair(*images)


def found(pair: PreparedPair, **options) -> list[float]:
    """Spacings of all scales of networks, mm."""
    model = estimating_model(spacings_mm=SPACINGS, reference_radius_mm=60.0)
    given = RegistrationOptions(**options)
    stages = [*schedule(model, pair, given), *detail_schedule(model, pair, given)]
    dense = [stage for stage in stages if isinstance(stage, DenseNetworkStage)]
    trained, finer = (
        [stage for stage in dense if (stage.min_detail > 0) == is_finer] for is_finer in (False, True)
    )
    assert [*trained, *finer] == dense
    assert [stage.network for stage in trained] == list(model.dense[: len(trained)])
    assert [stage.network for stage in finer] == [*model.dense[-2:]] * (len(finer) // 2)
    assert [stage.backwards for stage in finer] == [False, True] * (len(finer) // 2)
    assert not any(stage.backwards for stage in trained)
    assert [stage.spacing_mm for stage in finer[::2]] == [stage.spacing_mm for stage in finer[1::2]]
    return [round(stage.spacing_mm, 4) for stage in (*trained, *finer[::2])]


QUARTER = (0.25, 0.25, 0.25)


def test_without_a_finest_scale_the_model_has_them():
    assert found(pair_of(QUARTER, QUARTER)) == SPACINGS
    assert found(pair_of(QUARTER, QUARTER), preset="fast") == SPACINGS[:2]


def test_native_goes_down_to_the_voxels():
    assert found(pair_of(QUARTER, QUARTER), finest="native") == [*SPACINGS, 0.5, 0.25]
    assert found(pair_of((1, 1, 1), (1, 1, 1)), finest="native") == SPACINGS
    assert found(pair_of((3, 3, 3), (1, 1, 1)), finest="native") == SPACINGS


def test_native_is_the_voxel_of_the_coarser_image_and_its_volume_counts():
    assert native_mm(pair_of(QUARTER, (0.5, 0.5, 0.5))) == pytest.approx(0.5)
    assert native_mm(pair_of((0.5, 0.5, 4), QUARTER)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("finest", "expected"),
    [
        (0.25, [*SPACINGS, 0.5, 0.25]),
        (0.34, [*SPACINGS, 0.5, 0.25]),
        (0.36, [*SPACINGS, 0.5]),
        (0.7, [*SPACINGS, 0.5]),
        (0.72, SPACINGS),
        (1.5, [4.0, 2.0]),
        (9.0, [4.0]),
    ],
)
def test_a_size_means_the_nearest_scale(finest, expected):
    assert found(pair_of(QUARTER, QUARTER), finest=finest, preset="fast") == expected


def test_scales_follow_the_size_of_the_content():
    mouse = pair_of((0.04, 0.04, 0.05), (0.04, 0.04, 0.04), radius_mm=6.0)
    assert found(mouse, finest="native") == [0.4, 0.2, 0.1, 0.05]


def test_a_scale_without_end_is_refused():
    with pytest.raises(PatchMorphError, match=r"finest must be at least 0\.015 mm for image, got 1e-06"):
        scales_of(
            estimating_model(reference_radius_mm=60.0).spec,
            pair_of(QUARTER, QUARTER),
            options=RegistrationOptions(finest=1e-6),
        )


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf"), "fine"])
def test_a_finest_scale_that_is_no_size_is_refused(wrong):
    with pytest.raises(PatchMorphError, match="finest must be native or a size above 0 in mm, got"):
        RegistrationOptions(finest=wrong)


def test_a_finest_scale_of_a_matrix_is_refused():
    with pytest.raises(PatchMorphError, match="finest must be that of a deformable transform, got affine"):
        RegistrationOptions(finest="native", transform="affine")


def test_refinement_takes_the_finest_scale_that_is_kept():
    model, pair = estimating_model(spacings_mm=SPACINGS, reference_radius_mm=60.0), pair_of(QUARTER, QUARTER)
    for finest, expected in ((None, 1.0), (2.0, 2.0), (0.25, 1.0)):
        (stage,) = refinement_schedule(model, pair, RegistrationOptions(finest=finest, refine=3))
        assert stage.spacing_mm == expected


@torch.no_grad()
def test_patches_without_detail_in_either_image_are_left_out():
    """One image of 4 mm voxels shows nothing new in patches of 1 mm; noise of 1 mm does."""
    smooth = smooth_image(grid_around((40, 40, 40), AFFINES["RAS"] * 4))
    noise = torch.rand(1, 1, 60, 60, 60, generator=torch.Generator().manual_seed(0))
    sharp = Image(noise, grid_around((60, 60, 60), AFFINES["RAS"]))
    model = estimating_model(spacings_mm=[2.0], reference_radius_mm=None)
    calls = []
    for fixed, moving in ((sharp, sharp), (sharp, smooth), (smooth, sharp)):
        counted = []
        handle = model.dense[0].register_forward_hook(lambda *_: counted.append(1))  # noqa: B023
        pair = given_pair(fixed, moving, given_image(sharp).content)
        for stage in detail_schedule(model, pair, RegistrationOptions(finest=1.0)):
            stage.refine(pair, pair.center_shift())
        handle.remove()
        calls.append(len(counted))
    assert calls[0] > 0
    assert calls[1:] == [0, 0]
