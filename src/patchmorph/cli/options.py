"""Options that `register`, `evaluate` and `batch` share, each declared once as a field of a dataclass."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from patchmorph.api import Method
from patchmorph.cli.images import LETTERS, SIZES, spacing_of
from patchmorph.cli.transform_files import FROM_HELP
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import CHANNELS, REQUIRED, PairPaths
from patchmorph.io.stated import parse_spacing
from patchmorph.jobs import RegistrationRequest
from patchmorph.registration.options import BEST, FAST, NATIVE, NORMAL
from patchmorph.results.folder import ALL, DEFAULT, FILES, FORMATS, NIFTI, UNCERTAINTY

IMAGES, METHOD, OUTPUT, CHECKS = "Images", "Method", "Output", "Checks"
"""Panels of the help."""
_DEFAULT = Method()
TIMES = {
    FAST: "half of the time, 0.02 less aseg Dice, 0.07 less cortex Dice",
    BEST: "11 times the time, 0.005 more cortex Dice, a smoother map",
}
"""What presets take of a processor against the default, reading and writing excluded, and bring
(``benchmarks/presets.py``)."""


def _option(panel: str, text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


@dataclass(frozen=True)
class MethodOptions:
    """How pairs are registered; the fields are those of `patchmorph.api.Method`."""

    transform: Annotated[
        str, _option(METHOD, "Kind of the map: rigid, affine or deformable; the first two are one matrix.")
    ] = _DEFAULT.transform
    fast: Annotated[bool, _option(METHOD, f"Leave out the finest scale: {TIMES[FAST]}.", "--fast")] = False
    best: Annotated[bool, _option(METHOD, f"Refine the map at the end: {TIMES[BEST]}.", "--best")] = False
    finest: Annotated[
        str | None,
        _option(
            METHOD,
            "Finest scale: a size in mm (or as 20um), or native (that of the voxels). [default: the model's]",
        ),
    ] = None
    initial_transform: Annotated[
        str,
        _option(
            METHOD,
            "Map from FIXED to MOVING to start from, which becomes part of the result: a file; or search (of "
            "all poses), centers (of mass), header or identity (both: as the headers have it).",
        ),
    ] = _DEFAULT.initial_transform
    initial_from: Annotated[str | None, _option(METHOD, FROM_HELP, "--initial-from", "--from")] = None
    model: Annotated[
        str,
        _option(METHOD, "auto (by the contrasts), a packaged model, a model file, or none (no network)."),
    ] = _DEFAULT.model
    trust: Annotated[
        list[str] | None,
        _option(METHOD, "Class that a model file may name, as MODULE:CLASS; its code is run. Repeatable."),
    ] = None
    refine: Annotated[
        int | None,
        _option(
            METHOD,
            "Maximum of refinement passes. [default: 0; 40 without a model; 20 for contrasts that stay two]",
            min=0,
        ),
    ] = None
    similarity: Annotated[
        str, _option(METHOD, "Similarity of the refinement: lncc, mse, or for two contrasts mind or mi.")
    ] = _DEFAULT.similarity
    seed: Annotated[int, _option(METHOD, "Seed of every random draw.", min=0, max=2**63 - 1)] = 0
    jitter: Annotated[
        bool, _option(METHOD, "Shift the patches at random instead of using a regular lattice.")
    ] = False
    device: Annotated[str, _option(METHOD, "auto, cpu or cuda.")] = _DEFAULT.device
    memory_limit: Annotated[
        float | None,
        _option(METHOD, "GiB of memory to plan with; larger fields lie in a file in TMPDIR. [default: all]"),
    ] = None
    gpu_memory_limit: Annotated[
        float | None, _option(METHOD, "The same of the GPU; larger images stay outside it. [default: all]")
    ] = None
    channel_weight: Annotated[
        list[float] | None,
        _option(
            IMAGES,
            "Weight of a further channel where the images themselves have 1; one for each, in their order. "
            "[default: 1]",
        ),
    ] = None
    background: Annotated[
        float | None,
        _option(IMAGES, "Intensity of voxels that show nothing, as do NaN and infinity; nan: only these."),
    ] = None
    assume_orientation: Annotated[
        str | None,
        _option(
            IMAGES,
            "Directions in which the axes of an image without an orientation in its header run, such as RAS.",
        ),
    ] = None
    fixed_spacing: Annotated[
        str | None, _option(IMAGES, f"Voxel size of FIXED if its TIFF states none, {SIZES}")
    ] = None
    fixed_orientation: Annotated[
        str | None, _option(IMAGES, f"Orientation of FIXED if it states none: {LETTERS}")
    ] = None
    moving_spacing: Annotated[str | None, _option(IMAGES, "The same for MOVING.")] = None
    moving_orientation: Annotated[str | None, _option(IMAGES, "The same for MOVING.")] = None
    pyramid: Annotated[
        bool,
        _option(
            IMAGES, "Keep coarser levels of images larger than memory in a folder beside them.", "--pyramid"
        ),
    ] = False

    def method(self) -> Method:
        """The same, for the Python interface.

        Raises:
            PatchMorphError: two presets.
        """
        sizes = {f"{side}_spacing": spacing_of(getattr(self, f"{side}_spacing")) for side in REQUIRED}
        listed = {name: tuple(getattr(self, name) or ()) for name in ("trust", "channel_weight")}
        chosen: dict[str, Any] = vars(self) | sizes | listed | {"finest": _finest(self.finest)}
        chosen["channel_weights"] = chosen.pop("channel_weight")
        fast, best = chosen.pop(FAST), chosen.pop(BEST)
        if fast and best:
            raise PatchMorphError("preset must be one, got --fast and --best")
        return Method(**chosen, preset=FAST if fast else BEST if best else NORMAL)


@dataclass(frozen=True)
class EvaluationOptions(MethodOptions):
    """How pairs are registered by one or several models."""

    model: Annotated[  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]
        list[str] | None,
        _option(
            METHOD,
            "auto (by the contrasts), a packaged model, a model file, or none (no network). Repeatable: the "
            "models are compared. [default: auto]",
        ),
    ] = None

    def methods(self) -> dict[str, Method]:
        """The methods by the names of their models; a file is named as itself, or with its folder.

        Raises:
            PatchMorphError: two presets, or two models of one name.
        """
        models = [str(model) for model in self.model or [_DEFAULT.model]]
        for name_of in (lambda path: path.stem, lambda path: f"{path.parent.name}_{path.stem}"):
            names = [name_of(Path(model)) if Path(model).suffix else model for model in models]
            if len(set(names)) == len(names):
                break
        else:
            raise PatchMorphError(f"models must have different names, got {', '.join(models)}")
        options: dict[str, Any] = vars(self)
        return {
            name: MethodOptions(**{**options, "model": one}).method()
            for name, one in zip(names, models, strict=True)
        }


def _finest(text: str | None) -> float | str | None:
    """The size in mm of an option that may be `NATIVE`.

    Raises:
        PatchMorphError: other text.
    """
    if text in (None, NATIVE):
        return text
    try:
        sizes = set(parse_spacing(text))
    except PatchMorphError:
        sizes = set()
    if len(sizes) != 1:
        raise PatchMorphError(f"finest must be {NATIVE} or one size, such as 0.3 or 300um, got {text}")
    return sizes.pop()


@dataclass(frozen=True)
class PairOptions:
    """Files that belong to the images of a pair; the fields are those of `PairPaths`."""

    fixed_labels: Annotated[
        Path | None,
        _option(IMAGES, "Labels of FIXED: their Dice with those of MOVING goes into summary and report."),
    ] = None
    moving_labels: Annotated[
        Path | None, _option(IMAGES, "Labels of MOVING: they are warped to warped_labels.nii.gz.")
    ] = None
    fixed_mask: Annotated[
        Path | None, _option(IMAGES, "Mask of the region of FIXED to register; by default its brain.")
    ] = None
    moving_mask: Annotated[Path | None, _option(IMAGES, "The same for MOVING.")] = None
    fixed_ignore: Annotated[
        Path | None,
        _option(IMAGES, "Mask of what of FIXED is left out of the comparison, such as a lesion."),
    ] = None
    moving_ignore: Annotated[Path | None, _option(IMAGES, "The same for MOVING.")] = None
    fixed_channel: Annotated[
        list[Path] | None,
        _option(
            IMAGES,
            "Further channel of FIXED, such as T2 beside T1, on any grid in its world. Repeatable: the n-th "
            "is compared with the n-th --moving-channel.",
        ),
    ] = None
    moving_channel: Annotated[list[Path] | None, _option(IMAGES, "The same for MOVING.")] = None

    def paths(self, fixed: Path, moving: Path) -> PairPaths:
        """The files of a pair.

        Raises:
            PatchMorphError: more channels of one image than of the other.
        """
        files: dict[str, Any] = dict(vars(self))
        for name in CHANNELS:
            files[name] = tuple(files[name] or ())
        return PairPaths(fixed, moving, **files)


@dataclass(frozen=True)
class OutputOptions:
    """What a registration writes."""

    save: Annotated[
        str,
        _option(
            OUTPUT,
            f"What is written, separated by commas: {', '.join(FILES)}, or {ALL} (without uncertainty).",
        ),
    ] = ",".join(DEFAULT)
    save_uncertainty: Annotated[
        bool,
        _option(OUTPUT, "Write the uncertainty: standard deviation in mm.", "--save-uncertainty"),
    ] = False
    image_format: Annotated[
        str, _option(OUTPUT, f"Format of the images: {', '.join(FORMATS)}.", "--format")
    ] = NIFTI

    def request(self, paths: PairPaths, output: Path, method: Method, overwrite: bool) -> RegistrationRequest:
        """The registration of ``paths`` into the folder ``output``."""
        saved = tuple(name.strip() for name in self.save.split(","))
        method = replace(method, uncertainty=self.save_uncertainty or UNCERTAINTY in saved)
        return RegistrationRequest(paths, output, method, saved, self.image_format, overwrite)
