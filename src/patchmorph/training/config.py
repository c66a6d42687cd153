"""The YAML configuration of a training run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from patchmorph.catalogue import load_spec, packaged_models
from patchmorph.errors import PatchMorphError, one_line, problems
from patchmorph.networks.model import ModelSpec
from patchmorph.objective.objective import Objective

Fraction = Annotated[float, Field(ge=0, le=1)]
PathText = Annotated[str, Field(pattern=r"^[^\x00]+$")]
"""A path or a pattern of paths; NUL is in none."""

FINAL_RATE_FRACTION = 0.03
"""Fraction of the learning rate at the end of the cosine."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augmentation(_Section):
    """Ranges of the random augmentations; every draw is uniform from minus to plus the value.

    Attributes:
        rotation_deg: about each world axis.
        scale: isotropic, as a logarithm.
        anisotropy: added to ``scale`` independently for each axis.
        shear: off-diagonal entries of the affine matrix.
        shift_mm: along each world axis.
        coarse_mm: amplitude of the smooth displacement on a lattice of 7³ points over 256 mm.
        fine_mm: likewise on 15³ points.
        mirror: whether half of the pairs are mirrored, left to right.
        gamma: exponent of the intensities, as a logarithm.
        gain: factor of the intensities, about 1.
        contrast: fraction of images that are given to the networks in a random contrast (see
            `patchmorph.training.augmentation.contrast`).
    """

    rotation_deg: NonNegativeFloat = 20.0
    scale: NonNegativeFloat = 0.1
    anisotropy: NonNegativeFloat = 0.08
    shear: NonNegativeFloat = 0.06
    shift_mm: NonNegativeFloat = 12.0
    coarse_mm: NonNegativeFloat = 9.0
    fine_mm: NonNegativeFloat = 3.0
    mirror: bool = True
    gamma: NonNegativeFloat = 0.3
    gain: NonNegativeFloat = 0.1
    contrast: Fraction = 0.0


class Data(_Section):
    """The training images, and the memory that they may take.

    Exactly one of ``images``, ``manifest`` and ``bids`` names them. Paths are relative to the configuration
    file.

    Attributes:
        images: paths or glob patterns.
        manifest: CSV with a column ``image`` and any of ``labels``, ``mask`` and ``landmarks``; paths in it
            are relative to its folder.
        bids: folder in the layout of BIDS, raw or derivatives. Images are ``sub-*_<suffix>.nii[.gz]``; labels
            and masks are ``*_dseg`` and ``*_mask`` in the same folder.
        suffix: suffix of the BIDS images.
        label_ids: ids of the label maps that are used; ``null``: all but zero.
        memory_budget_gib: GPU memory for images. The rest stays in page-locked host memory, from which only
            the voxels of patches cross the bus. ``null``: half of the free memory.
        cache_gib: host and GPU memory together for the images of each process. If not all subjects fit, they
            are held in turn.
        refresh_every: steps between replacements of one subject, if not all fit.
        workers: number of threads that read images.
    """

    images: list[PathText] = []
    manifest: PathText | None = None
    bids: PathText | None = None
    suffix: str = "T1w"
    label_ids: list[PositiveInt] | None = None
    memory_budget_gib: NonNegativeFloat | None = None
    cache_gib: PositiveFloat = 16.0
    refresh_every: PositiveInt = 8
    workers: PositiveInt = 4

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        given = [name for name in ("images", "manifest", "bids") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"must name one of images, manifest and bids, got {' and '.join(given) or 'none'}"
            )
        return self


class Pairing(_Section):
    """How pairs and patches are drawn.

    Attributes:
        same_person: fraction of pairs that show one person under two transforms, so that the true map is
            known: in the first and in the second half of the training.
        start_mm: largest error, along each axis, added to the initial translation.
        root_mm: largest shift, along each axis, of the coarsest patch from the content's centre.
        inward: see `patchmorph.patches.nested.nested_chain`.
    """

    same_person: tuple[Fraction, Fraction] = (0.6, 0.3)
    start_mm: NonNegativeFloat = 4.0
    root_mm: NonNegativeFloat = 8.0
    inward: float = Field(default=0.7, ge=0, le=1)


class Optimization(_Section):
    """AdamW with warm-up and a cosine decay to 3 % of the learning rate.

    Attributes:
        steps: total number of optimizer steps.
        batch: chains per batch on each GPU, each from a pair of its own.
        accumulate: batches whose gradients are averaged for one optimizer step.
        learning_rate: after the warm-up.
        warmup: steps of linear warm-up.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        affine_passes: passes of the affine network, with the gradient stopped in between.
        through_chain: whether the gradient of a stage flows into the stages before it. Otherwise each stage
            is trained on its own, and only one stage's activations are in memory at a time.
        freeze_affine: whether the affine network keeps its weights; its stage then has no loss.
        recompute: dense stages (0 is the coarsest) whose networks recompute activations in the backward pass
            instead of storing them.
    """

    steps: PositiveInt = 15000
    batch: PositiveInt = 8
    accumulate: PositiveInt = 1
    learning_rate: PositiveFloat = 6e-4
    warmup: NonNegativeInt = 200
    weight_decay: NonNegativeFloat = 1e-5
    clip: PositiveFloat = 1.0
    affine_passes: PositiveInt = Field(
        default=3, validation_alias=AliasChoices("affine_passes", "affine_repeats")
    )
    through_chain: bool = True
    freeze_affine: bool = False
    recompute: list[NonNegativeInt] = []

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine down to `FINAL_RATE_FRACTION`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (FINAL_RATE_FRACTION + (1 - FINAL_RATE_FRACTION) * cosine)


