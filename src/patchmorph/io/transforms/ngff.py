"""OME-Zarr (NGFF 0.6) scenes of one transform, written with zarr.

The chain is one ``sequence`` from the coordinate system "fixed" to "moving", innermost first. Axes run
z, y, x in millimetres, so matrices and components are turned round; the world stays RAS+, which the systems
say (RFC-4) but no part of 0.6 demands. A field is an image group of its own ``[c, z, y, x]`` whose grid may
have a positive spacing and an origin only (RFC-5): so a flipped or oblique one is put between the affine map
of its frame T and back, ``id + u = T ∘ (id + R⁻¹ u) ∘ T⁻¹`` with R the linear part of T.
"""

import functools
import operator
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_tree
from patchmorph.io.extras import extra
from patchmorph.io.transforms.grids import (
    Pair,
    affine_transform,
    dense_displacement,
    displacement_field,
    matrix_of,
)
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields

VERSION = "0.6"
SPACE = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
TOWARDS = ("inferior-to-superior", "posterior-to-anterior", "left-to-right")
WORLD = [
    axis | {"orientation": {"type": "anatomical", "value": towards}}
    for axis, towards in zip(SPACE, TOWARDS, strict=True)
]
FIELD = [{"name": "c", "type": "displacement", "discrete": True}, *SPACE]
CHUNK = 64

Said = dict[str, Any]
"""A transformation in the file's own words."""


def write_scene(transform: Transform, path: Path, pair: Pair) -> None:
    """Write ``transform`` as a scene; what was at ``path`` is replaced."""
    zarr = extra("zarr")
    if path.exists() and not (path / "zarr.json").exists():
        raise PatchMorphError(f"output must be new or a Zarr that it replaces, got {path}")
    with whole_tree(path) as temporary:
        root = zarr.open_group(temporary, mode="w", zarr_format=3)
        steps = [
            _say(part, root, f"coordinateTransformations/{k}") for k, part in enumerate(as_fields(transform))
        ]
        chain = _sequence(steps[::-1]) | {"input": {"name": "fixed"}, "output": {"name": "moving"}}
        systems = [{"name": name, "axes": WORLD} for name in ("fixed", "moving")]
        scene = {"coordinateSystems": systems, "coordinateTransformations": [chain]}
        root.attrs["ome"] = {"version": VERSION, "scene": scene}


def read_scene(path: Path, pair: Pair) -> Transform:
    """Read a scene of one transformation: affine maps, scales, shifts, rotations, fields and their sequences.

    Raises:
        PatchMorphError: not such a scene, other axes or units.
    """
    zarr = extra("zarr")
    try:
        root = zarr.open_group(path, mode="r")
        scene = root.attrs["ome"]["scene"]
        (chain,) = scene["coordinateTransformations"]
        for system in scene["coordinateSystems"]:
            axes = [(axis["name"], axis.get("unit")) for axis in system["axes"]]
            if axes != [(name, "millimeter") for name in "zyx"]:
                raise PatchMorphError(f"axes must be z, y, x in millimeter, got {axes} in {path}")
        steps = _steps(chain)
        parts = [part for step in steps for part in _parts(step, root, path)]
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        if isinstance(error, PatchMorphError):
            raise
        raise PatchMorphError(f"transform must be an OME-Zarr scene of one, got {path}: {error!r}") from None
    return functools.reduce(operator.matmul, reversed(parts), AffineTransform.identity())


def _say(part: AffineTransform | DisplacementField, root: Any, path: str) -> Said:
    if isinstance(part, AffineTransform):
        return _affine(part.matrix[0].cpu().numpy())
    field, grid = dense_displacement(part, part.grid), matrix_of(part.grid)
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    frame = grid / np.append(spacing, 1)
    said: Said = {"type": "displacements", "path": path, "interpolation": "linear"}
    if np.array_equal(frame[:3, :3], np.eye(3)):
        _write_field(root.create_group(path), field, spacing, grid[:3, 3])
        return said
    back = np.linalg.inv(frame)
    _write_field(root.create_group(path), field @ back[:3, :3].T.astype(np.float32), spacing, np.zeros(3))
    return _sequence([_affine(back), said, _affine(frame)])


