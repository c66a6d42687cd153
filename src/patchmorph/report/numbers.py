"""The numbers of a page, with what is usual, and how the result is made again."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.api import Method
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import REQUIRED, TRANSFORM
from patchmorph.registration.acceptance import LINEAR_VERDICT, VERDICT, Limit
from patchmorph.registration.options import BEST, DEFORMABLE, FAST
from patchmorph.report.layers import Layers
from patchmorph.report.packing import coarse_content
from patchmorph.results.folder import DEFAULT
from patchmorph.results.summary import Summary

CORRELATION_USUAL = 0.8
"""Of a good map between images of one contrast, at least (docs/when-it-fails.md)."""
FOLDING_USUAL = 0.1
"""Percent of folded voxels that a good map stays below (docs/when-it-fails.md)."""
FLAGS = ("jitter", "uncertainty")
PRESETS = (FAST, BEST)


@dataclass(frozen=True)
class Figure:
    """A number of a registration.

    Attributes:
        name: what it is.
        value: as text, with its unit.
        usual: of a good result, as text.
        within: whether the value is usual; ``None`` where nothing is usual.
    """

    name: str
    value: str
    usual: str = ""
    within: bool | None = None


def figures_of(summary: Summary, one_contrast: bool) -> list[Figure]:
    """The numbers of a registration over all voxels of the fixed content.

    Args:
        summary: of the registration.
        one_contrast: whether both images have one contrast; else no correlation is usual.
    """
    before, after = summary.similarity_before, summary.similarity_after
    return [
        Figure("correlation of intensities, before", _text(before)),
        Figure(
            "correlation of intensities, after",
            _text(after),
            f"above {CORRELATION_USUAL:g}, and above that before"
            if one_contrast
            else "anything: two contrasts",
            after > max(before, CORRELATION_USUAL) if one_contrast else None,
        ),
        Figure(
            "folded voxels of the fixed content",
            _text(summary.folding_percent, " %"),
            f"below {FOLDING_USUAL:g} %",
            summary.folding_percent < FOLDING_USUAL,
        ),
        Figure("standard deviation of the log-Jacobian", _text(summary.sd_log_jacobian)),
    ]


def evidence_of(summary: Summary) -> list[Figure]:
    """The numbers of the verdict, with its limits."""
    linear = summary.arguments.get("transform", DEFORMABLE) != DEFORMABLE
    limits = LINEAR_VERDICT if linear else VERDICT
    evidence = summary.evidence
    return [_limited(limit, evidence[limit.figure]) for limit in limits if limit.figure in evidence]


def _limited(limit: Limit, value: float) -> Figure:
    word = "above" if limit.falling else "below"
    usual = f"{word} {limit.check:g}{limit.unit}"
    within = not (limit.fails(value) or limit.doubts(value))
    return Figure(limit.words, _text(value, limit.unit), usual, within)


def _text(value: float, unit: str = "") -> str:
    return "not defined" if not math.isfinite(value) else f"{value:.3g}{unit}"


def map_figures(layers: Layers) -> list[Figure]:
    """How far the map moves points of the fixed content beyond its affine part."""
    maps, spacing_mm = layers.map, layers.lattice.spacing_mm[0].tolist()
    squared = sum((maps.remainder[..., k] * length) ** 2 for k, length in enumerate(spacing_mm))
    lengths = np.sqrt(np.asarray(squared)[coarse_content(layers)])
    mean, largest = (lengths.mean(), lengths.max()) if lengths.size else (math.nan, math.nan)
    return [
        Figure("shift without the affine part, mean", _text(float(mean), " mm")),
        Figure("shift without the affine part, largest", _text(float(largest), " mm")),
    ]


def affine_words(layers: Layers) -> str:
    """The affine part of the map."""
    return repr(layers.map.affine).removeprefix("AffineTransform(").removesuffix(")")


def command(summary: Summary) -> str:
    """The command that makes the result again, in the folder ``again`` beside the page.

    Raises:
        PatchMorphError: an argument that is none of a registration.
    """
    images = [_path(summary, side, getattr(summary, side)) for side in REQUIRED]
    if given := summary.files.get(TRANSFORM):  # made elsewhere
        words = ["patchmorph", "apply", given, images[1], "--reference", images[0], "-o", "again.nii.gz"]
        return shlex.join(words)
    words = ["patchmorph", "register", *images, "-o", "again"]
    for name, value in summary.arguments.items():
        try:
            words += _argument(summary, name, value)
        except (TypeError, ValueError):  # in a summary that was edited
            got = f"{value!r:.80}"
            raise PatchMorphError(f"argument {name} must be one of a registration, got {got}") from None
    return shlex.join(words)


def _argument(summary: Summary, name: str, value: Any) -> list[str]:
    """The words of an argument; none where it is the usual one."""
    if name == "preset":
        return [f"--{value}"] if value in PRESETS else []
    if name == "save":
        return ["--save", ",".join(value)] if tuple(value) != DEFAULT else []
    if name in FLAGS:
        return [f"--{'save-uncertainty' if name == 'uncertainty' else name}"] if value else []
    if value in (None, [], vars(Method()).get(name)) or (name == "seed" and value == 0):
        return []
    return _option(summary, name, value)


def _option(summary: Summary, name: str, value: Any) -> list[str]:
    option = "--" + name.removesuffix("s" if name == "channel_weights" else "").replace("_", "-")
    if name.endswith("_spacing"):
        return [option, ",".join(f"{size:g}" for size in value)]
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (option, _path(summary, name, str(one)))]


def _path(summary: Summary, name: str, given: str) -> str:
    """The path of a file from the page on; where that is not recorded, an absolute one is its name alone."""
    path = summary.files.get(name, given)
    return Path(path).name if Path(path).is_absolute() else path
