"""Transform files of every supported kind, read and written by ending and content (see `registry`)."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.paths import AnyPath, as_path
from patchmorph.io.transforms import fields, matrices
from patchmorph.io.transforms.checks import checked
from patchmorph.io.transforms.registry import ALIASES, FORMATS, NIFTI, TEXT, Format, format_of
from patchmorph.transforms.base import Transform
from patchmorph.transforms.gaps import missing_voxels

KEEP_GAPS = (".safetensors", *NIFTI)
"""Endings of files that can mark voxels as not mapped."""
BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    HeaderDataError,
    ImageFileError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Exceptions of the libraries that read files, for files that are truncated, damaged or of another kind."""


def load_transform(path: AnyPath, tool: str | None = None, pair: GridPair | None = None) -> Transform:
    """Read a transform file of any kind: fixed world → moving world, RAS+ mm.

    Points next to voxels that a field marks as not mapped become NaN (`patchmorph.transforms.gaps.Gaps`).

    Args:
        path: see `FORMATS`.
        tool: whose convention the file follows; by default what its ending, header or text states.
        pair: grids of the images, which FSL's files require.

    Raises:
        PatchMorphError: no such file, not a transform, one whose convention is not stated, one that cannot be
            a map between images, or a grid missing from ``pair``.
    """
    path = as_path(path, "transform")
    if not (path.is_dir() if path.suffix == ".zarr" else path.is_file()):
        raise PatchMorphError(f"transform must be an existing file, got {path}")
    form = None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # what they warn of is checked below
            warnings.simplefilter("ignore")
            form = format_of(path, tool or _detected_tool(path))
            transform = form.read(path, pair or GridPair())
        return checked(transform, path)
    except PatchMorphError:
        raise
    except np.linalg.LinAlgError:
        raise PatchMorphError(f"affine must be invertible, got a singular matrix in {path}") from None
    except BROKEN as error:
        whose = f" of {form.tool}" if form else ""
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise PatchMorphError(f"transform must be a whole file{whose}, got {path}: {reason[:200]}") from None


def save_transform(
    transform: Transform, path: AnyPath, tool: str | None = None, pair: GridPair | None = None
) -> Format:
    """Write a transform file, of the format given by its ending and, where formats share one, by ``tool``.

    Args:
        transform: affine maps, displacement and velocity fields and their inverses, composed with ``@``.
        path: see `FORMATS`. ``.mat``, ``.txt`` and ``.nii.gz`` are ITK's unless ``tool`` is another.
        tool: whose convention the file follows.
        pair: grids of the images: dense fields are sampled on the fixed one; FSL and FreeSurfer require both.

    Returns:
        The format of the file.

    Raises:
        PatchMorphError: an unknown ending, a format that cannot hold ``transform``, a missing grid, or a path
            that cannot be written.
    """
    if not isinstance(transform, Transform):
        raise PatchMorphError(f"transform must be one of patchmorph, got {type(transform).__name__}")
    path = as_path(path)
    form = format_of(path, tool, writing=True)
    assert form.write is not None
    if (missing := missing_voxels(transform)) and not path.name.endswith(KEEP_GAPS):
        raise PatchMorphError(
            f"map with voxels that are not mapped must be written to {', '.join(KEEP_GAPS)}, got {missing} "
            f"such voxels for {path}"
        )
    form.write(transform.to("cpu"), path, (pair or GridPair()).to("cpu"))
    return form


def _detected_tool(path: Path) -> str | None:
    """The tool whose convention a file states, where formats share its ending; else ``None``.

    Raises:
        PatchMorphError: formats share the ending, and the file states none.
    """
    if path.name.endswith((*TEXT, ".tfm")):
        tool, what = matrices.detected_tool(path), "a matrix"
    elif path.name.endswith(NIFTI):
        tool, what = fields.detected_tool(path), "a field"
    else:
        return None
    if tool is not None:
        return tool
    sharing = {form.tool: form.holds for form in FORMATS if path.name.endswith(form.endings)}
    for alias, owner in ALIASES.items():
        if owner in sharing:
            sharing[f"{owner} or {alias}"] = sharing.pop(owner)
    choices = "; ".join(f"{name} ({holds})" for name, holds in sharing.items())
    raise PatchMorphError(f"format of {what} must be named (--from), got none in {path}; choices: {choices}")
