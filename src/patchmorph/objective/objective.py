"""The training objective: which terms, with what weight."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, field_validator
from torch import Tensor

from patchmorph.objective.regularity import diffusion_energy, folding_penalty
from patchmorph.objective.similarity import lncc, mse
from patchmorph.objective.supervision import point_error

SIMILARITIES: dict[str, Callable[..., Float[Tensor, " b"]]] = {"lncc": lncc, "mse": mse}


class Objective(BaseModel):
    """Weights of the terms; each is a mean over the batch, summed over stages.

    Attributes:
        similarity: name in the table of similarities.
        similarity_options: its keyword arguments, such as the ``radius`` of LNCC in patch voxels.
        affine_weight: of the similarity after each affine step; dense stages count one.
        diffusion: weight of the diffusion energy of each dense stage's displacement.
        folding: weight of the folding penalty of each dense stage's displacement.
        supervision: weight of the point error, per mm, for pairs whose truth is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    similarity: str = "lncc"
    similarity_options: dict[str, Any] = {}
    affine_weight: NonNegativeFloat = 0.5
    diffusion: NonNegativeFloat = 0.6
    folding: NonNegativeFloat = 20.0
    supervision: NonNegativeFloat = 0.1

    def similarity_term(
        self, fixed: Float[Tensor, "b 1 x y z"], warped: Float[Tensor, "b 1 x y z"]
    ) -> Float[Tensor, ""]:
        """Dissimilarity of patches."""
        return SIMILARITIES[self.similarity](fixed, warped, **self.similarity_options).mean()

    @field_validator("similarity")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SIMILARITIES:
            raise ValueError(f"must be one of {', '.join(SIMILARITIES)}, got {name}")
        return name

    def diffusion_term(
        self, displacement: Float[Tensor, "b 3 x y z"], spacing_mm: float
    ) -> Float[Tensor, ""]:
        """Diffusion energy of a displacement in mm."""
        return diffusion_energy(displacement, spacing_mm).mean()

    def folding_term(self, displacement: Float[Tensor, "b 3 x y z"], spacing_mm: float) -> Float[Tensor, ""]:
        """Folding penalty of a displacement in mm."""
        return folding_penalty(displacement, spacing_mm).mean()

    def supervision_term(
        self,
        mapped: Float[Tensor, "b *n 3"],
        truth: Float[Tensor, "b *n 3"],
        mask: Bool[Tensor, "b *n"],
        known: Float[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Point error over the batch entries whose truth is ``known``, divided by the whole batch."""
        return (point_error(mapped, truth, mask) * known).mean()
