"""Registration of a table of pairs, with measurements of each."""

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
from patchmorph.evaluation.quality import measure_quality
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

ASEG = (2, 3, 4, 7, 8, 10, 11, 12, 13, 16, 17, 18, 26, 28, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
"""FreeSurfer's subcortical structures and the two cortices (3 and 42), over which `dice_aseg` is averaged."""


@dataclass(frozen=True)
class PairResult:
    """Measurements of one pair.

    Attributes:
        fixed: path.
        moving: path.
        seconds: duration of the registration, loading excluded.
        ncc_before: correlation of intensities inside the fixed content, aligned by the headers alone.
        ncc_after: the same after registration.
        folding_percent: voxels with a Jacobian determinant ≤ 0 inside the fixed labels, or inside the fixed
            content without labels.
        sd_log_jacobian: standard deviation of the log-Jacobian in the same region.
        dice: mean over the labels of the fixed image (see `label_groups`).
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
    """Register and measure the pairs in turn.

    Raises:
        PatchMorphError: a file that cannot be used, or fixed labels outside their image.
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
    """Measure one registration.

    Args:
        registration: what to measure.
        warped: its warped image.
        labels: of the fixed and of the moving image, each in its image's world.
        seconds: duration of the registration.

    Raises:
        PatchMorphError: fixed labels outside their image.
    """
    grid = registration.fixed.grid
    overlaps: dict[str, float] = {}
    fixed_labels = None
    if labels:
        identity = AffineTransform.identity(grid.device)
        fixed_labels = resample(labels[0].to(grid.device), identity, grid, "nearest")
        fixed_ids = fixed_labels.values()[0, 0].long()
        if not (fixed_ids > 0).any():
            raise PatchMorphError(f"labels must lie inside their image, got none there in {labels[0].name}")
        overlaps = label_groups(fixed_ids, registration.warped(labels[1], "nearest").values()[0, 0].long())
    quality = measure_quality(registration, warped, fixed_labels)
    return PairResult(
        fixed=registration.fixed.name,
        moving=registration.moving.name,
        seconds=seconds,
        ncc_before=quality.similarity_before,
        ncc_after=quality.similarity_after,
        folding_percent=quality.folding_percent,
        sd_log_jacobian=quality.sd_log_jacobian,
        **overlaps,
    )


def label_groups(fixed: torch.Tensor, warped: torch.Tensor) -> dict[str, float]:
    """Mean Dice over the labels of ``fixed``; for FreeSurfer's ids also over `ASEG` and over the parcels."""
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
    """The mean of every measurement over the pairs for which it is not NaN."""
    columns = [name for name, value in asdict(results[0]).items() if isinstance(value, float)]
    means = {}
    for name in columns:
        values = [value for result in results if not math.isnan(value := getattr(result, name))]
        if values:
            means[name] = fmean(values)
    return means


def merge_cortex(labels: torch.Tensor) -> torch.Tensor:
    """Merge FreeSurfer's cortical parcels into the two cortices, 3 and 42."""
    left, right = (labels >= 1000) & (labels < 2000), (labels >= 2000) & (labels < 3000)
    return torch.where(left, 3, torch.where(right, 42, labels))


def _mean(overlaps: dict[int, float]) -> float:
    return fmean(value for value in overlaps.values() if not math.isnan(value))


def load_labels(path: Path) -> Image:
    """Read a label map; ids stored as floats are rounded."""
    labels = load_image(path)
    if not labels.dtype.is_floating_point:
        return labels
    return Image(labels.values().round().to(torch.int32), labels.grid, labels.name)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
