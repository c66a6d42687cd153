"""Files as streams of unpacked bytes: compression is recognised by content, and streams are checked.

gzip stores a checksum (CRC-32) and the length after the data, so damage shows only to a reader that reads the
stream to its end (RFC 1952).
"""

import bz2
import gzip
import zlib
from io import BufferedIOBase
from pathlib import Path

from patchmorph.errors import PatchMorphError

GZIP, BZIP2 = b"\x1f\x8b", b"BZh"
"""First bytes of compressed files."""
MOST_PER_BYTE = 1032
"""Most bytes that a byte of a gzip stream unpacks to: 258 by each of four codes of two bits (zlib manual)."""
CHUNK = 2**20
MAX_TAIL = 2**26
"""Bytes that may follow the voxels: tags, a colour table, padding. A gzip bomb has more."""
HEADER_BYTES = 540
"""Bytes of the longest header whose fields are read here (NIfTI-2)."""
DAMAGE = (OSError, EOFError, zlib.error)
"""Exceptions that damaged streams raise."""


def open_stream(path: Path) -> BufferedIOBase:
    """The bytes of a file, unpacked if its first bytes are those of gzip or bzip2, whatever its name is.

    Raises:
        PatchMorphError: no such file, an empty one, or no permission.
    """
    if not path.is_file():
        raise PatchMorphError(f"image must be an existing file, got {path}")
    try:
        start = _start(path)
        if not start:
            raise PatchMorphError(f"image must be a readable NIfTI or MGZ volume, got an empty file {path}")
        if start.startswith(GZIP):
            return gzip.open(path)
        return bz2.open(path) if start.startswith(BZIP2) else path.open("rb")
    except OSError as error:
        raise PatchMorphError(f"image must be a readable file, got {path}: {error.strerror}") from None


def check_rest(stream: BufferedIOBase, path: Path, most: int | None = None) -> None:
    """Read the rest of a compressed stream, so that its checksum is compared; others are left as they are.

    Args:
        stream: of the file.
        path: for messages.
        most: bytes that the rest may have beside `MAX_TAIL`; ``None``: any number.

    Raises:
        PatchMorphError: damaged data, a missing end, bytes after the end that are no gzip stream, or a rest
            that is too long.
    """
    if not isinstance(stream, gzip.GzipFile | bz2.BZ2File):
        return
    count = 0
    try:
        while read := len(stream.read(CHUNK)):
            count += read
            if most is not None and count > most + MAX_TAIL:
                got = f"over {count} in {path}"
                raise PatchMorphError(f"file must hold the {most} bytes of its header, unpacked, got {got}")
    except DAMAGE as error:
        raise PatchMorphError(f"compressed file must be intact, got {path}: {_reason(error)}") from None


def check_whole(path: Path, most: int | None = None) -> None:
    """Read a file from start to end, if it is compressed, so that its checksum is compared.

    Raises:
        PatchMorphError: see `check_rest`.
    """
    with open_stream(path) as stream:
        check_rest(stream, path, most)


def most_bytes(path: Path) -> int | None:
    """Most bytes that the file can unpack to; ``None`` where its compression sets no limit."""
    start, size = _start(path), path.stat().st_size
    if start.startswith(BZIP2):
        return None
    return size * MOST_PER_BYTE if start.startswith(GZIP) else size


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(max(len(GZIP), len(BZIP2)))


def _reason(error: Exception) -> str:
    if isinstance(error, gzip.BadGzipFile) and str(error).startswith("Not a gzipped file"):
        return "bytes follow its end"
    return str(error)
