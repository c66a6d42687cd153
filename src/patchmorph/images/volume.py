"""Images on a voxel grid: a volume in memory, and a view of a volume with mapped intensities."""

import functools
import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.exports import Exportable
from patchmorph.images.histogram import OrderStatistics, sorted_or_counted
from patchmorph.images.intensity import IntensityMap, Window
from patchmorph.images.normalization import background_within, normalizing_window, voxel_statistics
from patchmorph.images.padding import MAX_WINDOW
from patchmorph.images.pyramid import downsample, level_spacing
from patchmorph.spatial.grid import BLOCK_SIDE, Grid, VoxelBox, triple
from patchmorph.spatial.lattices import along_axes, sample_lattice
from patchmorph.spatial.sampling import sample_linear

Face = tuple[int, int]
"""A face of an array: its axis, and 0 for the first or 1 for the last voxels along it."""
FACES: tuple[Face, ...] = tuple((axis, side) for axis in range(3) for side in (0, 1))

CROP_MARGIN = 2
"""Voxels that are read beyond the outermost points: one for interpolation and one for rounding errors."""

CUDA_SIDE = 256
"""Voxels along each side of the blocks of a volume on CUDA, where small blocks wait for launches. Views of
volumes that are no larger are kept there."""


class AbstractVolume(Exportable):
    """An image on a voxel grid.

    Attributes:
        name: name in messages, usually the path.
        grid: grid of batch size one.
        channels: number of values per voxel.
        dtype: dtype of the voxels that ``read`` returns.
        truncated_faces: faces of ``field_of_view`` that cut through the imaged object.
        field_of_view: grid whose faces bound the image: ``grid``, or the full-resolution grid for a pyramid
            level.
        notes: how the image was read where that is not obvious, one sentence each.
        doubts: assumptions about the file that a user should check, one sentence each.
        background: intensity of voxels that show nothing, as do those that are not finite; NaN: only these;
            ``None``: not known.
    """

    name: str
    grid: Grid
    channels: int
    dtype: torch.dtype
    truncated_faces: tuple[Face, ...]
    field_of_view: Grid
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    background: float | None = None

    @abstractmethod
    def read(self, box: VoxelBox) -> Num[Tensor, "1 c x y z"]:
        """The voxels of ``box``, which must lie inside the grid."""

    @abstractmethod
    def around(self, points_world: Float[Tensor, "#b *n 3"]) -> tuple[Num[Tensor, "1 c x y z"], Grid]:
        """Voxels that include all neighbours of ``points_world`` inside the volume, and their grid."""

    def values(self) -> Num[Tensor, "1 c x y z"]:
        """All voxels at once: for pyramid levels and other small volumes."""
        return self.read(VoxelBox((0, 0, 0), self.grid.shape))

    def blocks(self) -> Iterator[tuple[VoxelBox, Num[Tensor, "1 c x y z"]]]:
        """The voxels block by block, each block with its box in the grid."""
        for box, _ in self.grid.blocks(CUDA_SIDE if self.grid.device.type == "cuda" else BLOCK_SIDE):
            yield box, self.read(box)

    def face(self, face: Face) -> Num[Tensor, " n"]:
        """The outermost voxels at one face of the array, flattened."""
        axis, side = face
        start, shape = [0, 0, 0], list(self.grid.shape)
        start[axis], shape[axis] = side * (shape[axis] - 1), 1
        return self.read(VoxelBox.at(triple(start), triple(shape))).flatten()

    def level(self, spacing_mm: float) -> "AbstractVolume":
        """The pyramid level for ``spacing_mm``; computed once and kept in memory."""
        wanted = level_spacing(self.spacing_mm, spacing_mm)
        if wanted == self.spacing_mm:
            return self
        if wanted not in self._levels:
            data, grid = downsample(self.read, self.grid, wanted)
            self._levels[wanted] = Image(data, grid, self.name, self.truncated_faces, self.field_of_view)
        return self._levels[wanted]

    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        """Linear interpolation in the pyramid level for ``spacing_mm``; zero outside."""
        values, grid = self.level(spacing_mm).around(points_world)
        return sample_linear(values.float(), points_world, "zeros", grid.world_to_voxel)

    def sample_grid(self, grid: Grid, spacing_mm: float) -> Float[Tensor, "_ c x y z"]:
        """`sample` at all points of ``grid``; on a CPU axis by axis where its axes are those of the array."""
        level = self.level(spacing_mm)
        to_voxel = level.grid.world_to_voxel @ grid.voxel_to_world
        if to_voxel.is_cuda or len(to_voxel) > 1 or not (axes := along_axes(to_voxel, grid.shape)):
            return super().sample_grid(grid, spacing_mm)
        values, part = level.around(grid.corners_world().float())
        to_part = part.world_to_voxel @ grid.voxel_to_world
        return sample_lattice(values.float(), to_part, axes, grid.shape, "zeros")

    def in_field_of_view(self, points_world: Float[Tensor, "#b *n 3"]) -> Bool[Tensor, "_ *n"] | None:
        """Whether each point lies inside all truncated faces (see `AbstractImage`)."""
        if not self.truncated_faces:
            return None
        voxel = self.field_of_view.to_voxel(points_world)
        inside = torch.ones_like(voxel[..., 0], dtype=torch.bool)
        for axis, side in self.truncated_faces:
            coordinate = voxel[..., axis]
            inside &= coordinate < self.field_of_view.shape[axis] - 0.5 if side else coordinate > -0.5
        return inside

    def truncation_normals(self) -> list[Float[Tensor, " 3"]]:
        """Outward unit normals of the truncated faces, in world axes."""
        columns = self.field_of_view.voxel_to_world[0, :3, :3].T
        return [(2 * side - 1) * columns[axis] / columns[axis].norm() for axis, side in self.truncated_faces]

    def mapped(self, *intensity_maps: IntensityMap) -> "MappedImage":
        """A view with mapped intensities; the first map is applied first."""
        return MappedImage(self, intensity_maps, self.truncated_faces)

    def intensity_range(self) -> tuple[float, float]:
        """The intensities that `normalized` maps to 0 and 1 (to 1 and 0 if the background is bright)."""
        window = self._window
        return window.low, window.high

    def normalized(self) -> "MappedImage":
        """A view with intensities from 0 to 1 (see `normalizing_window`).

        Raises:
            PatchMorphError: the image has values that are not finite, or no content.
        """
        return self._normalized

    def window(self, widest: float = MAX_WINDOW) -> Window:
        """The window of `normalizing_window`, whose faces are those of the array.

        The background is that of `background_within` if it is not known.
        """
        window = self._window_above(self.background, widest)
        within = background_within(window, self._faces) if self.background is None else None
        return window if within is None else self._window_above(within, widest)

    def _window_above(self, background: float | None, widest: float) -> Window:
        if background not in self._statistics:
            voxels = lambda: (values for _, values in self.blocks())  # noqa: E731
            counted = sorted_or_counted(voxels, self.dtype, self.grid.device)
            self._statistics[background] = voxel_statistics(*counted, background)
        return normalizing_window(self._statistics[background], self._faces, self.name, background, widest)

    @functools.cached_property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each array axis."""
        return tuple(self.grid.spacing_mm[0].tolist())

    @functools.cached_property
    def _levels(self) -> "dict[tuple[float, ...], Image]":
        return {}

    @functools.cached_property
    def _faces(self) -> list[Tensor]:
        return [self.face(face).float().cpu() for face in FACES]

    @functools.cached_property
    def _statistics(self) -> dict[float | None, OrderStatistics]:
        return {}

    @functools.cached_property
    def _window(self) -> Window:
        return self.window()

    @functools.cached_property
    def _normalized(self) -> "MappedImage":
        return self.mapped(self._window)


class Image(AbstractVolume):
    """A volume in memory.

    Args:
        data: ``[1, C, X, Y, Z]`` in nibabel's array order, any dtype.
        grid: grid of the same shape and of batch size one.
        name: name in messages, usually the path.
        truncated_faces: see `AbstractVolume`.
        field_of_view: see `AbstractVolume`; by default ``grid``.
        notes: see `AbstractVolume`.
        doubts: see `AbstractVolume`.
        background: see `AbstractVolume`.
    """

    def __init__(
        self,
        data: Num[Tensor, "1 c x y z"],
        grid: Grid,
        name: str = "image",
        truncated_faces: tuple[Face, ...] = (),
        field_of_view: Grid | None = None,
        notes: tuple[str, ...] = (),
        doubts: tuple[str, ...] = (),
        background: float | None = None,
    ):
        if tuple(data.shape[2:]) != grid.shape:
            raise PatchMorphError(f"data must be [1, C, *{grid.shape}] on its grid, got {list(data.shape)}")
        self.data = data
        self.grid = grid
        self.name = name
        self.channels, self.dtype = data.shape[1], data.dtype
        self.truncated_faces = truncated_faces
        self.field_of_view = grid if field_of_view is None else field_of_view
        self.notes, self.doubts, self.background = notes, doubts, background

    def read(self, box: VoxelBox) -> Num[Tensor, "1 c x y z"]:
        """The voxels of ``box``, without a copy."""
        return self.data[(..., *box.slices)]

    def around(self, points_world: Float[Tensor, "#b *n 3"]) -> tuple[Num[Tensor, "1 c x y z"], Grid]:
        """The whole array if it is float32 already, else only the voxels around the points."""
        if self.dtype == torch.float32:
            return self.data, self.grid
        box = _crop_around(self.grid, points_world)
        return self.read(box), self.grid.crop(box.start, box.shape)

    def to(self, device: torch.device | str) -> "Image":
        """The same image on another device."""
        return self._copy(self.data.to(device), self.background)

    def with_background(self, background: float | None) -> "Image":
        """The same image with another ``background``."""
        return self._copy(self.data, background)

    def stored_as(self, data: Num[Tensor, "1 c x y z"], grid: Grid, faces: tuple[Face, ...]) -> "Image":
        """The same image with its voxels in another order; statistics of the voxels are shared."""
        image = Image(data, grid, self.name, faces, grid, self.notes, self.doubts, self.background)
        vars(image)["_statistics"] = self._statistics
        return image

    def _copy(self, data: Num[Tensor, "1 c x y z"], background: float | None) -> "Image":
        grid, field_of_view = (grid.to(data.device) for grid in (self.grid, self.field_of_view))
        remarks = (self.notes, self.doubts, background)
        return Image(data, grid, self.name, self.truncated_faces, field_of_view, *remarks)


class MappedImage(AbstractVolume):
    """A view of a volume: intensity maps are applied to its voxels when they are read.

    Args:
        source: the volume, which is not copied.
        intensity_maps: maps to apply, the first one first.
        truncated_faces: see `AbstractVolume`.
    """

    def __init__(
        self,
        source: AbstractVolume,
        intensity_maps: tuple[IntensityMap, ...],
        truncated_faces: tuple[Face, ...] = (),
    ):
        self.source = source
        self.intensity_maps = intensity_maps
        self.grid, self.name, self.field_of_view = source.grid, source.name, source.field_of_view
        self.channels, self.dtype = source.channels, torch.float32
        self.notes, self.doubts = source.notes, source.doubts
        self.truncated_faces = truncated_faces

    def read(self, box: VoxelBox) -> Float[Tensor, "1 c x y z"]:
        """The voxels of ``box``, mapped."""
        values, grid = self.source.read(box).float(), self.grid.crop(box.start, box.shape)
        for intensity_map in self.intensity_maps:
            values = intensity_map(values, grid)
        return values

    def around(self, points_world: Float[Tensor, "#b *n 3"]) -> tuple[Float[Tensor, "1 c x y z"], Grid]:
        """The voxels around the points, mapped; on CUDA all of them, kept in memory, if they are few."""
        if self.grid.device.type == "cuda" and math.prod(self.grid.shape) <= CUDA_SIDE**3:
            return self._kept, self.grid
        box = _crop_around(self.grid, points_world)
        return self.read(box), self.grid.crop(box.start, box.shape)

    @functools.cached_property
    def _kept(self) -> Float[Tensor, "1 c x y z"]:
        return self.values()

    def with_truncated_faces(self, faces: tuple[Face, ...]) -> "MappedImage":
        """The same view with ``faces`` as its truncated faces."""
        return MappedImage(self.source, self.intensity_maps, faces)


def _crop_around(grid: Grid, points_world: Float[Tensor, "#b *n 3"]) -> VoxelBox:
    """The box of voxels that interpolation at ``points_world`` needs; at least one voxel."""
    box = grid.box_around(points_world, CROP_MARGIN)
    return VoxelBox((0, 0, 0), (1, 1, 1)) if box.is_empty else box
