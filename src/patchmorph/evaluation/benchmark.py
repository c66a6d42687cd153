"""Register a table of pairs and measure each."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation import metrics
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.foreground import foreground
from patchmorph.images.in_memory import Image
from patchmorph.io.images import load_image
from patchmorph.registration.result import Registration
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.resample import resample

ASEG = (2, 3, 4, 7, 8, 10, 11, 12, 13, 16, 17, 18, 26, 28, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
"""FreeSurfer's subcortical structures and the two cortices (3 and 42) that registrations are judged by."""


@dataclass(frozen=True)
class PairResult:
    """What was measured on one pair.

    Attributes:
        fixed: path.
        moving: path.
        seconds: of the registration, loading excluded.
        ncc_before: correlation of intensities inside the fixed content, by the headers alone.
        ncc_after: the same after registration.
        folding_percent: voxels with a Jacobian determinant ≤ 0, inside the fixed labels, or the content where
            there are none.
        sd_log_jacobian: there, too.
        dice: mean over the labels that the fixed image has; `label_groups` for FreeSurfer's ids.
        dice_aseg: mean over `ASEG` with all cortical parcels merged, for FreeSurfer's ids.
        dice_cortex: mean over the cortical parcels of the fixed image, for FreeSurfer's ids.
    """

    fixed: str
    moving: str
    seconds: float
    ncc_before: float
    ncc_after: float
    folding_percent: float
    sd_log_jacobian: float
    dice: float = math.nan
    dice_aseg: float = math.nan
    dice_cortex: float = math.nan


def evaluate(
    pairs: list[PairPaths], register: Callable[[Image, Image], Registration]
) -> Iterator[PairResult]:
    """Register and measure one pair after the other.

    Raises:
        PatchMorphError: a file that cannot be used, or labels that are not where their image is.
    """
    for pair in pairs:
        fixed, moving = load_image(pair.fixed), load_image(pair.moving)
        labels = None
        if pair.fixed_labels and pair.moving_labels:
            labels = (load_labels(pair.fixed_labels), load_labels(pair.moving_labels))
        _synchronize()
        began = time.perf_counter()
        registration = register(fixed, moving)
        _synchronize()
        seconds = time.perf_counter() - began
        yield measure(registration, registration.warped(), labels, seconds)


def measure(
    registration: Registration, warped: Image, labels: tuple[Image, Image] | None, seconds: float
) -> PairResult:
    """All figures of one registration.

    Args:
        registration: what to measure.
        warped: its warped image.
        labels: of the fixed and of the moving image, each in its image's world.
        seconds: what the registration took.
    """
    fixed = registration.fixed.normalized()
    content = foreground(fixed.data)
    inside = content[0, 0]
    identity = AffineTransform.identity(fixed.grid.device)
    overlaps: dict[str, float] = {}
    if labels:
        fixed_labels = resample(labels[0].to(fixed.grid.device), identity, fixed.grid, "nearest")
        if not (fixed_labels.data > 0).any():
            raise PatchMorphError(f"labels must lie inside their image, got none there in {labels[0].name}")
        warped_labels = registration.warped(labels[1], "nearest")
        overlaps = label_groups(fixed_labels.data[0, 0].long(), warped_labels.data[0, 0].long())
        inside = fixed_labels.data[0, 0] > 0
    determinant = registration.jacobian()
    before = resample(registration.moving, identity, fixed.grid)
    return PairResult(
        fixed=registration.fixed.name,
        moving=registration.moving.name,
        seconds=seconds,
        ncc_before=metrics.correlation(fixed.data, before.data.float(), content),
        ncc_after=metrics.correlation(fixed.data, warped.data.float(), content),
        folding_percent=100 * metrics.folding_fraction(determinant, inside),
        sd_log_jacobian=metrics.sd_log_jacobian(determinant, inside),
        **overlaps,
    )


def label_groups(fixed: torch.Tensor, warped: torch.Tensor) -> dict[str, float]:
    """Mean Dice over all labels of ``fixed``; for FreeSurfer's ids also over subcortex and cortex."""
    present = [label for label in torch.unique(fixed).tolist() if label != 0]
    assert present, "the fixed image has no labels"
    groups = {"dice": _mean(metrics.dice(fixed, warped, present))}
    parcels = [label for label in present if label >= 1001 and label % 1000 != 0]
    if set(ASEG) & set(present) and (parcels or set(ASEG) <= set(present)):
        merged = [merge_cortex(image) for image in (fixed, warped)]
        groups["dice_aseg"] = _mean(metrics.dice(*merged, list(ASEG)))  # type: ignore[arg-type]
    if parcels:
        groups["dice_cortex"] = _mean(metrics.dice(fixed, warped, parcels))
    return groups


def summarize(results: list[PairResult]) -> dict[str, float]:
    """The mean of every figure over the pairs that have it."""
    columns = [name for name, value in asdict(results[0]).items() if isinstance(value, float)]
    means = {}
    for name in columns:
        values = [value for result in results if not math.isnan(value := getattr(result, name))]
        if values:
            means[name] = fmean(values)
    return means


def merge_cortex(labels: torch.Tensor) -> torch.Tensor:
    """FreeSurfer's cortical parcels as the two cortices, 3 and 42."""
    left, right = (labels >= 1000) & (labels < 2000), (labels >= 2000) & (labels < 3000)
    return torch.where(left, 3, torch.where(right, 42, labels))


def _mean(overlaps: dict[int, float]) -> float:
    return fmean(value for value in overlaps.values() if not math.isnan(value))


def load_labels(path: Path) -> Image:
    """A label map; ids that were stored as floats are rounded."""
    labels = load_image(path)
    if labels.data.is_floating_point():
        labels = Image(labels.data.round().to(torch.int32), labels.grid, labels.name)
    return labels


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
