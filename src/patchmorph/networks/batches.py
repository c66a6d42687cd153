"""How many patches a network computes at a time: as many as memory holds."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from patchmorph.memory import gpu_limit
from patchmorph.progress import LOG

BATCH, CUDA_BATCH = 4, 12
"""Patches on a CPU and on CUDA, at most. On CUDA batches are filled up, so that one recording serves all
(`networks.replay`)."""

PATCH_BYTES = 2**26
"""Memory of a GPU that is planned for each patch of `PATCH_SIDE`³ voxels: all of a registration with twelve
at a time takes 0.5 GiB."""
PATCH_SIDE = 64

Place = TypeVar("Place")


class Batches:
    """Divides patches into batches, and halves these where the memory of a GPU does not hold them.

    Args:
        device: of the network.
        patch_size: voxels along each side of a patch.

    Attributes:
        size: patches at a time.
        fills: whether batches are filled up to ``size``.
    """

    def __init__(self, device: torch.device, patch_size: int):
        self.fills, self.size, self._warned = device.type == "cuda", BATCH, False
        if self.fills:
            planned = PATCH_BYTES * (patch_size / PATCH_SIDE) ** 3
            self.size = max(1, min(CUDA_BATCH, int(gpu_limit(device) / 4 / planned)))

    def over(
        self, compute: Callable[[Tensor], Tensor], places: Sequence[Place], patches: Sequence[Tensor]
    ) -> Iterator[tuple[Sequence[Place], Tensor]]:
        """``compute`` of the patches in batches, each with its places.

        Raises:
            torch.OutOfMemoryError: a single patch is too much.
        """
        first = 0
        while first < len(places):
            size = self.size
            chosen = list(patches[first : first + size])
            count = len(chosen)
            if self.fills and len(places) > 1:
                chosen += chosen[-1:] * (size - count)
            try:
                found = compute(torch.stack(chosen))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self._halve(size)
                continue
            yield places[first : first + count], found[:count]
            first += count

    def _halve(self, size: int) -> None:
        """Halve the size, unless another thread has done so since; the first time with a warning."""
        if self.size < size:
            return
        self.size = size // 2
        torch.cuda.empty_cache()
        if not self._warned:
            LOG.warning("a GPU must hold %d patches at a time, got too little memory: fewer are tried", size)
        self._warned = True
