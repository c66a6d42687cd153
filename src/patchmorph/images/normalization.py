"""The window of intensities that becomes 0 to 1."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.histogram import Blocks, OrderStatistics
from patchmorph.images.intensity import Window, is_background
from patchmorph.images.padding import BRIGHT_FRACTION, MAX_WINDOW, NEGATIVE_GAP, Bins

DARK_FRACTION = 0.01
"""Fraction of the voxels that are mapped to 0: a few voxels far below the background (such as undershoot of
resampling) do not shift the window. `BRIGHT_FRACTION` of the remaining voxels are mapped to 1."""
BRIGHT_BACKGROUND = 0.5
"""Median intensity of the array's faces, relative to the window, above which the background is bright."""
UNIFORM, UNIFORM_FRACTION = 0.06, 0.75
"""Distance from that median, relative to the window, within which this fraction of the faces' voxels lies if
they show background: tissue on the faces varies more."""
INNER_BACKGROUND = 0.1, 0.75
"""Intensities relative to the window between which a background lies among the tissue's: 0.3 to 0.6 for the
zeros around standard scores."""

AIR_HU = -1000.0
"""Intensity of air in a CT."""


def normalizing_window(
    statistics: OrderStatistics,
    faces: Sequence[Float[Tensor, " _"]],
    name: str,
    background: float | None = None,
    widest: float = MAX_WINDOW,
) -> Window:
    """The window from the first percentile of the voxels to the 99.8th percentile of those above it.

    Padding and stray voxels (see `patchmorph.images.padding`) are left out first. The window is inverted, so
    that the background becomes 0, where the voxels on the faces of the array are bright and nearly uniform.

    Args:
        statistics: of all voxels but background (see `voxel_statistics`).
        faces: the voxels of the six faces.
        name: of the image, for messages.
        background: intensity of voxels that show nothing, as those that are not finite; NaN: only these.
        widest: see `patchmorph.images.padding.MAX_WINDOW`.

    Raises:
        PatchMorphError: values are not finite, or none exceeds the first percentile.
    """
    if background is None and statistics.not_finite:
        raise PatchMorphError(
            f"image must be finite everywhere, got {statistics.not_finite} NaN or infinite voxels in {name} "
            "(--background nan: such voxels show nothing)"
        )
    if statistics.count == 0:
        raise PatchMorphError(f"image must have content, got background in every voxel of {name}")
    border = _shown(torch.cat(list(faces)), background).cpu()
    border = _where(border.isfinite(), border)
    tissue = Bins.of(statistics).without_padding(border)
    low, up_to_low = statistics.smallest(tissue.below + max(1, round(DARK_FRACTION * tissue.total)))
    empty_below, empty_above = float(tissue.values[0]), float(tissue.values[-1])
    tissue = tissue.without_stray_bright_voxels(low, widest)
    last = tissue.below + tissue.total
    if last == up_to_low:
        raise PatchMorphError(f"image must have content, got {low:g} in every voxel of {name}")
    high, _ = statistics.smallest(last + 1 - max(1, round(BRIGHT_FRACTION * (last - up_to_low))))
    border = _where((border >= empty_below) & (border < empty_above), border)
    return Window(
        low=low,
        high=high,
        inverted=_is_bright((border - low) / (high - low)),
        empty_below=empty_below if tissue.below else -math.inf,
        empty_above=empty_above,
        stray_above=float(tissue.values[-1]),
        background=background,
    )


def voxel_statistics(
    blocks: Blocks, counts: Int[Tensor, " n"] | None, background: float | None
) -> OrderStatistics:
    """Order statistics of all voxels but those of intensity ``background``; see there."""
    return OrderStatistics(lambda: (_shown(values, background) for values in blocks()), counts)


def background_within(window: Window, faces: Sequence[Float[Tensor, " _"]]) -> float | None:
    """The one intensity of three quarters of the faces' voxels, if it lies among those of the tissue.

    Such are the zeros around a brain whose intensities were standardised to a mean of 0.
    """
    lower, upper = (window.low + part * (window.high - window.low) for part in INNER_BACKGROUND)
    value = _constant(faces)
    return value if value is not None and lower < value < upper else None


def background_below(window: Window, faces: Sequence[Float[Tensor, " _"]]) -> float | None:
    """The one intensity of three quarters of the faces' voxels, if it is negative and the smallest of all.

    Such is the −1024 around a brain without skull, which is no padding, as nothing else is background.
    Whether all others are far above it is to be seen (see `is_far_below`). `AIR_HU` stays: where padding
    surrounds the air of a CT, the window begins at the air, and two CTs must have one window.
    """
    value = _constant(faces)
    if value is None or value >= 0 or value == AIR_HU:
        return None
    return value if value <= window.low and math.isinf(window.empty_below) else None


def is_far_below(background: float, others: Window) -> bool:
    """Whether the window of all other voxels is far above a negative background, as above padding."""
    return others.low - background > NEGATIVE_GAP * (others.high - others.low)


def _constant(faces: Sequence[Float[Tensor, " _"]]) -> float | None:
    """The intensity that three quarters of the faces' voxels have, if there is one."""
    border = torch.cat(list(faces))
    value = border.median()
    is_constant = bool((border == value).float().mean() >= UNIFORM_FRACTION)
    return float(value) if is_constant else None


def _shown(values: Float[Tensor, "*n"], background: float | None) -> Float[Tensor, "*n"]:
    """``values``, NaN where they are background."""
    return values if background is None else values.masked_fill(is_background(values, background), torch.nan)


def _where(chosen: Bool[Tensor, " n"], values: Float[Tensor, " n"]) -> Float[Tensor, " _"]:
    """``values[chosen]``, without a copy of all of them."""
    return values if chosen.all() else values[chosen]


def _is_bright(border: Float[Tensor, " n"]) -> bool:
    """Whether relative intensities on the faces are those of a bright background."""
    if len(border) == 0:
        return False
    if 2 * int((border > BRIGHT_BACKGROUND).sum()) < len(border):
        return False
    median = border.clamp(0, 1).median()
    uniform = ((border.clamp(0, 1) - median).abs() <= UNIFORM).float().mean()
    return bool(median > BRIGHT_BACKGROUND) and bool(uniform >= UNIFORM_FRACTION)
