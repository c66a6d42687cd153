"""Reference images of BrainGlobe's atlases, from the folder into which its tools download them.

An atlas of version 1 or 2 is a folder ``NAME_vX.Y`` with ``reference.tiff`` and ``metadata.json``. Since
version 3 it is a ``manifest.json``, and the image an OME-Zarr pyramid that several atlases share. Either is
copied once to a NIfTI file in our cache, with the resolution and orientation that BrainGlobe states: its
letters name the sides on which the first voxel lies. The middle of the image is at the origin.
"""

import configparser
import json
import os
import re
from pathlib import Path
from typing import Any

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
V3_IMAGE = "template.ome.zarr"
UM = 1e-3


def atlas_image(name: str) -> Path:
    """The reference image of an atlas, in its latest downloaded version, as a NIfTI file in our cache.

    Raises:
        PatchMorphError: the atlas was not downloaded, or its files are not what BrainGlobe writes.
    """
    folder = brainglobe_folder()
    if not re.fullmatch(r"[\w-]+", name):
        raise PatchMorphError(f"brainglobe: must be followed by the name of an atlas, got {one_line(name)!r}")
    old = [
        path / "metadata.json" for path in folder.glob(f"{name}_v*") if (path / "reference.tiff").is_file()
    ]
    new = (folder / "brainglobe-atlasapi" / "atlases" / name).glob("*/manifest.json")
    manifests = sorted([*old, *new], key=_version)
    if not manifests:
        raise PatchMorphError(
            f"brainglobe:{name} must be downloaded to {folder} before, got none; to download: "
            f"""python -c "from brainglobe_atlasapi import BrainGlobeAtlas as A; A('{name}').reference\""""
        )
    manifest = manifests[-1]
    version = ".".join(map(str, _version(manifest)))
    target = cache_folder() / "brainglobe" / f"{name}_v{version}.nii.gz"
    if not target.is_file() or target.stat().st_mtime < manifest.stat().st_mtime:
        try:
            image = _read(manifest, json.loads(manifest.read_text(encoding="utf-8")))
        except (OSError, ValueError, LookupError, TypeError) as error:
            if isinstance(error, PatchMorphError):
                raise
            raise PatchMorphError(f"atlas must be whole, got {manifest}: {one_line(error)}") from None
        save_image(image, target)
    return target


def brainglobe_folder() -> Path:
    """The folder that BrainGlobe's configuration names, or its default."""
    config = Path(os.environ.get("BRAINGLOBE_CONFIG_DIR") or Path.home() / ".config" / "brainglobe")
    parser = configparser.ConfigParser()
    parser.read(config / "bg_config.conf")
    return Path(parser.get("default_dirs", "brainglobe_dir", fallback=str(Path.home() / ".brainglobe")))


def cache_folder() -> Path:
    """Where copies of templates are kept: ``PATCHMORPH_CACHE``, or ``patchmorph`` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PATCHMORPH_CACHE") or cache / "patchmorph")


def _version(manifest: Path) -> list[int]:
    """Of ``allen_mouse_25um_v1.2``, or of a folder ``1_2``."""
    text = manifest.parent.name.rpartition("_v")[2].replace("_", ".")
    return [int(part) for part in text.split(".") if part.isdigit()]


def _read(manifest: Path, content: dict[str, Any]) -> Image:
    sizes = [float(size) * UM for size in content["resolution"]]
    if manifest.name == "metadata.json":
        array = extra("tifffile").imread(manifest.parent / "reference.tiff")
        letters = content["orientation"]
    else:
        array, letters = _pyramid_level(manifest, content, sizes), V3_ORIENTATION
    if array.ndim != 3 or len(sizes) != 3:
        raise ValueError(f"its image must have three axes, got shape {array.shape}")
    matrix = np.eye(4)
    for axis, (letter, size) in enumerate(zip(letters, sizes, strict=True)):
        world, sign = AXES[letter]
        matrix[:3, axis] = 0
        matrix[world, axis] = sign * size
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(array.shape) - 1) / 2)
    data = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]
    return Image(data, Grid(triple(array.shape), torch.from_numpy(matrix)[None]), str(manifest))


def _pyramid_level(manifest: Path, content: dict[str, Any], sizes: list[float]) -> np.ndarray:
    """The level of the template's pyramid that has the atlas's resolution.

    Raises:
        PatchMorphError: zarr is not installed.
        ValueError: there is none, or it was not downloaded.
    """
    zarr = extra("zarr")
    root = manifest.parents[3]
    pyramid = root / content["annotation_set"]["template"]["location"].lstrip("/") / V3_IMAGE
    attributes = json.loads((pyramid / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    for level in attributes["ome"]["multiscales"][0]["datasets"]:
        (scale,) = [t["scale"] for t in level["coordinateTransformations"] if t["type"] == "scale"]
        if np.allclose(scale[-3:], sizes) and (pyramid / level["path"] / "c").is_dir():
            return np.asarray(zarr.open_array(pyramid / level["path"], mode="r")[...])
    raise ValueError(f"its image at {sizes} mm must be downloaded, got none in {pyramid}")
