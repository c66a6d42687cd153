"""What a backbone must be: the seam where any network plugs in.

A network gets a pair of patches ``[B, 2, N, N, N]`` (channel 0 fixed, channel 1 the moving patch pulled
through everything estimated so far), with intensities from 0 to 1, and answers in the frame of the patch:

- a **dense** network: a velocity ``[B, 3, N/2, N/2, N/2]`` in patch voxels along the patch's array axes;
- an **affine** network: generators ``[B, 4, 4]`` whose matrix exponential maps fixed to moving points, in
  patch voxels about the middle of the patch.

It knows no coordinates, spacings or images, and may be any ``torch.nn.Module``.
"""

import functools
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError

VELOCITY_STRIDE = 2
"""Patch voxels per velocity voxel along each axis."""


Precision = Literal["bf16", "fp32"]
"""What networks compute in where the device has units for it (`_computes_bf16`), else float32. Coordinates
are float32 or float64 always."""


def predict(
    network: nn.Module, pair: Float[Tensor, "b c n n n"], precision: Precision = "bf16"
) -> Float[Tensor, "b *out"]:
    """Run a network on patches, in ``precision`` where the device computes in it; the answer is float32."""
    pair = pair.contiguous(memory_format=torch.channels_last_3d)
    half = precision == "bf16" and _computes_bf16(pair.device)
    with torch.autocast(pair.device.type, torch.bfloat16, enabled=half):
        return network(pair).float()


def _computes_bf16(device: torch.device) -> bool:
    """CUDA always; processors with such units for inference only: half the time (docs/decisions/004)."""
    return device.type == "cuda" or (
        device.type == "cpu" and not torch.is_grad_enabled() and _processor_bf16()
    )


@functools.cache
def _processor_bf16() -> bool:
    """Whether this processor has AVX-512 BF16 or AMX; a PyTorch that cannot tell is taken to say no."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


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
