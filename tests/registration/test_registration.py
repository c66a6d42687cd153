import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from estimators import estimating_model
from pairs import given_pair, history_at, normalized
from synthetic import AFFINES, grid_around, lopsided, rotation, smooth_image, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import Content, find_content
from patchmorph.images.volume import Image
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.patches.extraction import extract
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.pipeline import register_images, register_pair
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.result import Registration, fill_of
from patchmorph.registration.schedule import CLASSICAL_PASSES, RESTARTS, keeps_agreement, schedule
from patchmorph.registration.stages.affine_refinement import AffineRefinementStage
from patchmorph.registration.stages.nearest_affine import NearestAffineStage
from patchmorph.registration.stages.network import DenseNetworkStage, affine_residual, patch_velocity
from patchmorph.registration.stages.velocity_refinement import VelocityRefinementStage, refinement_by
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.jacobian import jacobian_determinant
from patchmorph.transforms.resample import resample

SMALL = {
    "patch_size": 32,
    "spacings_mm": [8.0, 4.0],
    "overlap": 0.5,
    "affine": {"name": "affine-encoder", "options": {"channels": [4, 8, 8], "hidden": 8}},
    "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
}
ESTIMATING = {"spacings_mm": [6.0, 4.0], "affine_passes": 2}


@pytest.fixture(scope="module")
def random_model() -> PatchMorphModel:
    """Random weights that move points by some mm: enough for what must hold whatever the weights."""
    torch.manual_seed(0)
    model = PatchMorphModel(ModelSpec.model_validate({**SMALL, "precision": "fp32"}))  # bf16: 0.05 mm
    with torch.no_grad():
        for network in model.dense:
            network.velocity.weight.normal_(std=0.02)  # type: ignore[union-attr,operator]
        model.affine.generator.weight.normal_(std=0.02)  # type: ignore[union-attr,operator]
    return model


@pytest.fixture(scope="module")
def model() -> PatchMorphModel:
    """Networks that find real motion, so no stage is rejected."""
    return estimating_model(**ESTIMATING)


@functools.cache
def images(linear="RAS") -> tuple[Image, Image]:
    grid = grid_around((45, 54, 43), AFFINES[linear] * 4)
    moving = lopsided(grid)
    return resample(moving, TRUTH, grid), moving


FLOW = smooth_velocity(grid_around((12, 12, 12), AFFINES["RAS"] * 18), 7.0, seed=3)
POSE = rotation(25) @ AffineTransform.translation(torch.tensor([[6.0, -9, 4]]))
TRUTH = POSE @ FLOW


IDENTITY = AffineTransform.identity()
AT_POSE = history_at(POSE)


@functools.cache
def prepared() -> PreparedPair:
    return prepare_pair(*images())


def inside(image):
    return image.grid.points_world()[image.data[:, 0] > 0.2][None]


@pytest.fixture(scope="module")
def found(model) -> Registration:
    """The registration of both images by the model, with default options."""
    return register_images(*images(), model)


def error_mm(transform, truth=TRUTH) -> float:
    points = inside(images()[0])
    return float((transform(points) - truth(points)).norm(dim=-1).mean())


def test_every_stage_brings_the_map_nearer_to_the_truth(found):
    """The pose and the shift leave 2 and 17 mm, the flow is of 2 mm; voxels are 4 mm."""
    _, pose, affine, coarse, fine = (error_mm(transform) for transform in found.history)
    assert 1 < pose < 4
    assert affine < 0.75 * pose  # the affine network is accepted, and right
    assert coarse < 0.9 * affine
    assert fine < 0.8 * coarse
    assert fine < 0.7
    assert (found.transform(inside(found.fixed)) - found.history[1](inside(found.fixed))).norm(
        dim=-1
    ).mean() > 1


def test_the_warped_image_is_the_fixed_one_and_labels_go_along(found):
    inner = found.fixed.data > 0.2
    values = torch.stack([found.fixed.data[inner], found.warped().data[inner]])
    assert torch.corrcoef(values)[0, 1] > 0.98
    labels = Image((found.moving.data > 0.3).to(torch.int32) * 70000, found.moving.grid)
    warped = found.warped(labels, "nearest").data
    assert set(warped.unique().tolist()) == {0, 70000}
    assert ((warped > 0) == (found.fixed.data > 0.3))[inner].float().mean() > 0.9


