import functools

import numpy as np
import pytest
import torch
from estimators import estimating_model
from starts import start_at
from synthetic import AFFINES, grid_around, lopsided, rotation, smooth_image, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import find_content
from patchmorph.images.in_memory import Image
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.patches.extraction import extract
from patchmorph.registration.pipeline import RESTARTS, Options, left_pose, proceed, register
from patchmorph.registration.result import Registration
from patchmorph.registration.stages.affine_refinement import AffineRefinementStage
from patchmorph.registration.stages.network import (
    DenseStage,
    NearestAffineStage,
    affine_residual,
    patch_velocity,
    schedule,
)
from patchmorph.registration.stages.velocity_refinement import RefinementStage
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.jacobian import jacobian_determinant
from patchmorph.transforms.resample import resample

SMALL = {
    "patch_size": 32,
    "spacings_mm": [8.0, 4.0],
    "overlap": 0.5,
    "affine": {"name": "affine-encoder", "options": {"channels": [4, 8, 8], "hidden": 8}},
    "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
}
ESTIMATING = {"spacings_mm": [6.0, 4.0], "affine_repeats": 2}


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
    """Networks that find real motion, so no stage is refused."""
    return estimating_model(**ESTIMATING)


@functools.cache
def pair(linear="RAS"):
    grid = grid_around((45, 54, 43), AFFINES[linear] * 4)
    moving = lopsided(grid)
    return resample(moving, TRUTH, grid), moving


FLOW = smooth_velocity(grid_around((12, 12, 12), AFFINES["RAS"] * 18), 7.0, seed=3)
POSE = rotation(25) @ AffineTransform.translation(torch.tensor([[6.0, -9, 4]]))
TRUTH = POSE @ FLOW


def inside(image):
    return image.grid.points_world()[image.data[:, 0] > 0.2][None]


@pytest.fixture(scope="module")
def found(model) -> Registration:
    """Of the pair, by the model, with what is the default of every option."""
    return register(*pair(), model)


def error_mm(transform, truth=TRUTH) -> float:
    points = inside(pair()[0])
    return float((transform(points) - truth(points)).norm(dim=-1).mean())


def test_every_stage_brings_the_map_nearer_to_the_truth(found):
    """The pose and the shift leave 2 and 17 mm, the flow is of 2 mm; voxels are 4 mm."""
    _, pose, affine, coarse, fine = (error_mm(transform) for transform in found.history)
    assert 1 < pose < 4
    assert affine < 0.75 * pose  # the affine network is believed, and right
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


@pytest.mark.parametrize(("mm", "is_kept"), [(2.5, True), (4.5, False)])
def test_an_affine_answer_is_kept_if_the_images_agree_nearly_as_well(mm, is_kept):
    """The pose is perfect, the network shifts by ``mm``: 0.88 or 0.67 of the agreement is left."""
    image = smooth_image(grid_around((40, 46, 38), AFFINES["RAS"] * 4))
    start = start_at(image, image)
    shift = AffineTransform.translation(torch.tensor([[mm, 0, 0]]))
    ratio = start.relation(shift).any / start.relation(AffineTransform.identity()).any
    assert 0.82 < ratio < 0.92 if is_kept else 0.5 < ratio < 0.78
    assert left_pose(start, shift) is not is_kept
    generator = [[0.0, 0, 0, mm / 8], [0.0] * 4, [0.0] * 4, [0.0] * 4]
    affine = {"name": "estimators:Scripted", "options": {"generators": [generator]}}
    spec = {"spacings_mm": [8.0], "reference_radius_mm": None, "affine_repeats": 1, "affine": affine}
    moved = proceed(start, estimating_model(**spec)).history[2]
    expected = shift if is_kept else AffineTransform.identity()
    torch.testing.assert_close(moved.matrix, expected.matrix, atol=1e-5, rtol=0)


def test_an_affine_answer_that_leaves_nothing_in_common_is_not_kept():
    image = smooth_image(grid_around((40, 46, 38), AFFINES["RAS"] * 4))
    start = start_at(image, image)
    assert left_pose(start, AffineTransform.translation(torch.tensor([[500.0, 0, 0]])))
    apart = start_at(image, image, AffineTransform.translation(torch.tensor([[500.0, 0, 0]])))
    assert not left_pose(apart, AffineTransform.identity())  # no pose that could be left


@pytest.mark.parametrize("orientation", ["LPS", "LIA"])
def test_storage_order_changes_nothing(found, model, orientation):
    """Permuting and flipping both arrays, with their affines, must give the same map of the world."""
    fixed, moving = pair()
    stored = []
    for image in (fixed, moving):
        target = AFFINES[orientation]
        order = np.abs(target).argmax(0)
        data = image.data.permute(0, 1, *(2 + order).tolist())
        flips = [2 + axis for axis in range(3) if target[order[axis], axis] < 0]
        data = data.flip(flips) if flips else data
        stored.append(Image(data, grid_around(tuple(data.shape[2:]), target * 4)))
    again = register(*stored, model).transform
    # Only the rounding of coordinates differs, some 1e-5 mm, through networks.
    assert error_mm(again, found.transform) < 0.01


