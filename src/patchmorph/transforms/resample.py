"""Pull a volume through a transform onto a grid, in slabs so that memory stays bounded."""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from patchmorph.images.in_memory import Image
from patchmorph.spatial.grid import Grid, Shape, triple
from patchmorph.spatial.sampling import (
    Interpolation,
    sample_cubic,
    sample_label,
    sample_linear,
    sample_nearest,
    spline_coefficients,
)
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform

SMOOTH = ("linear", "cubic")
"""Interpolations that make new values; the others keep ids."""


class Box(NamedTuple):
    """Voxels of a grid from ``start`` up to, not with, ``stop``."""

    start: Shape
    stop: Shape


class Mapped(NamedTuple):
    """A box of a grid, and where its points go: ``[1, x, y, z, 3]``, RAS+ mm."""

    box: Box
    points: Tensor


def resample(
    image: Image,
    transform: Transform,
    grid: Grid,
    interpolation: Interpolation = "linear",
    background: int | float = 0,
) -> Image:
    """``image(transform(x))`` at every point x of ``grid``.

    Args:
        image: what is seen through the transform, at its own resolution.
        transform: maps ``grid``'s world to ``image``'s world.
        grid: one grid, on the same device.
        interpolation: ``linear`` or ``cubic`` (B-splines) for intensities, without detail that ``grid``
            cannot hold; ``nearest`` or ``label`` (most trilinear weight) keep ids. The number type stays:
            for integers, values are rounded and kept within its range.
        background: value where ``image`` does not reach.

    Returns:
        The resampled image on ``grid``.
    """
    return resample_at(image, mapped(transform, grid), grid, interpolation, background)


@torch.no_grad()
def resample_at(
    image: Image,
    places: Iterable[Mapped],
    grid: Grid,
    interpolation: Interpolation = "linear",
    background: int | float = 0,
) -> Image:
    """`resample` by points that are already mapped, which may serve several images."""
    source = image.level(float(grid.spacing_mm.min())) if interpolation in SMOOTH else image
    sampler = _sampler(source, interpolation, background)
    shape = (1, image.data.shape[1], *grid.shape)
    result = torch.empty(shape, dtype=image.data.dtype, device=image.data.device)
    for (start, stop), points in places:
        inside = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
        result[:, :, *inside] = _fitted(sampler(source.grid.to_voxel(points)), image.data.dtype)
    return Image(result, grid, image.name)


def mapped(transform: Transform, grid: Grid) -> Iterator[Mapped]:
    """Where ``transform`` takes all points of ``grid``, a slab at a time."""
    for box, through in _boxes(transform, grid):
        shape = triple(stop - start for start, stop in zip(*box, strict=True))
        x, y, z = box.start
        for slab in grid.crop(box.start, shape).slabs():
            stop = (x + slab.shape[0], *box.stop[1:])
            with torch.no_grad():  # not around the yield: it would hold for whoever takes the slab
                points = through(slab.points_world())
            yield Mapped(Box((x, y, z), stop), points)
            x = stop[0]


def _sampler(
    source: Image, interpolation: Interpolation, background: int | float
) -> Callable[[Tensor], Tensor]:
    """What takes voxel indices to values, with everything that needs doing once done."""
    data = source.data
    if interpolation == "nearest":
        return lambda points: sample_nearest(data, points, background)
    if interpolation == "label":
        return lambda points: sample_label(data, points, background)
    if interpolation == "cubic":
        coefficients = spline_coefficients(data)
        return lambda points: sample_cubic(coefficients, points, background)
    if not math.isfinite(background):  # then nothing fades into it
        inside, values = torch.ones_like(data, dtype=torch.float32), data.float()
        return lambda points: torch.where(
            sample_linear(inside, points, outside="zeros") > 0.5,
            sample_linear(values, points, outside="border"),
            background,
        )
    above = data.float() - background if background else data.float()  # as zeros lie beyond the array
    return lambda points: sample_linear(above, points, outside="zeros").add_(background)


def _fitted(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded into the range of ``dtype``, if that holds integers and ``values`` do not."""
    if dtype.is_floating_point or not values.is_floating_point():
        return values
    if dtype == torch.bool:
        return values > 0.5
    limits = torch.iinfo(dtype)
    exact = values if limits.bits <= 16 else values.double()  # float32 has no number for the largest int32
    return exact.round().clamp_(limits.min, limits.max).to(dtype)


@torch.no_grad()
def _boxes(transform: Transform, grid: Grid) -> list[tuple[Box, Transform]]:
    """Boxes that make up ``grid``, each with what ``transform`` is there: affine where no field reaches."""
    affine_parts = [part for part in transform.parts() if isinstance(part, AffineTransform)]
    affine = functools.reduce(operator.matmul, affine_parts, AffineTransform.identity(grid.device))
    box = _moved_box(transform, grid)
    if any(start >= stop for start, stop in zip(*box, strict=True)):
        return [(Box((0, 0, 0), grid.shape), affine)]
    boxes: list[tuple[Box, Transform]] = [(box, transform)]
    start, stop = [0, 0, 0], list(grid.shape)
    for axis in range(3):  # what lies before and behind the box, then on to the next axis within it
        for lower, upper in ((start[axis], box.start[axis]), (box.stop[axis], stop[axis])):
            if lower < upper:
                first, last = list(start), list(stop)
                first[axis], last[axis] = lower, upper
                boxes.append((Box(triple(first), triple(last)), affine))
        start[axis], stop[axis] = box.start[axis], box.stop[axis]
    return boxes


def _moved_box(transform: Transform, grid: Grid) -> Box:
    """The voxels of ``grid`` that a field of ``transform`` may move.

    A point outside all fields is moved by the affine parts only, so they alone tell where it meets a field.
    """
    corners, so_far = [], AffineTransform.identity(grid.device)
    for part in reversed(transform.parts()):
        if isinstance(part, AffineTransform):
            so_far = AffineTransform(part.matrix @ so_far.matrix)
            continue
        support = part.support()
        if support is None:
            return Box((0, 0, 0), grid.shape)
        around = support.crop((-1, -1, -1), triple(count + 2 for count in support.shape))
        corners.append(grid.to_voxel(so_far.inverse()(around.corners_world()))[0])
    if not corners:
        return Box((0, 0, 0), (0, 0, 0))
    ends = torch.cat(corners)
    start = triple(max(0, math.floor(value)) for value in ends.amin(0).tolist())
    stop = triple(
        min(n, math.ceil(value) + 1) for value, n in zip(ends.amax(0).tolist(), grid.shape, strict=True)
    )
    return Box(start, stop)
