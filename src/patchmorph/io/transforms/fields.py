"""Deformation fields in NIfTI files (``.nii.gz``, ``.nii``), of every tool: see `field_headers`.

In the axes of the file a point c goes to its number r (positions) or to c + r (displacement). Both ends are
converted to the world: RAS+ mm. NaN marks voxels that are not mapped; so do zeros in a file of positions,
as MRtrix's ``warpcorrect`` reads them. Such voxels become `Gaps`.
"""

from pathlib import Path

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import LPS, GridPair, matrix_of
from patchmorph.io.placement import world_matrix
from patchmorph.io.transforms import field_headers as headers
from patchmorph.io.transforms.afni import check_not_oblique
from patchmorph.io.transforms.field_headers import Convention, Kind
from patchmorph.io.transforms.field_kinds import are_positions, checked_kind
from patchmorph.io.transforms.fsl import world_to_fsl
from patchmorph.io.transforms.parts import apply_matrix, displacement_field, voxel_grid
from patchmorph.io.volumes import open_volume, read_voxels
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.base import Transform
from patchmorph.transforms.gaps import Gaps, filled_gaps

THINNED_POINTS = 20_000
"""Points that suffice to tell positions from displacements."""
ONE_GRID_MM = 0.01
"""Distance of corners up to which two grids are one."""


def read_field(convention: Convention, path: Path, pair: GridPair) -> Transform:
    """Read a field: one displacement field, after `Gaps` if voxels are missing.

    Raises:
        PatchMorphError: not one field, a field that the header or the numbers show to be of another kind, or
            an image that was not given.
    """
    kind = _stated_kind(convention, path)
    numbers, grid = _numbers_and_grid(path, convention)
    axes = _axes(convention, grid, pair, path)
    frame = np.eye(4) if convention.axes == "voxel" else axes[0]
    kind = checked_kind(kind, *_thinned(numbers, grid, frame), path)
    missing = np.asarray(np.isnan(numbers).any(-1))
    if kind == "positions":
        zero = (numbers == 0).all(-1)
        missing |= zero & (zero.sum() > 1)  # a map takes one point to the origin at most
    if kind == "displacement" and convention.axes != "fsl":
        displacement = numbers.astype(np.float32) @ axes[1][:3, :3].T.astype(np.float32)
    else:
        displacement = _displacement(numbers, grid, axes, kind)
    if not missing.any():
        return displacement_field(displacement, matrix_of(grid))
    gaps = Gaps(torch.from_numpy(missing)[None, None], grid)
    values = torch.from_numpy(displacement).movedim(-1, 0)[None]
    filled = filled_gaps(values, gaps.missing)[0].movedim(0, -1).numpy()
    return displacement_field(filled, matrix_of(grid)) @ gaps


def detected_tool(path: Path) -> str | None:
    """The tool whose convention a file states in its header; ``None`` if the header states none."""
    stated = headers.recognised(open_volume(path), path)
    if stated is not None and stated == headers.MRTRIX:  # may be any file that MRtrix converted
        points, numbers = _thinned(*_numbers_and_grid(path, stated), np.eye(4))
        return stated.tool if are_positions(points, numbers) else None
    return None if stated is None else stated.tool


def _thinned(numbers: np.ndarray, grid: Grid, to_frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About `THINNED_POINTS` voxels: their places in a frame (from world), and their numbers."""
    step = max(1, round((np.prod(grid.shape) / THINNED_POINTS) ** (1 / 3)))
    places = apply_matrix(to_frame @ matrix_of(grid), voxel_grid(grid.shape, step))
    return places, numbers[::step, ::step, ::step].astype(np.float64)


def _displacement(
    numbers: np.ndarray, grid: Grid, axes: tuple[np.ndarray, np.ndarray], kind: Kind
) -> np.ndarray:
    """The displacement (mm, RAS+), float32, one plane at a time so that memory stays that of the numbers."""
    result = np.empty(numbers.shape, dtype=np.float32)
    first, (to_file, from_file) = voxel_grid((1, *grid.shape[1:])), axes
    for plane in range(grid.shape[0]):
        world = apply_matrix(matrix_of(grid), first + np.array([plane, 0, 0]))[0]
        end = numbers[plane].astype(np.float64)
        if kind == "displacement":
            end += apply_matrix(to_file, world)
        result[plane] = apply_matrix(from_file, end) - world
    return result


def _numbers_and_grid(path: Path, convention: Convention) -> tuple[np.ndarray, Grid]:
    """The numbers ``[X, Y, Z, 3]`` and the grid of a file."""
    image = open_volume(path)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise PatchMorphError(f"deformation field must hold plain numbers, got {dtype} in {path}")
    numbers = read_voxels(image)
    if numbers.ndim == 5 and numbers.shape[3] == 1:
        numbers = numbers[:, :, :, 0]
    if convention == headers.VOXELMORPH and numbers.shape[-1] != 3:  # as PyTorch orders axes
        numbers = np.moveaxis(numbers, 0, -1)
    if numbers.ndim != 4 or numbers.shape[3] != 3 or min(numbers.shape) < 1:
        raise PatchMorphError(f"deformation field must have shape (x, y, z, 3), got {image.shape} in {path}")
    return numbers, Grid(triple(numbers.shape[:3]), torch.from_numpy(world_matrix(image))[None])


def _stated_kind(convention: Convention, path: Path) -> Kind | None:
    """The kind that the header states for sure, else that of ``convention``."""
    stated = headers.recognised(open_volume(path), path)
    if stated is None or stated.tool not in headers.FIRM:
        return convention.kind
    if stated.axes != convention.axes:
        named, tool = convention.tool, stated.tool
        raise PatchMorphError(f"format must be {tool}, as the header states, got --from {named} for {path}")
    return stated.kind


def _axes(convention: Convention, grid: Grid, pair: GridPair, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The fixed world to the file's axes, and these to the moving world."""
    if convention.axes == "fsl":
        moving = pair.need_moving(f"FSL warp {path}")
        return world_to_fsl(grid), np.linalg.inv(world_to_fsl(moving))
    if convention.axes == "voxel":
        if pair.moving is not None and pair.moving.shape == grid.shape:
            off = float((pair.moving.corners_world() - grid.corners_world()).norm(dim=-1).max())
            if off > ONE_GRID_MM:
                raise PatchMorphError(
                    f"VoxelMorph warp must be between images on its own grid, got a moving image {off:.3g} "
                    f"mm from it for {path}"
                )
        return np.linalg.inv(matrix_of(grid)), matrix_of(grid)
    if convention == headers.AFNI:
        check_not_oblique(GridPair(grid), path)
    flip = LPS if convention.axes == "lps" else np.eye(4)
    return flip, flip
