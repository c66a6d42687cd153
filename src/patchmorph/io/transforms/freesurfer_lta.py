"""FreeSurfer's linear transforms (``.lta``); its warps are in `patchmorph.io.transforms.freesurfer_warp`.

An LTA's matrix maps ``src`` to ``dst``, and a volume is resampled from src onto the grid of dst. So src is
the moving image, dst is the fixed one, and the matrix is the inverse of PatchMorph's (FreeSurfer's
``utils/transform.cpp``).
World: FreeSurfer's scanner RAS, mm. A geometry's ``cras`` is the point at voxel ``shape / 2``.
"""

from pathlib import Path

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.transforms.parts import affine_transform, linear_part
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform

VOXEL_TO_VOXEL, RAS_TO_RAS = 0, 1
MAX_COSINE = 1e-3
"""Of the angle between two axes, and error of their length: files keep six digits or more."""


def write_lta(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write an affine map as a RAS-to-RAS LTA with the geometries of both images.

    Raises:
        PatchMorphError: a transform that is not affine, or an image that was not given.
    """
    matrix = linear_part(transform, f"LTA {path}")
    moving, fixed = pair.need_moving(f"LTA {path}"), pair.need_fixed(f"LTA {path}")
    lines = [
        f"type      = {RAS_TO_RAS} # LINEAR_RAS_TO_RAS",
        "nxforms   = 1",
        "mean      = 0.0000 0.0000 0.0000",
        "sigma     = 1.0000",
        "1 4 4",
        *(_numbers(row) for row in np.linalg.inv(matrix)),
        "src volume info",
        *_geometry_lines(moving, "moving"),
        "dst volume info",
        *_geometry_lines(fixed, "fixed"),
    ]
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_lta(path: Path, pair: GridPair) -> Transform:
    """Read an LTA of one transform, RAS to RAS or voxel to voxel.

    Raises:
        PatchMorphError: another type, several transforms, a geometry that is none, or not an LTA.
    """
    text = path.read_text(encoding="utf-8")
    lines = [line for raw in text.splitlines() if (line := raw.split("#")[0].strip())]
    start = lines.index("1 4 4")
    fields = _values(lines[:start])
    kind, count = int(fields["type"]), int(fields["nxforms"])
    matrix = np.array([line.split() for line in lines[start + 1 : start + 5]], dtype=np.float64)
    if count != 1 or matrix.shape != (4, 4) or kind not in (VOXEL_TO_VOXEL, RAS_TO_RAS):
        raise PatchMorphError(
            f"LTA must hold one matrix of type 0 or 1, got {count} of type {kind} in {path}"
        )
    moving, fixed = (_geometry(lines, name) for name in ("src", "dst"))
    if kind == VOXEL_TO_VOXEL:
        if moving is None or fixed is None:
            raise PatchMorphError(
                f"LTA between voxels must have both geometries, got an invalid one in {path}"
            )
        matrix = fixed @ matrix @ np.linalg.inv(moving)
    return affine_transform(np.linalg.inv(matrix))


def volume_center(grid: Grid) -> np.ndarray:
    """FreeSurfer's centre of a volume (c_ras, RAS+ mm): the world point at voxel ``shape / 2``."""
    matrix = matrix_of(grid)
    return matrix[:3, :3] @ (np.array(grid.shape) / 2) + matrix[:3, 3]


def volume_matrix(shape: np.ndarray, spacing: np.ndarray, axes: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Voxel to world (RAS+ mm) of a FreeSurfer geometry; ``axes`` are columns of unit length.

    Raises:
        ValueError: no voxels, no size, axes that are not orthogonal and of unit length, or no centre.
    """
    orthogonal = np.allclose(axes.T @ axes, np.eye(3), atol=MAX_COSINE)
    positive = (shape > 0).all() and (spacing > 0).all()
    if not (orthogonal and positive and np.isfinite([spacing, center]).all()):
        size, place = f"{shape.tolist()} voxels of {spacing.tolist()} mm", f"centre {center.tolist()}"
        raise ValueError(f"a geometry of {size}, axes {axes.T.tolist()} and {place}")
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = center - matrix[:3, :3] @ (shape / 2)
    return matrix


def _geometry_lines(grid: Grid, name: str) -> list[str]:
    linear = matrix_of(grid)[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    axes = linear / spacing
    return [
        "valid = 1  # volume info valid",
        f"filename = {name}.nii.gz",
        f"volume = {' '.join(str(count) for count in grid.shape)}",
        f"voxelsize = {_numbers(spacing)}",
        *(f"{axis}ras   = {_numbers(axes[:, k])}" for k, axis in enumerate("xyz")),
        f"cras   = {_numbers(volume_center(grid))}",
    ]


def _geometry(lines: list[str], name: str) -> np.ndarray | None:
    """Voxel to world (RAS+ mm) of a volume; ``None`` if the file marks its geometry as not valid."""
    start = lines.index(f"{name} volume info") + 1
    fields = _values(lines[start : start + 8])
    if int(fields["valid"]) != 1:
        return None
    shape, spacing, x, y, z, center = (
        np.array(fields[key].split(), dtype=np.float64)
        for key in ("volume", "voxelsize", "xras", "yras", "zras", "cras")
    )
    return volume_matrix(shape, spacing, np.stack([x, y, z], axis=1), center)


def _values(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.15e}" for value in values)
