"""Blocks of an image computed, and written, by this process or by those that the work is sent to."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from patchmorph.images.chunked import ChunkedImage, StoredImage
from patchmorph.io.chunked import open_frames
from patchmorph.io.formats.ome_zarr_writing import Block, OmeZarrFile
from patchmorph.io.stated import Stated
from patchmorph.spatial.grid import Grid

Part = TypeVar("Part")
Result = TypeVar("Result")

Spread = Callable[[Callable[[Any], Any], Sequence[tuple[int, Any]]], Iterable[tuple[int, Any]]]
"""Calls a function, which other processes may be sent, with numbered parts of a work in any order, and yields
the number and the result of each part as it is done."""


def one_by_one(
    compute: Callable[[Part], Result], parts: Sequence[tuple[int, Part]]
) -> Iterator[tuple[int, Result]]:
    """Parts one after the other in this process (a `Spread`)."""
    for number, part in parts:
        yield number, compute(part)


class Sendable:
    """A dataclass that reaches another process by its fields alone; what it has opened is opened there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class FileFrames(Sendable, Sequence[StoredImage]):
    """The channels and times of an image file, opened when one is asked for (see `open_frames`).

    Attributes:
        path: of the file.
        stated: what the user states of it.
    """

    path: Path
    stated: Stated

    @functools.cached_property
    def _frames(self) -> list[ChunkedImage]:
        return list(open_frames(self.path, self.stated))

    @overload
    def __getitem__(self, index: int) -> ChunkedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[ChunkedImage]: ...
    def __getitem__(self, index: int | slice) -> ChunkedImage | list[ChunkedImage]:
        return self._frames[index]

    def __len__(self) -> int:
        return len(self._frames)


@dataclass(frozen=True)
class BlockWriter(Sendable):
    """Computes and writes blocks of an OME-Zarr; see `patchmorph.io.blockwise.write_blocks`."""

    folder: Path
    grid: Grid
    dtype: np.dtype
    channels: Sequence[str]
    compute: Callable[[Block, Grid], np.ndarray]

    @functools.cached_property
    def file(self) -> OmeZarrFile:
        """The file."""
        return OmeZarrFile(self.folder, self.grid, self.dtype, self.channels, resume=True)

    def __call__(self, block: Block) -> None:
        """Compute and write a block."""
        if block.level:
            values = self.file.coarse(block)
        else:
            values = self.compute(block, self.grid.crop(block.box.start, block.box.shape))
        self.file.write(block, values)
