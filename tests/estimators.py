"""Networks in closed form: they keep the contract of a network and find real motion without any training.

Both linearise ``moving(x + u) = fixed(x)`` (Lucas and Kanade, IJCAI 1981), so a registration with them
converges to the truth where the code around networks composes, scales and rotates their output correctly.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.networks.model import ModelSpec, PatchMorphModel


class AffineFlow(nn.Module):
    """The generator of an affine map, by least squares over a whole pair of patches."""

    def forward(self, pair: Tensor) -> Tensor:
        """``[B, 4, 4]``, in patch voxels about the middle of the patch."""
        slopes, difference = linearised(pair)
        side = pair.shape[-1]
        axis = torch.arange(side, device=pair.device) - (side - 1) / 2
        points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1)
        homogeneous = torch.cat([points, torch.ones_like(points[:1])])  # [4, n]
        generators = []
        for slope, values in zip(slopes.flatten(2).double(), difference.flatten(1).double(), strict=True):
            columns = (slope[:, None] * homogeneous).flatten(0, 1)  # [12, n]
            matrix = columns @ columns.T
            matrix += 1e-6 * torch.eye(12) * matrix.diagonal().mean() + 1e-9 * torch.eye(12)
            top = torch.linalg.solve(matrix, columns @ values).reshape(3, 4)
            generators.append(torch.cat([top, torch.zeros(1, 4)]))
        return torch.stack(generators).float()


class DenseFlow(nn.Module):
    """A velocity in patch voxels at half the resolution, by least squares over boxes of 8³ voxels."""

    def __init__(self) -> None:
        super().__init__()
        # Axis by axis: the means of 8³ boxes at a twentieth of their cost.
        self.boxes = nn.Sequential(
            nn.AvgPool3d((8, 1, 1), stride=(2, 1, 1), padding=(3, 0, 0)),
            nn.AvgPool3d((1, 8, 1), stride=(1, 2, 1), padding=(0, 3, 0)),
            nn.AvgPool3d((1, 1, 8), stride=(1, 1, 2), padding=(0, 0, 3)),
        )

    def forward(self, pair: Tensor) -> Tensor:
        """``[B, 3, N/2, N/2, N/2]``."""
        slopes, difference = linearised(pair)
        products = self.boxes((slopes[:, :, None] * slopes[:, None]).flatten(1, 2)).unflatten(1, (3, 3))
        right = self.boxes(slopes * difference[:, None])
        x, y, z = (products + 1e-4 * torch.eye(3)[:, :, None, None, None]).unbind(2)  # columns
        determinant = (x * torch.linalg.cross(y, z, dim=1)).sum(1)
        rows = [torch.linalg.cross(a, b, dim=1) for a, b in ((y, z), (z, x), (x, y))]  # Cramer's rule
        answer = torch.stack([(row * right).sum(1) for row in rows], dim=1) / determinant[:, None]
        return answer.clamp(-3, 3)


def linearised(pair: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes ``[B, 3, N, N, N]`` along the array axes, and fixed minus moving, of smoothed patches."""
    smoothed = functional.avg_pool3d(pair.float(), 3, 1, 1)
    fixed, moving = smoothed[:, 0], smoothed[:, 1]
    return torch.stack(torch.gradient((fixed + moving) / 2, dim=(1, 2, 3)), dim=1), fixed - moving


TRUST = ("estimators:AffineFlow", "estimators:DenseFlow")
"""Classes that files of these models name."""

NO_SEARCH = ("--initial-transform", "centers")
"""Options by which a command leaves out the search over poses: half of the time of a small pair."""

SPEC = {
    "patch_size": 32,
    "precision": "fp32",
    "spacings_mm": [6.0, 4.0],
    "affine": {"name": "estimators:AffineFlow"},
    "affine_passes": 3,
    "dense": {"name": "estimators:DenseFlow"},
}


def estimating_model(**spec) -> PatchMorphModel:
    """A model whose networks are `AffineFlow` and `DenseFlow`; their output is not damped."""
    model = PatchMorphModel(ModelSpec.model_validate({**SPEC, **spec}))
    with torch.no_grad():
        for network in model.dense:
            network.gain.fill_(1.0)  # type: ignore[union-attr,operator]
    return model.eval()


class Scripted(nn.Module):
    """An affine network whose output is given: one generator per call, then again from the first.

    Args:
        generators: each ``[4][4]``, in patch voxels about the middle of the patch.

    Attributes:
        calls: number of calls.
        shapes: of the patches of each call.
    """

    def __init__(self, generators: list):
        super().__init__()
        self.generators = [torch.tensor(generator, dtype=torch.float32) for generator in generators]
        self.calls = 0
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, pair: Tensor) -> Tensor:
        """The next generator, whatever the patches show."""
        self.calls += 1
        self.shapes.append(tuple(pair.shape[1:]))
        return self.generators[(self.calls - 1) % len(self.generators)].expand(len(pair), 4, 4)


class Wave(nn.Module):
    """A dense network whose output is one smooth velocity across the patch, whatever the patches show.

    Args:
        axis: of the patch along which points move.
        along: axis along which the velocity changes, as half a period of a sine.
        amplitude: in patch voxels.
    """

    def __init__(self, axis: int = 0, along: int = 1, amplitude: float = 1.0):
        super().__init__()
        self.axis, self.along, self.amplitude = axis, along, amplitude

    def forward(self, pair: Tensor) -> Tensor:
        """``[B, 3, N/2, N/2, N/2]``."""
        side = pair.shape[-1] // 2
        answer = torch.zeros(len(pair), 3, side, side, side)
        wave = torch.sin(torch.pi * (torch.arange(side) + 0.5) / side)
        answer[:, self.axis] = self.amplitude * wave.reshape([-1 if k == self.along else 1 for k in range(3)])
        return answer
