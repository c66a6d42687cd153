"""Images and names of BrainGlobe's atlases, from the folder into which its tools download them.

An atlas of version 1 or 2 is a folder ``NAME_vX.Y`` with ``reference.tiff``, ``annotation.tiff``,
``structures.json`` and ``metadata.json``. Since version 3 it is a ``manifest.json``, and its images are
OME-Zarr pyramids that several atlases share. Each image is copied once to a NIfTI file in our cache, with the
resolution and orientation that BrainGlobe states: its letters name the sides on which the first voxel lies.
The middle of the image is at the origin.
"""

import configparser
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.images.volume import Image
from patchmorph.io.extras import extra
from patchmorph.io.images import save_image
from patchmorph.spatial.grid import Grid, triple

AXES = {"r": (0, -1), "l": (0, 1), "a": (1, -1), "p": (1, 1), "s": (2, -1), "i": (2, 1)}
"""World axis and sign of an array axis that starts at a side."""
V3_ORIENTATION = "asr"
OLD = "metadata.json"
"""Name of the manifest in versions 1 and 2."""
UM = 1e-3
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""Errors while an atlas is read whose files hold something else."""


class Stack(NamedTuple):
    """An image of an atlas.

    Attributes:
        attribute: of ``BrainGlobeAtlas``, which downloads it.
        tiff: its file in versions 1 and 2.
        pyramid: its name since version 3, in the folder that the manifest names by ``keys``.
        keys: likewise.
        dtype: of its voxels in our cache.
    """

    attribute: str
    tiff: str
    pyramid: str
    keys: tuple[str, ...]
    dtype: type


REFERENCE = Stack(
    "reference", "reference.tiff", "template.ome.zarr", ("annotation_set", "template"), np.float32
)
ANNOTATION = Stack(
    "annotation", "annotation.tiff", "annotations_compressed.ome.zarr", ("annotation_set",), np.int64
)
HEMISPHERES = Stack("hemispheres", "hemispheres.tiff", "hemispheres.ome.zarr", ("annotation_set",), np.uint8)
STRUCTURES = "structures.json"
TERMINOLOGY = "terminology.csv"


@dataclass(frozen=True)
class Atlas:
    """An atlas in BrainGlobe's folder, in its latest downloaded version.

    Attributes:
        name: of the atlas.
        manifest: its file ``metadata.json`` (versions 1 and 2) or ``manifest.json``.
    """

    name: str
    manifest: Path

    @classmethod
    def find(cls, name: str) -> "Atlas":
        """The atlas of a name.

        Raises:
            PatchMorphError: it was not downloaded.
        """
        folder = brainglobe_folder()
        if not re.fullmatch(r"[\w-]+", name):
            got = one_line(name)
            raise PatchMorphError(f"brainglobe: must be followed by the name of an atlas, got {got!r}")
        old = [path / OLD for path in folder.glob(f"{name}_v*") if (path / REFERENCE.tiff).is_file()]
        new = (folder / "brainglobe-atlasapi" / "atlases" / name).glob("*/manifest.json")
        manifests = sorted([*old, *new], key=_version)
        if not manifests:
            raise PatchMorphError(
                f"brainglobe:{name} must be downloaded to {folder} before, got none; {_to_download(name)}"
            )
        return cls(name, manifests[-1])

    def image(self, stack: Stack) -> Path:
        """One of its images, as a NIfTI file in our cache.

        Raises:
            PatchMorphError: it was not downloaded, or its files are not what BrainGlobe writes.
        """
        version = ".".join(map(str, _version(self.manifest)))
        kind = "" if stack is REFERENCE else f"_{stack.attribute}"
        target = cache_folder() / "brainglobe" / f"{self.name}_v{version}{kind}.nii.gz"
        if not target.is_file() or target.stat().st_mtime < self.manifest.stat().st_mtime:
            with self._reading():
                image = _read(self.manifest, stack)
            save_image(image, target)
        return target

    def names(self) -> Path:
        """The table of its regions.

        Raises:
            PatchMorphError: see `image`.
        """
        with self._reading():
            if self.manifest.name == OLD:
                return self.manifest.with_name(STRUCTURES)
            return _place(self.manifest, ("terminology",)) / TERMINOLOGY

    def is_symmetric(self) -> bool:
        """Whether the plane in the middle of its images separates left from right.

        Raises:
            PatchMorphError: see `image`.
        """
        with self._reading():
            return bool(_content(self.manifest)["symmetric"])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as error:
            if isinstance(error, PatchMorphError):
                raise
            raise PatchMorphError(f"atlas must be whole, got {self.manifest}: {one_line(error)}") from None


def atlas_image(name: str) -> Path:
    """An image of an atlas, in its latest downloaded version, as a NIfTI file in our cache.

    Args:
        name: of the atlas: its reference image; ``NAME/annotation`` and ``NAME/hemispheres`` are the others.

    Raises:
        PatchMorphError: the atlas was not downloaded, or its files are not what BrainGlobe writes.
    """
    name, _, part = name.partition("/")
    stacks = {stack.attribute: stack for stack in (REFERENCE, ANNOTATION, HEMISPHERES)}
    atlas = Atlas.find(name)
    if (stack := stacks.get(part or REFERENCE.attribute)) is None:
        raise PatchMorphError(f"image of an atlas must be among {', '.join(stacks)}, got {one_line(part)!r}")
    return atlas.image(stack)


def _to_download(name: str, attribute: str = "reference") -> str:
    call = f"BrainGlobeAtlas as A; A('{name}').{attribute}"
    return f"""to download: python -c "from brainglobe_atlasapi import {call}\""""


