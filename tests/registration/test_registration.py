import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.patches.extraction import extract
from patchmorph.registration.content import find_content
from patchmorph.registration.model import ModelSpec, PatchMorphModel
from patchmorph.registration.register import RESTARTS, Options, left_pose, proceed, register
from patchmorph.registration.stages import (
    DenseStage,
    NearestAffineStage,
    affine_residual,
    patch_velocity,
    schedule,
)
from patchmorph.registration.start import find_start
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform

SMALL = {
    "patch_size": 32,
    "spacings_mm": [8.0, 4.0],
    "overlap": 0.5,
    "affine": {"name": "affine-encoder", "options": {"channels": [4, 8, 8], "hidden": 8}},
    "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
}


@pytest.fixture(scope="module")
def model() -> PatchMorphModel:
    """Random weights that move points by some mm: enough for what must hold whatever the weights."""
    torch.manual_seed(0)
    model = PatchMorphModel(ModelSpec.model_validate({**SMALL, "precision": "fp32"}))  # bf16: 0.05 mm
    with torch.no_grad():
        for network in model.dense:
            network.velocity.weight.normal_(std=0.02)  # type: ignore[union-attr,operator]
        model.affine.generator.weight.normal_(std=0.02)  # type: ignore[union-attr,operator]
    return model


def pair(linear=AFFINES["RAS"]):
    fixed = smooth_image(grid_around((150, 180, 140), AFFINES["RAS"]))
    moving = smooth_image(grid_around((152, 182, 150), linear, (0, 0, 0)))
    return fixed, moving


def inside(image):
    return image.grid.points_world()[:, ::5, ::5, ::5][image.data[:, 0, ::5, ::5, ::5] > 0.2][None]


@pytest.mark.parametrize("orientation", ["LAS", "LPS", "LIA"])
def test_storage_order_changes_nothing(model, orientation):
    """Permuting and flipping both arrays, with their affines, must give the same map of the world."""
    fixed, moving = pair()
    reference = register(fixed, moving, model).transform
    stored = []
    for image in (fixed, moving):
        target = AFFINES[orientation]
        order = np.abs(target).argmax(0)
        data = image.data.permute(0, 1, *(2 + order).tolist())
        flips = [2 + axis for axis in range(3) if target[order[axis], axis] < 0]
        data = data.flip(flips) if flips else data
        stored.append(Image(data, grid_around(tuple(data.shape[2:]), target)))
    points = inside(fixed)
    found = register(*stored, model).transform
    assert (reference(points) - points).norm(dim=-1).mean() > 1
    # Only the rounding of coordinates differs, some 1e-5 mm, through networks.
    assert (found(points) - reference(points)).norm(dim=-1).max() < 0.01


def test_the_map_follows_the_world_of_the_moving_image(model):
    fixed, moving = pair()
    reference = register(fixed, moving, model).transform
    shift = torch.tensor([30.0, -20.0, 10.0], dtype=torch.float64)
    matrix = moving.grid.voxel_to_world.clone()
    matrix[:, :3, 3] += shift
    shifted = Image(moving.data, type(moving.grid)(moving.grid.shape, matrix))
    points = inside(fixed)
    found = register(fixed, shifted, model).transform(points)
    assert (found - reference(points) - shift.float()).norm(dim=-1).max() < 0.01


def test_a_model_has_no_unit(model):
    """A brain ten times smaller, in its own mm, gets the same map ten times smaller."""
    fixed, moving = pair()
    reference = register(fixed, moving, model).transform
    small = []
    for image in (fixed, moving):
        matrix = image.grid.voxel_to_world.clone()
        matrix[:, :3] /= 10
        small.append(Image(image.data, type(image.grid)(image.grid.shape, matrix)))
    points = inside(fixed)
    found = register(*small, model).transform(points / 10) * 10
    assert (found - reference(points)).norm(dim=-1).max() < 0.02


def test_skipping_empty_patches_changes_nothing_inside_the_content(model):
    # A box far larger than the content, so that many patches are empty.
    fixed, moving = pair()
    content = find_content(fixed.normalized())
    box = content.box_world + torch.tensor([[-120.0], [120.0]])
    large = type(content)(content.center_world, box, content.radius_mm, content.margin_mm)
    start = AffineTransform.identity()
    velocities = []
    with torch.no_grad():
        for skip in (True, False):
            stage = DenseStage(model.dense[1], large, 4.0, 32, 0.5, 0.35, 6, skip_empty=skip)
            transform = stage.refine(fixed.normalized(), moving.normalized(), start)
            velocities.append(transform.parts()[-1])
    skipped, full = velocities
    assert (skipped.velocity == 0).sum() > (full.velocity == 0).sum()
    points = inside(fixed)
    assert (full(points) - points).norm(dim=-1).mean() > 0.1
    # Equal but for the order of summation.
    assert (skipped(points) - full(points)).norm(dim=-1).max() < 1e-4


