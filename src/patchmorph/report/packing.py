"""The layers of a registration as the viewer reads them: JSON, and zlib-compressed bytes in base64."""

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from patchmorph.evaluation.overlap import numbered
from patchmorph.report.drawing import DIVERGING, SEQUENTIAL
from patchmorph.report.layers import BEFORE, FIXED, WARPED, Layers

LEVEL = 1
"""Of compression: noise of images compresses no better at higher ones."""
LOG_JACOBIAN_LIMIT = 2.0
"""Logarithm to base 2 of the Jacobian determinant that has the deepest colour: four times the volume."""
UNCERTAINTY_QUANTILE = 0.995
"""Of the uncertainty inside the content: the end of its colours."""
GRID_LINES = 24
"""Of the deformed grid, along the longest side."""
TITLES = {FIXED: "fixed", WARPED: "moving, after", BEFORE: "moving, before"}


@dataclass(frozen=True)
class Packed:
    """What is embedded in the page.

    Attributes:
        view: what the bytes mean; plain data.
        blocks: bytes of each layer, compressed, in base64; arrays have their first axis fastest.
    """

    view: dict[str, Any]
    blocks: dict[str, str]


def pack(layers: Layers) -> Packed:
    """All layers of a registration."""
    blocks = {name: _block(image.values) for name, image in layers.images.items()}
    view = {
        "shape": layers.lattice.shape,
        "toWorld": layers.lattice.voxel_to_world[0].flatten().tolist(),
        "images": [
            {"id": name, "title": TITLES[name], "window": image.window}
            for name, image in layers.images.items()
        ],
        "matching": layers.matching.table.tolist(),
        "monotone": layers.matching.monotone,
        "map": _pack_map(layers, blocks),
        "labels": _pack_labels(layers, blocks),
    }
    return Packed(view, blocks)


def _pack_map(layers: Layers, blocks: dict[str, str]) -> dict[str, Any]:
    """Bytes of 1 to 255, and 0 outside the content; those of the remainder have 127 for 0."""
    maps = layers.map
    inside = coarse_content(layers)
    micrometres = math.ceil(1000 * float(np.abs(maps.remainder).max()))  # last bits may differ the next time
    largest = max(micrometres, 1) / 1000
    blocks["remainder"] = _block(np.round(maps.remainder / largest * 127 + 127).astype(np.uint8))
    scalars = {"jacobian": (maps.log_jacobian, (-LOG_JACOBIAN_LIMIT, LOG_JACOBIAN_LIMIT), DIVERGING)}
    if maps.uncertainty is not None:
        scalars["uncertainty"] = (maps.uncertainty, (0.0, uncertainty_limit(layers)), SEQUENTIAL)
    ranges = {}
    for name, (values, (low, high), colours) in scalars.items():
        level = np.round((values - low) / (high - low) * 254).clip(0, 254) + 1
        blocks[name] = _block(np.where(inside, level, 0).astype(np.uint8))
        ranges[name] = {"range": (low, high), "colours": colours}
    return {
        "shape": maps.log_jacobian.shape,
        "step": maps.step,
        "affine": maps.affine.matrix[0].flatten().tolist(),
        "largest": largest,
        "gridStep": max(layers.lattice.shape) / GRID_LINES,
        "scalars": ranges,
    }


def _pack_labels(layers: Layers, blocks: dict[str, str]) -> dict[str, Any]:
    """Labels as places in the list of their ids, which starts with 0."""
    labels = layers.labels
    if not labels:
        return {}
    zero = torch.zeros(1, dtype=torch.long)
    ids, places = numbered(
        torch.cat([*(torch.from_numpy(values).flatten() for values in labels.values()), zero])
    )
    kind = np.uint8 if len(ids) <= 256 else np.uint16
    parts = np.split(places[:-1].numpy().astype(kind), len(labels))
    for (name, values), part in zip(labels.items(), parts, strict=True):
        blocks[f"labels-{name}"] = _block(part.reshape(values.shape))
    return {"ids": ids.tolist(), "bytes": np.dtype(kind).itemsize, "of": list(labels)}


def coarse_content(layers: Layers) -> ndarray:
    """The content at the points of the map's lattice."""
    content, maps = layers.content, layers.map
    lines = [
        np.minimum(np.round(np.arange(count) * maps.step).astype(int), n - 1)
        for count, n in zip(maps.log_jacobian.shape, content.shape, strict=True)
    ]
    return content[np.ix_(*lines)]


def uncertainty_limit(layers: Layers) -> float:
    """The end of the colours of the uncertainty, in mm."""
    uncertainty, inside = layers.map.uncertainty, coarse_content(layers)
    assert uncertainty is not None, "only called where there is an uncertainty"
    values = uncertainty[inside & np.isfinite(uncertainty)]
    return max(float(np.quantile(values, UNCERTAINTY_QUANTILE)), 1e-3) if values.size else 1.0


def _block(values: ndarray) -> str:
    axes = (2, 1, 0, *range(3, values.ndim))  # components of a vector stay together
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values.transpose(axes)).data, LEVEL)).decode()
