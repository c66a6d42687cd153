"""Where a registration starts: a search over poses, or a map that is known before."""

from collections.abc import Callable
from dataclasses import replace

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.pipeline import History, estimate_pose
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import AffineTransform, Transform

SEARCH = "search"


def _centers(pair: PreparedPair) -> History:
    return (pair.center_shift(),)


def _identity(pair: PreparedPair) -> History:
    return (AffineTransform.identity(),)


INITIAL_MAPS: dict[str, Callable[[PreparedPair], History]] = {
    SEARCH: estimate_pose,
    "centers": _centers,
    "header": _identity,
    "identity": _identity,
}
"""First maps by name: the best pose; the shift between the centres of mass; by two names, the identity in the
world that the headers state."""


@torch.no_grad()
def register_from(
    pair: PreparedPair,
    initial: str | Transform,
    register: Callable[[PreparedPair, History], Registration],
) -> Registration:
    """Register a pair from an initial map on.

    A given transform stays as it is, whatever its kind: the moving image is registered as this transform
    shows it, and what is found is composed on its inner side, ``initial @ residual``.

    Args:
        pair: the images.
        initial: a name in `INITIAL_MAPS`, or a map from the fixed to the moving world.
        register: registers a pair from the last of some maps on.

    Raises:
        PatchMorphError: under ``initial`` the contents of the images hardly overlap.
    """
    if isinstance(initial, Transform):
        _check_overlap(pair, initial)
        moved = replace(pair, moving=pair.moving.through(initial))
        found = register(moved, _identity(pair))
        return replace(found, pair=pair, history=tuple(initial @ residual for residual in found.history))
    history = INITIAL_MAPS[initial](pair)
    if initial != SEARCH:
        _check_overlap(pair, history[-1])
    return register(pair, history)


def _check_overlap(pair: PreparedPair, initial: Transform) -> None:
    if pair.agreement(initial) is None:
        names = f"{pair.moving.original.name} on {pair.fixed.original.name}"
        raise PatchMorphError(f"initial transform must bring the images to overlap, got nothing of {names}")
