"""Labels of a pair compared structure by structure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from jaxtyping import Int
from torch import Tensor

from patchmorph.evaluation.overlap import Overlap, ids_of
from patchmorph.evaluation.surfaces import assd_mm, hd95_mm, surface_distances_mm
from patchmorph.spatial.grid import Grid

FIGURES = ("dice", "jaccard", "target_overlap", "hd95_mm", "assd_mm")


@dataclass(frozen=True)
class StructureResult:
    """Agreement of one label of a pair, on the grid of the fixed image.

    Attributes:
        label: its id.
        dice: see `patchmorph.evaluation.metrics.dice`; 0 where one image lacks the label.
        jaccard: likewise.
        target_overlap: share of the fixed label that is covered; NaN where the fixed image lacks it.
        hd95_mm: see `patchmorph.evaluation.surfaces.hd95_mm`; NaN where one image lacks the label.
        assd_mm: likewise.
        note: which image lacks the label, or that the two do not meet.
    """

    label: int
    dice: float
    jaccard: float
    target_overlap: float
    hd95_mm: float
    assd_mm: float
    note: str = ""

    @property
    def in_fixed(self) -> bool:
        """Whether the fixed image has the label."""
        return not math.isnan(self.target_overlap)


def compare_structures(
    fixed: Int[Tensor, "x y z"],
    warped: Int[Tensor, "x y z"],
    grid: Grid,
    moving_ids: Sequence[int] = (),
    overlap: Overlap | None = None,
) -> tuple[StructureResult, ...]:
    """Compare each label that any of the images has, in the order of ids.

    Args:
        fixed: labels on ``grid``.
        warped: likewise.
        grid: of the fixed image.
        moving_ids: labels of the moving image before it was warped.
        overlap: of both label maps, if it is known.
    """
    overlap = overlap or Overlap.of(fixed, warped)
    in_fixed, in_warped = set(ids_of(overlap.fixed)), set(ids_of(overlap.warped))
    labels = sorted(in_fixed | in_warped | set(moving_ids))
    overlaps = [of(labels) for of in (overlap.dice, overlap.jaccard, overlap.target_overlap)]
    distances = surface_distances_mm(fixed, warped, grid)
    results = []
    for label in labels:
        mm = [of(*distances[label]) if label in distances else math.nan for of in (hd95_mm, assd_mm)]
        where = (label in in_fixed, label in in_warped, label in moving_ids)
        figures = [of[label] for of in overlaps]
        results.append(StructureResult(label, *figures, *mm, note=_note(*where, figures[0])))
    return tuple(results)


def mean_figures(results: Sequence[StructureResult]) -> dict[str, float]:
    """The mean of each of `FIGURES` that is not NaN everywhere, over the results for which it is not."""
    columns = {name: [getattr(one, name) for one in results] for name in FIGURES}
    known = {name: [value for value in column if not math.isnan(value)] for name, column in columns.items()}
    return {name: fmean(values) for name, values in known.items() if values}


def summarize_structures(pairs: Sequence[Sequence[StructureResult]]) -> dict[str, dict[str, float | int]]:
    """By label: `mean_figures` over the pairs, and in how many ``pairs`` any image has the label."""
    by_label: dict[int, list[StructureResult]] = {}
    for results in pairs:
        for one in results:
            by_label.setdefault(one.label, []).append(one)
    return {
        str(label): {"pairs": len(found), **mean_figures(found)} for label, found in sorted(by_label.items())
    }


def _note(in_fixed: bool, in_warped: bool, in_moving: bool, dice: float) -> str:
    lacking = []
    if not in_fixed:
        lacking.append("not in the fixed labels")
    if not in_warped:
        lacking.append("not in the warped labels" if in_moving else "not in the moving labels")
    return ", ".join(lacking) or ("" if dice else "disjoint")
