"""One training step: a random chain of nested patches through all stages, without any global field.

Each finer patch lies inside the previous one, so the displacement of its ancestors is available inside the
parent patch. The memory of a step depends on the size of the patches, not on that of the images. A schedule
of one scale whose patch covers the whole volume is ordinary full-volume training, by the same code.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.foreground import foreground
from patchmorph.networks.contract import VELOCITY_STRIDE
from patchmorph.networks.model import PatchMorphModel
from patchmorph.objective.regularity import diffusion_energy, folding_penalty, volume_energy
from patchmorph.objective.supervision import point_error, soft_dice_loss
from patchmorph.patches.nested import nested_chain
from patchmorph.registration.stages.network import affine_residual, patch_velocity
from patchmorph.spatial.affine import constant
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.augmentation.pair import AugmentedPair, augmented_pair
from patchmorph.training.config import TrainingConfig
from patchmorph.training.data.cohort import Cohort
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

Terms = dict[str, Float[Tensor, " b"]]
"""Detached terms of the loss by name, one value per chain; NaN for a chain without the term."""


def chain_losses(
    model: PatchMorphModel, cohort: Cohort, draw: Draw, config: TrainingConfig
) -> Iterator[tuple[Float[Tensor, " b"], Terms]]:
    """The loss of each stage for the chains that ``draw`` describes, and its terms.

    The loss of a training step is the sum over stages. Without ``through_chain`` the stages share no graph,
    so the backward pass of a stage may run before the next stage is computed.

    Yields:
        Loss of a stage, one value per chain, and its terms: the affine stage first, then the dense stages.
    """
    pair = augmented_pair(cohort, draw, config.augmentation)
    spec, pairs = config.model, config.pairs
    root = pair.fixed_center + draw.root * pairs.root_mm
    patches = nested_chain(root, draw.placement, spec.patch_size, spec.spacings_mm, pairs.inward)
    start = pair.moving_center - pair.fixed_center + draw.start * pairs.start_mm
    translation = AffineTransform.translation(start)
    transform: Transform = translation
    if model.affine is not None and config.optimization.freeze_affine:
        transform = _frozen_affine(model, pair, translation, patches[0], config)
    elif model.affine is not None:
        loss, affine, terms = _affine_stage(model, pair, translation, patches[0], config)
        yield loss, terms
        transform = affine if config.optimization.through_chain else AffineTransform(affine.matrix.detach())
    for scale in spec.stage_scales:
        loss, residual, terms = _dense_stage(model, scale, pair, transform, patches[scale], config)
        yield loss, terms
        flow = residual.flow
        if not config.optimization.through_chain:
            flow = DisplacementField(flow.displacement.detach(), flow.grid)
        transform = transform @ flow


def _affine_stage(
    model: PatchMorphModel, pair: AugmentedPair, start: Transform, patch: Grid, config: TrainingConfig
) -> tuple[Float[Tensor, " b"], AffineTransform, Terms]:
    """Several affine passes on one patch; no gradient flows from a pass into the previous one."""
    assert model.affine is not None
    assert isinstance(start, AffineTransform)
    spacing = config.model.spacings_mm[0]
    objective = config.objective
    points = patch.points_world()
    fixed_points = pair.fixed.transform(points)
    truth = pair.truth(fixed_points)
    fixed = pair.fixed.intensities(fixed_points, spacing)
    mask = _mask(pair, fixed_points, start(points))
    counted = foreground(fixed)[:, 0]
    transform, fixed_input = start, pair.fixed.shown(fixed, fixed_points, spacing)
    moving_points = pair.moving.transform(transform(points))
    warped = pair.moving.intensities(moving_points, spacing)
    loss = torch.zeros(len(fixed), device=fixed.device)
    similarity = error = loss
    for _ in range(config.optimization.affine_passes):
        patches = torch.cat([fixed_input, pair.moving.shown(warped, moving_points, spacing).detach()], 1)
        residual = affine_residual(
            model.affine, patches, patch, config.model.precision, config.model.symmetric
        )
        transform = AffineTransform(transform.matrix.detach() @ residual.matrix)
        mapped = transform(points)
        moving_points = pair.moving.transform(mapped)
        warped = pair.moving.intensities(moving_points, spacing)
        similarity = objective.dissimilarity(fixed, warped, mask)
        error = point_error(mapped, truth, counted) * pair.has_truth
        loss = loss + objective.affine_weight * similarity + objective.supervision * error
        if objective.landmarks:
            loss = loss + objective.landmarks * _landmark_error(pair, transform, patch)
    terms = {"similarity/affine": similarity.detach(), "error_mm/affine": _known(error, pair)}
    return loss, transform, terms


@torch.no_grad()
def _frozen_affine(
    model: PatchMorphModel,
    pair: AugmentedPair,
    transform: AffineTransform,
    patch: Grid,
    config: TrainingConfig,
) -> AffineTransform:
    """The affine stage as at inference, for a network that is not trained."""
    assert model.affine is not None
    spacing, points = config.model.spacings_mm[0], patch.points_world()
    fixed_points = pair.fixed.transform(points)
    fixed = pair.fixed.shown(pair.fixed.intensities(fixed_points, spacing), fixed_points, spacing)
    for _ in range(config.optimization.affine_passes):
        moving_points = pair.moving.transform(transform(points))
        moving = pair.moving.shown(pair.moving.intensities(moving_points, spacing), moving_points, spacing)
        residual = affine_residual(
            model.affine, torch.cat([fixed, moving], 1), patch, config.model.precision, config.model.symmetric
        )
        transform = AffineTransform(transform.matrix @ residual.matrix)
    return transform


def _dense_stage(
    model: PatchMorphModel,
    scale: int,
    pair: AugmentedPair,
    transform: Transform,
    patch: Grid,
    config: TrainingConfig,
) -> tuple[Float[Tensor, " b"], VelocityField, Terms]:
    """One dense stage on the patch of its scale."""
    spacing = config.model.spacings_mm[scale]
    objective = config.objective
    points = patch.points_world()
    fixed_points = pair.fixed.transform(points)
    fixed = pair.fixed.intensities(fixed_points, spacing)
    before = transform(points)
    moving_points = pair.moving.transform(before)
    moving = pair.moving.intensities(moving_points, spacing)
    inputs = pair.fixed.shown(fixed, fixed_points, spacing), pair.moving.shown(moving, moving_points, spacing)
    velocity = patch_velocity(
        model.dense[scale], torch.cat(inputs, 1), patch, config.model.precision, config.model.symmetric
    )
    residual = VelocityField(velocity, patch.coarsen(VELOCITY_STRIDE), config.model.integration_steps)
    after = transform @ residual
    mapped = after(points)
    # Displacement of all stages so far: regularity is that of the whole map, and does not change with its
    # affine part, to which no gradient flows then.
    displacement = transform.affine_part().remainder(points, mapped).movedim(-1, 1)
    terms = {
        "similarity": objective.dissimilarity(
            fixed, pair.moving.sample(mapped, spacing), _mask(pair, fixed_points, before)
        ),
        "diffusion": diffusion_energy(displacement, spacing),
        "folding": folding_penalty(displacement, spacing),
        "supervision": point_error(mapped, pair.truth(fixed_points), foreground(fixed)[:, 0])
        * pair.has_truth,
    }
    if objective.volume:
        terms["volume"] = volume_energy(displacement, spacing)
    if objective.overlap:
        terms["overlap"] = _overlap(pair, fixed_points, mapped)
    if objective.landmarks:
        terms["landmarks"] = _landmark_error(pair, after, patch)
    loss = objective.weighted(terms)
    logged = {f"{name}/{scale}": value.detach() for name, value in terms.items() if name != "supervision"}
    return loss, residual, {**logged, f"error_mm/{scale}": _known(terms["supervision"], pair)}


def _mask(
    pair: AugmentedPair, fixed_points: Float[Tensor, "b x y z 3"], mapped: Float[Tensor, "b x y z 3"]
) -> Float[Tensor, "b 1 x y z"] | None:
    """Product of the masks of both images, the moving one under the current alignment."""
    fixed = pair.fixed.image.mask(fixed_points)
    moving = pair.moving.image.mask(pair.moving.transform(mapped.detach()))
    return None if fixed is None or moving is None else fixed * moving


def _overlap(
    pair: AugmentedPair, fixed_points: Float[Tensor, "b x y z 3"], mapped: Float[Tensor, "b x y z 3"]
) -> Float[Tensor, " b"]:
    """Soft Dice loss of the pairs whose subjects both have labels, zero for the others.

    One point per velocity voxel suffices: the velocity has no finer detail.
    """
    fixed, moving = pair.fixed, pair.moving
    fixed_points, mapped = (
        points[:, ::VELOCITY_STRIDE, ::VELOCITY_STRIDE, ::VELOCITY_STRIDE]
        for points in (fixed_points, mapped)
    )
    cohort = fixed.image.cohort
    if cohort.labels is None:
        return torch.zeros(len(fixed_points), device=fixed_points.device)
    labels = fixed.image.labels(fixed_points)[:, 0].flatten(1)
    corners, weights = moving.image.label_corners(moving.transform(mapped))
    both = cohort.has_labels[fixed.image.index] * cohort.has_labels[moving.image.index]
    return soft_dice_loss(labels, corners, weights, cohort.label_count) * both


def _landmark_error(pair: AugmentedPair, transform: Transform, patch: Grid) -> Float[Tensor, " b"]:
    """Point error at the landmarks of both images that lie inside the patch."""
    fixed, moving = pair.fixed_landmarks, pair.moving_landmarks
    known = ~(fixed + moving).isnan().any(-1)
    voxel = patch.to_voxel(fixed)
    limit = constant(patch.shape, voxel.device) - 1
    inside = ((voxel >= 0) & (voxel <= limit)).all(-1)
    safe = torch.where(known[..., None], fixed, patch.center_world[:, None].float())
    target = torch.where(known[..., None], moving, 0.0)
    return point_error(transform(safe), target, known & inside)


def _known(error: Float[Tensor, " b"], pair: AugmentedPair) -> Float[Tensor, " b"]:
    """The error, NaN where the true map is unknown, so that means omit it."""
    return torch.where(pair.has_truth > 0, error.detach(), torch.nan)
