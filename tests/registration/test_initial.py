"""A registration starts from a map that is given or named, and contains a map that is given."""

import functools

import pytest
import torch
from estimators import estimating_model
from synthetic import AFFINES, grid_around, lopsided, rotation, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.registration.initial import INITIAL_MAPS, register_from
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.pipeline import register_pair
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample

POSE = rotation(25) @ AffineTransform.translation(torch.tensor([[6.0, -9, 4]]))
FLOW = smooth_velocity(grid_around((12, 12, 12), AFFINES["RAS"] * 18), 7.0, seed=3)
TRUTH = POSE @ FLOW
NEAR = rotation(4)
KINDS = ("rigid", "affine", "deformable")


@functools.cache
def pair(deformed: bool = True) -> PreparedPair:
    grid = grid_around((45, 54, 43), AFFINES["RAS"] * 4)
    moving = lopsided(grid)
    return prepare_pair(resample(moving, TRUTH if deformed else POSE, grid), moving)


def points(deformed: bool = True) -> torch.Tensor:
    image = pair(deformed).fixed.original
    return image.grid.points_world()[image.data[:, 0] > 0.2][None]


def distance_mm(one: Transform, other: Transform) -> float:
    """Mean distance of two maps inside the fixed brain."""
    return float((one(points()) - other(points())).norm(dim=-1).mean())


def registered(initial, kind: str = "deformable", deformed: bool = True) -> Registration:
    model, options = estimating_model(affine_passes=2), RegistrationOptions(transform=kind)
    return register_from(
        pair(deformed), initial, lambda pair, history: register_pair(pair, history, model, options)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_initial_transform_leaves_a_residual_near_the_identity(kind):
    found = registered(TRUTH, kind)
    residual = TRUTH.inverse() @ found.transform
    assert distance_mm(residual, AffineTransform.identity()) < 0.4  # a tenth of a voxel
    assert distance_mm(found.history[0], TRUTH) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_deformable_initial_transform_is_the_outer_part_of_the_result_as_it_was_given(kind):
    found = registered(POSE @ FLOW @ NEAR, kind)
    outer, flow, *inner = found.transform.parts()
    assert torch.equal(outer.matrix, POSE.matrix)
    assert flow is FLOW
    if kind != "deformable":
        (residual,) = inner
        assert isinstance(residual, AffineTransform)
        # What was found takes the last part back.
        assert distance_mm(found.transform, TRUTH) < 0.3 * distance_mm(TRUTH @ NEAR, TRUTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("initial", [POSE @ NEAR, "search"], ids=["matrix", "search"])
def test_the_result_is_about_the_same_from_wherever_it_starts(initial, kind):
    found = registered(initial, kind, deformed=kind == "deformable")
    truth = TRUTH if kind == "deformable" else POSE
    assert distance_mm(found.transform, truth) < 0.7


@pytest.mark.parametrize("kind", ["rigid", "affine"])
@pytest.mark.parametrize("initial", [POSE @ NEAR, "search", "centers"], ids=["matrix", "search", "centers"])
def test_a_rigid_or_affine_result_is_one_matrix(initial, kind):
    found = registered(initial, kind)
    assert isinstance(found.transform, AffineTransform)
    linear = found.transform.matrix[0, :3, :3]
    is_rigid = torch.allclose(linear @ linear.T, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert is_rigid == (kind == "rigid")
    if is_rigid:
        assert torch.linalg.det(linear) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_linear_map_is_that_with_the_least_distance_to_the_true_one(kind):
    """As near to a deformation as the nearest map of its kind, but for a tenth of a voxel or so."""
    nearest = AffineTransform.nearest_rigid if kind == "rigid" else AffineTransform.nearest
    best = distance_mm(nearest(points(), TRUTH(points())), TRUTH)
    assert best < distance_mm(registered("search", kind).transform, TRUTH) < best + 0.5


def test_a_rigid_map_is_found_without_a_network_too():
    options = RegistrationOptions(transform="rigid")
    found = register_from(
        pair(deformed=False), POSE @ NEAR, lambda pair, history: register_pair(pair, history, None, options)
    )
    assert distance_mm(found.transform, POSE) < 0.7 < distance_mm(POSE @ NEAR, POSE)
    linear = found.transform.parts()[0].matrix[0, :3, :3]
    torch.testing.assert_close(linear @ linear.T, torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)


def first_map(name: str) -> Transform:
    """The map with which the stages begin."""
    begun = []
    register_from(pair(), name, lambda pair, history: (begun.append(history), Registration(pair, history))[1])
    return begun[0][-1]


def test_each_name_begins_where_it_says():
    identity = AffineTransform.identity()
    assert torch.equal(first_map("header").matrix, identity.matrix)
    assert torch.equal(first_map("identity").matrix, identity.matrix)
    shift = first_map("centers").matrix[0, :3, 3]
    contents = pair().moving.content.center_world - pair().fixed.content.center_world
    torch.testing.assert_close(shift, contents[0].double())
    assert torch.equal(first_map("centers").matrix[0, :3, :3], torch.eye(3, dtype=torch.float64))
    errors = {name: distance_mm(first_map(name), TRUTH) for name in ("header", "centers", "search")}
    assert errors["search"] < 4 < errors["centers"] < errors["header"]
    assert set(INITIAL_MAPS) == {"header", "identity", "centers", "search"}


@pytest.mark.parametrize("kind", ["matrix", "field"])
def test_images_that_a_start_keeps_apart_are_refused(kind):
    away = AffineTransform.translation(torch.tensor([[500.0, 0, 0]]))
    message = "initial transform must bring the images to overlap, got nothing of lopsided on lopsided"
    with pytest.raises(PatchMorphError, match=message):
        registered(away if kind == "matrix" else away @ FLOW)


def test_headers_that_keep_images_apart_are_refused_too():
    grid = grid_around((45, 54, 43), AFFINES["RAS"] * 4)
    far = lopsided(grid)
    far.grid = grid_around((45, 54, 43), AFFINES["RAS"] * 4, (500.0, 0, 0))
    apart = prepare_pair(lopsided(grid), far)
    with pytest.raises(PatchMorphError, match="must bring the images to overlap"):
        register_from(apart, "header", lambda pair, history: Registration(pair, history))
    register_from(apart, "centers", lambda pair, history: Registration(pair, history))


@pytest.mark.parametrize("option", ["refine", "uncertainty"])
def test_options_of_deformable_maps_are_refused_for_others(option):
    with pytest.raises(PatchMorphError, match=f"{option} must be that of a deformable transform, got affine"):
        RegistrationOptions(transform="affine", **{option: True})
    with pytest.raises(PatchMorphError, match="transform must be one of rigid, affine, deformable, got syn"):
        RegistrationOptions(transform="syn")
