"""Stationary velocity fields: diffeomorphisms, whose inverse is the backward flow."""

import functools
import math
import threading

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.memory import release, zeros
from patchmorph.spatial.affine import rotate_vectors
from patchmorph.spatial.bsplines import Degree, SplineDegree, nearest_spline, to_nearest_spline
from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.inverse import TOLERANCE_MM, solve
from patchmorph.workers import in_order

FLOW_DEGREE: SplineDegree = 5
"""Of registered flows. The Jacobian of cubic ones changes by a sixth more at grid points than between them
(docs/decisions/018)."""
WHOLE = 2**23
"""Grid points above which a velocity is integrated block by block: to integrate so many takes 1 GiB."""
SIDE = 96
"""Grid points along each side of these blocks."""
MARGIN = 2
"""Grid points around a block, besides those that a flow may cross, from which its integral is computed."""

_integrating = threading.Lock()


class VelocityField(Transform):
    """``φ = exp(v)``: the flow along a stationary velocity v at unit time.

    Attributes:
        velocity: ``[B, 3, X, Y, Z]``, mm per unit time along the world axes.
        grid: grid of the vectors.
        steps: number of squarings when the velocity is integrated.
        variance: variance of the velocity, mm²; ``None`` if it was not estimated.
        degree: of the flow: the B-spline nearest to its trilinear interpolation between grid points
            (`bsplines.nearest_spline`; docs/decisions/018), or 1: this interpolation itself.
    """

    def __init__(
        self,
        velocity: Float[Tensor, "b 3 x y z"],
        grid: Grid,
        steps: int = 6,
        variance: Float[Tensor, "b 1 x y z"] | None = None,
        degree: Degree = 1,
    ):
        self.velocity = velocity
        self.grid = grid
        self.steps = steps
        self.variance = variance
        self.degree: Degree = degree

    def __repr__(self) -> str:
        largest = float(self.velocity.norm(dim=1).max())
        return f"VelocityField({self.grid.description}, up to {largest:.4g} mm)"

    @functools.cached_property
    def flow(self) -> DisplacementField:
        """The displacement field of φ on the velocity's grid; threads that need it at once wait for one."""
        with _integrating:  # a cached property has no lock from Python 3.12 on
            if "flow" not in vars(self):
                vars(self)["flow"] = self._found_flow()
            return vars(self)["flow"]

    def _found_flow(self) -> DisplacementField:
        if len(self.velocity) > 1 or math.prod(self.grid.shape) <= WHOLE:
            return self._flow(self.velocity, self.grid)
        return DisplacementField(self._by_blocks(), self.grid, degree=self.degree)

    def _by_blocks(self) -> Float[Tensor, "1 3 x y z"]:
        """The values of ``flow``, integrated block by block and filtered part by part."""
        halo = MARGIN + math.ceil(self._fastest_voxels())
        values = zeros((1, 3, *self.grid.shape), self.grid.device)
        boxes = [box for box, _ in self.grid.blocks(SIDE)]
        parts = in_order(lambda box: self._integrated(box, halo), boxes, self.grid.device)
        for box, part in zip(boxes, parts, strict=True):
            if part is not None:
                values[(..., *box.slices)] = part
            release()
        if self.degree != 1:
            to_nearest_spline(values, self.degree)
        return values

    def _integrated(self, box: VoxelBox, halo: int) -> Float[Tensor, "1 3 u v w"] | None:
        """The displacement in ``box``, from the velocity up to ``halo`` grid points around it.

        ``None`` where that is zero.
        """
        wider = box.widened(halo, self.grid.shape)
        velocity = self.velocity[(..., *wider.slices)]
        if not velocity.any():
            return None
        displacement = integrate(velocity, self.grid.crop(wider.start, wider.shape), self.steps)
        return displacement[(..., *box.within(wider).slices)]

    def _fastest_voxels(self) -> float:
        """The largest speed, in grid points."""
        fastest = 0.0
        for box, _ in self.grid.blocks(SIDE):
            block = self.velocity[(..., *box.slices)]
            fastest = max(fastest, float(block.square().sum(1).amax()) ** 0.5)
        return fastest / float(self.grid.spacing_mm.min())

    def _flow(self, velocity: Float[Tensor, "b 3 u v w"], grid: Grid) -> DisplacementField:
        displacement = integrate(velocity, grid, self.steps)
        if self.degree != 1:
            displacement = nearest_spline(displacement, self.degree)
        return DisplacementField(displacement, grid, degree=self.degree)

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The mapped ``points``."""
        return self.flow(points)

    def at_grid(self, grid: Grid) -> Float[Tensor, "_ x y z 3"]:
        """The mapped points of ``grid``."""
        return self.flow.at_grid(grid)

    def support(self) -> Grid | None:
        """The grid of the velocity if the flow is zero beyond it, else ``None``."""
        return self.flow.support()

    def inverse(self) -> "InverseFlow":
        """The backward flow, corrected at each point."""
        return InverseFlow(self)

    def to(self, device: torch.device | str) -> "VelocityField":
        """The same field on another device."""
        variance = None if self.variance is None else self.variance.to(device)
        return VelocityField(
            self.velocity.to(device), self.grid.to(device), self.steps, variance, self.degree
        )


class InverseFlow(Transform):
    """The inverse of the sampled flow of a velocity field: exp(−v), corrected at each point.

    On a grid, exp(−v) and exp(v) are inverse to each other only up to interpolation error, which is tenths of
    a millimetre where the flow is strong. `inverse.solve` therefore starts from exp(−v) (docs/decisions/005).
    """

    def __init__(self, forward: VelocityField, tolerance_mm: float = TOLERANCE_MM):
        self.forward = forward
        self.tolerance_mm = tolerance_mm
        velocity = _negative(forward.velocity)
        self.backward = VelocityField(velocity, forward.grid, forward.steps, degree=forward.degree)

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The points that the flow maps to ``points``."""
        targets = points.reshape(len(points), -1, 3)
        found = solve(self.forward, targets, self.backward(targets), self.tolerance_mm)
        return found.reshape(-1, *points.shape[1:])

    def __repr__(self) -> str:
        return f"InverseFlow({self.forward!r})"

    def within(self, tolerance_mm: float) -> "InverseFlow":
        """The same map with another tolerance."""
        return InverseFlow(self.forward, tolerance_mm)

    def support(self) -> Grid | None:
        """The support of the velocity field."""
        return self.forward.support()

    def inverse(self) -> VelocityField:
        """The velocity field."""
        return self.forward

    def to(self, device: torch.device | str) -> "InverseFlow":
        """The same map on another device."""
        return InverseFlow(self.forward.to(device), self.tolerance_mm)


