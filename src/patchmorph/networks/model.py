"""A registration model: its networks and the schedule for which they were trained."""

from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import nn

from patchmorph.networks import registry
from patchmorph.networks.contract import PATCH_MULTIPLE, Precision, predict

Spacing = Annotated[float, Field(ge=1e-5, le=100)]
"""In mm: from a hundredth of a micron to ten centimetres."""
Passes = Annotated[int, Field(ge=1, le=32)]
MAX_VOXELS_PER_RADIUS = 4000
"""Voxels of the finest patches along the radius of the content: 15 micron in a human brain. The number of
patches grows with the third power of it, to some millions here."""


class NetworkSpec(BaseModel):
    """The name of a network in the registry, or ``module:Class``, and its keyword arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w.-]+(:\w+)?$", max_length=200)
    options: dict[str, Any] = {}


class ModelSpec(BaseModel):
    """A model without its weights, stored as JSON in the model file.

    All numbers have bounds, since they decide about memory and time before anything is computed.

    Attributes:
        patch_size: voxels along each side of a patch, at every scale; a multiple of 16, since networks halve
            the resolution four times, and at most 512: a pair of such patches takes 1 GiB.
        spacings_mm: voxel size of the patches, coarse to fine, for content of the reference radius; at most
            eight scales.
        passes: passes of the network of each scale, each applied to the residual motion; ``null``: one each.
        reference_radius_mm: root mean square radius of the fixed image's content for which ``spacings_mm``
            holds; for other content all spacings are scaled in proportion, so one model serves a human and a
            mouse. ``null``: the spacings are in mm for any content.
        affine: network of the affine stage, at the coarsest scale; ``null``: no affine stage.
        affine_passes: passes of the affine network.
        dense: network of each dense stage.
        integration_steps: squarings per dense stage, at most twelve: the flow is divided into 4096 parts,
            and float32 would round away what smaller ones move.
        overlap: minimum fraction of a patch that its lattice neighbour covers too, at most 0.9: a point then
            lies in about a thousand patches.
        smoothing: standard deviation, in velocity voxels, of the kernel that smooths each blended velocity.
        symmetric: every network is also applied to the exchanged pair, and half the difference of both
            outputs is used: each stage is inverse consistent by construction, at twice the computation.
        precision: precision of the networks (see `patchmorph.networks.contract`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: int = Field(default=64, ge=16, le=512, multiple_of=PATCH_MULTIPLE)
    spacings_mm: list[Spacing] = Field(default=[4.0, 2.0, 1.0], min_length=1, max_length=8)
    passes: list[Passes] | None = Field(default=None, validation_alias=AliasChoices("passes", "repeats"))
    reference_radius_mm: float | None = Field(default=60.0, ge=1e-3, le=1e4)
    affine: NetworkSpec | None = NetworkSpec(name="affine-encoder")
    affine_passes: Passes = Field(default=4, validation_alias=AliasChoices("affine_passes", "affine_repeats"))
    dense: NetworkSpec = NetworkSpec(name="unet")
    integration_steps: int = Field(default=6, ge=1, le=12)
    overlap: float = Field(default=0.25, ge=0, le=0.9)
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

    @model_validator(mode="after")
    def _patches_are_countable(self) -> "ModelSpec":
        radius, finest = self.reference_radius_mm or 0.0, self.spacings_mm[-1]
        if radius > MAX_VOXELS_PER_RADIUS * finest:
            raise ValueError(
                f"reference_radius_mm must be at most {MAX_VOXELS_PER_RADIUS} of the finest spacings_mm, "
                f"got {radius:g} and {finest:g}"
            )
        return self

    @property
    def networks(self) -> list[NetworkSpec]:
        """The networks that the model names."""
        return [network for network in (self.affine, self.dense) if network is not None]

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

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        spacings = ", ".join(f"{spacing:g}" for spacing in self.spec.spacings_mm)
        networks = " and ".join(network.name for network in self.spec.networks)
        patches = f"patches of {self.spec.patch_size}³ at {spacings} mm"
        return f"PatchMorphModel({networks}, {patches}, {count / 1e6:.3g} million parameters)"

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @torch.no_grad()
    def warm_up(self) -> None:
        """Run the affine and one dense network on empty patches: the first pass on CUDA loads kernels."""
        networks = [self.dense[0]] if self.affine is None else [self.affine, self.dense[0]]
        for network in networks:
            patches = torch.zeros(1, 2, *[self.spec.patch_size] * 3, device=self.device)
            predict(network, patches, self.spec.precision)
