"""Registration of a table of pairs, with measurements of each."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.labels import PairLabels
from patchmorph.evaluation.measured import Measured, measure_map
from patchmorph.evaluation.overlap import Overlap, ids_of
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.evaluation.structures import StructureResult, compare_structures, mean_figures
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.registration.result import Registration
from patchmorph.workers import in_order

ASEG = (2, 3, 4, 7, 8, 10, 11, 12, 13, 16, 17, 18, 26, 28, 41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
"""FreeSurfer's subcortical structures and the two cortices (3 and 42), over which `dice_aseg` is averaged."""
PAIRS_AT_A_TIME = 4
"""Pairs that are measured at once, at most: each holds its images."""


@dataclass(frozen=True)
class LoadedPair:
    """A pair whose files are read.

    Attributes:
        register: registers its images.
        labels: of its images.
        timed: whether ``register`` registers; else another tool did, which took the seconds of the table.
    """

    register: Callable[[], Registration]
    labels: PairLabels
    timed: bool = True


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
        jaccard: mean over the labels of the fixed image, as are the next three.
        target_overlap: share of them that is covered.
        hd95_mm: 95th percentile of the distances between their surfaces.
        assd_mm: mean distance between their surfaces.
        ndv_percent: see `Measured`.
        inverse_consistency_mm: see `Measured`.
        transform: path of the map, if another tool made it.
        tool: what made the map, where the pairs or the table name it.
        verdict: ``pass``, ``check`` or ``fail``.
        error: why the pair could not be registered; then all figures are NaN.
        structures: agreement of each label.
    """

    fixed: str
    moving: str
    seconds: float = math.nan
    ncc_before: float = math.nan
    ncc_after: float = math.nan
    folding_percent: float = math.nan
    sd_log_jacobian: float = math.nan
    dice: float = math.nan
    dice_aseg: float = math.nan
    dice_cortex: float = math.nan
    jaccard: float = math.nan
    target_overlap: float = math.nan
    hd95_mm: float = math.nan
    assd_mm: float = math.nan
    ndv_percent: float = math.nan
    inverse_consistency_mm: float = math.nan
    transform: str = ""
    tool: str = ""
    verdict: str = ""
    error: str = ""
    structures: tuple[StructureResult, ...] = ()


@dataclass(frozen=True)
class Evaluated:
    """A pair that was registered and measured.

    Attributes:
        registration: what was found.
        warped: its warped image.
        labels: of the fixed image, and of the moving image on the fixed grid.
        result: the measurements.
    """

    registration: Registration
    warped: Image
    labels: PairLabels
    result: PairResult


def evaluate(
    pairs: list[PairPaths],
    load: Callable[[PairPaths], LoadedPair],
    keep: Callable[[int, PairPaths, Evaluated], None] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[PairResult]:
    """Register and measure the pairs; a pair that cannot be registered has an ``error``.

    Pairs that are registered follow each other. Pairs whose map another tool made are measured several at a
    time, each on one core, where there are enough of them.

    Args:
        pairs: their files.
        load: reads them.
        keep: gets each pair that was registered, with its place in ``pairs`` and its files, before its result
            is yielded.
        device: where pairs are measured.
    """

    def result(numbered: tuple[int, PairPaths]) -> PairResult:
        return _result(*numbered, load, keep)

    for measured, group in itertools.groupby(enumerate(pairs, 1), lambda pair: pair[1].transform is not None):
        several = list(group)
        if measured and len(several) >= torch.get_num_threads():
            yield from in_order(result, several, device, PAIRS_AT_A_TIME)
        else:
            yield from map(result, several)


def _result(
    number: int,
    paths: PairPaths,
    load: Callable[[PairPaths], LoadedPair],
    keep: Callable[[int, PairPaths, Evaluated], None] | None,
) -> PairResult:
    by = "" if paths.transform is None else str(paths.transform)
    try:
        evaluated = _evaluated(load(paths))
        result = replace(evaluated.result, transform=by, tool=paths.tool)
        if paths.seconds is not None:
            result = replace(result, seconds=paths.seconds)
        if keep is not None:
            keep(number, paths, replace(evaluated, result=result))
    except PatchMorphError as error:
        return PairResult(
            str(paths.fixed), str(paths.moving), transform=by, tool=paths.tool, error=str(error)
        )
    return result


def loading(register: Callable[[Image, Image], Registration]) -> Callable[[PairPaths], LoadedPair]:
    """Reads the images and labels of a pair for a function that registers two images.

    Raises:
        PatchMorphError: a file that cannot be used.
    """

    def load(paths: PairPaths) -> LoadedPair:
        fixed, moving = load_image(paths.fixed), load_image(paths.moving)
        return LoadedPair(lambda: register(fixed, moving), PairLabels.load(paths))

    return load


def evaluate_pair(pair: LoadedPair) -> PairResult:
    """Register and measure a pair, without the figures that `measure` adds in detail.

    Raises:
        PatchMorphError: images that cannot be registered, or fixed labels outside their image.
    """
    return _evaluated(pair, in_detail=False).result


def _evaluated(pair: LoadedPair, in_detail: bool = True) -> Evaluated:
    _synchronize()
    began = time.perf_counter()
    registration = pair.register()
    _synchronize()
    seconds = time.perf_counter() - began if pair.timed else math.nan
    measured, result = measure(registration, pair.labels, seconds, in_detail)
    return Evaluated(
        registration, measured.warped, PairLabels(pair.labels.fixed, measured.warped_labels), result
    )


def measure(
    registration: Registration, labels: PairLabels, seconds: float, in_detail: bool = False
) -> tuple[Measured, PairResult]:
    """Measure one registration.

    Args:
        registration: what to measure.
        labels: overlap is measured if both images have some.
        seconds: duration of the registration.
        in_detail: whether each label, surfaces, and what `measure_map` adds in detail are measured, too.

    Raises:
        PatchMorphError: fixed labels outside their image.
    """
    measured = measure_map(registration, labels, in_detail)
    overlaps: dict[str, Any] = {}
    if measured.ids is not None:
        assert labels.moving is not None
        overlap = Overlap.of(*measured.ids)
        if in_detail:
            overlaps = _structures(measured, overlap, ids_of(labels.moving.values()))
        overlaps |= _groups(overlap)
    quality = measured.quality
    return measured, PairResult(
        fixed=registration.fixed.name,
        moving=registration.moving.name,
        seconds=seconds,
        ncc_before=quality.similarity_before,
        ncc_after=quality.similarity_after,
        folding_percent=quality.folding_percent,
        sd_log_jacobian=quality.sd_log_jacobian,
        ndv_percent=measured.ndv_percent,
        inverse_consistency_mm=measured.inverse_consistency_mm,
        verdict=registration.verdict.level,
        **overlaps,
    )


def _structures(measured: Measured, overlap: Overlap, moving_ids: list[int]) -> dict[str, Any]:
    """The agreement of each label, and means over those of the fixed image."""
    assert measured.ids is not None
    structures = compare_structures(*measured.ids, measured.warped.grid, moving_ids, overlap)
    return {"structures": structures, **mean_figures([one for one in structures if one.in_fixed])}


def label_groups(fixed: torch.Tensor, warped: torch.Tensor) -> dict[str, float]:
    """Mean Dice over the labels of ``fixed``; for FreeSurfer's ids also over `ASEG` and over the parcels."""
    return _groups(Overlap.of(fixed, warped))


def _groups(overlap: Overlap) -> dict[str, float]:
    present = ids_of(overlap.fixed)
    assert present, "the fixed image has no labels"
    groups = {"dice": _mean(overlap.dice(present))}
    parcels = [label for label in present if label >= 1001 and label % 1000 != 0]
    if set(ASEG) & set(present) and (parcels or set(ASEG) <= set(present)):
        merged = Overlap(merge_cortex(overlap.fixed), merge_cortex(overlap.warped), overlap.voxels)
        groups["dice_aseg"] = _mean(merged.dice(list(ASEG)))
    if parcels:
        groups["dice_cortex"] = _mean(overlap.dice(parcels))
    return groups


def summarize(results: list[PairResult]) -> dict[str, float]:
    """The mean of every figure over the pairs for which it is not NaN."""
    columns = [field.name for field in fields(PairResult) if field.default is math.nan]
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


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
