"""Where files and registration meet: models and images by name or path, one call to register.

`registration` never touches the disk and `io` knows no networks; this thin module joins the two for users of
the Python interface, for the command line and for the rooms above.
"""

import functools
import os
from importlib import resources
from pathlib import Path

import torch
from pydantic import ValidationError

from patchmorph.errors import PatchMorphError
from patchmorph.images.in_memory import Image
from patchmorph.io.images import load_image
from patchmorph.io.tensors import half_precision, read_tensors, write_tensors
from patchmorph.networks.brain_mask import BrainMask
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.registration.cross_contrast import register_contrasts
from patchmorph.registration.pair import find_start
from patchmorph.registration.pipeline import Options, proceed
from patchmorph.registration.result import Registration

DEFAULT_MODEL = "auto"
"""Stands for the packaged model that suits the pair: one of the next two."""
SAME_CONTRAST, ANY_CONTRAST = "t1-brain", "brain-any-contrast"
BRAIN_MASK = "parts/brain-mask"
"""The packaged network that finds the brain in a head; not a model that one can register with."""
NO_MODEL = "none"
"""Stands for registration without a network."""
CLASSICAL_PASSES = 40
TRUSTED = {"monai"}
TRUST = "PATCHMORPH_TRUST"
"""Packages whose networks a model file may name, and an environment variable for more (by commas). Naming one
imports it, and a file from elsewhere should not choose what runs."""


def register(
    fixed: Image | str | os.PathLike,
    moving: Image | str | os.PathLike,
    model: str | os.PathLike | PatchMorphModel = DEFAULT_MODEL,
    device: str = "auto",
    refine: int | None = None,
    uncertainty: bool = False,
    seed: int = 0,
    fixed_mask: Image | str | os.PathLike | None = None,
    moving_mask: Image | str | os.PathLike | None = None,
    jitter: bool = False,
    similarity: str = "lncc",
) -> Registration:
    """Register ``moving`` to ``fixed``.

    Args:
        fixed: an image or its path (NIfTI, MGZ): the space of the result.
        moving: an image or its path; shape, spacing, orientation and pose may differ, and each may show a
            whole head: the brain in it is found.
        model: name of a packaged model, path of a model file, or a loaded model, which stays on its device.
            ``auto``: the packaged model for the two contrasts, the same or different ones; ``.notes`` of the
            result say which. ``none``: no network; affine and dense registration by refinement alone.
        device: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.
        refine: how often, at most, refinement sees every part of the pair; it stops by itself where it gains
            no more. By default 0 with a network, `CLASSICAL_PASSES` without, a few for two contrasts.
        uncertainty: keep what ``.uncertainty()`` of the result needs; takes more patches and some memory.
        seed: of the random draws of refinement.
        fixed_mask: what of the fixed image counts, positive inside, in its world; else its brain is found.
        moving_mask: likewise.
        jitter: shift the networks' patches at random instead of a regular lattice.
        similarity: of refinement: ``lncc``, ``mse``, or for two contrasts ``mind`` or ``mi``.

    Returns:
        The transform (fixed → moving world, RAS+ mm) with its inverse, the warped image and the Jacobian.

    Raises:
        PatchMorphError: an input that cannot be used.

    Example:
        >>> import patchmorph
        >>> result = patchmorph.register("fixed.nii.gz", "moving.nii.gz")  # doctest: +SKIP
        >>> result.warped()  # doctest: +SKIP
    """
    automatic, network, where = model == DEFAULT_MODEL, None, choose_device(device)
    if isinstance(model, PatchMorphModel):
        network, where = model, model.device
    elif not automatic and model != NO_MODEL:
        network = load_model(model, device)
    pair = (_image(fixed).to(where), _image(moving).to(where))
    masks = (
        None if fixed_mask is None else _image(fixed_mask),
        None if moving_mask is None else _image(moving_mask),
    )
    options = Options(default_passes(model == NO_MODEL, refine), jitter, uncertainty, seed, similarity)
    start = find_start(*pair, load_brain_mask(where), masks)
    if not automatic:
        return proceed(start, network, options)
    same, other = (_kept_model(name, str(where)) for name in (SAME_CONTRAST, ANY_CONTRAST))
    names = (SAME_CONTRAST, ANY_CONTRAST)
    return register_contrasts(start, same, other, options, names, finish=refine is None)


def _image(given: Image | str | os.PathLike) -> Image:
    return given if isinstance(given, Image) else load_image(os.fspath(given))


def default_passes(classical: bool, refine: int | None) -> int:
    """Passes of refinement where nobody chose."""
    if refine is not None and refine < 0:
        raise PatchMorphError(f"refine must be 0 or more, got {refine}")
    return (CLASSICAL_PASSES if classical else 0) if refine is None else refine


def choose_device(name: str) -> torch.device:
    """``auto``, or a device that is there.

    Raises:
        PatchMorphError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PatchMorphError(f"device must be auto, cpu or cuda, got {name}") from None
    if device.type not in ("cpu", "cuda"):
        raise PatchMorphError(f"device must be auto, cpu or cuda, got {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PatchMorphError(
            f"device must be on this machine, got {name} with {torch.cuda.device_count()} CUDA devices"
        )
    return device


def packaged_models() -> dict[str, Path]:
    """Name and file of each model that comes with the package."""
    return {path.stem: path for path in sorted(_models().glob("*.safetensors"))}


def _models() -> Path:
    return Path(str(resources.files("patchmorph") / "models"))


_kept_model = functools.lru_cache(maxsize=2)(lambda name, device: load_model(name, device))


@functools.lru_cache(maxsize=4)
def load_brain_mask(device: torch.device) -> BrainMask:
    """The packaged network that finds the brain."""
    network = BrainMask()
    tensors, _ = read_tensors(_models() / f"{BRAIN_MASK}.safetensors")
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return network.to(device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]


def load_model(name: str | os.PathLike, device: str = "auto") -> PatchMorphModel:
    """A packaged model by name, or any model by its file.

    Raises:
        PatchMorphError: no such model, or a file that is none.
    """
    chosen = choose_device(device)
    packaged = packaged_models()
    path = packaged.get(str(name), Path(name))
    if not path.is_file():
        raise PatchMorphError(f"model must be one of {', '.join(packaged) or 'none'} or a file, got {name}")
    tensors, metadata = read_tensors(path)
    _check_networks(metadata.get("spec"), path)
    try:
        model = PatchMorphModel(ModelSpec.model_validate(metadata.get("spec")))
        model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    except (ValidationError, RuntimeError) as error:
        summary = str(error).splitlines()[0]
        raise PatchMorphError(f"model file must hold a PatchMorph model, got {path}: {summary}") from None
    return model.to(chosen).eval()


def _check_networks(spec: object, path: Path) -> None:
    """Refuse a file that asks for code of a package which nobody trusted."""
    trusted = TRUSTED | set(filter(None, os.environ.get(TRUST, "").split(",")))
    for kind in ("affine", "dense"):
        network = spec.get(kind) if isinstance(spec, dict) else None
        name = str(network.get("name", "")) if isinstance(network, dict) else ""
        package = name.partition(":")[0].partition(".")[0]
        if ":" in name and package not in trusted:
            raise PatchMorphError(
                f"model file must use networks of trusted packages, got {name} in {path} "
                f"(if you trust it: {TRUST}={package})"
            )


def save_model(model: PatchMorphModel, path: Path, half: bool = False) -> None:
    """Write a model file; ``half`` stores float16, which halves its size."""
    tensors = model.state_dict()
    write_tensors(path, half_precision(tensors) if half else tensors, {"spec": model.spec.model_dump()})
