"""The verdict on a registration, from figures that need no labels: pass, check or fail, with reasons."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from patchmorph.images.foreground import foreground
from patchmorph.objective.similarity import correlation_map
from patchmorph.registration.acceptance import VERDICT, IntensityAgreement, Limit
from patchmorph.registration.pair import PreparedPair
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.blocks import mapped_points
from patchmorph.transforms.jacobian import determinant_of_map, log_determinant

POINTS = 64
"""Points along the longest side of the fixed content's box in which figures are measured."""

RADIUS = 2
"""Of the windows of the local correlation, in points."""

Level = Literal["pass", "check", "fail"]
LEVELS: tuple[Level, ...] = ("pass", "check", "fail")


@dataclass(frozen=True)
class Evidence:
    """Figures of a registration, on a coarse grid over the fixed content.

    Attributes:
        local_correlation: mean squared correlation in small windows, 0 to 1, whatever the contrasts.
        correlation_ratio: fraction of the variance that any function of the other image explains; 0 if the
            images have too little in common.
        overlap: Dice of the foregrounds, as far as the moving image shows them.
        folding_percent: points of the content with a Jacobian determinant ≤ 0.
        sd_log_jacobian: standard deviation of the log-Jacobian over the content.
        scaling: scale of the affine map nearest to the map, or its inverse if that is larger.
        stretch: largest over smallest singular value of that affine map.
        rotation_degrees: its rotation.
        without_counterpart: fraction of the fixed content beyond a truncated face of the moving image.
    """

    local_correlation: float
    correlation_ratio: float
    overlap: float
    folding_percent: float
    sd_log_jacobian: float
    scaling: float
    stretch: float
    rotation_degrees: float
    without_counterpart: float


@dataclass(frozen=True)
class Verdict:
    """Whether a registration can be used as it is.

    Attributes:
        level: ``pass``; ``check``: to be looked at; ``fail``: not to be used.
        reasons: one sentence each; none for ``pass``.
    """

    level: Level
    reasons: tuple[str, ...] = ()


@torch.no_grad()
def measure_evidence(pair: PreparedPair, transform: Transform) -> Evidence:
    """The figures of a map of a prepared pair."""
    grid = pair.fixed.content.grid(POINTS)
    points, spacing_mm = grid.points_world(), float(grid.spacing_mm.max())
    mapped = mapped_points(transform, grid)
    fixed = pair.fixed.image.sample_grid(grid, spacing_mm)
    warped = pair.moving.image.sample(mapped, spacing_mm)
    visible = pair.moving.image.in_field_of_view(mapped)
    seen = torch.ones_like(fixed, dtype=torch.bool) if visible is None else visible[:, None]
    content, other = foreground(fixed) & seen, foreground(warped) & seen
    both = content & other
    agreement = IntensityAgreement.of(fixed[both], warped[both]) if int(both.sum()) >= POINTS else None
    inside = foreground(fixed)[:, 0]
    determinant = determinant_of_map(mapped[0], grid)[inside[0, :-1, :-1, :-1]]
    affine = AffineTransform.nearest(points[inside][None], mapped[inside][None])
    return Evidence(
        local_correlation=_local_correlation(fixed, warped, seen),
        correlation_ratio=0.0 if agreement is None else agreement.correlation_ratio,
        overlap=2 * int(both.sum()) / max(1, int(content.sum() + other.sum())),
        folding_percent=100 * float((determinant <= 0).float().mean()),
        sd_log_jacobian=float(log_determinant(determinant).std()),
        **_affine_figures(affine.matrix[0, :3, :3].cpu()),
        without_counterpart=pair.fraction_without_counterpart(transform),
    )


def judge(evidence: Evidence, doubts: tuple[str, ...] = (), limits: tuple[Limit, ...] = VERDICT) -> Verdict:
    """The verdict on a registration with these figures, and with ``doubts`` about its images."""
    failures, checks = [], list[str]()
    for limit in limits:
        value = getattr(evidence, limit.figure)
        found = failures if limit.fails(value) else checks if limit.doubts(value) else None
        if found is not None:
            found.append(limit.reason(value))
    reasons = (*failures, *checks, *doubts)
    return Verdict("fail" if failures else "check" if reasons else "pass", reasons)


def _local_correlation(fixed: Tensor, warped: Tensor, seen: Tensor) -> float:
    squared, weight = correlation_map(fixed, warped, RADIUS)
    weight = weight * seen
    return float((squared * weight).sum() / weight.sum().clamp(min=1e-6))


def _affine_figures(linear: Tensor) -> dict[str, float]:
    """Scale, stretch and rotation of a linear map ``[3, 3]``, by its singular value decomposition."""
    left, values, right = torch.linalg.svd(linear)
    rotation = left @ right
    rotation = rotation * torch.linalg.det(rotation).sign()
    cosine = float((rotation.trace() - 1) / 2)
    scale = float(values.prod() ** (1 / 3))
    return {
        "scaling": max(scale, 1 / max(scale, 1e-9)),
        "stretch": float(values[0] / values[-1].clamp(min=1e-9)),
        "rotation_degrees": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
    }
