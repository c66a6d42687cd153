"""OME-Zarr images as other tools write them: any version, axes, units and transformations."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from synthetic import AFFINES, grid_around, lopsided

from patchmorph.images.volume import Image
from patchmorph.io.formats import ome_zarr_writing
from patchmorph.io.images import save_image
from patchmorph.io.numbers import rounded


def axes_of(names: str, unit: str | None = "micrometer") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": name, "type": kinds.get(name, "space")} for name in names]
    return [axis if axis["type"] != "space" or unit is None else axis | {"unit": unit} for axis in axes]


def scaled(scale, translation=None) -> list[dict[str, Any]]:
    steps = [{"type": "scale", "scale": list(scale)}]
    return (
        steps if translation is None else [*steps, {"type": "translation", "translation": list(translation)}]
    )


def write_zarr(
    path: Path,
    arrays: list[np.ndarray],
    transformations: list[list[dict[str, Any]]],
    axes: list[dict[str, Any]],
    version: str = "0.5",
    chunk: int = 16,
    **more: Any,
) -> Path:
    """Arrays of one multiscale image, in their own order; ``more`` stands beside its axes and datasets."""
    new = version != "0.4"
    root = zarr.open_group(path, mode="w", zarr_format=3 if new else 2)
    for k, array in enumerate(arrays):
        chunks = tuple(min(chunk, count) for count in array.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root.create_array(str(k), data=array, chunks=chunks)
    datasets = [
        {"path": str(k), "coordinateTransformations": steps} for k, steps in enumerate(transformations)
    ]
    omero = {"omero": more.pop("omero")} if "omero" in more else {}
    image = {"axes": axes, "datasets": datasets, **more}
    if new:
        root.attrs["ome"] = {"version": version, "multiscales": [image], **omero}
    else:
        root.attrs.update({"multiscales": [{"version": version, **image}], **omero})
    return path


def make_blocks_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16³ voxels, so that a small image has several and levels."""
    monkeypatch.setattr(ome_zarr_writing, "SIDE", 16)
    monkeypatch.setattr(ome_zarr_writing, "SMALLEST", 16)


def chunks(path: Path) -> dict[str, bytes]:
    """The files of a Zarr but for its own name."""
    files = (file for file in path.rglob("*") if file.is_file() and file != path / "zarr.json")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def assert_same_but_for_ties(found: Path, expected: Path) -> None:
    """Images of whole numbers that different threads or processes computed have the same files and voxels.

    The last bit of a product may depend on the thread, so that a tie is rounded otherwise.
    """
    assert chunks(found).keys() == chunks(expected).keys()
    one, other = (dict(zarr.open_group(path, mode="r").arrays()) for path in (found, expected))
    assert one.keys() == other.keys() != set()
    for level in one:
        different = np.abs(np.asarray(one[level]).astype(int) - np.asarray(other[level]).astype(int))
        assert different.max() <= 1
        assert (different > 0).mean() < 1e-3


def save_brain(path: Path) -> Path:
    """A brain of whole numbers in an OME-Zarr of a sheared grid."""
    image = lopsided(grid_around((36, 44, 40), AFFINES["LIA"] * 4, (1, 2, 3)))
    voxels = torch.from_numpy(rounded(image.data.numpy() * 200, np.dtype("u1")))
    save_image(Image(voxels, image.grid), path)
    return path
