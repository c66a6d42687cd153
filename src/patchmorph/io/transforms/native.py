"""Our own transform file (``.safetensors``): the chain as it is, small and exact.

Affine maps are float64. Each field stands on its own grid as int16 numbers of the field's largest value /
32767: steps of 0.0004 mm where it is 12 mm. Velocity fields stay velocity fields, and inverses stay exact:
they are the field and a flag. World: RAS+ mm, fixed → moving.
"""

import functools
import operator
from pathlib import Path
from typing import Any

from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import read_tensors, write_tensors
from patchmorph.io.transforms.grids import Pair
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.velocity import InverseFlow, VelocityField

FORMAT = "patchmorph-transform"
LARGEST = 2**15 - 1


def write_native(transform: Transform, path: Path, pair: Pair) -> None:
    """Write ``transform`` (see the module)."""
    tensors: dict[str, Tensor] = {}
    parts = [_describe(part, str(k), tensors) for k, part in enumerate(transform.parts())]
    write_tensors(path, tensors, {"format": FORMAT, "version": 1, "parts": parts})


def read_native(path: Path, pair: Pair) -> Transform:
    """Read what `write_native` wrote.

    Raises:
        PatchMorphError: not such a file, or one of a newer version.
    """
    tensors, metadata = read_tensors(path, "transform")
    if metadata.get("format") != FORMAT or metadata.get("version") != 1:
        found = f"{metadata.get('format', 'no transform')}, version {metadata.get('version')}"
        raise PatchMorphError(f"transform must be {FORMAT}, version 1, got {found} in {path}")
    try:
        parts = [_restore(part, str(k), tensors) for k, part in enumerate(metadata["parts"])]
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise PatchMorphError(f"transform must be whole, got {path}: {error!r}") from None
    return functools.reduce(operator.matmul, parts)


def stored(transform: Transform) -> Transform:
    """``transform`` as it comes back from a native file, to the last bit."""
    tensors: dict[str, Tensor] = {}
    parts = [_describe(part, str(k), tensors) for k, part in enumerate(transform.parts())]
    return functools.reduce(
        operator.matmul, [_restore(part, str(k), tensors) for k, part in enumerate(parts)]
    )


def _describe(part: Transform, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What is said of ``part`` in JSON; its tensors go under ``name``."""
    if isinstance(part, AffineTransform):
        tensors[f"{name}.matrix"] = part.matrix.clone()  # parts may share tensors, files not
        return {"kind": "affine"}
    inverse = isinstance(part, InverseFlow | InverseDisplacement)
    field = part.forward if isinstance(part, InverseFlow | InverseDisplacement) else part
    if isinstance(field, VelocityField):
        values, said = field.velocity, {"kind": "velocity", "steps": field.steps}
        if field.variance is not None:
            tensors[f"{name}.variance"] = field.variance.half()
    else:
        assert isinstance(field, DisplacementField), f"{type(field).__name__} has no file format"
        values, said = field.displacement, {"kind": "displacement", "outside": field.outside}
    unit = float(values.abs().max()) / LARGEST or 1.0
    tensors[f"{name}.values"] = (values.double() / unit).round().short()
    tensors[f"{name}.voxel_to_world"] = field.grid.voxel_to_world.clone()
    return said | {"inverse": inverse, "unit_mm": unit}


def _restore(said: dict[str, Any], name: str, tensors: dict[str, Tensor]) -> Transform:
    if said["kind"] == "affine":
        return AffineTransform(tensors[f"{name}.matrix"])
    numbers = tensors[f"{name}.values"]
    values = (numbers.double() * said["unit_mm"]).float()
    grid = Grid(triple(numbers.shape[2:]), tensors[f"{name}.voxel_to_world"])
    field: VelocityField | DisplacementField
    if said["kind"] == "velocity":
        variance = tensors.get(f"{name}.variance")
        field = VelocityField(values, grid, said["steps"], None if variance is None else variance.float())
    elif said["kind"] == "displacement":
        field = DisplacementField(values, grid, said["outside"])
    else:
        raise ValueError(f"kind {said['kind']}")
    return field.inverse() if said["inverse"] else field
