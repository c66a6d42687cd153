"""From a name in a configuration to a network: one table a kind."""

from collections.abc import Callable
from typing import Any

from torch import nn

from patchmorph.errors import PatchMorphError
from patchmorph.networks.affine_head import AffineEncoder
from patchmorph.networks.unet import UNet

DENSE: dict[str, Callable[..., nn.Module]] = {"unet": UNet}
AFFINE: dict[str, Callable[..., nn.Module]] = {"affine-encoder": AffineEncoder}


def build(kind: dict[str, Callable[..., nn.Module]], name: str, options: dict[str, Any]) -> nn.Module:
    """The network ``name`` of a table, with ``options`` as its keyword arguments.

    Raises:
        PatchMorphError: no such network, or options that it does not take.
    """
    if name not in kind:
        raise PatchMorphError(f"network must be one of {', '.join(sorted(kind))}, got {name}")
    try:
        return kind[name](**options)
    except TypeError as error:
        raise PatchMorphError(
            f"options of network {name} must be ones that it takes, got {options}: {error}"
        ) from None
