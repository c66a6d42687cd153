"""Images on a voxel grid: a volume in memory, and a view of a volume with mapped intensities."""

import functools
import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.field_of_view import Bounded, Face
from patchmorph.images.intensity import IntensityMap
from patchmorph.images.pyramid import SAME, Coarsening, coarsest_sufficient, level_spacing
from patchmorph.images.turning import Turn
from patchmorph.images.windowed import CUDA_SIDE, Windowed
from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.spatial.lattices import along_axes, sample_lattice
from patchmorph.spatial.sampling import sample_linear

SOURCE_SIDE = 160
"""Voxels along each side of the blocks from which those of a coarser volume are computed, about."""

CROP_MARGIN = 2
"""Voxels that are read beyond the outermost points: one for interpolation and one for rounding errors."""

OVERVIEW_VOXELS = 2**24
"""Voxels of the stored level in which intensities and faces of a chunked image are measured, at most."""

MAX_KEPT_VOXELS, MAX_SLABS_VOXELS = 2**25, 2**27
"""Voxels of a level of a chunked image up to which it is kept in memory, and of what it is computed from up
to which that is read in slabs, as an image in memory is."""


class AbstractVolume(Bounded, Windowed):
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
        in_memory: whether all voxels are in memory, so that large levels of it may be, too.
    """

    name: str
    grid: Grid
    channels: int
    dtype: torch.dtype
    truncated_faces: tuple[Face, ...]
    field_of_view: Grid
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    in_memory: bool = True

    def around(self, points_world: Float[Tensor, "#b *n 3"]) -> tuple[Num[Tensor, "1 c x y z"], Grid]:
        """Voxels that include all neighbours of ``points_world`` inside the volume, and their grid."""
        box = self.grid.box_around(points_world, CROP_MARGIN)
        box = VoxelBox((0, 0, 0), (1, 1, 1)) if box.is_empty else box
        return self.read(box), self.grid.crop(box.start, box.shape)

    @property
    def stored_levels(self) -> "tuple[AbstractVolume, ...]":
        """The volume itself, then coarser versions of it that need not be computed, each coarser."""
        return (self, *self._coarser)

    @property
    def overview(self) -> "AbstractVolume":
        """See `Windowed`: the finest stored level that has few voxels enough, or the coarsest."""
        levels = self.stored_levels
        return next((one for one in levels if math.prod(one.grid.shape) <= OVERVIEW_VOXELS), levels[-1])

    def level(self, spacing_mm: float) -> "AbstractVolume":
        """The pyramid level for ``spacing_mm``, from the coarsest stored level that suffices.

        A small one is computed once and kept in memory; of a large one, blocks are computed on access.
        """
        stored = self.stored_levels
        base = stored[coarsest_sufficient([one.spacing_mm for one in stored], spacing_mm)]
        wanted = level_spacing(base.spacing_mm, spacing_mm)
        if wanted == base.spacing_mm:
            return base
        if wanted not in self._levels:
            own = zip(base.spacing_mm, self.spacing_mm, strict=True)
            self._levels[wanted] = base.coarsened(wanted, tuple(a > SAME * b for a, b in own))
        return self._levels[wanted]

    def coarsened(self, spacing_mm: tuple[float, ...], smoothed: tuple[bool, ...]) -> "AbstractVolume":
        """The volume at a coarser spacing along each axis; see `Coarsening` for the arguments."""
        coarsening = Coarsening(self.grid, spacing_mm, smoothed)
        lazy = CoarsenedVolume(self, coarsening)
        own, count = math.prod(self.grid.shape), math.prod(lazy.grid.shape)
        if not self.in_memory and count > MAX_KEPT_VOXELS:
            return lazy
        in_slabs = self.in_memory or own <= MAX_SLABS_VOXELS
        data = coarsening.whole(self.read) if in_slabs else lazy.values()
        return Image(data, lazy.grid, self.name, self.truncated_faces, self.field_of_view)

    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        """Linear interpolation in the pyramid level for ``spacing_mm``; zero outside."""
        values, grid = self.level(spacing_mm).around(points_world)
        return sample_linear(values.float(), points_world, "zeros", grid.world_to_voxel)

    def sample_grid(self, grid: Grid, spacing_mm: float) -> Float[Tensor, "_ c x y z"]:
        """`sample` at all points of ``grid``; on a CPU axis by axis where its axes are those of the array."""
        level, single = self.level(spacing_mm), len(grid.voxel_to_world) == 1
        on_cpu = single and grid.device.type != "cuda"
        axes = along_axes(level.grid.world_to_voxel @ grid.voxel_to_world, grid.shape) if on_cpu else None
        if axes is None:
            return super().sample_grid(grid, spacing_mm)
        values, part = level.around(grid.corners_world().float())
        to_part = part.world_to_voxel @ grid.voxel_to_world
        return sample_lattice(values.float(), to_part, axes, grid.shape, "zeros")

    def mapped(self, *intensity_maps: IntensityMap) -> "MappedImage":
        """A view with mapped intensities; the first map is applied first."""
        return MappedImage(self, intensity_maps, self.truncated_faces)

    def normalized(self) -> "MappedImage":
        """A view with intensities from 0 to 1 (see `normalizing_window`).

        Raises:
            PatchMorphError: the image has values that are not finite, or no content.
        """
        return self._normalized

    def _take_after(self, source: "AbstractVolume", grid: Grid, faces: tuple[Face, ...]) -> None:
        """Set the attributes of a volume of float32 that is computed from ``source``."""
        self.grid, self.truncated_faces, self.field_of_view = grid, faces, source.field_of_view
        self.name, self.channels, self.dtype = source.name, source.channels, torch.float32
        self.notes, self.doubts = source.notes, source.doubts

    @functools.cached_property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each array axis."""
        return tuple(self.grid.spacing_mm[0].tolist())

    @functools.cached_property
    def _coarser(self) -> "tuple[AbstractVolume, ...]":
        return ()

    @functools.cached_property
    def _levels(self) -> "dict[tuple[float, ...], AbstractVolume]":
        return {}

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
        self.data, self.grid, self.name = data, grid, name
        self.channels, self.dtype = data.shape[1], data.dtype
        self.truncated_faces = truncated_faces
        self.field_of_view = field_of_view or grid
        self.notes, self.doubts, self.background = notes, doubts, background

    def read(self, box: VoxelBox) -> Num[Tensor, "1 c x y z"]:
        """The voxels of ``box``, without a copy."""
        return self.data[(..., *box.slices)]

    def around(self, points_world: Float[Tensor, "#b *n 3"]) -> tuple[Num[Tensor, "1 c x y z"], Grid]:
        """The whole array if it is float32 already, else only the voxels around the points."""
        if self.dtype == torch.float32:
            return self.data, self.grid
        return super().around(points_world)

    def to(self, device: torch.device | str) -> "Image":
        """The same image on another device."""
        return self._copy(self.data.to(device), self.background)

    def with_background(self, background: float | None) -> "Image":
        """The same image with another ``background``."""
        return self._copy(self.data, background)

    def turned(self, turn: Turn, grid: Grid, faces: tuple[Face, ...]) -> "Image":
        """The same image with its voxels in another order; statistics of the voxels are shared.

        Args:
            turn: of the array.
            grid: of the turned array.
            faces: its truncated faces.
        """
        data = self.data
        if turn != Turn():
            data = data.permute(0, 1, *(2 + k for k in turn.axes)).flip([2 + k for k in turn.flipped])
            data = data.contiguous()
        image = Image(data, grid, self.name, faces, grid, self.notes, self.doubts, self.background)
        vars(image)["_statistics"] = self._statistics
        return image

    def _copy(self, data: Num[Tensor, "1 c x y z"], background: float | None) -> "Image":
        grid, view = (grid.to(data.device) for grid in (self.grid, self.field_of_view))
        return Image(data, grid, self.name, self.truncated_faces, view, self.notes, self.doubts, background)


