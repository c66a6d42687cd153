"""How many patches a network computes at a time: as many as memory holds."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from patchmorph.memory import gpu_limit
from patchmorph.progress import LOG

BATCH, CUDA_BATCH = 4, 12
"""Patches of `PATCH_VOXELS` on a CPU and on CUDA, at most; fewer of larger ones. On CUDA batches are filled
up, so that one recording serves all (`networks.replay`)."""

PATCH_VOXELS = 64**3
PATCH_BYTES = 2**26
"""Memory of a GPU that is planned for each patch of so many voxels: all of a registration with twelve at a
time takes 0.5 GiB."""

Place = TypeVar("Place")


class Batches:
    """Divides patches into batches, and halves these where the memory of a GPU does not hold them.

    Args:
        device: of the network.
        patch: voxels of a patch along each axis.

    Attributes:
        size: patches at a time.
        fills: whether batches are filled up to ``size``.
    """

    def __init__(self, device: torch.device, patch: Sequence[int]):
        self.fills, self._warned = device.type == "cuda", False
        most, size = CUDA_BATCH if self.fills else BATCH, math.prod(patch) / PATCH_VOXELS
        held = gpu_limit(device) / 4 / PATCH_BYTES if self.fills else most
        self.size = max(1, min(most, int(min(most, held) / size)))

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
