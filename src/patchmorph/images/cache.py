"""Chunks of stored volumes, kept in memory as long as there is room, and read ahead of their use."""

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakKeyDictionary

import numpy as np

from patchmorph.images.stores import VoxelStore
from patchmorph.spatial.grid import Shape, VoxelBox, VoxelIndex, triple

MAX_BYTES = 3 * 2**29
"""Bytes that the cache of a process keeps, unless it is set."""
THREADS = 2
"""Chunks that are read at a time: while one is waited for, another is decompressed."""
WAITING = 4
"""Chunks that one read asks for at a time, so that a read of a whole face holds few of them."""
AHEAD = 4
"""Fraction of the cache, as its reciprocal, that is read ahead at most."""

Key = tuple[VoxelStore, VoxelIndex]


class ChunkCache:
    """Chunks by their store and index, those dropped first that were not used for the longest time.

    Args:
        max_bytes: of all chunks that are kept.

    Attributes:
        bytes_read: voxels that were read from each store so far, in bytes, repeated ones each time.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self.bytes_read: WeakKeyDictionary[VoxelStore, int] = WeakKeyDictionary()
        self._chunks: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._coming: dict[Key, Future[np.ndarray]] = {}
        self._held, self._lock = 0, threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, "chunks")

    @property
    def held_bytes(self) -> int:
        """Bytes of the chunks that are kept."""
        return self._held

    def read(self, store: VoxelStore, box: VoxelBox) -> np.ndarray:
        """The voxels of a box ``[x, y, z]``, from the chunks that it touches.

        Raises:
            PatchMorphError: see `VoxelStore.read`.
        """
        result, indices = np.empty(box.shape, store.dtype), chunk_indices(box, store.chunk)
        waiting = deque[tuple[VoxelIndex, np.ndarray | Future[np.ndarray]]]()
        for index in itertools.chain(indices, (None,) * WAITING):
            if len(waiting) == WAITING or (index is None and waiting):
                place, chunk = waiting.popleft()
                chunk = chunk.result() if isinstance(chunk, Future) else chunk
                copy_common(chunk, _origin(place, store), result, box)
            if index is not None:
                waiting.append((index, self._chunk(store, index)))
        return result

    def prefetch(self, store: VoxelStore, box: VoxelBox) -> None:
        """Begin to read the chunks of a box, if they are a small part of what the cache keeps."""
        x, y, z = box.shape
        if x * y * z * store.dtype.itemsize * AHEAD <= self.max_bytes:
            for index in chunk_indices(box, store.chunk):
                self._chunk(store, index)

    def wait(self) -> None:
        """Wait for all chunks that are being read."""
        with self._lock:
            coming = list(self._coming.values())
        for chunk in coming:
            chunk.exception()

    def _chunk(self, store: VoxelStore, index: VoxelIndex) -> "np.ndarray | Future[np.ndarray]":
        key = (store, index)
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
            if key not in self._coming:
                self._coming[key] = self._pool.submit(self._load, key)
            return self._coming[key]

    def _load(self, key: Key) -> np.ndarray:
        store, index = key
        try:
            chunk = np.array(store.read(_chunk_box(index, store)))  # a copy: of a memory map, now
        except BaseException:
            with self._lock:
                del self._coming[key]
            raise
        with self._lock:
            self.bytes_read[store] = self.bytes_read.get(store, 0) + chunk.nbytes
            self._chunks[key] = chunk
            self._held += chunk.nbytes
            while self._held > self.max_bytes:
                self._held -= self._chunks.popitem(last=False)[1].nbytes
            del self._coming[key]
        return chunk


CACHE = ChunkCache()
"""What all images of the process share."""


def chunk_indices(box: VoxelBox, chunk: Shape) -> Iterator[VoxelIndex]:
    """Indices of the chunks that a box touches."""
    ends = zip(box.start, box.stop, chunk, strict=True)
    for index in itertools.product(*(range(a // n, -(-b // n)) for a, b, n in ends)):
        yield triple(index)


def _origin(index: VoxelIndex, store: VoxelStore) -> VoxelIndex:
    return triple(k * n for k, n in zip(index, store.chunk, strict=True))


def _chunk_box(index: VoxelIndex, store: VoxelStore) -> VoxelBox:
    start = _origin(index, store)
    stop = (min(a + n, count) for a, n, count in zip(start, store.chunk, store.shape, strict=True))
    return VoxelBox(start, triple(stop))


def copy_common(chunk: np.ndarray, origin: VoxelIndex, result: np.ndarray, box: VoxelBox) -> None:
    """Copy what a chunk, whose first voxel is ``origin``, shares with a box."""
    source, target = [], []
    for first, count, start, stop in zip(origin, chunk.shape, box.start, box.stop, strict=True):
        lower, upper = max(first, start), min(first + count, stop)
        source.append(slice(lower - first, upper - first))
        target.append(slice(lower - start, upper - start))
    result[tuple(target)] = chunk[tuple(source)]