class CoarsenedVolume(AbstractVolume):
    """A volume at a coarser spacing, whose voxels are computed when they are read."""

    in_memory = False

    def __init__(self, source: AbstractVolume, coarsening: Coarsening):
        self.source, self._coarsening = source, coarsening
        self._take_after(source, coarsening.grid, source.truncated_faces)
        factor = max(a / b for a, b in zip(self.spacing_mm, source.spacing_mm, strict=True))
        self._side = max(1, int(SOURCE_SIDE / factor))

    def read(self, box: VoxelBox) -> Float[Tensor, "1 c x y z"]:
        """The voxels of ``box``, means of those of the source."""
        values = torch.empty(1, self.channels, *box.shape, device=self.grid.device)
        for part, _ in self.grid.crop(box.start, box.shape).blocks(self._side):
            values[(..., *part.slices)] = self._coarsening.block(self.source.read, part.shifted(box.start))
        return values


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
        self.source, self.intensity_maps = source, intensity_maps
        self._take_after(source, source.grid, truncated_faces)
        self.in_memory, self.chunk_mm = source.in_memory, source.chunk_mm

    @functools.cached_property
    def _coarser(self) -> tuple[AbstractVolume, ...]:
        maps, faces = self.intensity_maps, self.truncated_faces
        return tuple(MappedImage(one, maps, faces) for one in self.source.stored_levels[1:])

    def read(self, box: VoxelBox) -> Float[Tensor, "1 c x y z"]:
        """The voxels of ``box``, mapped; those of a small volume on CUDA once, and kept there."""
        if self._is_kept:
            return self._kept[(..., *box.slices)]
        return self._mapped(box)

    def _mapped(self, box: VoxelBox) -> Float[Tensor, "1 c x y z"]:
        values, grid = self.source.read(box).float(), self.grid.crop(box.start, box.shape)
        return functools.reduce(lambda so_far, change: change(so_far, grid), self.intensity_maps, values)

    def around(self, points_world: Float[Tensor, "#b *n 3"]) -> tuple[Float[Tensor, "1 c x y z"], Grid]:
        """The voxels around the points, mapped; all of them where they are kept."""
        return (self._kept, self.grid) if self._is_kept else super().around(points_world)

    @property
    def _is_kept(self) -> bool:
        return self.grid.device.type == "cuda" and math.prod(self.grid.shape) <= CUDA_SIDE**3

    @functools.cached_property
    def _kept(self) -> Float[Tensor, "1 c x y z"]:
        return self._mapped(VoxelBox((0, 0, 0), self.grid.shape))

    def with_truncated_faces(self, faces: tuple[Face, ...]) -> "MappedImage":
        """The same view with ``faces`` as its truncated faces; what is kept of its voxels is shared."""
        view = MappedImage(self.source, self.intensity_maps, faces)
        if "_kept" in vars(self):
            vars(view)["_kept"] = self._kept
        return view
