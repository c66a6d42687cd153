"""Planes of the layers, as pictures whose first row is the upper edge."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy import ndarray

from patchmorph.report.drawing import Plane
from patchmorph.report.layers import Layers

SIDE = 360
"""Pixels along the longest side of a single plane, about."""
SHARE = 0.15
"""Of the lattice that a mosaic leaves out at each of its ends."""


@dataclass(frozen=True)
class Slice:
    """A plane of the lattice.

    Attributes:
        layers: whose plane it is.
        normal: lattice axis across it.
        at: index along that axis.
        zoom: pixels for each point along the finest axis.
    """

    layers: Layers
    normal: int
    at: int
    zoom: int = 1

    @property
    def axes(self) -> tuple[int, int]:
        """The lattice axes to the right and up."""
        across, up = (k for k in range(3) if k != self.normal)
        return across, up

    def image(self, name: str) -> Float[ndarray, "v u"]:
        """An image, from 0 to 1; that of the affine part is made for its plane."""
        return self._smooth(self._plane(name))

    def matched(self, name: str) -> Float[ndarray, "v u"]:
        """A moving image in the intensities of the fixed one, from 0 to 1."""
        return self._smooth(self.layers.matching(self._plane(name)))

    def content(self) -> Bool[ndarray, "v u"]:
        """Where the fixed image shows something."""
        return self.cut(self.layers.content)

    def cut(self, values: Shaped[ndarray, "x y z"]) -> ndarray:
        """An array of the lattice, in square pixels."""
        flat = self._of(values)
        nearest = [
            np.round(own).astype(int).clip(0, n - 1)
            for own, n in zip(self._pixels(), flat.shape, strict=True)
        ]
        return flat[np.ix_(*nearest)].T[::-1]

    def of_map(self, values: Float[ndarray, "a b c"]) -> Float[ndarray, "v u"]:
        """An array of the map's lattice, interpolated."""
        step = self.layers.map.step
        plane = _between(values, np.array([self.at / step]), self.normal).squeeze(self.normal)
        wide, high = self._pixels()
        return _between(_between(plane, wide / step, 0), high / step, 1).T[::-1]

    def coordinates(self) -> list[Plane]:
        """Both coordinates, in points of the lattice, moved by the map without its affine part."""
        remainder, pixels = self.layers.map.remainder, self._pixels()
        own = np.meshgrid(*pixels, indexing="ij")
        return [own[k].T[::-1] + self.of_map(remainder[..., axis]) for k, axis in enumerate(self.axes)]

    def _plane(self, name: str) -> UInt8[ndarray, "a b"]:
        images = self.layers.images
        return (
            self._of(images[name].values)
            if name in images
            else self.layers.affine_plane(self.normal, self.at)
        )

    def _of(self, values: Shaped[ndarray, "x y z"]) -> Shaped[ndarray, "a b"]:
        return values[tuple(self.at if k == self.normal else slice(None) for k in range(3))]

    def _smooth(self, flat: UInt8[ndarray, "a b"]) -> Float[ndarray, "v u"]:
        """A plane of the lattice from 0 to 1, interpolated where pixels are not its points."""
        wide, high = self._pixels()
        return _between(_between(flat, wide, 0), high, 1).T[::-1] / np.float32(255)

    def _pixels(self) -> list[Float[ndarray, " n"]]:
        """Where square pixels lie along both axes, in points of the lattice."""
        spacing = self.layers.lattice.spacing_mm[0].tolist()
        found = []
        for axis in self.axes:
            n, ratio = self.layers.lattice.shape[axis], self.zoom * spacing[axis] / min(spacing)
            found.append((np.arange(round(n * ratio)) + 0.5) / ratio - 0.5)
        return found


def _between(values: Shaped[ndarray, "*n"], places: Float[ndarray, " m"], axis: int) -> Float[ndarray, "*m"]:
    """``values`` along one axis, interpolated linearly where ``places`` are not its points."""
    last = values.shape[axis] - 1
    places = places.clip(0, last)
    if len(places) == last + 1 and np.array_equal(places, np.arange(last + 1)):
        return values.astype(np.float32)
    lower = places.astype(int)
    low, high = (values.take(index, axis).astype(np.float32) for index in (lower, (lower + 1).clip(max=last)))
    column = [-1 if k == axis else 1 for k in range(values.ndim)]
    return low + (places - lower).astype(np.float32).reshape(column) * (high - low)


def middle_slices(layers: Layers) -> list[Slice]:
    """Sagittal, coronal and axial plane through the middle of the content."""
    zoom = max(1, round(SIDE / max(layers.lattice.shape)))
    places = [np.flatnonzero(layers.content.any(axis=tuple(j for j in range(3) if j != k))) for k in range(3)]
    counts = zip(places, layers.lattice.shape, strict=True)
    at = [int((found[0] + found[-1]) // 2) if len(found) else n // 2 for found, n in counts]
    return [Slice(layers, normal, at[normal], zoom) for normal in range(3)]


def spread_slices(layers: Layers, count: int) -> list[list[Slice]]:
    """Rows of axial, coronal and sagittal planes, evenly spread."""
    places = [np.linspace(SHARE, 1 - SHARE, count) * (n - 1) for n in layers.lattice.shape]
    return [[Slice(layers, normal, round(at)) for at in places[normal].tolist()] for normal in (2, 1, 0)]
