"""Label maps are told from intensities, so that ids are never averaged.

A label map is piecewise constant. For each value the share of neighbouring voxels that hold the same value is
measured; its median over the values is 0.55 to 0.99 for the label maps that it was tested on and 0.02 to 0.09
for images, and a large uniform background counts as one value only.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchmorph.spatial.sampling import Interpolation

LABEL_INTENT = 1002
"""NIfTI's intent code of label maps."""
NAMES = frozenset(
    {"label", "labels", "labelmap", "seg", "dseg", "aseg", "segmentation", "mask", "brainmask", "roi", "rois"}
    | {"parc", "aparc", "wmparc", "parcellation", "atlas", "annotation", "annotations", "ribbon", "tissues"}
)
"""Words of file names that announce a label map."""
MIN_CONSTANCY = 0.3
"""Constancy from which whole numbers are ids."""
MIN_NAMED_CONSTANCY = 0.12
"""The same for a file whose name announces a label map: an atlas may be an image, too."""
MAX_RAMP = 0.55
"""Share of unequal neighbours that differ by one, above which values are a smooth image that was rounded; it
is at most 0.41 for the label maps that it was tested on."""
RAMP_VALUES = 16
"""Number of values above which `MAX_RAMP` applies: ids of few tissues are neighbours of each other, too."""
MAX_IDS_BY_COUNT = 3
"""Most values that are ids however they are distributed: masks."""
SAMPLE_VOXELS = 2**18
"""Approximate number of voxels that are compared with their neighbours, at least in large images."""


class Choice(NamedTuple):
    """An interpolation, and the reason for it in a few words."""

    interpolation: Interpolation
    reason: str


def choose_interpolation(values: np.ndarray, path: Path, intent: int = 0) -> Choice:
    """``label`` for label maps, else ``linear``.

    Args:
        values: one frame ``[X, Y, Z]``.
        path: of the file: its name may announce a label map.
        intent: NIfTI's intent code.
    """
    if intent == LABEL_INTENT:
        return Choice("label", "NIfTI intent of labels")
    if not _are_whole(values):
        return Choice("linear", "values with fractions")
    constancy, ramp, count = _statistics(values)
    share = f"{100 * constancy:.0f} % of neighbours are equal, median over values"
    if count <= MAX_IDS_BY_COUNT:
        return Choice("label", f"{count} different whole numbers")
    if constancy >= MIN_CONSTANCY and (count <= RAMP_VALUES or ramp <= MAX_RAMP):
        return Choice("label", share)
    if constancy >= MIN_NAMED_CONSTANCY and (words := NAMES & set(re.split(r"[\W_]+", path.name.lower()))):
        return Choice("label", f"name with {min(words)}, whole numbers")
    return Choice("linear", share)


def _are_whole(values: np.ndarray) -> bool:
    if values.dtype.kind in "iub":
        return True
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def _statistics(values: np.ndarray) -> tuple[float, float, int]:
    """Constancy, share of unequal neighbours that differ by one, and number of values, of a sample."""
    step = max(2, round((values.size / SAMPLE_VOXELS) ** (1 / 3)))
    places = tuple(slice(0, max(1, n - 1), step) for n in values.shape)
    base = values[places]
    _, index, counts = np.unique(base, return_inverse=True, return_counts=True)
    axes = [axis for axis in range(3) if values.shape[axis] > 1]
    equal, by_one = np.zeros(base.shape), 0
    for axis in axes:
        along = slice(1, values.shape[axis], step)
        neighbour = values[(*places[:axis], along, *places[axis + 1 :])]
        equal += neighbour == base
        by_one += int((np.abs(neighbour.astype(np.float64) - base) == 1).sum())
    pairs = max(1, len(axes))
    constancy = np.bincount(index.ravel(), equal.ravel()) / (pairs * counts)
    return float(np.median(constancy)), by_one / max(1.0, base.size * pairs - equal.sum()), len(counts)