def _negative(velocity: Float[Tensor, "b 3 x y z"]) -> Float[Tensor, "b 3 x y z"]:
    """``-velocity``; of a large one part by part."""
    if math.prod(velocity.shape[2:]) <= WHOLE:
        return -velocity
    negative = zeros(tuple(velocity.shape), velocity.device)
    for part, own in zip(negative.split(SIDE, 2), velocity.split(SIDE, 2), strict=True):
        part.copy_(own).neg_()
        release()
    return negative


def merged(outer: VelocityField, inner: VelocityField) -> VelocityField:
    """One velocity whose flow is ``outer ∘ inner`` up to terms of third order; both share one grid.

    By the Baker–Campbell–Hausdorff formula ``a + b + (Da·b − Db·a) / 2`` (Bossa et al., MICCAI 2007; in
    log-domain demons, Vercauteren et al., MICCAI 2008), with central differences. Variances are added.
    """
    velocity = zeros(tuple(outer.velocity.shape), outer.grid.device)
    for box, _ in outer.grid.blocks(SIDE):
        wider = box.widened(1, outer.grid.shape)
        part = _merged(outer.velocity[(..., *wider.slices)], inner.velocity[(..., *wider.slices)], outer.grid)
        velocity[(..., *box.slices)] = part[(..., *box.within(wider).slices)]
        release()
    variances = [field.variance for field in (outer, inner) if field.variance is not None]
    variance = torch.stack(variances).sum(0) if variances else None
    return VelocityField(velocity, outer.grid, max(outer.steps, inner.steps), variance, outer.degree)


def _merged(
    outer: Float[Tensor, "b 3 x y z"], inner: Float[Tensor, "b 3 x y z"], grid: Grid
) -> Float[Tensor, "b 3 x y z"]:
    """The sum of two velocities and half of their bracket."""
    to_voxel = grid.world_to_voxel[:, :3, :3]
    a, b = rotate_vectors(to_voxel, outer), rotate_vectors(to_voxel, inner)
    bracket = _along(a, b) - _along(b, a)
    return outer + inner + rotate_vectors(grid.voxel_to_world[:, :3, :3], bracket) / 2


def _along(
    field: Float[Tensor, "b 3 x y z"], direction: Float[Tensor, "b 3 x y z"]
) -> Float[Tensor, "b 3 x y z"]:
    """Directional derivative of ``field`` along ``direction`` (voxels)."""
    slopes = torch.gradient(field, dim=(2, 3, 4))
    return torch.stack([slope * direction[:, k, None] for k, slope in enumerate(slopes)]).sum(0)


def integrate(velocity: Float[Tensor, "b 3 x y z"], grid: Grid, steps: int) -> Float[Tensor, "b 3 x y z"]:
    """Displacement (mm) of exp(``velocity``) by scaling and squaring (Arsigny et al., MICCAI 2006).

    The displacement starts as ``velocity / 2**steps`` and is composed with itself ``steps`` times, in voxel
    units of ``grid`` so that no coordinates are converted in between.
    """
    displacement = rotate_vectors(grid.world_to_voxel[:, :3, :3], velocity) / 2**steps
    identity = grid.points_voxel()
    for _ in range(steps):
        moved = identity + displacement.movedim(1, -1)
        displacement = displacement + sample_linear(displacement, moved, outside="border")
    return rotate_vectors(grid.voxel_to_world[:, :3, :3], displacement)
