"""Coarser versions of a volume, without aliasing.

Each array axis is resampled by a small matrix of triangle weights whose half-width is the new spacing, so
the factor may be any real number and a level has exactly the requested spacing. A level shares the volume's
centre, so a volume and its mirror image have mirrored levels: the result does not depend on storage order.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, Shape, VoxelBox, triple

SLAB_VOXELS = 2**22
"""Voxels that are read at a time (at least one slice)."""

SAME = 1.001
"""Ratio up to which two spacings are equal: headers round."""

NEARLY = 1.05
"""Ratio of a stored level's spacing to the requested one up to which the level serves: a twentieth of the
frequencies is lacking, and the next finer level has eight times the voxels (docs/decisions/019)."""

KEEP_RATIO = 1.25
"""Ratio of the requested spacing to an axis's own spacing up to which that axis is not resampled."""


def level_spacing(spacing_mm: tuple[float, ...], wanted_mm: float) -> tuple[float, ...]:
    """Spacing along each axis of the level for ``wanted_mm``."""
    return tuple(wanted_mm if wanted_mm > KEEP_RATIO * own else own for own in spacing_mm)


def coarsest_sufficient(stored_mm: Sequence[tuple[float, ...]], wanted_mm: float) -> int:
    """The coarsest stored level that is hardly coarser than wanted, but along axes that stay as they are.

    Args:
        stored_mm: spacing of each level, the finest first.
        wanted_mm: see `level_spacing`.
    """

    def suffices(own: float, finest: float) -> bool:
        return own <= SAME * finest or own <= NEARLY * wanted_mm

    levels = range(len(stored_mm))
    return max(k for k in levels if all(map(suffices, stored_mm[k], stored_mm[0])))


def level_shape(shape: Shape, spacing_mm: tuple[float, ...], wanted_mm: float) -> Shape:
    """Voxels along each axis of the level for ``wanted_mm``."""
    level = level_spacing(spacing_mm, wanted_mm)
    return triple(
        _coarse_count(count, coarse / fine) if coarse > fine else count
        for count, fine, coarse in zip(shape, spacing_mm, level, strict=True)
    )


class Coarsening:
    """A grid resampled to a coarser spacing.

    Args:
        grid: grid of the volume.
        spacing_mm: spacing of the result (one value per array axis; the same or coarser).
        smoothed: axes along which the volume is a level itself, whose voxels are means by triangles of their
            own spacing. Then those of the result are narrower: the variances of both add up.

    Attributes:
        grid: of the result.
    """

    def __init__(self, grid: Grid, spacing_mm: tuple[float, ...], smoothed: tuple[bool, ...] = (False,) * 3):
        own = grid.spacing_mm[0].tolist()
        self._factors = [coarse / fine for coarse, fine in zip(spacing_mm, own, strict=True)]
        self._widths = [
            math.sqrt(max(1.0, factor**2 - 1)) if narrow else factor
            for factor, narrow in zip(self._factors, smoothed, strict=True)
        ]
        self._from = grid.shape
        counts = zip(grid.shape, self._factors, strict=True)
        shape = triple(_coarse_count(n, f) if f > 1 else n for n, f in counts)
        linear = torch.diag(torch.tensor(self._factors, dtype=torch.float64))
        offset = [
            (fine - 1) / 2 - factor * (coarse - 1) / 2
            for fine, factor, coarse in zip(grid.shape, self._factors, shape, strict=True)
        ]
        shift = torch.tensor(offset, dtype=torch.float64)
        self.grid = grid.framed(shape, from_linear(linear[None], shift[None]))

    def weights(self, axis: int, device: torch.device) -> Float[Tensor, "m n"] | None:
        """Rows of weights along an axis; ``None`` if it stays."""
        factor = self._factors[axis]
        if factor <= 1:
            return None
        return _triangle_weights(self._from[axis], factor, self._widths[axis], device)

    def block(
        self, read: Callable[[VoxelBox], Num[Tensor, "1 c x y z"]], box: VoxelBox
    ) -> Float[Tensor, "1 c u v w"]:
        """The voxels of a box of the result, from the voxels of the volume that they are means of."""
        sources, rows = [], list[Float[Tensor, "m n"] | None]()
        for axis, (first, last) in enumerate(zip(box.start, box.stop, strict=True)):
            factor = self._factors[axis]
            if factor <= 1:
                sources.append((first, last))
                rows.append(None)
                continue
            centers = _centers(self._from[axis], factor, first, last)
            start, weights = _triangle_rows(self._from[axis], centers, self._widths[axis])
            sources.append((start, start + weights.shape[1]))
            rows.append(weights)
        starts, stops = (triple(ends) for ends in zip(*sources, strict=True))
        values = read(VoxelBox(starts, stops)).float()
        for axis in (2, 1, 0):
            weights = rows[axis]
            values = _weighted(values, None if weights is None else weights.to(values), axis)
        return values

    def whole(self, read: Callable[[VoxelBox], Num[Tensor, "1 c x y z"]]) -> Float[Tensor, "1 c u v w"]:
        """All voxels of the result.

        The volume is read in slabs along its first axis, so that only the result is held in memory as a
        whole.

        Args:
            read: returns the voxels of a box of the volume.
        """
        shape, device, data = self._from, self.grid.device, None
        weights = [self.weights(axis, device) for axis in range(3)]
        thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
        for first in range(0, shape[0], thickness):
            last = min(first + thickness, shape[0])
            slab = read(VoxelBox((first, 0, 0), (last, *shape[1:]))).float()
            for axis in (2, 1):
                slab = _weighted(slab, weights[axis], axis)
            if last - first == shape[0] and weights[0] is not None:
                return _weighted(slab, weights[0], 0).contiguous()
            if data is None:
                data = torch.zeros(1, slab.shape[1], *self.grid.shape, device=slab.device)
            if weights[0] is None:
                data[:, :, first:last] = slab
            else:
                data += _weighted(slab, weights[0][:, first:last], 0)
        assert data is not None
        return data


