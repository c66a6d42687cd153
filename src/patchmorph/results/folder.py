"""The folder that a registration leaves behind: images and transforms."""

from pathlib import Path

from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import Transform

WARPED = "warped.nii.gz"
TRANSFORM = "transform.safetensors"
ITK_TRANSFORM = "transform.h5"
ITK_INVERSE = "inverse_transform.h5"
UNCERTAINTY = "uncertainty.nii.gz"


def write_results(registration: Registration, warped: Image, transform: Transform, folder: Path) -> None:
    """Write the warped image, the transform for this package and for other tools, and its inverse.

    Args:
        registration: what was found; its uncertainty is written where it was asked for.
        warped: its warped image.
        transform: its transform as the files hold it (see `patchmorph.io.transforms.native.stored`).
        folder: there already.
    """
    save_image(warped, folder / WARPED)
    save_transform(transform, folder / TRANSFORM)
    save_transform(transform, folder / ITK_TRANSFORM)
    save_transform(transform.inverse(), folder / ITK_INVERSE)
    if registration.has_uncertainty:
        save_image(registration.uncertainty(), folder / UNCERTAINTY)
