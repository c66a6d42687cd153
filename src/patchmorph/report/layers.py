"""What a page shows, as arrays on one lattice: images, labels, and the map on a coarser lattice."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from patchmorph.evaluation.labels import PairLabels
from patchmorph.images.canonical import canonical
from patchmorph.images.chunked import StoredImage
from patchmorph.images.foreground import foreground
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.registration.result import Registration
from patchmorph.registration.uncertainty import uncertainty
from patchmorph.report.lattice import display_window, lattice_of
from patchmorph.report.matching import Matching
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import Grid, triple
from patchmorph.spatial.lattices import along_axes
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.jacobian import determinant_of_map
from patchmorph.workers import in_order

COARSE_POINTS = 72
"""Of the map's lattice along the longest side: a human brain's points lie 2.5 mm apart."""
LEAST = 1e-3
"""Determinant that stands for smaller ones in logarithms."""
SAME_VOXELS = 1e-3
"""Distance of corners, in voxels, up to which two grids have the same voxels: headers round."""
FIXED, WARPED, AFFINE, BEFORE = "fixed", "warped", "affine", "before"


@dataclass(frozen=True)
class PairView:
    """A registration as the page shows it; all images in the world, each on a grid of its own.

    Attributes:
        fixed: the fixed image.
        moving: the moving image.
        transform: fixed → moving world.
        warped: the moving image on the grid of the fixed one.
        fixed_labels: of the fixed image, where both images had some.
        warped_labels: of the moving image, on the fixed grid.
        uncertainty: standard deviation of the map in mm, as an image on a grid.
    """

    fixed: StoredImage
    moving: StoredImage
    transform: Transform
    warped: StoredImage
    fixed_labels: Image | None = None
    warped_labels: Image | None = None
    uncertainty: Callable[[Grid], AbstractVolume] | None = None

    @classmethod
    def of(cls, registration: Registration, warped: StoredImage, labels: PairLabels) -> "PairView":
        """A registration that is in memory.

        Args:
            registration: what was found.
            warped: its warped image.
            labels: of the fixed image, and those of the moving image on the fixed grid.
        """
        transform = registration.transform
        known = (lambda grid: uncertainty(transform, grid)) if registration.has_uncertainty else None
        images = registration.fixed, registration.moving
        return cls(*images, transform, warped, labels.fixed, labels.moving, known)


@dataclass(frozen=True)
class Shown:
    """An image on the lattice.

    Attributes:
        values: ``[x, y, z]``; 0 and 255 are the ends of ``window``.
        window: intensities of these ends.
    """

    values: UInt8[ndarray, "x y z"]
    window: tuple[float, float]


@dataclass(frozen=True)
class MapLayers:
    """The map on a lattice that has every ``step``-th point of the images' lattice, from its first on.

    Attributes:
        step: in points of the images' lattice; need not be whole.
        affine: the affine part of the map.
        remainder: what the map adds to its affine part, along the axes of the lattice, in its points.
        log_jacobian: logarithm to base 2 of the Jacobian determinant.
        folds: where the determinant is ≤ 0.
        uncertainty: standard deviation of the map in mm, where it was asked for.
    """

    step: float
    affine: AffineTransform
    remainder: Float[ndarray, "u v w 3"]
    log_jacobian: Float[ndarray, "u v w"]
    folds: Bool[ndarray, "u v w"]
    uncertainty: Float[ndarray, "u v w"] | None


class Layers:
    """All that a page shows of a registration, each computed when it is first asked for.

    Attributes:
        lattice: of the images: the part of the fixed grid with content, its axes in the order of RAS+.
        view: the registration.
    """

    def __init__(self, view: PairView):
        self.view = view
        self.lattice, self._box = lattice_of(view.fixed)

    @cached_property
    def images(self) -> dict[str, Shown]:
        """The fixed image, and the moving one after and before (by the headers)."""
        fixed, warped, before = self._values
        window = display_window(self.view.moving, warped)
        return {
            FIXED: _shown(fixed, display_window(self.view.fixed, fixed)),
            WARPED: _shown(warped, window),
            BEFORE: _shown(before, window),
        }

    def complete(self) -> None:
        """Compute what figures share, so that they can be drawn in several threads."""
        _ = self._values  # in threads of its own
        for together in (("images", "map"), ("matching", "labels")):
            list(in_order(lambda name: getattr(self, name), together, self.lattice.device))

    def affine_plane(self, normal: int, at: int) -> UInt8[ndarray, "u v"]:
        """A plane of the moving image seen through the affine part only; see `Shown`."""
        start = triple(at if k == normal else 0 for k in range(3))
        shape = triple(1 if k == normal else n for k, n in enumerate(self.lattice.shape))
        points = self.view.transform.affine_part()(self.lattice.crop(start, shape).points_world())
        values = self.view.moving.sample(points, float(self.lattice.spacing_mm.min()))[0, 0]
        return _shown(values.nan_to_num(), self.images[WARPED].window).values.squeeze(normal)

    @cached_property
    def content(self) -> Bool[ndarray, "x y z"]:
        """Where the fixed image shows something."""
        low, high = self.view.fixed.intensity_range()
        return foreground((self._values[0] - low) / (high - low)).cpu().numpy()

    @cached_property
    def matching(self) -> Matching:
        """Takes intensities of the warped image to those of the fixed one."""
        images = self.images
        return Matching.of(images[FIXED].values[self.content], images[WARPED].values[self.content])

    @cached_property
    def labels(self) -> dict[str, Int[ndarray, "x y z"]]:
        """The labels of the fixed image and the warped ones, where both images had some."""
        pair = {FIXED: self.view.fixed_labels, WARPED: self.view.warped_labels}
        return {name: self._nearest(labels) for name, labels in pair.items() if labels is not None}

    @cached_property
    def map(self) -> MapLayers:
        """The map on its coarser lattice."""
        lattice, view = self.lattice, self.view
        step = max(1.0, max(lattice.shape) / COARSE_POINTS)
        shape = triple(math.ceil((n - 1) / step) + 1 for n in lattice.shape)
        grid = lattice.framed(shape, torch.diag(torch.tensor([step, step, step, 1.0]).double())[None])
        ring = grid.crop((0, 0, 0), triple(n + 1 for n in shape))  # forward differences need one more
        mapped, affine = view.transform.at_grid(ring), view.transform.affine_part()
        determinant = determinant_of_map(mapped[0], grid)
        straight = AffineTransform(grid.world_to_voxel @ affine.inverse().matrix)
        moved = (straight(mapped[:, :-1, :-1, :-1]) - grid.points_voxel()) * step
        deviation = view.uncertainty and view.uncertainty(grid).values()[0, 0].float().cpu().numpy()
        return MapLayers(
            step,
            affine,
            moved[0].cpu().numpy(),
            determinant.clamp(min=LEAST).log2().cpu().numpy(),
            (determinant <= 0).cpu().numpy(),
            deviation,
        )

    @cached_property
    def _values(self) -> tuple[Float[Tensor, "x y z"], ...]:
        """First channels on the lattice, of the fixed, the warped and the moving image."""
        spacing_mm = float(self.lattice.spacing_mm.min())

        def of(image: StoredImage) -> Float[Tensor, "x y z"]:
            if self._box is not None and _coincide(image.grid, self.view.fixed.grid):
                values = canonical(image).read(self._box).float()
            else:
                values = image.sample_grid(self.lattice, spacing_mm)
            return values[0, 0].nan_to_num()

        images = self.view.fixed, self.view.warped, self.view.moving
        return tuple(in_order(of, images, self.lattice.device))

    def _nearest(self, labels: Image) -> Int[ndarray, "x y z"]:
        """Labels at the points of the lattice."""
        lattice = self.lattice.to("cpu")
        to_voxel = labels.grid.to("cpu").world_to_voxel @ lattice.voxel_to_world
        axes = along_axes(to_voxel, lattice.shape)
        if axes is None:
            at = apply_affine(to_voxel, lattice.points_voxel())[0].unbind(-1)
        else:  # the same, of each axis alone
            lines = [torch.arange(lattice.shape[own]) * to_voxel[0, k, own] for k, own in enumerate(axes)]
            shapes = [[-1 if j == own else 1 for j in range(3)] for own in axes]
            at = [(line + to_voxel[0, k, 3]).reshape(shapes[k]) for k, line in enumerate(lines)]
        shape, inside, index = labels.grid.shape, torch.ones(1, 1, 1, dtype=torch.bool), []
        for coordinate, n in zip(at, shape, strict=True):
            nearest = coordinate.round().long()
            inside = inside & (nearest >= 0) & (nearest < n)
            index.append(nearest.clamp(0, n - 1))
        return (labels.values()[0, 0].cpu()[tuple(index)].long() * inside).numpy()


def _coincide(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same voxels, as far as headers of files tell."""
    if one.shape != other.shape:
        return False
    away = (one.corners_world() - other.corners_world()).abs().max()
    return bool(away < SAME_VOXELS * other.spacing_mm.min())


def _shown(values: Float[Tensor, "x y z"], window: tuple[float, float]) -> Shown:
    low, high = window
    scaled = ((values - low) * (255 / (high - low))).clamp(0, 255)
    return Shown(scaled.round().to(torch.uint8).cpu().numpy(), window)
