"""Networks by their name in a configuration: one table per kind, or the import path of any module."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.networks.affine_head import AffineEncoder
from patchmorph.networks.foreign import Foreign, find_class
from patchmorph.networks.pyramid import Pyramid
from patchmorph.networks.swin import Swin
from patchmorph.networks.unet import UNet

Kind = dict[str, Callable[..., nn.Module]]

DENSE: Kind = {"unet": UNet, "swin": Swin, "pyramid": Pyramid}
AFFINE: Kind = {"affine-encoder": AffineEncoder}


def build_dense(name: str, options: dict[str, Any]) -> nn.Module:
    """The dense network ``name``, or the class at ``module:Class``, with ``options`` as keyword arguments.

    Raises:
        PatchMorphError: there is no such network, or it does not accept ``options``.
    """
    if ":" in name:
        return _call(name, lambda **chosen: Foreign(name, chosen), options)
    return _call(name, _look_up(DENSE, name), options)


def build_affine(name: str, options: dict[str, Any], patch_size: int) -> nn.Module:
    """The affine network ``name`` for patches of ``patch_size``, or the class at ``module:Class``.

    Raises:
        PatchMorphError: as for `build_dense`.
    """
    if ":" in name:
        return _call(name, lambda **chosen: find_class(name)(**chosen), options)
    return _call(name, _look_up(AFFINE, name), {"patch_size": patch_size, **options})


def _look_up(kind: Kind, name: str) -> Callable[..., nn.Module]:
    if name not in kind:
        raise PatchMorphError(f"network must be one of {', '.join(sorted(kind))} or module:Class, got {name}")
    return kind[name]


def _call(name: str, make: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    try:
        return make(**options)
    except (PatchMorphError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a constructor of another package may raise anything
        got = f"{one_line(options)}: {one_line(error)}"
        raise PatchMorphError(f"options of network {name} must be ones that it takes, got {got}") from None
