"""Which stages a registration goes through, with what scales and how many passes. Decided here only."""

import functools
from collections.abc import Sequence

import torch
from torch import nn

from patchmorph.errors import PatchMorphError
from patchmorph.networks.contract import PATCH_MULTIPLE
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.objective.objective import Objective
from patchmorph.patches.detail import MIN_DETAIL
from patchmorph.registration.acceptance import AFFINE
from patchmorph.registration.options import RIGID, RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.scales import Scale, patches_per_voxel, scales_of
from patchmorph.registration.stages.affine_refinement import AffineRefinementStage
from patchmorph.registration.stages.base import GuardedStage, Stage
from patchmorph.registration.stages.nearest_affine import NearestAffineStage
from patchmorph.registration.stages.network import AffineNetworkStage, DenseNetworkStage
from patchmorph.registration.stages.velocity_refinement import (
    RATE,
    REFINEMENT,
    VelocityRefinementStage,
    refinement_by,
)
from patchmorph.transforms.base import Transform

CLASSICAL_PASSES = 40
"""Passes of refinement on each scale where there is no network and no number was chosen."""

CROSS_CONTRAST_PASSES = (("mi", 10), ("mind", 10))
"""Similarities and passes by which two contrasts that cannot be brought into one are refined at the end where
no number was chosen. Loss of aseg Dice under random curves 0.031 before, 0.026 after (decision 009)."""

NETWORK_RATE = 0.04
"""Rate of a refinement by LNCC from the map of networks on: larger steps lose Dice of deep structures
(docs/decisions/017)."""

RESTARTS = 2
"""Restarts of the dense networks at the nearest affine map where an image is truncated. Loss of aseg Dice
with a third missing 0.021 without, 0.017 after one, 0.016 after two, 0.015 after three (decision 009)."""

LINEAR_FITS = 2
"""How often the nearest affine or rigid map to a dense prediction is taken, where the map is to be one."""

DETAIL_NETWORKS = 2
"""Of the finest networks of a model, one after the other, on each scale beyond its finest: the motion that is
left there is larger than what the finest network was trained on (docs/decisions/019)."""

UNCERTAINTY_OVERLAP = 0.5
"""Fraction of a patch that its neighbours must cover for every point to be in several patches."""

FITTED_SIDES = (1.0, 1.25, 1.5, 1.75)
"""Sides of patches that fit the content, relative to those of the training; see `fitted`."""

MAX_FITTED_SIDE = 128
"""Voxels along a side of such patches, unless those of the training have more: memory is that of a patch."""

FITTED_OVERLAP = 1 / 16
"""Fraction of such a patch that its neighbour covers too, at least."""


def schedule(
    model: PatchMorphModel | None, pair: PreparedPair, options: RegistrationOptions, restarts: int = RESTARTS
) -> list[Stage]:
    """The stages after the pose.

    With a model: its networks, coarse to fine, the dense ones again where an image is truncated, then
    refinement on the finest scale. Without: affine and velocity refinement from the coarsest scale on. For an
    affine or rigid map: the affine network, then the map nearest to the dense network of the coarsest scale.

    Args:
        model: networks and their schedule; ``None``: no networks, and the default scales.
        pair: on the device of ``model``.
        options: see there.
        restarts: of the dense networks, where an image is truncated.

    Raises:
        PatchMorphError: uncertainty is asked for without a model.
    """
    generator = torch.Generator().manual_seed(options.seed)
    spec = ModelSpec() if model is None else model.spec
    scales = scales_of(spec, pair, options)
    if model is None:
        if options.uncertainty:
            raise PatchMorphError("uncertainty must come from the patches of a network, got no model")
        return _classical_stages(spec, [*scales.trained, *scales.finer], options, generator)
    model.eval()
    stages = _affine_stages(model, scales.trained[0].spacing_mm)
    passes = [scale for scale in scales.trained for _ in range(spec.stage_scales.count(scale.network))]
    dense = _dense_stages(model, passes, options, generator)
    if options.is_linear:
        return stages + [dense[0], NearestAffineStage(options.transform == RIGID)] * LINEAR_FITS
    stages += dense
    if pair.is_truncated:
        stages += [NearestAffineStage(), *dense] * restarts
    return stages + refinement_schedule(model, pair, options)


def refinement_schedule(
    model: PatchMorphModel, pair: PreparedPair, options: RegistrationOptions
) -> list[Stage]:
    """The refinement of a map that networks have found between two contrasts or one.

    Coarser scales gain nothing after networks (docs/decisions/008).
    """
    generator = torch.Generator().manual_seed(options.seed)
    rate = NETWORK_RATE if options.similarity == REFINEMENT.similarity else RATE
    scale, passes = _refined_scale(model, pair, options), options.passes_after_networks
    return _refinement(scale, passes, generator, refinement_by(options.similarity), rate)


