"""An image file as a sequence of 3D frames."""

import math
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.formats.base import shape_of
from patchmorph.io.images import grid_of
from patchmorph.io.labels import Choice, choose_interpolation
from patchmorph.io.placement import placement
from patchmorph.io.stated import Stated, as_stated
from patchmorph.io.volumes import check_end, open_volume, read_part, read_voxels
from patchmorph.spatial.grid import Grid, triple


class Frames:
    """An image file as a sequence of 3D frames (one for a 3D image), each read on access.

    Attributes:
        path: of the file.
        volume: as nibabel opened it.
        place: where its voxels lie.
        dtype: number type, kept in results; float32 where the header rescales the values.
        header: if the file is NIfTI, else ``None``.
        intent: NIfTI's intent code; 0 for other files.
        further: sizes of the dimensions after the third.

    Args:
        path: see `patchmorph.io.images.load_image`.
        stated: see `patchmorph.io.placement.placement`.

    Raises:
        PatchMorphError: not an image of three or more dimensions of plain numbers.
    """

    def __init__(self, path: str | Path, stated: Stated | str | None = None):
        self.path = Path(path)
        self.volume = open_volume(self.path)
        shape = shape_of(self.volume)
        if len(shape) < 3:
            raise PatchMorphError(f"image must have three axes, got shape {shape} in {path}")
        self.place = placement(self.volume, as_stated(stated))
        dtype = np.dtype(self.volume.get_data_dtype()).newbyteorder("=")
        if dtype.kind not in "iufb":
            raise PatchMorphError(f"image must hold plain numbers, got {dtype} in {path}")
        scale = getattr(self.volume.dataobj, "slope", 1), getattr(self.volume.dataobj, "inter", 0)
        self.dtype = dtype if scale in ((1, 0), (None, None)) else np.dtype(np.float32)
        header = self.volume.header
        self.header = header if isinstance(header, nibabel.Nifti1Header) else None
        self.intent = 0 if self.header is None else int(self.header["intent_code"])
        self.further = shape[3:]
        self._only: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return math.prod(self.further)

    @property
    def grid(self) -> Grid:
        """Grid of every frame."""
        return grid_of(self.place, triple(shape_of(self.volume)[:3]))

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames ``[X, Y, Z]`` in the order of the file, which is checked to its end after the last."""
        if len(self) == 1:
            only, self._only = self._only, None
            yield read_voxels(self.volume).reshape(shape_of(self.volume)[:3]) if only is None else only
            return
        for index in np.ndindex(*self.further[::-1]):
            yield read_part(self.volume, (..., *index[::-1]))
        check_end(self.volume)

    def choice(self) -> Choice:
        """The interpolation for what the first frame with content shows (see `choose_interpolation`)."""
        empty = np.zeros((1, 1, 1), self.dtype)
        frame = next((frame for frame in self if (frame != frame.flat[0]).any()), empty)
        self._only = frame if len(self) == 1 and frame is not empty else None  # not read twice
        return choose_interpolation(frame, self.path, self.intent)
