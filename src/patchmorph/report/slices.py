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
        across, up = self.axes
        here = _weights(np.array([self.at / step]), values.shape[self.normal])[0]
        plane = np.tensordot(here, values, (0, self.normal))
        wide, high = (
            _weights(pixels / step, n)
            for pixels, n in zip(self._pixels(), (values.shape[across], values.shape[up]), strict=True)
        )
        return (wide @ plane @ high.T).T[::-1].astype(np.float32)

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
        pixels = self._pixels()
        if any(len(own) != n for own, n in zip(pixels, flat.shape, strict=True)):
            wide, high = (_weights(own, n) for own, n in zip(pixels, flat.shape, strict=True))
            flat = wide @ flat.astype(np.float32) @ high.T
        return flat.T[::-1] / np.float32(255)

    def _pixels(self) -> list[Float[ndarray, " n"]]:
        """Where square pixels lie along both axes, in points of the lattice."""
        spacing = self.layers.lattice.spacing_mm[0].tolist()
        found = []
        for axis in self.axes:
            n, ratio = self.layers.lattice.shape[axis], self.zoom * spacing[axis] / min(spacing)
            found.append((np.arange(round(n * ratio)) + 0.5) / ratio - 0.5)
        return found


def _weights(places: ndarray, count: int) -> Float[ndarray, "n m"]:
    """Of linear interpolation at ``places`` between ``count`` values."""
    away = np.abs(places.clip(0, count - 1)[:, None] - np.arange(count))
    return (1 - away).clip(min=0).astype(np.float32)


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
