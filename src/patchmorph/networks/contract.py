"""The contract of networks: inputs, outputs and precision.

The input is a pair of patches ``[B, 2, N, N, N]`` (channel 0 fixed, channel 1 moving, warped by the transform
estimated so far), with intensities from 0 to 1. The output is in the frame of the patch:

- a **dense** network returns a velocity ``[B, 3, N/2, N/2, N/2]`` in patch voxels along the patch's array
  axes;
- an **affine** network returns generators ``[B, 4, 4]`` whose matrix exponential maps fixed to moving points,
  in patch voxels about the centre of the patch.

A network has no access to coordinates, spacings or images, and may be any ``torch.nn.Module``. One with an
attribute ``is_static = True`` does the same for any values and keeps no state, so that it may run in several
threads at once and a pass may be recorded. One with ``any_shape = True`` takes patches ``[B, 2, U, V, W]``
whose sides are multiples of `PATCH_MULTIPLE`, and does as well on larger ones as on those of its training.
"""

import functools
import threading
from contextlib import nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.networks.replay import replayed

_alone = threading.Lock()

VELOCITY_STRIDE = 2
"""Patch voxels per velocity voxel along each axis."""

PATCH_MULTIPLE = 16
"""Sides of patches are multiples of it: networks halve the resolution four times."""


Precision = Literal["bf16", "fp32"]
"""Precision of networks on devices with bf16 units (`_computes_bf16`), else float32. Coordinates are always
float32 or float64."""


def predict(
    network: nn.Module,
    pair: Float[Tensor, "b c u v w"],
    precision: Precision = "bf16",
    symmetric: bool = False,
) -> Float[Tensor, "b *out"]:
    """Run a network on patches.

    Args:
        network: dense or affine network, or one of single patches. It computes where its weights are, and one
            batch after the other if the images are elsewhere.
        pair: intensities from 0 to 1.
        precision: of the network, where the device supports it; the output is float32.
        symmetric: return half the difference to the output for the swapped pair. Generators of maps change
            sign with the direction, so a stage is then inverse consistent for any weights (Greer et al.,
            *Inverse consistency by construction*, MICCAI 2023).
    """
    device = device_of(network, pair.device)
    use_bf16 = precision == "bf16" and _computes_bf16(device)
    with _alone if device != pair.device else nullcontext():
        patches = pair.to(device).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            beside = device != pair.device  # threads that have no handles of CUDA's libraries cannot record
            output = network(patches) if beside else replayed(network, patches)
            output = output.float().to(pair.device)
    return (output - predict(network, pair.flip(1), precision)) / 2 if symmetric else output


def device_of(network: nn.Module, default: torch.device) -> torch.device:
    """Where the weights of a network are; ``default`` if it has none."""
    return next((weights.device for weights in network.parameters()), default)


def _computes_bf16(device: torch.device) -> bool:
    """Whether bf16 pays off: on CUDA, and for inference on CPUs with bf16 units (docs/decisions/004)."""
    return device.type == "cuda" or (
        device.type == "cpu" and not torch.is_grad_enabled() and _processor_bf16()
    )


@functools.cache
def _processor_bf16() -> bool:
    """Whether this CPU has AVX-512 BF16, as CPUs with AMX do; ``False`` if PyTorch cannot determine it."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def check_answer(network: nn.Module, patch_size: int, affine: bool) -> None:
    """Run a network once on empty patches and check the shape of its output.

    Raises:
        PatchMorphError: the network fails on patches of this size, or the output violates the contract.
    """
    device = device_of(network, torch.device("cpu"))
    side = patch_size // VELOCITY_STRIDE
    wanted = (1, 4, 4) if affine else (1, 3, side, side, side)
    network.eval()
    try:
        with torch.no_grad():
            output = predict(network, torch.zeros(1, 2, *[patch_size] * 3, device=device))
    except (PatchMorphError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a network of another package may raise anything
        shape = [1, 2, patch_size, patch_size, patch_size]
        raise PatchMorphError(f"network must take patches {shape}, got: {one_line(error)}") from None
    if output.shape != wanted:
        raise PatchMorphError(f"network must answer {list(wanted)}, got {list(output.shape)}")