@functools.cache
def same_pair() -> PreparedPair:
    """An image twice: the identity is the perfect pose."""
    image = smooth_image(grid_around((40, 46, 38), AFFINES["RAS"] * 4))
    return prepare_pair(image, image)


@pytest.mark.parametrize(("mm", "is_kept"), [(2.5, True), (4.5, False)])
def test_an_affine_map_is_kept_if_the_images_agree_nearly_as_well(mm, is_kept):
    """The pose is perfect, the network shifts by ``mm``: 0.88 or 0.67 of the agreement is left."""
    pair = same_pair()
    shift = AffineTransform.translation(torch.tensor([[mm, 0, 0]]))
    ratio = pair.agreement(shift).correlation_ratio / pair.agreement(IDENTITY).correlation_ratio
    assert 0.82 < ratio < 0.92 if is_kept else 0.5 < ratio < 0.78
    assert keeps_agreement(pair, IDENTITY, shift) is is_kept
    generator = [[0.0, 0, 0, mm / 8], [0.0] * 4, [0.0] * 4, [0.0] * 4]
    affine = {"name": "estimators:Scripted", "options": {"generators": [generator]}}
    spec = {"spacings_mm": [8.0], "reference_radius_mm": None, "affine_passes": 1, "affine": affine}
    moved = register_pair(pair, history_at(), estimating_model(**spec)).history[2]
    expected = shift if is_kept else IDENTITY
    torch.testing.assert_close(moved.matrix, expected.matrix, atol=1e-5, rtol=0)


def test_an_affine_map_that_leaves_no_overlap_is_rejected():
    away = AffineTransform.translation(torch.tensor([[500.0, 0, 0]]))
    assert not keeps_agreement(same_pair(), IDENTITY, away)
    assert keeps_agreement(same_pair(), away, IDENTITY)  # no agreement that could be lost


@pytest.mark.parametrize("orientation", ["LPS", "LIA"])
def test_storage_order_changes_nothing(found, model, orientation):
    """Permuting and flipping both arrays, with their affines, must give the same map of the world."""
    fixed, moving = images()
    stored = []
    for image in (fixed, moving):
        target = AFFINES[orientation]
        order = np.abs(target).argmax(0)
        data = image.data.permute(0, 1, *(2 + order).tolist())
        flips = [2 + axis for axis in range(3) if target[order[axis], axis] < 0]
        data = data.flip(flips) if flips else data
        stored.append(Image(data, grid_around(tuple(data.shape[2:]), target * 4)))
    again = register_images(*stored, model).transform
    # Only the rounding of coordinates differs, some 1e-5 mm, through networks.
    assert error_mm(again, found.transform) < 0.01


def test_the_map_follows_the_world_of_the_moving_image(found, model):
    fixed, moving = images()
    shift = torch.tensor([30.0, -20.0, 10.0], dtype=torch.float64)
    matrix = moving.grid.voxel_to_world.clone()
    matrix[:, :3, 3] += shift
    shifted = Image(moving.data, type(moving.grid)(moving.grid.shape, matrix))
    expected = AffineTransform.translation(shift[None]) @ found.transform
    assert error_mm(register_images(fixed, shifted, model).transform, expected) < 0.01


def test_a_model_has_no_unit(found, model):
    """A brain ten times smaller, in its own mm, gets the same map ten times smaller."""
    small = []
    for image in images():
        matrix = image.grid.voxel_to_world.clone()
        matrix[:, :3] /= 10
        small.append(Image(image.data, type(image.grid)(image.grid.shape, matrix)))
    points = inside(found.fixed)
    again = register_images(*small, model).transform(points / 10) * 10
    assert (again - found.transform(points)).norm(dim=-1).max() < 0.02


