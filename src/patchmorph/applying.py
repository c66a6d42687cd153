"""The Python interface to transforms: apply them to images and points, hand them to other libraries."""

import os
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.images.volume import Image
from patchmorph.io.conversion import AnyImage, as_image, is_simpleitk
from patchmorph.io.images import load_grid
from patchmorph.io.labels import choose_interpolation
from patchmorph.io.series import CHOICES
from patchmorph.io.templates import image_path
from patchmorph.io.transforms.ants import write_ants
from patchmorph.io.transforms.formats import load_transform
from patchmorph.io.transforms.itk_objects import from_itk, to_itk
from patchmorph.registration.result import Registration
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import Interpolation
from patchmorph.transforms.base import Transform
from patchmorph.transforms.resample import resample

AnyTransform = Any
"""What `as_transform` takes; checked there, so that a wrong type is an error for a user."""
Points = TypeVar("Points")


def apply(
    transform: AnyTransform,
    image: AnyImage,
    reference: AnyImage,
    interpolation: str = "auto",
    inverse: bool = False,
    background: int | float = 0,
) -> Image:
    """Resample an image through a transform onto a reference grid; its number type is kept.

    Args:
        transform: fixed → moving world: a registration, a transform, its file, or a SimpleITK transform.
        image: in the moving space; see `patchmorph.io.conversion.as_image`.
        reference: an image on whose grid the result is, or a `Grid`.
        interpolation: ``linear``, ``cubic``, ``nearest``, ``label``, or ``auto``: ``label`` for label maps,
            else ``linear``.
        inverse: apply the inverse: ``image`` is in the fixed space, ``reference`` in the moving space.
        background: value outside the image.

    Raises:
        PatchMorphError: an input that cannot be used.
    """
    if interpolation not in CHOICES:
        raise PatchMorphError(f"interpolation must be one of {', '.join(CHOICES)}, got {interpolation}")
    source = as_image(image)
    chosen = interpolation
    if interpolation == "auto":
        chosen = choose_interpolation(source.values()[0, 0].cpu().numpy(), Path(source.name)).interpolation
    grid, device = _as_grid(reference), source.grid.device
    mapped = _directed(transform, inverse).to(device)
    return resample(source, mapped, grid.to(device), cast(Interpolation, chosen), background)


def apply_points(transform: AnyTransform, points: Points, inverse: bool = False) -> Points:
    """Map points from the fixed to the moving image, or with ``inverse`` from the moving to the fixed image.

    Args:
        transform: see `apply`.
        points: ``[N, 3]`` of numpy or torch, RAS+ mm.
        inverse: apply the inverse.

    Returns:
        The mapped points, of the same library and number type. Points that are not mapped are NaN.

    Raises:
        PatchMorphError: not such an array, or numbers that are not finite.
    """
    if not isinstance(points, np.ndarray | torch.Tensor):
        raise PatchMorphError(f"points must be an array of numpy or torch, got {type(points).__name__}")
    given = points if isinstance(points, torch.Tensor) else _tensor(points)
    if given.ndim != 2 or given.shape[1] != 3 or given.is_complex() or given.dtype == torch.bool:
        got = f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
        raise PatchMorphError(f"points must be numbers of shape (N, 3), got {got}")
    if not given.isfinite().all():
        raise PatchMorphError("points must be finite, got some that are not")
    chain = _directed(transform, inverse).to(given.device)
    with torch.no_grad():
        mapped = chain(given.float()[None])[0] if len(given) else given.float()
    exact = mapped.to(given.dtype) if given.is_floating_point() else mapped
    return cast(Points, exact if isinstance(points, torch.Tensor) else exact.numpy())


def ants_transforms(registration: Registration, prefix: str | os.PathLike) -> dict[str, list[str]]:
    """Write a registration as the files of an ANTs registration, on the fixed grid.

    Args:
        registration: whose map is written.
        prefix: of the names of the files, with their folder, such as ``out/sub-01_``.

    Returns:
        ``{"fwdtransforms": [...], "invtransforms": [...]}`` for ``ants.apply_transforms``.

    Raises:
        PatchMorphError: a fixed grid with shear, or a path that cannot be written.
    """
    return write_ants(registration.transform, registration.fixed.grid, prefix)


def to_simpleitk_transform(transform: AnyTransform) -> Any:
    """A ``SimpleITK.CompositeTransform``: fixed → moving points, LPS+ mm, for ``SimpleITK.Resample``.

    Raises:
        PatchMorphError: no transform, or one with a field on a sheared grid.
    """
    return to_itk(as_transform(transform).to("cpu"))


def as_transform(given: AnyTransform) -> Transform:
    """The map of a registration, a transform itself, one from its file, or one of SimpleITK.

    Raises:
        PatchMorphError: another type, or a file that cannot be read.
    """
    if isinstance(given, Registration):
        return given.transform
    if isinstance(given, Transform):
        return given
    if isinstance(given, str | os.PathLike):
        return load_transform(os.fsdecode(given))
    if is_simpleitk(given, "Transform"):
        return from_itk(given, Path("transform"))
    kinds = "a patchmorph.Registration or transform, a path, or a SimpleITK transform"
    raise PatchMorphError(f"transform must be {kinds}, got {type(given).__name__}")


def _directed(given: AnyTransform, inverse: bool) -> Transform:
    if not inverse:
        return as_transform(given)
    return given.inverse if isinstance(given, Registration) else as_transform(given).inverse()


def _as_grid(given: AnyImage) -> Grid:
    if isinstance(given, Grid):
        return given
    if isinstance(given, str | os.PathLike):
        return load_grid(image_path(os.fsdecode(given)))
    return as_image(given, "reference").grid


def _tensor(points: np.ndarray) -> torch.Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(points))
    except TypeError as error:
        raise PatchMorphError(f"points must be numbers, got {one_line(error)}") from None
