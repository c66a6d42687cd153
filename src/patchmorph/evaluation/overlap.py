"""How often labels of two images meet, from which every measure of overlap follows."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

MAX_TABLE = 2**17
"""Ids below it are counted in a table; larger ones, as in Allen's atlas, are sorted first."""


@dataclass(frozen=True)
class Overlap:
    """The voxels of two label maps on one grid, counted for every pair of labels that meet.

    Attributes:
        fixed: label in the fixed image.
        warped: label in the warped image.
        voxels: their number of common voxels, above 0.
    """

    fixed: Int[Tensor, " n"]
    warped: Int[Tensor, " n"]
    voxels: Int[Tensor, " n"]

    @classmethod
    def of(cls, fixed: Int[Tensor, "*n"], warped: Int[Tensor, "*n"]) -> "Overlap":
        """Count the voxels of two label maps."""
        rows, row = numbered(fixed)
        columns, column = numbered(warped)
        width = max(1, len(columns))
        cell, voxels = _counted(row * width + column)
        return cls(rows[cell // width], columns[cell % width], voxels)

    def dice(self, labels: list[int]) -> dict[int, float]:
        """See `patchmorph.evaluation.metrics.dice`."""
        return {label: _ratio(2 * both, a + b) for label, both, a, b in self._sizes(labels)}

    def jaccard(self, labels: list[int]) -> dict[int, float]:
        """See `patchmorph.evaluation.metrics.jaccard`."""
        return {label: _ratio(both, a + b - both) for label, both, a, b in self._sizes(labels)}

    def target_overlap(self, labels: list[int]) -> dict[int, float]:
        """See `patchmorph.evaluation.metrics.target_overlap`."""
        return {label: _ratio(both, a) for label, both, a, _ in self._sizes(labels)}

    def _sizes(self, labels: list[int]) -> list[tuple[int, int, int, int]]:
        """Each label with its number of voxels in both images, in the fixed and in the warped one."""
        both, fixed, warped = dict[int, int](), dict[int, int](), dict[int, int]()
        columns = (self.fixed.tolist(), self.warped.tolist(), self.voxels.tolist())
        for a, b, count in zip(*columns, strict=True):
            fixed[a] = fixed.get(a, 0) + count
            warped[b] = warped.get(b, 0) + count
            if a == b:
                both[a] = both.get(a, 0) + count  # several times, where labels were merged
        return [(one, both.get(one, 0), fixed.get(one, 0), warped.get(one, 0)) for one in labels]


def ids_of(values: Integer[Tensor, "*n"]) -> list[int]:
    """The ids above 0, in order."""
    return [label for label in _counted(values)[0].tolist() if label > 0]


def _counted(values: Tensor) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """The values that occur, in order, and how often."""
    flat = values.flatten().long()
    if not _fit(flat):
        return torch.unique(flat, return_counts=True)
    counts = torch.bincount(flat)
    ids = counts.nonzero()[:, 0]
    return ids, counts[ids]


def numbered(labels: Integer[Tensor, "*n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " _"]]:
    """The values that occur, in order, and the place of each voxel's value among them, flat."""
    flat = labels.flatten().long()
    if not _fit(flat):  # NumPy needs half of the time of torch.unique
        ids = torch.from_numpy(np.unique(flat.cpu().numpy())).to(flat.device)
        return ids, torch.searchsorted(ids, flat)
    ids = _counted(flat)[0]
    numbers = torch.zeros(int(ids[-1]) + 1, dtype=torch.long, device=flat.device)
    numbers[ids] = torch.arange(len(ids), device=flat.device)
    return ids, numbers[flat]


def _fit(values: Tensor) -> bool:
    """Whether a table of all values up to the largest is small."""
    if not len(values):
        return False
    low, high = torch.aminmax(values)
    return bool(low >= 0 and high < max(MAX_TABLE, len(values) // 8))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
