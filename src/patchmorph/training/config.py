"""The YAML file that describes a training."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from patchmorph.errors import PatchMorphError
from patchmorph.objective.objective import Objective
from patchmorph.registration.model import ModelSpec


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augmentation(_Section):
    """Ranges of the random changes; every draw is uniform from minus to plus the value.

    Attributes:
        rotation_deg: about each world axis.
        scale: of the whole image, as a logarithm; ``anisotropy`` adds to it along each axis.
        anisotropy: see ``scale``.
        shear: off-diagonal entries of the affine matrix.
        shift_mm: along each world axis.
        coarse_mm: amplitude of the smooth displacement on a lattice of 7³ over 256 mm.
        fine_mm: likewise on 15³.
        mirror: whether half of the pairs are mirrored, left to right.
        gamma: exponent of the intensities, as a logarithm.
        gain: factor of the intensities, about 1.
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


class Pairing(_Section):
    """How pairs and patches are drawn.

    Attributes:
        images: paths or glob patterns, relative to the configuration file.
        same_person: share of pairs that show one person under two transforms, so that the truth is known: in
            the first and in the second half of the training.
        start_mm: error added to the start of the affine stage.
        root_mm: shift of the coarsest patch from the content's centre.
        inward: see `patchmorph.patches.nested.nested_chain`.
    """

    images: list[str] = Field(min_length=1)
    same_person: tuple[float, float] = (0.6, 0.3)
    start_mm: NonNegativeFloat = 4.0
    root_mm: NonNegativeFloat = 8.0
    inward: float = Field(default=0.7, ge=0, le=1)


class Optimization(_Section):
    """AdamW with warm-up and a cosine decay to 3 % of the learning rate.

    Attributes:
        steps: in all.
        batch: chains a step, each from another pair.
        affine_repeats: steps of the affine stage, with the gradient stopped in between.
    """

    steps: PositiveInt = 15000
    batch: PositiveInt = 8
    learning_rate: PositiveFloat = 6e-4
    warmup: NonNegativeInt = 200
    weight_decay: NonNegativeFloat = 1e-5
    clip: PositiveFloat = 1.0
    affine_repeats: PositiveInt = 3


class Run(_Section):
    """Where results go and how often.

    Attributes:
        output: folder, relative to the configuration file.
        seed: of every random draw and of the initial weights.
        log_every: steps between lines of ``log.jsonl``.
        checkpoint_every: steps between checkpoints.
        minutes: stop (with a checkpoint) after this long; ``--resume`` goes on.
    """

    output: str
    seed: int = 0
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    minutes: PositiveFloat | None = None


class TrainingConfig(_Section):
    """All of it; see each section."""

    model: ModelSpec = ModelSpec()
    pairs: Pairing
    augmentation: Augmentation = Augmentation()
    objective: Objective = Objective()
    optimization: Optimization = Optimization()
    run: Run
    folder: Path = Path()  # of the configuration file, which its paths are relative to


def load_config(path: str | Path) -> TrainingConfig:
    """Read and check a configuration.

    Raises:
        PatchMorphError: no such file, no YAML, or values that do not fit, each named.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchMorphError(f"configuration must be an existing file, got {path}")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PatchMorphError(
            f"configuration must be YAML, got {path}: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise PatchMorphError(
            f"configuration must be a table of sections, got {type(content).__name__} in {path}"
        )
    try:
        return TrainingConfig.model_validate({**content, "folder": path.parent})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PatchMorphError(f"configuration must fit its schema, got {path}: {problems}") from None


def image_paths(config: TrainingConfig) -> list[Path]:
    """The training images, sorted.

    Raises:
        PatchMorphError: a pattern that matches nothing.
    """
    paths: set[Path] = set()
    for pattern in config.pairs.images:
        absolute = Path(pattern).is_absolute()
        base = Path(pattern).anchor if absolute else config.folder
        try:
            found = list(Path(base).glob(str(Path(pattern).relative_to(base)) if absolute else pattern))
        except (ValueError, IndexError) as error:
            raise PatchMorphError(
                f"training images must be paths or patterns, got '{pattern}': {error}"
            ) from None
        if not found:
            raise PatchMorphError(f"training images must exist, got nothing for {pattern} in {config.folder}")
        paths.update(found)
    return sorted(paths)