def test_skipping_empty_patches_changes_nothing_inside_the_content(random_model):
    # A box far larger than the content, so that many patches are empty.
    content = prepared().fixed.content
    large = replace(content, box_world=content.box_world + torch.tensor([[-120.0], [120.0]]))
    pair = replace(prepared(), fixed=replace(prepared().fixed, content=large))
    velocities = []
    with torch.no_grad():
        for skip in (True, False):
            stage = DenseNetworkStage(
                random_model.dense[1], 4.0, (32,), 0.5, 0.35, 6, skip_empty=skip, precision="fp32"
            )
            velocities.append(stage.refine(pair, IDENTITY).parts()[-1])
    skipped, full = velocities
    assert (skipped.velocity == 0).sum() > (full.velocity == 0).sum()
    points = inside(images()[0])
    assert (full(points) - points).norm(dim=-1).mean() > 0.1
    # Equal but for the order of summation.
    assert (skipped(points) - full(points)).norm(dim=-1).max() < 1e-4


def test_jitter_draws_from_the_seed():
    points = inside(images()[0])
    overlapping = estimating_model(**ESTIMATING, overlap=0.7)  # three patches along an axis: one is inner

    def mapped(**options):
        return register_pair(prepared(), AT_POSE, overlapping, RegistrationOptions(**options)).transform(
            points
        )

    plain, first, again, other = mapped(seed=5), *(mapped(jitter=True, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    for one in (plain, other):
        assert (first - one).norm(dim=-1).max() > 1e-3


@pytest.mark.parametrize("without_networks", [False, True])
def test_options_of_refinement_reach_its_stages(monkeypatch, model, without_networks):
    """Stages of refinement that are recorded and move nothing."""
    dense, affine, pairs = [], [], []
    for stage, recorded in ((VelocityRefinementStage, dense), (AffineRefinementStage, affine)):

        def refine(self, pair, transform, recorded=recorded):
            recorded.append(self)
            pairs.append(pair)
            return transform

        monkeypatch.setattr(stage, "refine", refine)
    pair, chosen = prepared(), None if without_networks else model
    register_pair(pair, AT_POSE, chosen)
    assert CLASSICAL_PASSES == 40
    assert [stage.passes for stage in dense] == ([40] * 3 if without_networks else [])  # by default
    dense.clear()
    affine.clear()
    register_pair(pair, AT_POSE, chosen, RegistrationOptions(refine=7, seed=13, similarity="mind"))
    spec, radius = ModelSpec() if without_networks else model.spec, pair.fixed.content.radius_mm
    spacings = spec.spacings_for(radius) if without_networks else spec.spacings_for(radius)[-1:]
    assert [stage.spacing_mm for stage in dense] == pytest.approx(spacings)
    objective = refinement_by("mind")
    assert (objective.similarity, objective.diffusion, objective.folding) == ("mind", 0.08, 12.0)
    for stage in dense:
        assert (stage.passes, stage.generator.initial_seed(), stage.objective) == (7, 13, objective)
    assert all(given is pair for given in pairs)
    assert [(stage.objective, stage.spacing_mm) for stage in affine] == (
        [(objective, spacings[0])] if without_networks else []
    )


def test_without_passes_there_is_no_velocity_refinement(model):
    for chosen, count in ((model, 3), (None, 1)):
        assert len(schedule(chosen, prepared(), RegistrationOptions(refine=0))) == count


def test_refinement_continues_from_the_networks(found, model):
    refined = register_pair(prepared(), AT_POSE, model, RegistrationOptions(refine=3))
    assert len(refined.history) == len(found.history) + 1
    assert error_mm(refined.transform) < 1.0  # a quarter of a voxel: three passes are few
    finest = model.spec.spacings_for(prepared().fixed.content.radius_mm)[-1]
    assert refined.transform.parts()[-1].grid.spacing_mm[0, 0].item() == pytest.approx(2 * finest)
    with pytest.raises(PatchMorphError, match="must come from the patches of a network"):
        register_pair(prepared(), AT_POSE, None, RegistrationOptions(uncertainty=True))


def test_the_result_is_invertible_and_its_history_leads_to_it(found):
    assert len(found.history) == 1 + 1 + 1 + 2
    assert found.history[-1] is found.transform
    points = inside(found.fixed)
    # Inverses are found at each point to 0.0002 mm, one for each field.
    assert (found.inverse(found.transform(points)) - points).norm(dim=-1).max() < 0.01
    assert found.jacobian().shape == found.fixed.grid.shape
    truth = jacobian_determinant(TRUTH, found.fixed.grid)
    inner = found.fixed.data[0, 0] > 0.3
    assert (found.jacobian() - truth)[inner].abs().mean() < 0.15


def test_uncertainty_is_where_overlapping_patches_disagree(model):
    fixed = images()[0]
    inner = fixed.data > 0.2

    def registered(**options) -> Registration:
        return register_pair(prepared(), AT_POSE, model, RegistrationOptions(**options))

    with pytest.raises(PatchMorphError, match="must be asked for"):
        registered().uncertainty()
    deviation = registered(uncertainty=True).uncertainty()
    assert deviation.data.shape == fixed.data.shape
    assert (deviation.data[inner] > 0).float().mean() > 0.9  # patches never agree to the last digit
    assert deviation.data.max() < 10  # mm
    kept = registered(uncertainty=True, refine=1)
    assert kept.has_uncertainty
    close = (kept.uncertainty().data - deviation.data).abs()[inner]
    assert close.median() < 0.2 * deviation.data[inner].median()  # refinement keeps it


def test_a_scale_may_have_several_passes(model):
    again = estimating_model(**ESTIMATING, passes=[1, 3])
    result, once = (register_pair(prepared(), AT_POSE, chosen) for chosen in (again, model))
    assert len(result.history) == 2 + 1 + 4
    points = inside(images()[0])
    torch.testing.assert_close(result.history[4](points), once.transform(points))
    assert error_mm(result.transform) < error_mm(result.history[3])
    with pytest.raises(ValueError, match="passes must be one number a scale"):
        ModelSpec.model_validate({**SMALL, "passes": [1]})


def test_a_symmetric_stage_is_inverse_consistent_whatever_the_weights(random_model):
    fixed, moving = images()
    patch = Grid.centered((32, 32, 32), 6.0, fixed.grid.center_world)
    there = torch.cat([extract(fixed, patch, 6.0), extract(moving, patch, 6.0)], dim=1)
    back = there.flip(1)
    with torch.no_grad():
        forth, opposite = (
            patch_velocity(random_model.dense[0], images, patch, "fp32", symmetric=True)
            for images in (there, back)
        )
        affine, other = (
            affine_residual(random_model.affine, images, patch, "fp32", symmetric=True)
            for images in (there, back)
        )
    assert forth.abs().max() > 0.1  # mm
    torch.testing.assert_close(forth, -opposite)
    torch.testing.assert_close(affine.inverse().matrix, other.matrix)
    spec = random_model.spec.model_copy(update={"symmetric": True})
    guarded, *dense = schedule(PatchMorphModel(spec), prepared(), RegistrationOptions())
    assert len(dense) == 2
    assert all(stage.symmetric for stage in (guarded.stage, *dense))


def test_content_is_a_box_around_the_foreground():
    image = smooth_image(grid_around((60, 67, 57), AFFINES["RAS"] * 3, (7, 0, 0)))
    content = find_content(image.normalized())
    # Semi-axes of 65, 80 and 60 mm; the soft rim passes the threshold at 1.05 of them. Voxels here are 3 mm.
    assert content.radius_mm == pytest.approx(1.05 * ((65**2 + 80**2 + 60**2) / 5) ** 0.5, rel=0.02)
    assert (content.box_world[1, 1] - content.box_world[0, 1]).item() == pytest.approx(176, abs=8)


@pytest.mark.parametrize("points", [10, 25, 50])
def test_the_grid_of_content_covers_its_box(points):
    box = torch.tensor([[10.0, -70, 5], [109, -21, 30]], dtype=torch.float64)
    content = Content(box.mean(0, keepdim=True) + 3, box, 40.0, 2.0)
    grid = content.grid(points)
    spacing_mm = 99 / points
    torch.testing.assert_close(grid.spacing_mm, torch.full((1, 3), spacing_mm).double())
    torch.testing.assert_close(grid.center_world, box.mean(0, keepdim=True))
    assert grid.shape[0] in (points, points + 1)  # rounding of 99 / (99 / points)
    for count, length in zip(grid.shape[1:], (49, 25), strict=True):
        assert length < count * spacing_mm <= length + spacing_mm


def test_images_of_several_channels_are_rejected(model):
    fixed, moving = images()
    colour = Image(moving.data.expand(-1, 3, -1, -1, -1), moving.grid, "rgb.nii")
    with pytest.raises(PatchMorphError, match=r"one channel, got 3 in rgb\.nii"):
        register_images(fixed, colour, model)


def test_where_some_is_missing_the_dense_networks_restart(model):
    fixed, moving = images()
    x, y, z = moving.grid.shape
    kept = 2 * x // 3
    part = Image(moving.data[:, :, :kept], moving.grid.crop((0, 0, 0), (kept, y, z)), "part")
    pair = prepare_pair(fixed, part)
    assert pair.moving.image.truncated_faces == ((0, 1),)
    result = register_pair(pair, AT_POSE, model)
    assert len(result.history) == 2 + 1 + 2 + RESTARTS * (1 + 2)
    again = [part for k in range(RESTARTS) for part in result.history[5 + 3 * k].parts()]
    assert len(again) == RESTARTS
    assert all(isinstance(part, AffineTransform) for part in again)
    assert len(register_pair(pair, AT_POSE, model, restarts=0).history) == 2 + 1 + 2
    missing = result.fraction_without_counterpart
    assert missing == pytest.approx(pair.fraction_without_counterpart(TRUTH), abs=0.03)
    assert 0.05 < missing < 0.4
    points = inside(fixed)
    there = points[part.grid.to_voxel(TRUTH(points))[..., 0] < kept - 3][None]
    assert (result.transform(there) - TRUTH(there)).norm(dim=-1).mean() < 1.5  # voxels are 4 mm


def test_the_nearest_affine_map_of_an_affine_map_is_itself():
    pair, stage = given_pair(*map(normalized, images())), NearestAffineStage()
    pose = rotation(12)
    torch.testing.assert_close(stage.refine(pair, pose).matrix, pose.matrix, atol=1e-4, rtol=0)
    flow = smooth_velocity(grid_around((40, 40, 40), AFFINES["RAS"] * 5), 4.0)
    points = inside(images()[0])
    near = stage.refine(pair, pose @ flow)
    bent = (pose @ flow)(points)
    assert isinstance(near, AffineTransform)
    assert ((near(points) - bent) ** 2).mean() < ((pose(points) - bent) ** 2).mean()


@pytest.mark.parametrize(
    ("dtype", "background", "fill"),
    [
        (torch.float32, -1024.0, -1024),
        (torch.int16, -1024.0, -1024),
        (torch.uint8, -1024.0, 0),
        (torch.int16, -0.5, 0),
        (torch.int16, math.nan, 0),
        (torch.int16, None, 0),
    ],
)
def test_outside_the_moving_image_is_its_background_where_it_holds_it(dtype, background, fill):
    image = Image(torch.ones(1, 1, 8, 8, 8, dtype=dtype), grid_around((8, 8, 8), AFFINES["RAS"]))
    moving = image.with_background(background)
    beyond = AffineTransform.translation(torch.tensor([[4.0, 0.0, 0.0]]))
    found = Registration(given_pair(image, moving), (beyond,))
    assert fill_of(moving) == fill
    for warped in (found.warped(), found.warped(moving, "nearest")):
        assert warped.data[0, 0, :4].eq(1).all()
        assert warped.data[0, 0, 4:].eq(fill).all()


def test_outside_a_moving_image_whose_background_is_nan_is_nan():
    image = Image(torch.ones(1, 1, 8, 8, 8), grid_around((8, 8, 8), AFFINES["RAS"]))
    beyond = AffineTransform.translation(torch.tensor([[4.0, 0.0, 0.0]]))
    found = Registration(given_pair(image, image.with_background(math.nan)), (beyond,))
    assert found.warped().data[0, 0, 4:].isnan().all()
    assert found.warped(image).data[0, 0, 4:].eq(0).all()
