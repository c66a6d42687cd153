"""One training step: a random chain of nested patches through all stages, without any global field.

Each finer patch lies inside the one before, so it finds its ancestors' displacement inside the parent patch.
All that a step keeps is of the size of a few patches, however large the images are. A schedule of one scale
whose patch covers the whole volume is the usual full-volume training, by the same code.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.networks.contract import VELOCITY_STRIDE
from patchmorph.objective.regularity import diffusion_energy, folding_penalty
from patchmorph.objective.supervision import point_error, soft_dice_loss
from patchmorph.patches.nested import nested_chain
from patchmorph.registration.content import foreground
from patchmorph.registration.model import PatchMorphModel
from patchmorph.registration.stages import affine_residual, patch_velocity
from patchmorph.spatial.affine import constant
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation import Draw, Pair, augmented_pair
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import TrainingConfig
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

Terms = dict[str, Float[Tensor, " b"]]
"""Detached terms of the loss, one value a chain, by name; NaN where a chain has none."""


def chain_losses(
    model: PatchMorphModel, cohort: Cohort, draw: Draw, config: TrainingConfig
) -> Iterator[tuple[Float[Tensor, " b"], Terms]]:
    """The loss of each stage for the chains that ``draw`` describes, and its terms.

    The loss of a training step is the sum over stages. With ``through_chain`` off the stages share no graph,
    so the backward pass of one may run before the next is asked for.
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
    for scale in spec.looks:
        loss, residual, terms = _dense_stage(model, scale, pair, transform, patches[scale], config)
        yield loss, terms
        flow = residual.flow
        if not config.optimization.through_chain:
            flow = DisplacementField(flow.displacement.detach(), flow.grid)
        transform = transform @ flow


def _affine_stage(
    model: PatchMorphModel, pair: Pair, start: Transform, patch: Grid, config: TrainingConfig
) -> tuple[Float[Tensor, " b"], AffineTransform, Terms]:
    """Several looks at one patch; no gradient from a look into the one before."""
    assert model.affine is not None
    assert isinstance(start, AffineTransform)
    spacing = config.model.spacings_mm[0]
    objective = config.objective
    points = patch.points_world()
    seen = pair.fixed.transform(points)
    truth = pair.truth(seen)
    fixed = pair.fixed.intensities(seen, spacing)
    mask = _mask(pair, seen, start(points))
    counted = foreground(fixed)[:, 0]
    transform, shown = start, pair.fixed.shown(fixed, seen, spacing)
    reached = pair.moving.transform(transform(points))
    warped = pair.moving.intensities(reached, spacing)
    loss = torch.zeros(len(fixed), device=fixed.device)
    similarity = error = loss
    for _ in range(config.optimization.affine_repeats):
        patches = torch.cat([shown, pair.moving.shown(warped, reached, spacing).detach()], 1)
        residual = affine_residual(
            model.affine, patches, patch, config.model.precision, config.model.symmetric
        )
        transform = AffineTransform(transform.matrix.detach() @ residual.matrix)
        mapped = transform(points)
        reached = pair.moving.transform(mapped)
        warped = pair.moving.intensities(reached, spacing)
        similarity = objective.dissimilarity(fixed, warped, mask)
        error = point_error(mapped, truth, counted) * pair.known
        loss = loss + objective.affine_weight * similarity + objective.supervision * error
        if objective.landmarks:
            loss = loss + objective.landmarks * _landmark_error(pair, transform, patch)
    terms = {"similarity/affine": similarity.detach(), "error_mm/affine": _known(error, pair)}
    return loss, transform, terms


@torch.no_grad()
def _frozen_affine(
    model: PatchMorphModel, pair: Pair, transform: AffineTransform, patch: Grid, config: TrainingConfig
) -> AffineTransform:
    """The affine stage of a registration: nothing is learned from it."""
    assert model.affine is not None
    spacing, points = config.model.spacings_mm[0], patch.points_world()
    seen = pair.fixed.transform(points)
    fixed = pair.fixed.shown(pair.fixed.intensities(seen, spacing), seen, spacing)
    for _ in range(config.optimization.affine_repeats):
        reached = pair.moving.transform(transform(points))
        moving = pair.moving.shown(pair.moving.intensities(reached, spacing), reached, spacing)
        residual = affine_residual(
            model.affine, torch.cat([fixed, moving], 1), patch, config.model.precision, config.model.symmetric
        )
        transform = AffineTransform(transform.matrix @ residual.matrix)
    return transform


