"""A registration model: its networks and the schedule for which they were trained."""

from itertools import pairwise
from typing import Any

import torch
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from torch import nn

from patchmorph.networks import registry
from patchmorph.networks.contract import Precision


class NetworkSpec(BaseModel):
    """The name of a network in the registry, and its keyword arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    options: dict[str, Any] = {}


class ModelSpec(BaseModel):
    """A model without its weights, stored as JSON in the model file.

    Attributes:
        patch_size: voxels along each side of a patch, at every scale; a multiple of 16, since networks halve
            the resolution four times.
        spacings_mm: voxel size of the patches, coarse to fine, for content of the reference radius.
        passes: passes of the network of each scale, each applied to the residual motion; ``null``: one each.
        reference_radius_mm: root mean square radius of the fixed image's content for which ``spacings_mm``
            holds; for other content all spacings are scaled in proportion, so one model serves a human and a
            mouse. ``null``: the spacings are in mm for any content.
        affine: network of the affine stage, at the coarsest scale; ``null``: no affine stage.
        affine_passes: passes of the affine network.
        dense: network of each dense stage.
        integration_steps: squarings per dense stage.
        overlap: minimum fraction of a patch that its lattice neighbour covers too.
        smoothing: standard deviation, in velocity voxels, of the kernel that smooths each blended velocity.
        symmetric: every network is also applied to the exchanged pair, and half the difference of both
            outputs is used: each stage is inverse consistent by construction, at twice the computation.
        precision: precision of the networks (see `patchmorph.networks.contract`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: PositiveInt = Field(default=64, multiple_of=16)
    spacings_mm: list[PositiveFloat] = Field(default=[4.0, 2.0, 1.0], min_length=1)
    passes: list[PositiveInt] | None = Field(default=None, validation_alias=AliasChoices("passes", "repeats"))
    reference_radius_mm: PositiveFloat | None = 60.0
    affine: NetworkSpec | None = NetworkSpec(name="affine-encoder")
    affine_passes: PositiveInt = Field(
        default=4, validation_alias=AliasChoices("affine_passes", "affine_repeats")
    )
    dense: NetworkSpec = NetworkSpec(name="unet")
    integration_steps: PositiveInt = 6
    overlap: float = Field(default=0.25, ge=0, lt=1)
    smoothing: float = Field(default=0.35, ge=0, le=0.7)
    precision: Precision = "bf16"
    symmetric: bool = False

    @field_validator("spacings_mm")
    @classmethod
    def _coarse_to_fine(cls, spacings: list[float]) -> list[float]:
        if any(fine >= coarse for coarse, fine in pairwise(spacings)):
            raise ValueError(f"spacings_mm must decrease from coarse to fine, got {spacings}")
        return spacings

    @model_validator(mode="after")
    def _passes_fit(self) -> "ModelSpec":
        if self.passes is not None and len(self.passes) != len(self.spacings_mm):
            raise ValueError(f"passes must be one number a scale, got {self.passes}")
        return self

    @property
    def stage_scales(self) -> list[int]:
        """The scale of each dense stage: one entry per pass of a scale."""
        passes = self.passes or [1] * len(self.spacings_mm)
        return [scale for scale, count in enumerate(passes) for _ in range(count)]

    def spacings_for(self, radius_mm: float) -> list[float]:
        """``spacings_mm`` for content of radius ``radius_mm``."""
        unit = 1.0 if self.reference_radius_mm is None else radius_mm / self.reference_radius_mm
        return [spacing * unit for spacing in self.spacings_mm]


class PatchMorphModel(nn.Module):
    """The networks of a model: one affine network, if any, and one dense network per scale."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec = spec
        self.affine = spec.affine and registry.build_affine(
            spec.affine.name, spec.affine.options, spec.patch_size
        )
        self.dense = nn.ModuleList(
            registry.build_dense(spec.dense.name, spec.dense.options) for _ in spec.spacings_mm
        )
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device
