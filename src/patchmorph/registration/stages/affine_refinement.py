"""An affine map of one pair without a network: gradient steps on its twelve numbers."""

from dataclasses import dataclass

import torch

from patchmorph.objective.objective import Objective
from patchmorph.patches.extraction import extract_pair, matrix_to_world
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.stages.base import Stage
from patchmorph.registration.stages.descent import Descent, half_cosine
from patchmorph.spatial.affine import exponential
from patchmorph.spatial.grid import Grid, cube
from patchmorph.transforms.base import AffineTransform, Transform

COARSENING = (2, 1)
"""Voxel sizes of the levels, in those of the patch."""
STEPS = 40
"""Steps on each level."""
LINEAR_RATE, SHIFT_RATE = 0.02, 0.8
"""First steps of the entries of the generator, and of its shift in voxels of the patch (Adam)."""


@dataclass(frozen=True)
class AffineRefinementStage(Stage):
    """Minimises the dissimilarity of one patch over the whole content.

    Attributes:
        spacing_mm: voxel size of the patch.
        patch_size: voxels along each side of the patch.
        objective: what the images are compared by.
        rigid: rotation and shift only.
    """

    spacing_mm: float
    patch_size: int
    objective: Objective
    rigid: bool = False

    @property
    def label(self) -> str:
        """What is done."""
        return "affine refinement"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """``transform @ affine``."""
        return AffineDescent(self, pair, transform).run()


class AffineDescent(Descent):
    """The generator of an affine map, in the frame of the patch, under Adam with a falling rate."""

    def __init__(self, stage: AffineRefinementStage, pair: PreparedPair, transform: Transform):
        self.stage, self.pair, self.outer = stage, pair, transform
        content, shape = pair.fixed.content, cube(stage.patch_size)
        self.patch = Grid.centered(shape, stage.spacing_mm, content.center_world).to(content.device)
        numbers = {"dtype": torch.float64, "requires_grad": True}
        self.linear, self.shift = torch.zeros(1, 3, 3, **numbers), torch.zeros(1, 3, 1, **numbers)
        self.optimizer = torch.optim.Adam(
            [{"params": [self.linear], "lr": LINEAR_RATE}, {"params": [self.shift], "lr": SHIFT_RATE}]
        )
        total = STEPS * len(COARSENING)
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda k: half_cosine(k / total))
        self.steps = 0

    @property
    def is_done(self) -> bool:
        """Whether the steps of all levels are taken."""
        return self.steps == self.limit

    @property
    def limit(self) -> int:
        """Steps on all levels."""
        return STEPS * len(COARSENING)

    def step(self) -> None:
        """One step of Adam."""
        factor = COARSENING[self.steps // STEPS]
        patch, spacing_mm = self.patch.coarsen(factor), self.stage.spacing_mm * factor
        with torch.enable_grad():
            through = self.outer @ self._residual()
            loss = torch.zeros((), device=patch.device)
            for fixed, moving, weight in self.pair.compared:
                images = extract_pair(fixed, moving, patch, spacing_mm, through)
                loss = loss + weight * self.stage.objective.dissimilarity(*images.split(1, dim=1)).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.rate.step()
        self.steps += 1

    @property
    def transform(self) -> Transform:
        """The map before the descent, followed by the affine residual."""
        return self.outer @ AffineTransform(self._residual().matrix.detach())

    def _residual(self) -> AffineTransform:
        linear = (self.linear - self.linear.mT) / 2 if self.stage.rigid else self.linear
        top = torch.cat([linear, self.shift], dim=-1)
        generator = torch.cat([top, torch.zeros_like(top[:, :1])], dim=1)
        return AffineTransform(matrix_to_world(exponential(generator), self.patch))