def downsample(
    read: Callable[[VoxelBox], Num[Tensor, "1 c x y z"]],
    grid: Grid,
    spacing_mm: tuple[float, ...],
    smoothed: tuple[bool, ...] = (False,) * 3,
) -> tuple[Float[Tensor, "1 c u v w"], Grid]:
    """Resample the volume on ``grid`` to ``spacing_mm`` (one value per array axis; the same or coarser).

    Args:
        read: returns the voxels of a box.
        grid: grid of the volume.
        spacing_mm: spacing of the result.
        smoothed: see `Coarsening`.
    """
    coarsening = Coarsening(grid, spacing_mm, smoothed)
    return coarsening.whole(read), coarsening.grid


def _weighted(
    data: Float[Tensor, "1 c x y z"], weights: Float[Tensor, "m n"] | None, axis: int
) -> Float[Tensor, "1 c u v w"]:
    """``data`` averaged along one array axis by the rows of ``weights``; unchanged if these are ``None``."""
    if weights is None:
        return data
    return (data.movedim(2 + axis, -1) @ weights.T).movedim(-1, 2 + axis)


def _coarse_count(count: int, factor: float) -> int:
    return max(1, math.ceil(count / factor - 1e-6))


@functools.lru_cache(maxsize=64)
def _triangle_weights(count: int, factor: float, width: float, device: torch.device) -> Float[Tensor, "m n"]:
    """Rows of weights, each summing to one, that average ``count`` voxels into ``ceil(count / factor)``."""
    centers = _centers(count, factor, 0, _coarse_count(count, factor))
    return _triangles(centers, 0, count, width).to(device, torch.float32)


def _triangle_rows(
    count: int, centers: Float[Tensor, " m"], width: float
) -> tuple[int, Float[Tensor, "m n"]]:
    """The rows of some coarse voxels, without columns of zeros, and the first column."""
    start = max(0, math.ceil(float(centers[0]) - width))
    stop = min(count, math.floor(float(centers[-1]) + width) + 1)
    return start, _triangles(centers, start, stop, width).float()


def _centers(count: int, factor: float, first: int, last: int) -> Float[Tensor, " m"]:
    """Places of the coarse voxels from ``first`` up to ``last``, in fine voxels, float64."""
    coarse_count = _coarse_count(count, factor)
    indices = torch.arange(first, last, dtype=torch.float64)
    return (count - 1) / 2 + factor * (indices - (coarse_count - 1) / 2)


def _triangles(centers: Float[Tensor, " m"], start: int, stop: int, width: float) -> Float[Tensor, "m n"]:
    """Triangles of a half-width around places, at the voxels from ``start`` up to ``stop``."""
    distance = (torch.arange(start, stop, dtype=torch.float64) - centers[:, None]).abs()
    weights = (1 - distance / width).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
