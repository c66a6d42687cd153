"""Every random number of a training step."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchmorph.patches.nested import draw_placement
from patchmorph.training.augmentation.contrast import NUMBERS

LATTICES = (7, 15)
"""Points along each side of the coarse and the fine random lattice of the smooth displacement."""
AFFINE_NUMBERS = 13


@dataclass(frozen=True)
class Draw:
    """Every random number of one training step.

    Numbers are uniform from −1 to 1 unless stated otherwise. They are drawn on the CPU, so a seed gives the
    same draw on every device. With several GPUs, each draws the whole step and takes its `part`.

    Attributes:
        fixed_index: slot of the fixed image in the cohort.
        moving_index: slot of the moving image in the cohort.
        mirror: −1 or 1, the same for both images of a pair.
        affine: affine maps of the fixed and of the moving image.
        amplitude: amplitudes of the two lattices, from 0 to 1.
        coarse: displacement at the points of the coarse lattice.
        fine: displacement at the points of the fine lattice.
        tone: gamma and gain of the fixed, then of the moving image.
        start: error of the initial translation.
        root: position of the coarsest patch.
        placement: positions of the finer patches in their parents.
        contrast: contrasts of the fixed and of the moving image (see
            `patchmorph.training.augmentation.contrast`); empty without contrast augmentation.
    """

    fixed_index: Int[Tensor, " b"]
    moving_index: Int[Tensor, " b"]
    mirror: Float[Tensor, " b"]
    affine: Float[Tensor, "b 2 13"]
    amplitude: Float[Tensor, "b 2 1 1 1 1"]
    coarse: Float[Tensor, "b 3 7 7 7"]
    fine: Float[Tensor, "b 3 15 15 15"]
    tone: Float[Tensor, "b 4"]
    start: Float[Tensor, "b 3"]
    root: Float[Tensor, "b 3"]
    placement: Float[Tensor, "b s 3"]
    contrast: Float[Tensor, "b 2 n"]

    @classmethod
    def sample(
        cls,
        images: int,
        batch: int,
        scales: int,
        same_person: float,
        generator: torch.Generator,
        contrasts: bool = False,
    ) -> "Draw":
        """Draw a step of ``batch`` pairs.

        Args:
            images: number of slots in the cohort.
            batch: number of pairs.
            scales: number of patches in a chain.
            same_person: probability that both images of a pair are drawn from one subject.
            generator: source of the numbers, on the CPU.
            contrasts: whether numbers for contrasts are drawn.
        """

        def uniform(*shape: int) -> Tensor:
            return 2 * torch.rand(shape, generator=generator) - 1

        fixed_index = torch.randint(images, (batch,), generator=generator)
        other = torch.randint(images, (batch,), generator=generator)
        same = torch.rand(batch, generator=generator) < same_person
        return cls(
            fixed_index=fixed_index,
            moving_index=torch.where(same, fixed_index, other),
            mirror=torch.sign(uniform(batch)),
            affine=uniform(batch, 2, AFFINE_NUMBERS),
            amplitude=torch.rand(batch, 2, 1, 1, 1, 1, generator=generator),
            coarse=uniform(batch, 3, *(LATTICES[0],) * 3),
            fine=uniform(batch, 3, *(LATTICES[1],) * 3),
            tone=uniform(batch, 4),
            start=uniform(batch, 3),
            root=uniform(batch, 3),
            placement=draw_placement(scales, batch, generator),
            contrast=uniform(batch, 2, NUMBERS if contrasts else 0),
        )

    def to(self, device: torch.device) -> "Draw":
        """The same numbers on another device."""
        return Draw(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def part(self, first: int, count: int) -> "Draw":
        """``count`` pairs, from pair ``first`` on."""
        return Draw(**{f.name: getattr(self, f.name)[first : first + count] for f in fields(self)})

    def copy_(self, other: "Draw") -> None:
        """Overwrite these tensors in place."""
        for field in fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name), non_blocking=True)
