"""OME-Zarr (NGFF 0.6) scenes of one transform, written with zarr.

The chain is one ``sequence`` from the coordinate system "fixed" to "moving", innermost first. Axes run
z, y, x in millimetres, so matrices and components are reversed. The world stays RAS+; the coordinate systems
declare it (RFC-4), which 0.6 does not require. A field is an image group of its own ``[c, z, y, x]``, whose
grid may have only a positive spacing and an origin (RFC-5). A flipped or oblique field is therefore written
between the affine map T of its frame and T⁻¹: ``id + u = T ∘ (id + R⁻¹ u) ∘ T⁻¹``, with R the linear part
of T.
"""

from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_zarr
from patchmorph.io.extras import extra
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.transforms.parts import affine_transform, dense_displacement, displacement_field
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields

VERSION = "0.6"
SPACE = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
ORIENTATIONS = ("inferior-to-superior", "posterior-to-anterior", "left-to-right")
WORLD = [
    axis | {"orientation": {"type": "anatomical", "value": orientation}}
    for axis, orientation in zip(SPACE, ORIENTATIONS, strict=True)
]
FIELD = [{"name": "c", "type": "displacement", "discrete": True}, *SPACE]
CHUNK = 64
WHOLE = "every_chunk_is_stored"
"""Attribute of arrays that are written here: a chunk that is missing was lost. Other writers omit zeros."""

Transformation = dict[str, Any]
"""A coordinate transformation as JSON."""