def test_the_map_follows_the_world_of_the_moving_image(found, model):
    fixed, moving = pair()
    shift = torch.tensor([30.0, -20.0, 10.0], dtype=torch.float64)
    matrix = moving.grid.voxel_to_world.clone()
    matrix[:, :3, 3] += shift
    shifted = Image(moving.data, type(moving.grid)(moving.grid.shape, matrix))
    expected = AffineTransform.translation(shift[None]) @ found.transform
    assert error_mm(register(fixed, shifted, model).transform, expected) < 0.01


def test_a_model_has_no_unit(found, model):
    """A brain ten times smaller, in its own mm, gets the same map ten times smaller."""
    small = []
    for image in pair():
        matrix = image.grid.voxel_to_world.clone()
        matrix[:, :3] /= 10
        small.append(Image(image.data, type(image.grid)(image.grid.shape, matrix)))
    points = inside(found.fixed)
    again = register(*small, model).transform(points / 10) * 10
    assert (again - found.transform(points)).norm(dim=-1).max() < 0.02


def test_skipping_empty_patches_changes_nothing_inside_the_content(random_model):
    # A box far larger than the content, so that many patches are empty.
    fixed, moving = pair()
    content = find_content(fixed.normalized())
    box = content.box_world + torch.tensor([[-120.0], [120.0]])
    large = type(content)(content.center_world, box, content.radius_mm, content.margin_mm)
    start = AffineTransform.identity()
    velocities = []
    with torch.no_grad():
        for skip in (True, False):
            stage = DenseStage(
                random_model.dense[1], large, 4.0, 32, 0.5, 0.35, 6, skip_empty=skip, precision="fp32"
            )
            transform = stage.refine(fixed.normalized(), moving.normalized(), start)
            velocities.append(transform.parts()[-1])
    skipped, full = velocities
    assert (skipped.velocity == 0).sum() > (full.velocity == 0).sum()
    points = inside(fixed)
    assert (full(points) - points).norm(dim=-1).mean() > 0.1
    # Equal but for the order of summation.
    assert (skipped(points) - full(points)).norm(dim=-1).max() < 1e-4


