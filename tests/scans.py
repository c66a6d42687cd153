"""Brains and heads as scanners and tools write them, with markers, implants and padding."""

import functools

import torch
from synthetic import AFFINES, grid_around, smooth_image
from torch import Tensor, nn

from patchmorph.images.foreground import find_content
from patchmorph.images.volume import Image
from patchmorph.networks.brain_mask import PATCH_SIZE

WHITE = 100.0
"""Intensity of the brightest tissue: about the upper end of the window of every scan."""

GRIDS = ("RAS", "LIA", "oblique")

SEMI_AXES_MM = torch.tensor([65.0, 80.0, 60.0])
"""Of the brain in all of them, around 0."""

SHAPES = {"brain": (48, 54, 48), "head": (58, 64, 58)}
"""Of voxels of 4 mm: a fifth of them is content."""


@functools.cache
def scan(kind: str, linear: str = "RAS") -> Image:
    """A ``brain`` in exact zeros, or a ``head``: a brain in a bright scalp and noise."""
    grid = grid_around(SHAPES[kind], AFFINES[linear] * 4)
    brain = smooth_image(grid).data / 0.85
    if kind == "brain":
        return Image(WHITE * torch.where(brain > 0.06, brain, 0), grid, kind)
    far = distance(Image(brain, grid))
    scalp = 0.95 * torch.sigmoid((far - 1.2) * 60) * torch.sigmoid((1.34 - far) * 60)
    return changed(Image(brain, grid, kind), rician(WHITE * torch.maximum(brain, scalp), 1.0))


def changed(image: Image, voxels: Tensor) -> Image:
    """The same grid with other voxels, ``[1, 1, X, Y, Z]`` or ``[X, Y, Z]``."""
    return Image(voxels.reshape(image.data.shape), image.grid, image.name)


def distance(image: Image) -> Tensor:
    """Distance of each voxel from the middle in semi-axes of the brain."""
    return (image.grid.points_world() / SEMI_AXES_MM).norm(dim=-1)[:, None]


def distance_mm(image: Image, center: tuple[float, float, float]) -> Tensor:
    """Distance of each voxel from a place."""
    return (image.grid.points_world() - torch.tensor(center)).norm(dim=-1)[:, None]


class BrainAtTheMiddle(nn.Module):
    """Stands for the brain network: predicts an ellipsoid of the brain's shape around the middle.

    Args:
        image: that the network is for.
        size: of the ellipsoid relative to the brain; small ones are rejected.
    """

    def __init__(self, image: Image, size: float = 1.0):
        super().__init__()
        half_side_mm = PATCH_SIZE / 2 * 2.75 * find_content(image.normalized()).radius_mm / 85
        self.semi_axes = size * SEMI_AXES_MM / half_side_mm
        self.answer: Tensor | None = None

    def forward(self, patch: Tensor) -> Tensor:
        """Logits."""
        if self.answer is None:
            axis = torch.linspace(-1, 1, patch.shape[-1])
            points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
            self.answer = torch.where((points / self.semi_axes).norm(dim=-1) < 1, 8.0, -8.0)
        return self.answer.expand_as(patch)


def rician(values: Tensor, deviation: float) -> Tensor:
    """The magnitude of a signal with complex noise (Gudbjartsson and Patz, MRM 1995)."""
    generator = torch.Generator().manual_seed(0)
    real, imaginary = (deviation * torch.randn(values.shape, generator=generator) for _ in range(2))
    return ((values + real).square() + imaginary.square()).sqrt()


def tube(image: Image, fraction: float) -> Tensor:
    """A marker of ``fraction`` of the voxels beside the head, along an edge of the array."""
    side = round((fraction * image.grid.shape[0] * image.grid.shape[2]) ** 0.5)
    inside = torch.zeros(image.data.shape, dtype=torch.bool)
    inside[..., 1 : 1 + side, 1:-1, -1 - side : -1] = True
    return inside


def implants(image: Image, fraction: float, side: int = 3) -> Tensor:
    """Cubes inside the tissue, ``fraction`` of the voxels together."""
    generator = torch.Generator().manual_seed(1)
    places = (image.data[0, 0] > WHITE / 3).nonzero()
    inside = torch.zeros(image.data.shape, dtype=torch.bool)
    while float(inside.float().mean()) < fraction:
        x, y, z = places[int(torch.randint(len(places), (1,), generator=generator))].tolist()
        inside[..., x : x + side, y : y + side, z : z + side] = True
    return inside & (image.data > WHITE / 10)


def vessels(image: Image, count: int = 20) -> Tensor:
    """Lines of one voxel through the tissue, along all axes."""
    generator = torch.Generator().manual_seed(2)
    inside = torch.zeros(image.data.shape, dtype=torch.bool)
    for line in range(count):
        place = [int(n * (0.25 + 0.5 * float(torch.rand(1, generator=generator)))) for n in image.grid.shape]
        inside[(0, 0, *(slice(None) if axis == line % 3 else place[axis] for axis in range(3)))] = True
    return inside & (image.data > WHITE / 10)


def outside_cylinder(image: Image) -> Tensor:
    """What a scanner with a round field of view does not image, along the last array axis."""
    x, y = (torch.linspace(-1, 1, n) for n in image.grid.shape[:2])
    outside = x[:, None].square() + y[None].square() > 0.98
    return outside[None, None, :, :, None].expand(image.data.shape)


def slab(image: Image, axis: int, width: int) -> Tensor:
    """The outermost voxels at one face."""
    inside = torch.zeros(image.data.shape, dtype=torch.bool)
    inside.narrow(2 + axis, 0, width).fill_(True)
    return inside


def t2(image: Image) -> Tensor:
    """Bright grey and dark white matter; fluid in the darkest 15 % is 2.2 times as bright as white matter."""
    tissue = image.data > 0.06 * WHITE
    fluid = image.data < image.data[tissue].quantile(0.15)
    return torch.where(tissue, torch.where(fluid, 220, 130 - 0.5 * image.data), image.data.clamp(max=1))