def test_jitter_draws_from_its_generator(model):
    fixed, moving = pair()
    points = inside(fixed)
    first, again, other = (
        register(fixed, moving, model, Options(jitter=True, seed=seed)).transform(points)
        for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, again)
    assert (first - other).norm(dim=-1).max() > 1e-3


def test_the_result_is_invertible_and_its_history_leads_to_it(model):
    fixed, moving = pair()
    result = register(fixed, moving, model)
    assert len(result.history) == 1 + 1 + 1 + 2
    assert result.history[-1] is result.transform
    points = inside(fixed)
    # Mean over the content; these random weights make rough fields on 8 and 16 mm grids.
    assert (result.inverse(result.transform(points)) - points).norm(dim=-1).mean() < 0.3
    assert result.warped().data.shape == fixed.data.shape
    assert result.jacobian().shape == fixed.grid.shape


def test_uncertainty_is_where_overlapping_patches_disagree(model):
    fixed, moving = pair()
    plain = register(fixed, moving, model)
    with pytest.raises(PatchMorphError, match="must be asked for"):
        plain.uncertainty()
    result = register(fixed, moving, model, Options(uncertainty=True))
    doubt = result.uncertainty()
    assert doubt.data.shape == fixed.data.shape
    assert (doubt.data[fixed.data > 0.2] > 0).float().mean() > 0.9  # random weights never agree
    refined = register(fixed, moving, model, Options(uncertainty=True, refine=1)).uncertainty()
    close = (refined.data - doubt.data).abs()[fixed.data > 0.2]
    assert close.median() < 0.2 * doubt.data[fixed.data > 0.2].median()  # refinement keeps it


def test_a_scale_may_look_again(model):
    fixed, moving = pair()
    again = PatchMorphModel(model.spec.model_copy(update={"repeats": [1, 3]}))
    again.load_state_dict(model.state_dict())  # repeats share weights
    result = register(fixed, moving, again)
    assert len(result.history) == 1 + 1 + 1 + 4
    once = register(fixed, moving, model)
    points = inside(fixed)
    torch.testing.assert_close(result.history[4](points), once.transform(points))
    with pytest.raises(ValueError, match="repeats must be one number a scale"):
        ModelSpec.model_validate({**SMALL, "repeats": [1]})


def test_a_symmetric_stage_is_inverse_consistent_whatever_the_weights(model):
    fixed, moving = pair()
    patch = Grid.centered((32, 32, 32), 6.0, fixed.grid.center_world)
    there = torch.cat([extract(fixed, patch, 6.0), extract(moving, patch, 6.0)], dim=1)
    back = there.flip(1)
    with torch.no_grad():
        forth, opposite = (
            patch_velocity(model.dense[0], images, patch, "fp32", symmetric=True) for images in (there, back)
        )
        affine, other = (
            affine_residual(model.affine, images, patch, "fp32", symmetric=True) for images in (there, back)
        )
    assert forth.abs().max() > 0.1  # mm
    torch.testing.assert_close(forth, -opposite)
    torch.testing.assert_close(affine.inverse().matrix, other.matrix)
    spec = model.spec.model_copy(update={"symmetric": True})
    assert all(stage.symmetric for stage in schedule(PatchMorphModel(spec), find_content(fixed.normalized())))


def test_stages_run_from_affine_to_fine(model):
    fixed, _ = pair()
    stages = schedule(model, find_content(fixed.normalized()))
    spacings = [stage.spacing_mm for stage in stages]
    assert spacings[0] == spacings[1] > spacings[2]


def test_content_is_a_box_around_the_foreground():
    image = smooth_image(grid_around((180, 200, 170), AFFINES["RAS"], (7, 0, 0)))
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
    part = Image(moving.data[:, :, : x // 2], moving.grid.crop((0, 0, 0), (x // 2, y, z)), "half")
    result = register(fixed, part, model)
    assert len(result.history) == 1 + 1 + 1 + 2 + RESTARTS * (1 + 2)
    again = [part for k in range(RESTARTS) for part in result.history[5 + 3 * k].parts()]
    assert len(again) == RESTARTS
    assert all(isinstance(part, AffineTransform) for part in again)
    start = find_start(fixed, part)
    assert len(proceed(start, model, restarts=0).history) == 1 + 1 + 1 + 2


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


def test_an_affine_map_that_leaves_a_good_pose_is_not_kept():
    fixed, moving = pair()
    start = find_start(fixed, moving)
    assert not left_pose(start, start.history[-1])
    assert not left_pose(start, AffineTransform.translation(torch.tensor([[1.0, 0, 0]])))
    assert left_pose(start, AffineTransform.translation(torch.tensor([[15.0, 0, 0]])))
    assert left_pose(
        start, AffineTransform.translation(torch.tensor([[500.0, 0, 0]]))
    )  # nothing on each other