def test_jitter_draws_from_the_seed(model):
    start = start_at(*pair(), POSE)
    points = inside(start.fixed)
    overlapping = estimating_model(**ESTIMATING, overlap=0.7)  # three patches along an axis: one is inner

    def mapped(**options):
        return proceed(start, overlapping, Options(**options)).transform(points)

    plain, first, again, other = mapped(seed=5), *(mapped(jitter=True, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    for one in (plain, other):
        assert (first - one).norm(dim=-1).max() > 1e-3


@pytest.mark.parametrize("without_networks", [False, True])
def test_options_of_refinement_reach_its_stages(monkeypatch, model, without_networks):
    """Stages of refinement that note what they are and move nothing."""
    dense, affine = [], []
    monkeypatch.setattr(RefinementStage, "refine", lambda self, _, __, given: dense.append(self) or given)
    monkeypatch.setattr(
        AffineRefinementStage, "refine", lambda self, _, __, given: affine.append(self) or given
    )
    start = start_at(*pair(), POSE)
    chosen = None if without_networks else model
    proceed(start, chosen)
    assert dense == []  # by default none
    proceed(start, chosen, Options(refine=7, seed=13, similarity="mind"))
    spec, radius = ModelSpec() if without_networks else model.spec, start.fixed_seen.content.radius_mm
    spacings = spec.spacings_for(radius) if without_networks else spec.spacings_for(radius)[-1:]
    assert [stage.spacing_mm for stage in dense] == pytest.approx(spacings)
    for stage in dense:
        assert (stage.passes, stage.generator.initial_seed(), stage.similarity) == (7, 13, "mind")
        assert stage.content is start.fixed_seen.content
    assert [(stage.similarity, stage.spacing_mm) for stage in affine[1:]] == (
        [("mind", spacings[0])] if without_networks else []
    )


def test_refinement_goes_on_from_the_networks(found, model):
    start = start_at(*pair(), POSE)
    refined = proceed(start, model, Options(refine=3))
    assert len(refined.history) == len(found.history) + 1
    assert error_mm(refined.transform) < 1.0  # a quarter of a voxel: three passes are few
    finest = model.spec.spacings_for(start.fixed_seen.content.radius_mm)[-1]
    assert refined.transform.parts()[-1].grid.spacing_mm[0, 0].item() == pytest.approx(2 * finest)
    with pytest.raises(PatchMorphError, match="must come from the patches of a network"):
        proceed(start, None, Options(uncertainty=True))


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
    start = start_at(*pair(), POSE)
    inner = start.fixed.data > 0.2
    with pytest.raises(PatchMorphError, match="must be asked for"):
        proceed(start, model).uncertainty()
    result = proceed(start, model, Options(uncertainty=True))
    doubt = result.uncertainty()
    assert doubt.data.shape == start.fixed.data.shape
    assert (doubt.data[inner] > 0).float().mean() > 0.9  # patches never agree to the last digit
    assert doubt.data.max() < 10  # mm
    kept = proceed(start, model, Options(uncertainty=True, refine=1))
    assert kept.has_uncertainty
    close = (kept.uncertainty().data - doubt.data).abs()[inner]
    assert close.median() < 0.2 * doubt.data[inner].median()  # refinement keeps it


def test_a_scale_may_look_again(model):
    start = start_at(*pair(), POSE)
    again = estimating_model(**ESTIMATING, repeats=[1, 3])
    result, once = proceed(start, again), proceed(start, model)
    assert len(result.history) == 2 + 1 + 4
    points = inside(start.fixed)
    torch.testing.assert_close(result.history[4](points), once.transform(points))
    assert error_mm(result.transform) < error_mm(result.history[3])
    with pytest.raises(ValueError, match="repeats must be one number a scale"):
        ModelSpec.model_validate({**SMALL, "repeats": [1]})


def test_a_symmetric_stage_is_inverse_consistent_whatever_the_weights(random_model):
    fixed, moving = pair()
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
    assert all(stage.symmetric for stage in schedule(PatchMorphModel(spec), find_content(fixed.normalized())))


def test_content_is_a_box_around_the_foreground():
    image = smooth_image(grid_around((60, 67, 57), AFFINES["RAS"] * 3, (7, 0, 0)))
    content = find_content(image.normalized())
    # Semi-axes of 65, 80 and 60 mm; the soft rim passes the threshold at 1.05 of them. Voxels here are 3 mm.
    assert content.radius_mm == pytest.approx(1.05 * ((65**2 + 80**2 + 60**2) / 5) ** 0.5, rel=0.02)
    assert (content.box_world[1, 1] - content.box_world[0, 1]).item() == pytest.approx(176, abs=8)


def test_images_of_several_channels_are_refused(model):
    fixed, moving = pair()
    colour = Image(moving.data.expand(-1, 3, -1, -1, -1), moving.grid, "rgb.nii")
    with pytest.raises(PatchMorphError, match=r"one channel, got 3 in rgb\.nii"):
        register(fixed, colour, model)


def test_where_some_is_missing_the_dense_networks_begin_again(model):
    fixed, moving = pair()
    x, y, z = moving.grid.shape
    kept = 2 * x // 3
    part = Image(moving.data[:, :, :kept], moving.grid.crop((0, 0, 0), (kept, y, z)), "part")
    start = start_at(fixed, part, POSE)
    assert start.moving_seen.image.cuts == ((0, 1),)
    result = proceed(start, model)
    assert len(result.history) == 2 + 1 + 2 + RESTARTS * (1 + 2)
    again = [part for k in range(RESTARTS) for part in result.history[5 + 3 * k].parts()]
    assert len(again) == RESTARTS
    assert all(isinstance(part, AffineTransform) for part in again)
    assert len(proceed(start, model, restarts=0).history) == 2 + 1 + 2
    assert result.missing == pytest.approx(start.missing(TRUTH), abs=0.03)
    assert 0.05 < result.missing < 0.4
    points = inside(fixed)
    there = points[part.grid.to_voxel(TRUTH(points))[..., 0] < kept - 3][None]
    assert (result.transform(there) - TRUTH(there)).norm(dim=-1).mean() < 1.5  # voxels are 4 mm


def test_the_nearest_affine_map_of_an_affine_map_is_itself():
    fixed, moving = pair()
    stage = NearestAffineStage(find_content(fixed.normalized()))
    pose = rotation(12)
    found = stage.refine(fixed.normalized(), moving.normalized(), pose)
    torch.testing.assert_close(found.matrix, pose.matrix, atol=1e-4, rtol=0)
    flow = smooth_velocity(grid_around((40, 40, 40), AFFINES["RAS"] * 5), 4.0)
    points = inside(fixed)
    near = stage.refine(fixed.normalized(), moving.normalized(), pose @ flow)
    bent = (pose @ flow)(points)
    assert isinstance(near, AffineTransform)
    assert ((near(points) - bent) ** 2).mean() < ((pose(points) - bent) ** 2).mean()