def write_scene(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write ``transform`` as a scene; an existing Zarr at ``path`` is replaced.

    Raises:
        PatchMorphError: ``path`` exists and is not a Zarr, or cannot be written.
    """
    zarr = extra("zarr")
    with whole_zarr(path) as temporary:
        root = zarr.open_group(temporary, mode="w", zarr_format=3)
        parts = as_fields(transform)
        steps = [_describe(part, root, f"coordinateTransformations/{k}") for k, part in enumerate(parts)]
        chain = _sequence(steps[::-1]) | {"input": {"name": "fixed"}, "output": {"name": "moving"}}
        systems = [{"name": name, "axes": WORLD} for name in ("fixed", "moving")]
        scene = {"coordinateSystems": systems, "coordinateTransformations": [chain]}
        root.attrs["ome"] = {"version": VERSION, "scene": scene}


def read_scene(path: Path, pair: GridPair) -> Transform:
    """Read a scene of one transformation: affine maps, scales, shifts, rotations, fields and their sequences.

    Raises:
        PatchMorphError: not such a scene, or other axes or units.
    """
    zarr = extra("zarr")
    root = zarr.open_group(path, mode="r")
    scene = root.attrs["ome"]["scene"]
    (chain,) = scene["coordinateTransformations"]
    for system in scene["coordinateSystems"]:
        axes = [(axis["name"], axis.get("unit")) for axis in system["axes"]]
        if axes != [(name, "millimeter") for name in "zyx"]:
            raise PatchMorphError(f"axes must be z, y, x in millimeter, got {axes} in {path}")
    return compose(*reversed([part for step in _steps(chain) for part in _parts(step, root)]))


def _describe(part: AffineTransform | DisplacementField, root: Any, path: str) -> Transformation:
    if isinstance(part, AffineTransform):
        return _affine(part.matrix[0].cpu().numpy())
    field, grid = dense_displacement(part, part.grid), matrix_of(part.grid)
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    frame = grid / np.append(spacing, 1)
    transformation: Transformation = {"type": "displacements", "path": path, "interpolation": "linear"}
    if np.array_equal(frame[:3, :3], np.eye(3)):
        _write_field(root.create_group(path), field, spacing, grid[:3, 3])
        return transformation
    back = np.linalg.inv(frame)
    _write_field(root.create_group(path), field @ back[:3, :3].T.astype(np.float32), spacing, np.zeros(3))
    return _sequence([_affine(back), transformation, _affine(frame)])


def _write_field(group: Any, field: np.ndarray, spacing: np.ndarray, origin: np.ndarray) -> None:
    data = np.ascontiguousarray(field[..., ::-1].transpose(3, 2, 1, 0), dtype=np.float32)
    chunks = (3, *(min(count, CHUNK) for count in data.shape[1:]))
    array = group.create_array(
        "0",
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks,
        dimension_names=["c", "z", "y", "x"],
        config={"write_empty_chunks": True},
        attributes={WHOLE: True},
    )
    array[:] = data
    scale = {"type": "scale", "scale": [1.0, *spacing[::-1].tolist()]}
    shift = {"type": "translation", "translation": [0.0, *origin[::-1].tolist()]}
    place = _sequence([scale, shift]) | {"input": {"path": "0"}, "output": {"name": "physical"}}
    image = {
        "name": "displacements",
        "coordinateSystems": [{"name": "physical", "axes": FIELD}],
        "datasets": [{"path": "0", "coordinateTransformations": [place]}],
    }
    group.attrs["ome"] = {"version": VERSION, "multiscales": [image]}


def _parts(transformation: Transformation, root: Any) -> list[Transform]:
    """The parts of a transformation, innermost first."""
    if transformation["type"] == "sequence":
        parts = [part for step in transformation["transformations"] for part in _parts(step, root)]
        return _out_of_frame(parts)
    if transformation["type"] == "identity":
        return []
    if transformation["type"] != "displacements":
        return [affine_transform(_reversed(_matrix(transformation, 3)))]
    dataset = root[transformation["path"]].attrs["ome"]["multiscales"][0]["datasets"][0]
    array = root[f"{transformation['path']}/{dataset['path']}"]
    if array.attrs.get(WHOLE) and array.nchunks_initialized < array.nchunks:
        raise ValueError(f"{array.nchunks - array.nchunks_initialized} of its chunks are missing")
    field = array[:].transpose(3, 2, 1, 0)[..., ::-1]
    grid = _matrix(dataset["coordinateTransformations"][0], 4)[1:, 1:]
    return [displacement_field(field, _reversed(grid))]


def _out_of_frame(parts: list[Transform]) -> list[Transform]:
    """Merge a field between an affine map and its inverse into one field on the mapped grid."""
    match parts:
        case [AffineTransform() as back, DisplacementField() as field, AffineTransform() as frame]:
            if np.allclose((frame.matrix @ back.matrix)[0], np.eye(4), rtol=0, atol=1e-6):
                to_world = frame.matrix[0].numpy()
                displacement = dense_displacement(field, field.grid) @ to_world[:3, :3].T
                return [displacement_field(displacement, to_world @ matrix_of(field.grid))]
    return parts


def _matrix(transformation: Transformation, axes: int) -> np.ndarray:
    """Matrix ``[axes + 1, axes + 1]`` of a linear transformation, axes in the order of the file."""
    kind, matrix = transformation["type"], np.eye(axes + 1)
    if kind == "sequence":
        for step in transformation["transformations"]:
            matrix = _matrix(step, axes) @ matrix
    elif kind == "scale":
        matrix[:axes, :axes] = np.diag(transformation[kind])
    elif kind == "translation":
        matrix[:axes, axes] = transformation[kind]
    elif kind == "rotation":
        matrix[:axes, :axes] = transformation[kind]
    elif kind == "affine":
        matrix[:axes] = transformation[kind]
    elif kind != "identity":
        raise ValueError(f"a transformation of type {kind}")
    return matrix


def _steps(transformation: Transformation) -> list[Transformation]:
    return transformation["transformations"] if transformation["type"] == "sequence" else [transformation]


def _affine(matrix: np.ndarray) -> Transformation:
    return {"type": "affine", "affine": _reversed(matrix)[:3].tolist()}


def _sequence(steps: list[Transformation]) -> Transformation:
    return {"type": "sequence", "transformations": steps}


def _reversed(matrix: np.ndarray) -> np.ndarray:
    """Reverse the order of the axes x, y, z."""
    return np.asarray(matrix, dtype=np.float64)[np.ix_([2, 1, 0, 3], [2, 1, 0, 3])]
