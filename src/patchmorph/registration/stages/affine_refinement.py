"""An affine map of one pair without a network: gradient steps on its twelve numbers."""

import math
from dataclasses import dataclass

import torch

from patchmorph.images.in_memory import ImageSource
from patchmorph.objective.objective import SIMILARITIES
from patchmorph.patches.extraction import extract_pair, matrix_to_world
from patchmorph.spatial.affine import exponential
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform

COARSER = (2, 1)
"""Voxel sizes of the levels, in those of the patch."""
STEPS = 40
"""On each level."""
LINEAR_RATE, SHIFT_RATE = 0.02, 0.8
"""First steps of the entries of the generator, and of its shift in voxels of the patch (Adam)."""


@dataclass(frozen=True)
class AffineRefinementStage:
    """Descends the dissimilarity of one patch over the whole content.

    Attributes:
        patch: where it looks.
        spacing_mm: voxel size of the patch.
        similarity: name in the objective's table.
    """

    patch: Grid
    spacing_mm: float
    similarity: str = "lncc"

    def refine(self, fixed: ImageSource, moving: ImageSource, transform: Transform) -> Transform:
        """``transform @ affine``."""
        device = self.patch.device
        linear = torch.zeros(1, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
        shift = torch.zeros(1, 3, 1, dtype=torch.float64, device=device, requires_grad=True)
        groups = [{"params": [linear], "lr": LINEAR_RATE}, {"params": [shift], "lr": SHIFT_RATE}]
        optimizer = torch.optim.Adam(groups)
        fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _fall(k / (STEPS * len(COARSER))))
        for factor in COARSER:
            patch, spacing_mm = self.patch.coarsen(factor), self.spacing_mm * factor
            for _ in range(STEPS):
                with torch.enable_grad():
                    through = transform @ self._residual(linear, shift)
                    seen, warped = extract_pair(fixed, moving, patch, spacing_mm, through).split(1, dim=1)
                    loss = SIMILARITIES[self.similarity](seen, warped).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                fall.step()
        return transform @ AffineTransform(self._residual(linear, shift).matrix.detach())

    def _residual(self, linear: torch.Tensor, shift: torch.Tensor) -> AffineTransform:
        top = torch.cat([linear, shift], dim=-1)
        generator = torch.cat([top, torch.zeros_like(top[:, :1])], dim=1)
        return AffineTransform(matrix_to_world(exponential(generator), self.patch))


def _fall(progress: float) -> float:
    """Half a cosine."""
    return (1 + math.cos(math.pi * progress)) / 2
