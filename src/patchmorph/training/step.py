"""One training step: a random chain of nested patches through all stages, without any global field.

Each finer patch lies inside the one before, so it finds its ancestors' displacement inside the parent patch.
Networks, activations and gradients take the memory of a few patches, however large the images are (they lie
in the `Cohort`). The gradient flows through the whole chain.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.networks.contract import VELOCITY_STRIDE
from patchmorph.patches.extraction import extract
from patchmorph.patches.nested import nested_chain
from patchmorph.registration.content import foreground
from patchmorph.registration.model import PatchMorphModel
from patchmorph.registration.stages import affine_residual, patch_velocity
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation import Draw, Pair, augmented_pair
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import TrainingConfig
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.velocity import VelocityField

Terms = dict[str, Float[Tensor, ""]]


def chain_loss(
    model: PatchMorphModel, cohort: Cohort, draw: Draw, config: TrainingConfig
) -> tuple[Tensor, Terms]:
    """The loss of the chains that ``draw`` describes, and its detached terms by name."""
    pair = augmented_pair(cohort, draw, config.augmentation)
    spec, pairs = config.model, config.pairs
    root = pair.fixed_center + draw.root * pairs.root_mm
    patches = nested_chain(root, draw.placement, spec.patch_size, spec.spacings_mm, pairs.inward)
    start = pair.moving_center - pair.fixed_center + draw.start * pairs.start_mm
    loss, transform, terms = _affine_loss(model, pair, AffineTransform.translation(start), patches[0], config)
    for scale, patch in enumerate(patches):
        added, transform, more = _dense_loss(model, scale, pair, transform, patch, config)
        loss = loss + added
        terms |= more
    return loss, {"loss": loss.detach()} | terms


def _affine_loss(
    model: PatchMorphModel, pair: Pair, start: AffineTransform, patch: Grid, config: TrainingConfig
) -> tuple[Tensor, Transform, Terms]:
    """Several looks at one patch; no gradient from a look into the one before."""
    spacing = config.model.spacings_mm[0]
    objective = config.objective
    points = patch.points_world()
    truth = pair.truth(points)
    fixed = pair.fixed.sample(points, spacing)
    mask = foreground(fixed)[:, 0]
    transform: Transform = start
    warped = extract(pair.moving, patch, spacing, transform)
    loss = torch.zeros((), device=fixed.device)
    similarity = error = loss
    for _ in range(config.optimization.affine_repeats):
        residual = affine_residual(model.affine, torch.cat([fixed, warped.detach()], 1), patch)
        transform = _detached(transform) @ residual
        mapped = transform(points)
        warped = pair.moving.sample(mapped, spacing)
        similarity = objective.similarity_term(fixed, warped)
        error = objective.supervision_term(mapped, truth, mask, pair.known)
        loss = loss + objective.affine_weight * similarity + objective.supervision * error
    return loss, transform, {"similarity/affine": similarity.detach(), "error_mm/affine": _known(error, pair)}


def _dense_loss(
    model: PatchMorphModel, scale: int, pair: Pair, transform: Transform, patch: Grid, config: TrainingConfig
) -> tuple[Tensor, Transform, Terms]:
    """One dense stage on the patch of its scale."""
    spacing = config.model.spacings_mm[scale]
    objective = config.objective
    points = patch.points_world()
    fixed = pair.fixed.sample(points, spacing)
    warped = pair.moving.sample(transform(points), spacing)
    velocity = patch_velocity(model.dense[scale], torch.cat([fixed, warped], 1), patch)
    residual = VelocityField(velocity, patch.coarsen(VELOCITY_STRIDE), config.model.integration_steps)
    transform = transform @ residual
    mapped = transform(points)
    similarity = objective.similarity_term(fixed, pair.moving.sample(mapped, spacing))
    diffusion = objective.diffusion_term(residual.flow.displacement, spacing * VELOCITY_STRIDE)
    folding = objective.folding_term(residual.flow.displacement, spacing * VELOCITY_STRIDE)
    error = objective.supervision_term(mapped, pair.truth(points), foreground(fixed)[:, 0], pair.known)
    regularity = objective.diffusion * diffusion + objective.folding * folding
    loss = similarity + regularity + objective.supervision * error
    terms = {
        f"similarity/{scale}": similarity.detach(),
        f"diffusion/{scale}": diffusion.detach(),
        f"folding/{scale}": folding.detach(),
        f"error_mm/{scale}": _known(error, pair),
    }
    return loss, transform, terms


def _detached(transform: Transform) -> AffineTransform:
    assert isinstance(transform, AffineTransform)
    return AffineTransform(transform.matrix.detach())


def _known(error: Tensor, pair: Pair) -> Float[Tensor, ""]:
    """The mean over the pairs whose truth is known, of a mean over all."""
    return error.detach() / pair.known.mean().clamp(min=1e-6)
