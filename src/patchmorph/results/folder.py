"""The folder that a registration leaves behind: images and transforms."""

from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.placement import SCANNER
from patchmorph.io.transforms.formats import save_transform
from patchmorph.registration.result import Registration
from patchmorph.results.summary import SUMMARY
from patchmorph.transforms.base import Transform

WARPED = "warped.nii.gz"
TRANSFORM = "transform.safetensors"
ITK_TRANSFORM = "transform.h5"
ITK_INVERSE = "inverse_transform.h5"
UNCERTAINTY = "uncertainty.nii.gz"
REPORT = "report.html"
RESULTS = (WARPED, TRANSFORM, ITK_TRANSFORM, ITK_INVERSE, UNCERTAINTY, REPORT, SUMMARY)
"""Names of all files that a registration may write: a run replaces them together."""


def check_results(folder: Path, overwrite: bool) -> None:
    """Check, before any work starts, that a folder holds no results, unless these may be replaced.

    Raises:
        PatchMorphError: it holds some.
    """
    found = [name for name in RESULTS if (folder / name).exists()]
    if found and not overwrite:
        raise PatchMorphError(
            f"output must be a folder without results of an earlier run, or --overwrite given, got "
            f"{', '.join(found)} in {folder}"
        )


def write_results(
    registration: Registration, warped: Image, transform: Transform, folder: Path, code: int = SCANNER
) -> None:
    """Write the warped image, the transform for this package and for other tools, and its inverse.

    Args:
        registration: what was found; its uncertainty is written where it was asked for.
        warped: its warped image.
        transform: its transform as the files hold it (see `patchmorph.io.transforms.native.stored`).
        folder: there already.
        code: NIfTI's code of the fixed image's space.
    """
    save_image(warped, folder / WARPED, code)
    save_transform(transform, folder / TRANSFORM)
    save_transform(transform, folder / ITK_TRANSFORM)
    save_transform(transform.inverse(), folder / ITK_INVERSE)
    if registration.has_uncertainty:
        save_image(registration.uncertainty(), folder / UNCERTAINTY, code)
