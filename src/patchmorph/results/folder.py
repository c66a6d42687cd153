"""The folder that a registration leaves behind: its files, and how images and transforms are written."""

from collections.abc import Sequence
from pathlib import Path

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.blockwise import ENDING, warp_blocks
from patchmorph.io.formats.registry import ENDINGS
from patchmorph.io.images import check_folder_name, save_image
from patchmorph.io.placement import SCANNER
from patchmorph.io.transforms.formats import save_transform
from patchmorph.progress import step
from patchmorph.registration.result import Registration, fill_of
from patchmorph.results.log import LOG_FILE
from patchmorph.results.summary import SUMMARY
from patchmorph.transforms.base import Transform, compose
from patchmorph.transforms.fields import as_fields

WARPED = "warped"
TRANSFORM = "transform.safetensors"
ITK_TRANSFORM = "transform.h5"
ITK_INVERSE = "inverse_transform.h5"
UNCERTAINTY = "uncertainty"
WARPED_LABELS = "warped_labels"
REPORT = "report.html"

FILES = {
    "warped": f"{WARPED}.nii.gz",
    "transform": TRANSFORM,
    "itk": ITK_TRANSFORM,
    "inverse": ITK_INVERSE,
    "uncertainty": f"{UNCERTAINTY}.nii.gz",
    "report": REPORT,
    "summary": SUMMARY,
    "log": LOG_FILE,
}
"""What can be saved, and the name of its file; images in the format `NIFTI`."""
NIFTI = "nii.gz"
FORMATS = tuple(ending[1:] for ending in ENDINGS if ending not in (".nhdr", ".mhd"))
"""Formats of images that are one file each."""
IMAGES = tuple(f"{name}.{form}" for name in (WARPED, UNCERTAINTY, WARPED_LABELS) for form in FORMATS)
RESULTS = tuple(dict.fromkeys((*FILES.values(), *IMAGES)))
"""Names of all files that a registration may write: a run replaces them together."""
DEFAULT = ("warped", "transform", "itk", "report", "summary", "log")
"""What is saved where nothing was chosen."""
ALL = "all"


def saved(choice: Sequence[str]) -> tuple[str, ...]:
    """The keys of `FILES` that a user chose, checked; ``all`` stands for every file but the uncertainty.

    Raises:
        PatchMorphError: none, or an unknown one.
    """
    names = dict.fromkeys(name.strip() for name in choice)
    if ALL in names:
        names = {**dict.fromkeys(key for key in FILES if key != "uncertainty"), **names}
        del names[ALL]
    unknown = [name for name in names if name not in FILES]
    if unknown or not names:
        got = ", ".join(unknown) or "nothing"
        raise PatchMorphError(f"what is saved must be among {', '.join(FILES)} or {ALL}, got {got}")
    return tuple(names)


def image_name(name: str, image_format: str) -> str:
    """The file of an image of the results.

    Raises:
        PatchMorphError: a format that is not among `FORMATS`.
    """
    if image_format not in FORMATS:
        raise PatchMorphError(f"format of images must be among {', '.join(FORMATS)}, got {image_format}")
    return f"{name}.{image_format}"


def check_results(folder: Path, overwrite: bool) -> None:
    """Check, before any work starts, that a folder can take results: earlier ones stay unless replaced.

    Raises:
        PatchMorphError: it holds some, or has the name of an image file and is not there yet.
    """
    check_folder_name(folder)
    found = [name for name in RESULTS if (folder / name).exists()]
    if found and not overwrite:
        raise PatchMorphError(
            f"output must be a folder without results of an earlier run, or --overwrite given, got "
            f"{', '.join(found)} in {folder}"
        )


@torch.no_grad()
def write_transforms(transform: Transform, folder: Path, save: Sequence[str] = DEFAULT) -> None:
    """Write the transforms among ``save``, those for other tools tabulated on the device of ``transform``.

    Args:
        transform: as the files hold it (see `patchmorph.io.transforms.native.stored`).
        folder: there already.
        save: keys of `FILES`.
    """
    if "transform" in save:
        save_transform(transform, folder / TRANSFORM)
    if "itk" in save:
        save_transform(compose(*as_fields(transform)), folder / ITK_TRANSFORM)
    if "inverse" in save:
        with step("inverse for other tools"):
            save_transform(compose(*as_fields(transform.inverse())), folder / ITK_INVERSE)


def write_images(
    registration: Registration,
    warped: Image,
    folder: Path,
    save: Sequence[str] = DEFAULT,
    image_format: str = NIFTI,
    code: int = SCANNER,
) -> None:
    """Write the images among ``save``.

    Args:
        registration: what was found.
        warped: its warped image; of a fixed image that is not in memory, its voxels are computed again, block
            by block, and written as OME-Zarr.
        folder: there already.
        save: keys of `FILES`.
        image_format: one of `FORMATS`.
        code: NIfTI's code of the fixed image's space.
    """
    if "warped" in save and registration.fixed.in_memory:
        save_image(warped, folder / image_name(WARPED, image_format), code)
    elif "warped" in save:
        moving, grid = registration.moving, registration.fixed.grid
        target, fill = folder / f"{WARPED}{ENDING}", fill_of(moving)
        warp_blocks([moving], registration.transform, grid, target, "linear", fill, {})
    if "uncertainty" in save:
        save_image(registration.uncertainty(), folder / image_name(UNCERTAINTY, image_format), code)
