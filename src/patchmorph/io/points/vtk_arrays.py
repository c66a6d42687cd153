"""Arrays of VTK's XML files: text, base64 and raw bytes, plain or compressed in blocks.

Layout: *VTK XML Formats* (docs.vtk.org). A plain array is its size in bytes, then its bytes. A compressed one
is the number of blocks, their size, that of a shorter last one (or 0), their compressed sizes, then blocks.
"""

import base64
import lzma
import zlib
from dataclasses import dataclass

import numpy as np

from patchmorph.io.points.surfaces import BrokenSurfaceError

KINDS = {
    **{
        f"{name}{8 * size}": f"{code}{size}"
        for name, code in (("Int", "i"), ("UInt", "u"))
        for size in (1, 2, 4, 8)
    },
    "Float32": "f4",
    "Float64": "f8",
}
ORDERS = {"LittleEndian": "<", "BigEndian": ">"}
HEADERS = {"UInt32": "u4", "UInt64": "u8"}
ZLIB, LZMA = "vtkZLibDataCompressor", "vtkLZMADataCompressor"
MAX_RATIO = 250
"""Bytes of a compressed byte, at most: coordinates and corners of cells never compress so well."""


@dataclass(frozen=True)
class Encoding:
    """How a file stores its binary arrays.

    Attributes:
        order: of bytes, ``<`` or ``>``. header: type of sizes. compressor: VTK's name of it, or empty.
    """

    order: str
    header: np.dtype
    compressor: str

    @classmethod
    def stated(cls, attributes: dict[str, str]) -> "Encoding":
        """The encoding that a file's outermost element states.

        Raises:
            ValueError: it is not one of VTK's, or its compression is not supported.
        """
        order = ORDERS[attributes.get("byte_order", "LittleEndian")]
        compressor = attributes.get("compressor", "")
        if compressor not in ("", ZLIB, LZMA):
            raise BrokenSurfaceError(f"its compressor must be {ZLIB} or {LZMA}, got {compressor[:40]}")
        header = HEADERS[attributes.get("header_type", "UInt32")]
        return cls(order, np.dtype(order + header), compressor)

    def measure(self, blob: bytes | memoryview, coded: bool) -> tuple[int, int]:
        """Bytes of the array at the front of ``blob``, and how many of them hold it (``coded``: base64)."""
        if not self.compressor:
            size = int(self._sizes(blob, 1, coded)[0])
            length = self.header.itemsize + size
            return size, _whole(blob, _coded_size(length) if coded else length)
        head, packed, size = self._blocks(blob, coded)
        total = int(packed.sum())
        length = _coded_size(head) + _coded_size(total) if coded else head + total
        return size, _whole(blob, length)

    def decode(self, blob: bytes | memoryview, coded: bool) -> bytes:
        """The bytes of the array at the front of ``blob``."""
        size, length = self.measure(blob, coded)
        if not self.compressor:
            data = base64.b64decode(blob[:length], validate=True) if coded else blob[:length]
            return bytes(data[self.header.itemsize :])
        if size > MAX_RATIO * length:
            raise BrokenSurfaceError(f"it announces {size} bytes in {length} compressed ones")
        head, packed, _ = self._blocks(blob, coded)
        body = (
            base64.b64decode(blob[_coded_size(head) : length], validate=True) if coded else blob[head:length]
        )
        ends = np.cumsum(packed).tolist()
        parts = [self._unpack(body[a:b], size) for a, b in zip([0, *ends], ends, strict=False)]
        data = b"".join(parts)
        if len(data) != size:
            raise BrokenSurfaceError(f"a compressed array must have {size} bytes, got {len(data)}")
        return data

    def encode(self, data: bytes, coded: bool) -> bytes:
        """An array in the encoding of the file, in one block."""
        if not self.compressor:
            plain = self._header(len(data)) + data
            return base64.b64encode(plain) if coded else plain
        packed = zlib.compress(data) if self.compressor == ZLIB else lzma.compress(data)
        parts = (self._header(1, len(data), 0, len(packed)), packed)
        return b"".join(map(base64.b64encode, parts) if coded else parts)

    def _header(self, *sizes: int) -> bytes:
        return np.array(sizes, self.header).tobytes()

    def _sizes(self, blob: bytes | memoryview, count: int, coded: bool) -> np.ndarray:
        """The first numbers of the header."""
        length = count * self.header.itemsize
        front = base64.b64decode(blob[: _coded_size(length)], validate=True) if coded else blob
        return np.frombuffer(front, self.header, count)

    def _blocks(self, blob: bytes | memoryview, coded: bool) -> tuple[int, np.ndarray, int]:
        """Bytes of the header, compressed sizes of the blocks, and bytes of the array."""
        count, full, last = map(int, self._sizes(blob, 3, coded))
        if count * self.header.itemsize > len(blob):
            raise BrokenSurfaceError(f"{count} compressed blocks do not fit in it")
        packed = self._sizes(blob, 3 + count, coded)[3:].astype(object)
        size = full * count if not last else full * (count - 1) + last
        return (3 + count) * self.header.itemsize, packed, size if count else 0

    def _unpack(self, block: bytes | memoryview, limit: int) -> bytes:
        if self.compressor == ZLIB:
            return zlib.decompressobj().decompress(block, limit + 1)
        return lzma.LZMADecompressor().decompress(block, limit + 1)


def _coded_size(length: int) -> int:
    """Characters of base64 for so many bytes."""
    return 4 * -(-length // 3)


def _whole(blob: bytes | memoryview, length: int) -> int:
    if length > len(blob):
        raise BrokenSurfaceError(f"an array of {length} bytes does not fit in it")
    return length
