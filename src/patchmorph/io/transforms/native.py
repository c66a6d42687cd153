"""PatchMorph's own transform file (``.safetensors``): the chain itself, part by part.

Affine maps are float64. Each field keeps its own grid and is stored as int16 (`patchmorph.transforms.steps`):
in steps of 2⁻¹¹ mm for a largest value of 12 mm. Velocity fields stay velocity fields, and fields that are
splines have a degree. An inverse is stored as its field and a flag, so it stays exact. Gaps are stored
as their voxels. World: RAS+ mm, fixed → moving.

Files with splines are of version 3, so that programs that have none reject them; others are of version 1. In
those of version 2, which are read only, a flag says whether a field is a cubic spline.
"""

from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.tensors import read_tensors, write_tensors
from patchmorph.spatial.bsplines import Degree
from patchmorph.spatial.grid import Grid, triple
from patchmorph.spatial.sampling import Outside
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.gaps import Gaps
from patchmorph.transforms.steps import in_steps
from patchmorph.transforms.velocity import InverseFlow, VelocityField

FORMAT = "patchmorph-transform"
VERSIONS = (1, 2, 3)


def write_native(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write the parts of ``transform`` (see the module docstring)."""
    tensors: dict[str, Tensor] = {}
    parts = [_describe(part, str(k), tensors) for k, part in enumerate(transform.parts())]
    version = 3 if any("degree" in part for part in parts) else 1
    write_tensors(path, tensors, {"format": FORMAT, "version": version, "parts": parts})


def read_native(path: Path, pair: GridPair) -> Transform:
    """Read what `write_native` wrote.

    Raises:
        PatchMorphError: not such a file, another version, or an incomplete file.
    """
    tensors, metadata = read_tensors(path, "transform")
    if metadata.get("format") != FORMAT or metadata.get("version") not in VERSIONS:
        found = f"{metadata.get('format', 'no transform')}, version {metadata.get('version')}"
        raise PatchMorphError(f"transform must be {FORMAT}, version 1, 2 or 3, got {found} in {path}")
    if not metadata["parts"]:
        raise PatchMorphError(f"transform must have parts, got none in {path}")
    return compose(*(_restore(part, str(k), tensors) for k, part in enumerate(metadata["parts"])))


def stored(transform: Transform) -> Transform:
    """``transform`` after a round trip through a native file, bit for bit.

    Velocity fields that are what the file gives back stay the same objects, with their flows.
    """
    tensors: dict[str, Tensor] = {}
    parts = list(transform.parts())
    entries = [_describe(part, str(k), tensors) for k, part in enumerate(parts)]
    found = [_restore(entry, str(k), tensors) for k, entry in enumerate(entries)]
    return compose(*(old if _is_same(old, new) else new for old, new in zip(parts, found, strict=True)))


def _is_same(part: Transform, other: Transform) -> bool:
    """Whether two parts with one description are velocity fields of the same numbers."""
    if not (isinstance(part, VelocityField) and isinstance(other, VelocityField)):
        return False
    return part.variance is None and torch.equal(part.velocity, other.velocity)


def _describe(part: Transform, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The JSON description of ``part``; its tensors are added to ``tensors`` under ``name``."""
    if isinstance(part, AffineTransform):
        tensors[f"{name}.matrix"] = part.matrix.clone()  # safetensors rejects shared tensors
        return {"kind": "affine"}
    if isinstance(part, Gaps):
        tensors[f"{name}.missing"] = part.missing.byte()
        tensors[f"{name}.voxel_to_world"] = part.grid.voxel_to_world.clone()
        return {"kind": "gaps"}
    inverse = isinstance(part, InverseFlow | InverseDisplacement)
    field = part.forward if isinstance(part, InverseFlow | InverseDisplacement) else part
    if isinstance(field, VelocityField):
        values, entry = field.velocity, {"kind": "velocity", "steps": field.steps}
        if field.variance is not None:
            tensors[f"{name}.variance"] = field.variance.half()
    else:
        assert isinstance(field, DisplacementField), f"{type(field).__name__} has no file format"
        values, entry = field.displacement, {"kind": "displacement", "outside": field.outside}
    tensors[f"{name}.values"], unit = in_steps(values)
    tensors[f"{name}.voxel_to_world"] = field.grid.voxel_to_world.clone()
    return (
        entry | {"inverse": inverse, "unit_mm": unit} | ({"degree": field.degree} if field.degree > 1 else {})
    )


def _restore(entry: dict[str, Any], name: str, tensors: dict[str, Tensor]) -> Transform:
    """The part of an entry.

    Raises:
        KeyError: a tensor or an entry is missing.
        ValueError: an unknown kind, border or flag.
        TypeError: an entry of another type.
    """
    kind = _one_of(("affine", "gaps", "velocity", "displacement"), entry["kind"])
    if kind == "affine":
        return AffineTransform(tensors[f"{name}.matrix"])
    numbers = tensors[f"{name}.missing" if kind == "gaps" else f"{name}.values"]
    grid = Grid(triple(numbers.shape[2:]), tensors[f"{name}.voxel_to_world"], numbers.device)
    if kind == "gaps":
        return Gaps(numbers.bool(), grid)
    values = (numbers.double() * entry["unit_mm"]).float()
    field: VelocityField | DisplacementField
    of_version_2 = 3 if _one_of((True, False), entry.get("spline", False)) else 1
    degree = _one_of(get_args(Degree), entry.get("degree", of_version_2))
    if kind == "velocity":
        variance = tensors.get(f"{name}.variance")
        variance = None if variance is None else variance.float()
        field = VelocityField(values, grid, entry["steps"], variance, degree)
    else:
        outside = _one_of(get_args(Outside) if degree == 1 else ("border",), entry["outside"])
        field = DisplacementField(values, grid, outside, degree)
    return field.inverse() if _one_of((True, False), entry["inverse"]) else field


def _one_of(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError(f"{value} where one of {', '.join(map(str, choices))} belongs")
    return choices[choices.index(value)]  # 5 for 5.0