def _dense_stage(
    model: PatchMorphModel, scale: int, pair: Pair, transform: Transform, patch: Grid, config: TrainingConfig
) -> tuple[Float[Tensor, " b"], VelocityField, Terms]:
    """One dense stage on the patch of its scale."""
    spacing = config.model.spacings_mm[scale]
    objective = config.objective
    points = patch.points_world()
    seen = pair.fixed.transform(points)
    fixed = pair.fixed.intensities(seen, spacing)
    before = transform(points)
    reached = pair.moving.transform(before)
    moving = pair.moving.intensities(reached, spacing)
    shown = pair.fixed.shown(fixed, seen, spacing), pair.moving.shown(moving, reached, spacing)
    patches = torch.cat(shown, 1)
    velocity = patch_velocity(
        model.dense[scale], patches, patch, config.model.precision, config.model.symmetric
    )
    residual = VelocityField(velocity, patch.coarsen(VELOCITY_STRIDE), config.model.integration_steps)
    after = transform @ residual
    mapped = after(points)
    affine = transform.parts()[0]
    assert isinstance(affine, AffineTransform)
    back = AffineTransform(affine.matrix.detach()).inverse()
    warp = (back(mapped) - points).movedim(-1, 1)  # of all stages so far: what counts is the whole map
    terms = {
        "similarity": objective.dissimilarity(
            fixed, pair.moving.sample(mapped, spacing), _mask(pair, seen, before)
        ),
        "diffusion": diffusion_energy(warp, spacing),
        "folding": folding_penalty(warp, spacing),
        "supervision": point_error(mapped, pair.truth(seen), foreground(fixed)[:, 0]) * pair.known,
    }
    if objective.overlap:
        terms["overlap"] = _overlap(pair, seen, mapped)
    if objective.landmarks:
        terms["landmarks"] = _landmark_error(pair, after, patch)
    loss = objective.weighted(terms)
    shown = {f"{name}/{scale}": value.detach() for name, value in terms.items() if name != "supervision"}
    return loss, residual, {**shown, f"error_mm/{scale}": _known(terms["supervision"], pair)}


def _mask(
    pair: Pair, seen: Float[Tensor, "b x y z 3"], mapped: Float[Tensor, "b x y z 3"]
) -> Float[Tensor, "b 1 x y z"] | None:
    """Where both images may be trusted, the moving one as far as it is aligned already."""
    fixed = pair.fixed.image.mask(seen)
    moving = pair.moving.image.mask(pair.moving.transform(mapped.detach()))
    return None if fixed is None or moving is None else fixed * moving


def _overlap(
    pair: Pair, seen: Float[Tensor, "b x y z 3"], mapped: Float[Tensor, "b x y z 3"]
) -> Float[Tensor, " b"]:
    """Soft Dice loss of the pairs whose subjects both have labels, zero for the others.

    One point a velocity voxel is enough: there are no finer moves to learn.
    """
    fixed, moving = pair.fixed, pair.moving
    seen, mapped = (
        points[:, ::VELOCITY_STRIDE, ::VELOCITY_STRIDE, ::VELOCITY_STRIDE] for points in (seen, mapped)
    )
    cohort = fixed.image.cohort
    if cohort.labels is None:
        return torch.zeros(len(seen), device=seen.device)
    labels = fixed.image.labels(seen)[:, 0].flatten(1)
    corners, weights = moving.image.label_corners(moving.transform(mapped))
    both = cohort.has_labels[fixed.image.index] * cohort.has_labels[moving.image.index]
    return soft_dice_loss(labels, corners, weights, cohort.label_count) * both


def _landmark_error(pair: Pair, transform: Transform, patch: Grid) -> Float[Tensor, " b"]:
    """Point error at the landmarks inside the patch that both images have."""
    fixed, moving = pair.fixed_landmarks, pair.moving_landmarks
    known = ~(fixed + moving).isnan().any(-1)
    voxel = patch.to_voxel(fixed)
    limit = constant(patch.shape, voxel.device) - 1
    inside = ((voxel >= 0) & (voxel <= limit)).all(-1)
    safe = torch.where(known[..., None], fixed, patch.center_world[:, None].float())
    target = torch.where(known[..., None], moving, 0.0)
    return point_error(transform(safe), target, known & inside)


def _known(error: Float[Tensor, " b"], pair: Pair) -> Float[Tensor, " b"]:
    """NaN where the truth is not known: means leave it out."""
    return torch.where(pair.known > 0, error.detach(), torch.nan)