def detail_schedule(model: PatchMorphModel, pair: PreparedPair, options: RegistrationOptions) -> list[Stage]:
    """The scales beyond the finest of the model, where both images have detail; applied to the final map.

    Each has a pass of each of the model's `DETAIL_NETWORKS` finest networks.
    """
    generator = torch.Generator().manual_seed(options.seed)
    networks = range(len(model.dense))[-DETAIL_NETWORKS:]
    finer = scales_of(model.spec, pair, options).finer
    passes = [scale._replace(network=network) for scale in finer for network in networks]
    return _dense_stages(model, passes, options, generator, MIN_DETAIL)


def cross_contrast_refinement_schedule(
    model: PatchMorphModel, pair: PreparedPair, options: RegistrationOptions
) -> list[Stage]:
    """The refinement of a map between two contrasts by what they share (`CROSS_CONTRAST_PASSES`).

    Patches finer than the voxels of an image compare what is interpolated, so their maps are smoother by as
    much (docs/decisions/019).
    """
    finest = _refined_scale(model, pair, options)
    smoothness = patches_per_voxel(finest[0], pair)
    stages = list[Stage]()
    for similarity, passes in CROSS_CONTRAST_PASSES:
        objective = refinement_by(similarity)
        objective = objective.model_copy(update={"diffusion": smoothness * objective.diffusion})
        stages += _refinement(finest, passes, torch.Generator().manual_seed(options.seed), objective)
    return stages


def _refined_scale(model: PatchMorphModel, pair: PreparedPair, options: RegistrationOptions) -> list[float]:
    """The finest scale of the model; the finest that is kept where the user chose."""
    if options.finest is None:
        return model.spec.spacings_for(pair.fixed.content.radius_mm)[-1:]
    return [scales_of(model.spec, pair, options).trained[-1].spacing_mm]


def _classical_stages(
    spec: ModelSpec, scales: Sequence[Scale], options: RegistrationOptions, generator: torch.Generator
) -> list[Stage]:
    objective, rigid = refinement_by(options.similarity), options.transform == RIGID
    affine = AffineRefinementStage(scales[0].spacing_mm, spec.patch_size, objective, rigid)
    if options.is_linear:
        return [NearestAffineStage(rigid), affine]
    passes = CLASSICAL_PASSES if options.refine is None else options.refine
    spacings_mm = [scale.spacing_mm for scale in scales]
    return [affine, *_refinement(spacings_mm, passes, generator, objective)]


def _affine_stages(model: PatchMorphModel, spacing_mm: float) -> list[Stage]:
    """The affine network of a model, if it has one."""
    if model.affine is None:
        return []
    spec = model.spec
    affine = AffineNetworkStage(
        model.affine, spacing_mm, spec.patch_size, spec.affine_passes, spec.precision, spec.symmetric
    )
    return [GuardedStage(affine, keeps_agreement)]


def _dense_stages(
    model: PatchMorphModel,
    passes: Sequence[Scale],
    options: RegistrationOptions,
    generator: torch.Generator,
    min_detail: float = 0.0,
) -> list[Stage]:
    """A stage for each pass of a network."""
    spec, stages = model.spec, list[Stage]()
    for index, scale in enumerate(passes):
        with_variance = options.uncertainty and index == len(passes) - 1
        sides, overlap = (spec.patch_size,), spec.overlap
        if with_variance:  # points are to be in several patches
            overlap = max(overlap, UNCERTAINTY_OVERLAP)
        elif not options.jitter:  # few have no room
            sides, overlap = fitted(model.dense[scale.network], spec)
        stages.append(
            DenseNetworkStage(
                network=model.dense[scale.network],
                spacing_mm=scale.spacing_mm,
                sides=sides,
                overlap=overlap,
                smoothing=spec.smoothing,
                steps=spec.integration_steps,
                jitter=generator if options.jitter else None,
                precision=spec.precision,
                symmetric=spec.symmetric,
                with_variance=with_variance,
                min_detail=min_detail,
                backwards=min_detail > 0 and index % 2 == 1,
            )
        )
    return stages


def fitted(network: nn.Module, spec: ModelSpec) -> tuple[tuple[int, ...], float]:
    """Sides and overlap of the patches of a dense network.

    Those that fit the content, for a network that takes patches of any shape: fewer voxels are computed twice
    or show nothing. Shorter sides than those of the training cost Dice (docs/decisions/016).
    """
    if not getattr(network, "any_shape", False):
        return (spec.patch_size,), spec.overlap
    longest = max(MAX_FITTED_SIDE, spec.patch_size)
    sides = [round(spec.patch_size * factor) for factor in FITTED_SIDES]
    return tuple(side for side in sides if side % PATCH_MULTIPLE == 0 and side <= longest), FITTED_OVERLAP


def _refinement(
    spacings_mm: Sequence[float],
    passes: int,
    generator: torch.Generator,
    objective: Objective,
    rate: float = RATE,
) -> list[Stage]:
    stage = functools.partial(
        VelocityRefinementStage, passes=passes, generator=generator, objective=objective, rate=rate
    )
    return [stage(mm) for mm in spacings_mm if passes]


def keeps_agreement(pair: PreparedPair, before: Transform, after: Transform) -> bool:
    """Whether an affine network kept the agreement that the pose had (see `AffineAcceptance`)."""
    return AFFINE.accepts(pair.agreement(before), pair.agreement(after))
