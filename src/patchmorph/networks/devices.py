"""Devices on which networks run."""

import torch

from patchmorph.errors import PatchMorphError


def choose_device(name: str) -> torch.device:
    """The device ``name``: ``auto`` (CUDA if available, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        PatchMorphError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PatchMorphError(f"device must be auto, cpu or cuda, got {name}") from None
    if device.type not in ("cpu", "cuda"):
        raise PatchMorphError(f"device must be auto, cpu or cuda, got {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PatchMorphError(
            f"device must be on this machine, got {name} with {torch.cuda.device_count()} CUDA devices"
        )
    return device