class Validation(_Section):
    """Registration of labelled pairs during training; the best model is saved.

    Attributes:
        pairs: table as for ``patchmorph evaluate``, with labels; relative to the configuration file.
        every: steps between validations.
        figure: metric that selects the best model: ``dice``, ``dice_aseg`` or ``dice_cortex``.
    """

    pairs: PathText
    every: PositiveInt = 1000
    figure: Literal["dice", "dice_aseg", "dice_cortex"] = "dice"


class Run(_Section):
    """Output, seed, initial weights and run time.

    Attributes:
        output: folder, relative to the configuration file.
        seed: of every random draw and of the initial weights.
        log_every: steps between lines of ``log.jsonl``.
        checkpoint_every: steps between checkpoints.
        minutes: time after which the run stops with a checkpoint; ``--resume`` continues.
        weights: a packaged model's name or a model file with the initial weights; ``null``: random weights.
        affine_weights: likewise, for the affine network alone.
        compile: whether networks are compiled on CUDA with ``torch.compile``: a minute at the start, then
            faster steps.
    """

    output: PathText
    seed: int = Field(default=0, ge=0, lt=2**63)
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    minutes: PositiveFloat | None = None
    weights: str | None = None
    affine_weights: str | None = None
    compile: bool = True


class TrainingConfig(_Section):
    """A complete training configuration; see each section."""

    model: ModelSpec = ModelSpec()
    data: Data
    pairs: Pairing = Pairing()
    augmentation: Augmentation = Augmentation()
    objective: Objective = Objective()
    optimization: Optimization = Optimization()
    validation: Validation | None = None
    run: Run
    folder: Path = Path()  # of the configuration file; its paths are relative to it

    @model_validator(mode="after")
    def _stages_exist(self) -> "TrainingConfig":
        scales = len(self.model.spacings_mm)
        if any(stage >= scales for stage in self.optimization.recompute):
            raise ValueError(
                f"optimization.recompute must name stages below {scales}, got {self.optimization.recompute}"
            )
        return self


FINE_TUNING = {"steps": 1000, "learning_rate": 1e-4, "warmup": 50}
"""Settings of `Optimization` for a training that starts from another model, where they are not configured."""


def load_config(
    path: str | Path, start: str | Path | None = None, trust: Sequence[str] = ()
) -> TrainingConfig:
    """Read and check a configuration.

    Args:
        path: of the YAML file.
        start: a packaged model's name or a model file that is fine-tuned: its weights are the initial ones,
            and what the section ``model`` does not configure is as in this model. ``None``: what the
            configuration says.
        trust: classes that ``start`` may name (see `patchmorph.catalogue.load_model`).

    Raises:
        PatchMorphError: no such file, not YAML, invalid values, each named, or a ``start`` that is no model.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchMorphError(f"configuration must be an existing file, got {path}")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:  # also no text, and huge numbers
        raise PatchMorphError(f"configuration must be YAML, got {path}: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise PatchMorphError(
            f"configuration must be a table of sections, got {type(content).__name__} in {path}"
        )
    if start is not None:
        content = _fine_tuning(content, start, trust, path)
    try:
        return TrainingConfig.model_validate({**content, "folder": path.parent})
    except ValidationError as error:
        found = problems(error, TrainingConfig)
        raise PatchMorphError(f"configuration must fit its schema, got {path}: {found}") from None


def _fine_tuning(
    content: dict[str, Any], start: str | Path, trust: Sequence[str], path: Path
) -> dict[str, Any]:
    """A configuration that continues from the model ``start``."""
    sections = {name: content.get(name) or {} for name in ("model", "optimization", "run")}
    if not all(isinstance(section, dict) for section in sections.values()):
        return content  # whose error the schema names
    if "weights" in sections["run"]:
        raise PatchMorphError(f"run.weights must be left out where a model is fine-tuned, got both in {path}")
    weights = str(start) if str(start) in packaged_models() else str(Path(start).absolute())
    own = load_spec(start, trust).model_dump()
    kept = {name: value for name, value in own.items() if not _names(name) & sections["model"].keys()}
    return content | {
        "model": kept | sections["model"],
        "optimization": FINE_TUNING | sections["optimization"],
        "run": sections["run"] | {"weights": weights},
    }


def _names(field: str) -> set[str]:
    """All names that a configuration may give a field of the model."""
    return {field, *map(str, getattr(ModelSpec.model_fields[field].validation_alias, "choices", ()))}