def _write_field(group: Any, field: np.ndarray, spacing: np.ndarray, origin: np.ndarray) -> None:
    data = np.ascontiguousarray(field[..., ::-1].transpose(3, 2, 1, 0), dtype=np.float32)
    chunks = (3, *(min(count, CHUNK) for count in data.shape[1:]))
    group.create_array("0", data=data, chunks=chunks, dimension_names=["c", "z", "y", "x"])
    scale = {"type": "scale", "scale": [1.0, *spacing[::-1].tolist()]}
    shift = {"type": "translation", "translation": [0.0, *origin[::-1].tolist()]}
    place = _sequence([scale, shift]) | {"input": {"path": "0"}, "output": {"name": "physical"}}
    image = {
        "name": "displacements",
        "coordinateSystems": [{"name": "physical", "axes": FIELD}],
        "datasets": [{"path": "0", "coordinateTransformations": [place]}],
    }
    group.attrs["ome"] = {"version": VERSION, "multiscales": [image]}


def _parts(said: Said, root: Any, path: Path) -> list[Transform]:
    """Innermost first."""
    if said["type"] == "sequence":
        parts = [part for step in said["transformations"] for part in _parts(step, root, path)]
        return _out_of_frame(parts)
    if said["type"] == "identity":
        return []
    if said["type"] != "displacements":
        return [affine_transform(_reversed(_matrix(said, 3)), path)]
    dataset = root[said["path"]].attrs["ome"]["multiscales"][0]["datasets"][0]
    field = root[f"{said['path']}/{dataset['path']}"][:].transpose(3, 2, 1, 0)[..., ::-1]
    grid = _matrix(dataset["coordinateTransformations"][0], 4)[1:, 1:]
    return [displacement_field(field, _reversed(grid))]


def _out_of_frame(parts: list[Transform]) -> list[Transform]:
    """A field between the map of its frame and back is a field on a grid of that frame."""
    match parts:
        case [AffineTransform() as back, DisplacementField() as field, AffineTransform() as frame]:
            if np.allclose((frame.matrix @ back.matrix)[0], np.eye(4), rtol=0, atol=1e-6):
                turn = frame.matrix[0].numpy()
                turned = dense_displacement(field, field.grid) @ turn[:3, :3].T
                return [displacement_field(turned, turn @ matrix_of(field.grid))]
    return parts


def _matrix(said: Said, axes: int) -> np.ndarray:
    """Of a transformation that is linear, axes as in the file: ``[axes + 1, axes + 1]``."""
    kind, matrix = said["type"], np.eye(axes + 1)
    if kind == "sequence":
        for step in said["transformations"]:
            matrix = _matrix(step, axes) @ matrix
    elif kind == "scale":
        matrix[:axes, :axes] = np.diag(said[kind])
    elif kind == "translation":
        matrix[:axes, axes] = said[kind]
    elif kind == "rotation":
        matrix[:axes, :axes] = said[kind]
    elif kind == "affine":
        matrix[:axes] = said[kind]
    elif kind != "identity":
        raise ValueError(f"a transformation of type {kind}")
    return matrix


def _steps(said: Said) -> list[Said]:
    return said["transformations"] if said["type"] == "sequence" else [said]


def _affine(matrix: np.ndarray) -> Said:
    return {"type": "affine", "affine": _reversed(matrix)[:3].tolist()}


def _sequence(steps: list[Said]) -> Said:
    return {"type": "sequence", "transformations": steps}


def _reversed(matrix: np.ndarray) -> np.ndarray:
    """Axes x, y, z as z, y, x, or back."""
    return np.asarray(matrix, dtype=np.float64)[np.ix_([2, 1, 0, 3], [2, 1, 0, 3])]
