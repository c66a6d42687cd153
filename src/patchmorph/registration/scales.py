"""Which scales a registration goes through: those of its model, and finer ones down to the voxels.

Networks see patches, which have no unit, so that those of a model's finest scales serve at half of its finest
spacing as well, and at half of that.
"""

import math
from typing import NamedTuple

from patchmorph.errors import PatchMorphError
from patchmorph.networks.model import MAX_VOXELS_PER_RADIUS, ModelSpec
from patchmorph.registration.options import NATIVE, RegistrationOptions
from patchmorph.registration.pair import PreparedPair

NEARER = 2**0.5
"""Ratio of a spacing to the one that is wanted above which half of it is nearer to that."""


class Scale(NamedTuple):
    """A scale of the schedule.

    Attributes:
        network: index of the scale of the model whose network is applied.
        spacing_mm: voxel size of the patches.
    """

    network: int
    spacing_mm: float


class Scales(NamedTuple):
    """The scales of a registration, coarse to fine.

    Attributes:
        trained: those of the model, less those that are left out; one at least.
        finer: those beyond the finest of the model, each half of the one before.
    """

    trained: list[Scale]
    finer: list[Scale]


def scales_of(spec: ModelSpec, pair: PreparedPair, options: RegistrationOptions) -> Scales:
    """The scales of a pair.

    ``options.finest`` is the voxel size (mm) of the finest patches, to the nearest of the model's scales and
    their halves; or ``native``: that of the images (see `native_mm`), or the model's finest if that is finer.
    Where it is not given, the scales are those of the model, without those that the preset skips.

    Raises:
        PatchMorphError: more than `MAX_VOXELS_PER_RADIUS` voxels of the finest patches along the radius of
            the content.
    """
    radius_mm = pair.fixed.content.radius_mm
    spacings = spec.spacings_for(radius_mm)
    trained = [Scale(network, mm) for network, mm in enumerate(spacings)]
    if options.finest is None:
        return Scales(trained[: max(1, len(trained) - options.takes.skipped_scales)], [])
    wanted = min(native_mm(pair), spacings[-1]) if options.finest == NATIVE else float(options.finest)
    least = radius_mm / MAX_VOXELS_PER_RADIUS
    if wanted < least:
        raise PatchMorphError(
            f"finest must be at least {least:.3g} mm for {pair.fixed.original.name}, got {wanted:.3g}"
        )
    kept = [scale for scale in trained[1:] if scale.spacing_mm * NEARER >= wanted]
    count = max(0, math.ceil(math.log2(spacings[-1] / wanted / NEARER)))
    finer = [Scale(len(trained) - 1, spacings[-1] / 2**k) for k in range(1, count + 1)]
    return Scales(trained[:1] + kept, finer)


def native_mm(pair: PreparedPair) -> float:
    """Voxel size of the coarser image, mm: below it, at most one of the images has detail.

    That of a voxel that is longer along one axis is the side of a cube of its volume.
    """
    return max(math.prod(side.original.spacing_mm) ** (1 / 3) for side in (pair.fixed, pair.moving))


def patches_per_voxel(spacing_mm: float, pair: PreparedPair) -> float:
    """Voxels of patches along a voxel of the coarser image; one, where no coarser scale is nearer to that."""
    count = native_mm(pair) / spacing_mm
    return count if count > NEARER else 1.0