def brainglobe_folder() -> Path:
    """The folder that BrainGlobe's configuration names, or its default.

    Raises:
        PatchMorphError: a configuration that cannot be read.
    """
    config = Path(os.environ.get("BRAINGLOBE_CONFIG_DIR") or Path.home() / ".config" / "brainglobe")
    path, parser = config / "bg_config.conf", configparser.ConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        return Path(parser.get("default_dirs", "brainglobe_dir", fallback=str(Path.home() / ".brainglobe")))
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise PatchMorphError(
            f"BrainGlobe's configuration must be readable, got {path}: {one_line(error)}"
        ) from None


def cache_folder() -> Path:
    """Where copies of templates are kept: ``PATCHMORPH_CACHE``, or ``patchmorph`` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PATCHMORPH_CACHE") or cache / "patchmorph")


def _version(manifest: Path) -> list[int]:
    """Of ``allen_mouse_25um_v1.2``, or of a folder ``1_2``."""
    text = manifest.parent.name.rpartition("_v")[2].replace("_", ".")
    return [int(part) for part in text.split(".") if part.isdecimal()]


def _content(manifest: Path) -> dict[str, Any]:
    return json.loads(manifest.read_text(encoding="utf-8"))


def _place(manifest: Path, keys: tuple[str, ...]) -> Path:
    """The folder of a part of an atlas since version 3."""
    part = _content(manifest)
    for key in keys:
        part = part[key]
    return _below(manifest.parents[3], part["location"].lstrip("/"))


def _below(folder: Path, name: str) -> Path:
    """A place in a folder, by a name in a file that comes from elsewhere.

    Raises:
        ValueError: it lies outside.
    """
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise ValueError(f"its parts must lie in {folder}, got {name}")
    return path


def _read(manifest: Path, stack: Stack) -> Image:
    content = _content(manifest)
    sizes = [float(size) * UM for size in content["resolution"]]
    if not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"its resolution must be numbers above 0, got {content['resolution']}")
    if manifest.name == OLD:
        array = extra("tifffile").imread(manifest.parent / stack.tiff)
        letters = content["orientation"]
    else:
        array, letters = _pyramid_level(manifest, stack, sizes), V3_ORIENTATION
    if array.ndim != 3 or len(sizes) != 3:
        raise ValueError(f"its image must have three axes, got shape {array.shape}")
    if sorted(AXES[letter][0] for letter in letters) != [0, 1, 2]:
        raise ValueError(f"its orientation must name three axes, got {letters}")
    matrix = np.eye(4)
    for axis, (letter, size) in enumerate(zip(letters, sizes, strict=True)):
        world, sign = AXES[letter]
        matrix[:3, axis] = 0
        matrix[world, axis] = sign * size
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(array.shape) - 1) / 2)
    data = torch.from_numpy(np.ascontiguousarray(array, dtype=stack.dtype))[None, None]
    return Image(data, Grid(triple(array.shape), torch.from_numpy(matrix)[None]), str(manifest))


def _pyramid_level(manifest: Path, stack: Stack, sizes: list[float]) -> np.ndarray:
    """The level of a pyramid that has the atlas's resolution.

    Raises:
        PatchMorphError: zarr is not installed.
        ValueError: there is none, or it was not downloaded.
    """
    zarr = extra("zarr")
    pyramid = _place(manifest, stack.keys) / stack.pyramid
    attributes = json.loads((pyramid / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    for level in attributes["ome"]["multiscales"][0]["datasets"]:
        (scale,) = [t["scale"] for t in level["coordinateTransformations"] if t["type"] == "scale"]
        array = _below(pyramid, level["path"])
        if np.allclose(scale[-3:], sizes) and (array / "c").is_dir():
            return np.asarray(zarr.open_array(array, mode="r")[...])
    raise ValueError(f"its {stack.attribute} at {sizes} mm must be downloaded, got none in {pyramid}")
