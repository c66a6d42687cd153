"""What a backbone must be: the seam where any network plugs in.

A network gets a pair of patches ``[B, 2, N, N, N]`` (channel 0 fixed, channel 1 the moving patch pulled
through everything estimated so far), with intensities from 0 to 1, and answers in the frame of the patch:

- a **dense** network: a velocity ``[B, 3, N/2, N/2, N/2]`` in patch voxels along the patch's array axes;
- an **affine** network: generators ``[B, 4, 4]`` whose matrix exponential maps fixed to moving points, in
  patch voxels about the middle of the patch.

It knows no coordinates, spacings or images, and may be any ``torch.nn.Module``.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError

VELOCITY_STRIDE = 2
"""Patch voxels per velocity voxel along each axis."""


Precision = Literal["bf16", "fp32"]
"""What networks compute in on CUDA; on the CPU it is float32. Coordinates are float32 or float64 always."""


def predict(
    network: nn.Module, pair: Float[Tensor, "b 2 n n n"], precision: Precision = "bf16"
) -> Float[Tensor, "b *out"]:
    """Run a network on patches: autocast to ``precision`` on CUDA; the answer is float32."""
    pair = pair.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(pair.device.type, torch.bfloat16, enabled=pair.is_cuda and precision == "bf16"):
        return network(pair).float()


def check_answer(network: nn.Module, patch_size: int, affine: bool) -> None:
    """Run a network once on empty patches.

    Raises:
        PatchMorphError: it does not take patches of this size, or its answer is not what the contract says.
    """
    device = next(network.parameters()).device
    side = patch_size // VELOCITY_STRIDE
    wanted = (1, 4, 4) if affine else (1, 3, side, side, side)
    network.eval()
    try:
        answer = predict(network, torch.zeros(1, 2, patch_size, patch_size, patch_size, device=device))
    except (RuntimeError, ValueError, AttributeError) as error:
        if isinstance(error, PatchMorphError | torch.OutOfMemoryError):
            raise
        raise PatchMorphError(
            f"network must take patches [1, 2, {patch_size}, {patch_size}, {patch_size}], got: {error}"
        ) from None
    if answer.shape != wanted:
        raise PatchMorphError(f"network must answer {list(wanted)}, got {list(answer.shape)}")
