"""The objective of training and refinement: its terms and their weights."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, field_validator, model_validator
from torch import Tensor

from patchmorph.objective.similarity import lncc, mind, mse, mutual_information

SIMILARITIES: dict[str, Callable[..., Float[Tensor, " b"]]] = {
    "lncc": lncc,
    "mse": mse,
    "mind": mind,
    "mi": mutual_information,
}
"""Dissimilarities of fixed, moving and mask by the name in a configuration: one value per patch."""


class Objective(BaseModel):
    """Weights of the terms, which are summed over stages. A term of weight zero is not computed.

    Attributes:
        similarity: name in `SIMILARITIES`.
        similarity_options: its keyword arguments, such as the ``radius`` of LNCC in patch voxels.
        affine_weight: weight of the similarity after each affine pass; it is one after dense stages.
        diffusion: weight of the diffusion energy of the displacement (without its affine part) after each
            dense stage.
        volume: weight of the mean squared log-determinant of the same displacement.
        folding: weight of its folding penalty.
        supervision: weight of the point error, per mm, for pairs with a known true map.
        overlap: weight of one minus the soft Dice of the label maps, for subjects with label maps.
        landmarks: weight of the landmark error, per mm, for landmarks present in both images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    similarity: str = "lncc"
    similarity_options: dict[str, Any] = {}
    affine_weight: NonNegativeFloat = 0.5
    diffusion: NonNegativeFloat = 0.6
    volume: NonNegativeFloat = 0.0
    folding: NonNegativeFloat = 20.0
    supervision: NonNegativeFloat = 0.1
    overlap: NonNegativeFloat = 0.0
    landmarks: NonNegativeFloat = 0.0

    @field_validator("similarity")
    @classmethod
    def _is_listed(cls, name: str) -> str:
        if name not in SIMILARITIES:
            raise ValueError(f"must be one of {', '.join(SIMILARITIES)}, got {name}")
        return name

    @model_validator(mode="after")
    def _options_fit(self) -> "Objective":
        function = inspect.unwrap(SIMILARITIES[self.similarity])
        options = list(inspect.signature(function).parameters)[3:]
        unknown = sorted(set(self.similarity_options) - set(options))
        if unknown:
            raise ValueError(
                f"options of {self.similarity} must be among {', '.join(options) or 'none'}, "
                f"got {', '.join(unknown)}"
            )
        return self

    def comparing_by(self, similarity: str) -> "Objective":
        """The same weights with another similarity, by name and with default options."""
        return self.model_copy(update={"similarity": similarity, "similarity_options": {}})

    def dissimilarity(
        self,
        fixed: Float[Tensor, "b 1 x y z"],
        warped: Float[Tensor, "b 1 x y z"],
        mask: Float[Tensor, "b 1 x y z"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Dissimilarity of two patches by the chosen similarity: one value per patch."""
        return SIMILARITIES[self.similarity](fixed, warped, mask, **self.similarity_options)

    def weighted(self, terms: dict[str, Float[Tensor, " b"]]) -> Float[Tensor, " b"]:
        """Weighted sum of a dense stage's terms; ``similarity`` has weight one."""
        parts = [getattr(self, name) * value for name, value in terms.items() if name != "similarity"]
        return sum(parts, start=terms["similarity"])
