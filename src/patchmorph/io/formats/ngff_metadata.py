"""The metadata of OME-Zarr images, versions 0.4 and 0.5: axes, resolutions, channels.

https://ngff.openmicroscopy.org/0.5: array axes are a time, a channel and z, y, x, each with a unit; each
resolution has a scale and perhaps a translation to physical coordinates, which are the centres of voxels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.stated import unit_mm

VERSIONS = ("0.4", "0.5")
SPACE = "xyz"
ANATOMICAL = {
    "left-to-right": (0, 1),
    "right-to-left": (0, -1),
    "posterior-to-anterior": (1, 1),
    "anterior-to-posterior": (1, -1),
    "inferior-to-superior": (2, 1),
    "superior-to-inferior": (2, -1),
}
"""World axis (RAS+) and sign of the orientations of axes (RFC-4)."""


@dataclass(frozen=True)
class Dataset:
    """One resolution: the path of its array, and scale and translation of x, y, z in the unit of the axes."""

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...] | None


@dataclass(frozen=True)
class Multiscale:
    """An image of several resolutions.

    Attributes:
        names: of the axes, in the order of the arrays.
        datasets: the finest first.
        unit: mm of the unit along x, y, z; ``None``: none is stated.
        directions: world axis and sign of x, y, z; ``None``: not stated.
        channels: their names; empty: none are stated.
    """

    names: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    unit: tuple[float, float, float] | None
    directions: tuple[tuple[int, int], ...] | None
    channels: tuple[str, ...]

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """Voxel size of the finest resolution along x, y, z."""
        if self.unit is None:
            return None
        return tuple(s * mm for s, mm in zip(self.datasets[0].scale, self.unit, strict=True))

    def to_finest(self, index: int) -> np.ndarray:
        """Voxel indices of a resolution to those of the finest, float64 ``[4, 4]``.

        Where no resolution has a translation, all begin at the same outer edge: so do the means of blocks.
        """
        own, finest = self.datasets[index], self.datasets[0]
        scale = np.divide(own.scale, finest.scale)
        if any(one.translation is not None for one in self.datasets):
            zero = (0.0,) * 3
            offset = np.subtract(own.translation or zero, finest.translation or zero) / finest.scale
        else:
            offset = (scale - 1) / 2
        matrix = np.diag([*scale, 1.0])
        matrix[:3, 3] = offset
        return matrix

    def matrix(self) -> np.ndarray:
        """Finest voxels to physical coordinates along world axes, mm, float64 ``[4, 4]``."""
        assert self.unit is not None
        directions = self.directions or ((0, 1), (1, 1), (2, 1))
        matrix, finest = np.diag([0.0, 0, 0, 1]), self.datasets[0]
        for k, (axis, sign) in enumerate(directions):
            matrix[axis, k] = sign * finest.scale[k] * self.unit[k]
            matrix[axis, 3] = sign * (finest.translation or (0.0,) * 3)[k] * self.unit[k]
        return matrix


def multiscale_of(attributes: Mapping[str, Any], path: Path) -> Multiscale:
    """The first multiscale image in the attributes of a group.

    Raises:
        PatchMorphError: none, another version, or metadata that are not complete.
    """
    ome = attributes.get("ome", attributes)
    try:
        image = ome["multiscales"][0]
        version = str(ome.get("version") if "ome" in attributes else image.get("version", "0.4"))
        if version not in VERSIONS:
            raise PatchMorphError(f"OME-Zarr must be version 0.4 or 0.5, got {version} in {path}")
        axes = [dict(axis) for axis in image["axes"]]
        names = tuple(str(axis["name"]) for axis in axes)
        _check_axes(axes, names, path)
        after = _transformed(image.get("coordinateTransformations"), len(names), path)
        datasets = tuple(_dataset(one, names, after, path) for one in image["datasets"])
        channels = (ome.get("omero") or {}).get("channels") or ()
        labels = tuple(str(one.get("label", k)) for k, one in enumerate(channels))
    except PatchMorphError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise PatchMorphError(f"metadata must be those of OME-Zarr, got {missing} in {path}") from None
    if not datasets:
        raise PatchMorphError(f"OME-Zarr must have a dataset, got none in {path}")
    order = sorted(datasets, key=lambda one: np.prod(one.scale))
    space = {name: axes[names.index(name)] for name in SPACE}
    return Multiscale(names, tuple(order), _units(space, path), _directions(space, path), labels)


def _check_axes(axes: Sequence[Mapping[str, Any]], names: tuple[str, ...], path: Path) -> None:
    known = all(
        name in (*SPACE, "c", "t") or axis.get("type") in ("channel", "time")
        for name, axis in zip(names, axes, strict=True)
    )
    if len(set(names)) < len(names) or not set(SPACE) <= set(names) or not known:
        raise PatchMorphError(f"axes must be x, y, z and perhaps c and t, got {', '.join(names)} in {path}")


def _units(space: Mapping[str, Mapping[str, Any]], path: Path) -> tuple[float, float, float] | None:
    found = {name: axis.get("unit") for name, axis in space.items()}
    if not any(found.values()):
        return None
    sizes = {name: unit_mm(str(unit)) for name, unit in found.items()}
    if None in sizes.values():
        got = ", ".join(f"{name} {found[name]}" for name, size in sizes.items() if size is None)
        raise PatchMorphError(f"unit of the axes must be one of length, got {got} in {path}")
    x, y, z = (float(sizes[name] or 0) for name in SPACE)
    return x, y, z


def _directions(space: Mapping[str, Mapping[str, Any]], path: Path) -> tuple[tuple[int, int], ...] | None:
    stated = [axis.get("orientation") for axis in space.values()]
    if not all(stated):
        return None
    values = [one.get("value") if isinstance(one, Mapping) else one for one in stated]
    found = tuple(ANATOMICAL[value] for value in values if value in ANATOMICAL)
    if {axis for axis, _ in found} != {0, 1, 2}:
        raise PatchMorphError(f"orientation must be anatomical along each axis, got {values} in {path}")
    return found


def _dataset(
    dataset: Mapping[str, Any], names: tuple[str, ...], after: tuple[Any, Any], path: Path
) -> Dataset:
    scale, shift = _transformed(dataset["coordinateTransformations"], len(names), path)
    if scale is None:
        raise PatchMorphError(f"dataset {dataset['path']} must have a scale, got none in {path}")
    more, further = after
    moved = shift is not None or further is not None
    factors = np.ones(len(names)) if more is None else more
    translation = (np.zeros(len(names)) if shift is None else shift) * factors
    translation = translation if further is None else translation + further
    places = [names.index(name) for name in SPACE]
    sizes = tuple(float(value) for value in (scale * factors)[places])
    if not all(0 < size < np.inf for size in sizes):
        raise PatchMorphError(f"scale must be above 0, got {sizes} for {dataset['path']} in {path}")
    shifts = tuple(float(value) for value in translation[places])
    if not np.isfinite(shifts).all():
        raise PatchMorphError(f"translation must be finite, got {shifts} for {dataset['path']} in {path}")
    return Dataset(str(dataset["path"]), sizes, shifts if moved else None)


def _transformed(steps: Any, axes: int, path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The scale and the translation of a list of transformations."""
    found: dict[str, np.ndarray] = {}
    for step in steps or ():
        kind = step["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in step:
            raise PatchMorphError(f"transformations must be scales and translations, got {kind} in {path}")
        found[kind] = np.array(step[kind], np.float64)
        if found[kind].shape != (axes,):
            raise PatchMorphError(f"{kind} must have {axes} numbers, got {step[kind]} in {path}")
    return found.get("scale"), found.get("translation")
