"""A registration model: its networks, and the schedule that they were trained for."""

from itertools import pairwise
from typing import Any

import torch
from pydantic import (
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
    """A network by its name in the registry, and its keyword arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    options: dict[str, Any] = {}


class ModelSpec(BaseModel):
    """Everything but the weights; travels as JSON inside the model file.

    Attributes:
        patch_size: voxels along each side of a patch, at every scale; a multiple of 16, since networks halve
            the resolution four times.
        spacings_mm: voxel size of the patches, coarse to fine, for content of the reference radius.
        repeats: how often the network of each scale looks, every time at what it left; ``null``: once.
        reference_radius_mm: root mean square radius of the fixed image's content for which ``spacings_mm``
            holds; for other content all spacings scale along, so one model serves a human and a mouse.
            ``null``: the spacings are mm whatever the content.
        affine: network of the affine stage, at the coarsest scale; ``null``: the start is a shift only.
        affine_repeats: how often the affine stage looks again.
        dense: network of each dense stage.
        integration_steps: squarings per dense stage.
        overlap: least share of a patch that its lattice neighbour covers too.
        smoothing: standard deviation, in velocity voxels, of the kernel that smooths each blended velocity.
        symmetric: every network also sees the pair swapped, and half the difference of its answers counts, so
            that each stage is inverse consistent by construction; twice the work of the networks.
        precision: what the networks compute in where the device can (see `patchmorph.networks.contract`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: PositiveInt = Field(default=64, multiple_of=16)
    spacings_mm: list[PositiveFloat] = Field(default=[4.0, 2.0, 1.0], min_length=1)
    repeats: list[PositiveInt] | None = None
    reference_radius_mm: PositiveFloat | None = 60.0
    affine: NetworkSpec | None = NetworkSpec(name="affine-encoder")
    affine_repeats: PositiveInt = 4
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
    def _repeats_fit(self) -> "ModelSpec":
        if self.repeats is not None and len(self.repeats) != len(self.spacings_mm):
            raise ValueError(f"repeats must be one number a scale, got {self.repeats}")
        return self

    @property
    def looks(self) -> list[int]:
        """The scale of each dense stage: a scale stands there as often as its network looks."""
        repeats = self.repeats or [1] * len(self.spacings_mm)
        return [scale for scale, count in enumerate(repeats) for _ in range(count)]

    def spacings_for(self, radius_mm: float) -> list[float]:
        """``spacings_mm`` for content of another radius than the reference."""
        unit = 1.0 if self.reference_radius_mm is None else radius_mm / self.reference_radius_mm
        return [spacing * unit for spacing in self.spacings_mm]


class PatchMorphModel(nn.Module):
    """The networks of a model: one affine network, if any, and one dense network a scale."""

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
        """Where the weights lie."""
        return next(self.parameters()).device
