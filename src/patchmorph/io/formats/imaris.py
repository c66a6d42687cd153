"""Imaris files (HDF5): ``DataSet/ResolutionLevel n/TimePoint t/Channel c/Data``, extents in attributes.

https://imaris.oxinst.com/support/imaris-file-format: arrays run z, y, x and may be padded beyond the sizes
that the attributes of a channel state; extents are the outer edges of the first and last voxels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.images.stores import VoxelStore
from patchmorph.io.formats.base import ImageFormat, unreadable
from patchmorph.io.formats.chosen import chosen, index_of
from patchmorph.io.formats.chunked_file import ChunkedFile, FileLevel
from patchmorph.io.grids import LPS
from patchmorph.io.hdf5 import check_kind
from patchmorph.io.stated import unit_mm
from patchmorph.spatial.grid import VoxelBox, triple

KIND = "Imaris file"
MAGIC = b"\x89HDF\r\n\x1a\n"
ENDING = ".ims"
LEVEL, TIME, CHANNEL = "ResolutionLevel ", "TimePoint ", "Channel "
CONTIGUOUS = (64, 64, 64)
"""Voxels that are read at a time of an array without chunks."""


class HDF5Store(VoxelStore):
    """An array ``[z, y, x]`` of an open HDF5 file.

    Args:
        dataset: of h5py.
        shape: columns, rows, slices; the array may be larger.
        path: for messages.
    """

    def __init__(self, dataset: Any, shape: tuple[int, int, int], path: Path):
        self.dataset, self.shape, self.name = dataset, shape, str(path)
        self.dtype = np.dtype(dataset.dtype)
        chunk = triple((dataset.chunks or CONTIGUOUS)[::-1])
        self.chunk = triple(map(min, chunk, shape))

    def read(self, box: VoxelBox) -> np.ndarray:
        """The voxels of ``box``."""
        x, y, z = box.slices
        try:
            return self.dataset[z, y, x].transpose(2, 1, 0)
        except (OSError, RuntimeError, ValueError) as error:
            got = f"voxels {box.start} to {box.stop} of {self.dataset.name} in {self.name}"
            raise PatchMorphError(f"chunks must be readable, got {got}: {one_line(error)}") from None


def open_imaris(path: Path) -> ChunkedFile:
    """Open an Imaris file.

    Raises:
        PatchMorphError: no HDF5, or groups or attributes that Imaris writes are missing.
    """
    import h5py

    place = chosen(path)
    try:
        file = h5py.File(place.path, "r")
    except OSError as error:
        raise unreadable(path, error, KIND) from None
    try:
        return _volume(file, place.channel, place.time, path)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, PatchMorphError):
            raise
        raise unreadable(path, f"no {one_line(error)}", KIND) from None


def _volume(file: Any, channel: str | None, time: int | None, path: Path) -> ChunkedFile:
    data, info = file["DataSet"], file["DataSetInfo/Image"]
    resolutions = _numbered(data, LEVEL)
    times = _numbered(data[resolutions[0]], TIME)
    channels = _numbered(data[f"{resolutions[0]}/{times[0]}"], CHANNEL)
    labels = [_text(file.get(f"DataSetInfo/{name}"), "Name") or str(k) for k, name in enumerate(channels)]
    at = index_of(channel, labels, "channel", path)
    when = index_of(time, [str(k) for k in range(len(times))], "time", path)
    sizes = {name: _shape(data[f"{name}/{times[0]}/{channels[0]}"]) for name in resolutions}

    def levels(frame: tuple[int, ...]) -> list[FileLevel]:
        rest = list(frame)
        c = channels[rest.pop(0) if at is None else at]
        t = times[rest.pop(0) if when is None else when]
        stores = [HDF5Store(data[f"{name}/{t}/{c}/Data"], sizes[name], path) for name in resolutions]
        return [FileLevel(store, _same_edges(store.shape, sizes[resolutions[0]])) for store in stores]

    unit = unit_mm(_text(info, "Unit") or "um")
    ends = [[float(_text(info, f"Ext{end}{k}") or "nan") for k in range(3)] for end in ("Min", "Max")]
    spacing = np.subtract(ends[1], ends[0]) / sizes[resolutions[0]]
    stated = unit is not None and bool((np.isfinite(spacing) & (spacing > 0)).all())
    further = ([len(channels)] if at is None else []) + ([len(times)] if when is None else [])
    return ChunkedFile(
        path,
        levels,
        LPS,
        tuple(further),
        kind=KIND,
        unoriented="Imaris files hold no orientation",
        spacing_mm=tuple((spacing * (unit or 1)).tolist()) if stated else None,
        without_spacing="its extents or their unit are missing",
    )


def _same_edges(shape: tuple[int, int, int], finest: tuple[int, int, int]) -> np.ndarray:
    """Voxels of a level to those of the finest, where both have the same outer edges."""
    scale = np.divide(finest, shape)
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = (scale - 1) / 2
    return matrix


def _shape(channel: Any) -> tuple[int, int, int]:
    """Columns, rows and slices that a channel's attributes state, or those of its array."""
    stored = channel["Data"].shape[::-1]
    sizes = [
        int(_text(channel, f"ImageSize{axis}") or count) for axis, count in zip("XYZ", stored, strict=True)
    ]
    if not all(0 < size <= count for size, count in zip(sizes, stored, strict=True)):
        got = f"{sizes} in {channel.file.filename}"
        raise PatchMorphError(f"sizes of the image must lie inside its array of {stored}, got {got}")
    return triple(sizes)


def _numbered(group: Any, start: str) -> list[str]:
    """The groups of a kind, in the order of their numbers."""
    found = sorted(int(name.removeprefix(start)) for name in group if name.startswith(start))
    if not found:
        raise KeyError(f"{start}0")
    return [f"{start}{number}" for number in found]


def _text(group: Any, name: str) -> str:
    """An attribute, which Imaris writes as an array of single characters; empty if it is not there."""
    if group is None or name not in group.attrs:
        return ""
    check_kind(group.attrs.get_id(name).dtype, name, group.file.filename)
    letters = np.asarray(group.attrs[name], "S1").ravel().tolist()
    return b"".join(letters).decode("utf-8", "replace").strip("\0 ")


def _recognises(path: Path, start: bytes) -> bool:
    return start.startswith(MAGIC) and chosen(path).path.suffix.lower() == ENDING


IMARIS = ImageFormat("Imaris", (), _recognises, open_imaris)
