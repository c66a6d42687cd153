"""Transform files of every kind, found by ending and content.

A transform maps the fixed world to the moving world (RAS+ mm), whatever the file's own convention: each
format's module says what that is and turns it round.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from patchmorph.errors import PatchMorphError
from patchmorph.io.images import open_volume
from patchmorph.io.transforms import afni, freesurfer_lta, freesurfer_warp, fsl, itk, native, ngff, x5
from patchmorph.io.transforms.grids import Pair
from patchmorph.transforms.base import Transform

VECTOR_IMAGE = (1006, 1007)
"""NIfTI intent codes of displacement fields as ITK writes them; FSL has its own."""


class Format(NamedTuple):
    """One kind of transform file.

    Attributes:
        tool: whose convention it has.
        endings: of its file names.
        holds: what it says, in which frame and direction.
    """

    tool: str
    endings: tuple[str, ...]
    holds: str
    read: Callable[[Path, Pair], Transform]
    write: Callable[[Transform, Path, Pair], None]


FORMATS = (
    Format(
        "patchmorph",
        (".safetensors",),
        "chain of velocity fields and affine maps, RAS+ mm, fixed → moving",
        native.read_native,
        native.write_native,
    ),
    Format(
        "itk",
        (".h5", ".hdf5"),
        "composite of affine maps and displacement fields, LPS+ mm, fixed → moving",
        itk.read_transform,
        itk.write_composite,
    ),
    Format(
        "itk",
        (".tfm", ".txt", ".mat"),
        "affine map, LPS+ mm, fixed → moving",
        itk.read_transform,
        itk.write_affine,
    ),
    Format(
        "itk",
        (".nii.gz", ".nii"),
        "displacement field on the fixed grid, LPS+ mm, fixed → moving",
        itk.read_field,
        itk.write_field,
    ),
    Format(
        "fsl",
        (".mat",),
        "FLIRT matrix, scaled mm of both images, moving → fixed",
        fsl.read_matrix,
        fsl.write_matrix,
    ),
    Format(
        "fsl",
        (".nii.gz", ".nii"),
        "relative displacement field on the fixed grid, scaled mm of both images, fixed → moving",
        fsl.read_warp,
        fsl.write_warp,
    ),
    Format(
        "freesurfer",
        (".lta",),
        "RAS-to-RAS matrix, scanner RAS mm, moving → fixed",
        freesurfer_lta.read_lta,
        freesurfer_lta.write_lta,
    ),
    Format(
        "freesurfer",
        (".mgz",),
        "warp on the fixed grid, scanner RAS mm, fixed → moving",
        freesurfer_warp.read_mgz_warp,
        freesurfer_warp.write_mgz_warp,
    ),
    Format(
        "afni",
        (".aff12.1D", ".1D"),
        "affine map, LPS+ mm, fixed → moving",
        afni.read_affine,
        afni.write_affine,
    ),
    Format(
        "x5",
        (".x5",),
        "chain of affine maps and displacement fields, RAS+ mm, fixed → moving",
        x5.read_x5,
        x5.write_x5,
    ),
    Format(
        "ngff",
        (".zarr",),
        "OME-Zarr 0.6 scene of affine maps and displacement fields, mm, fixed → moving",
        ngff.read_scene,
        ngff.write_scene,
    ),
)
TOOLS = tuple(dict.fromkeys(form.tool for form in FORMATS))


def load_transform(path: str | Path, tool: str | None = None, pair: Pair | None = None) -> Transform:
    """Read a transform file of any kind: fixed world → moving world, RAS+ mm.

    Args:
        path: see `FORMATS`.
        tool: whose convention it has; by default by its ending and content.
        pair: grids of the images, which FSL's files need.

    Raises:
        PatchMorphError: no such file, not a transform, or one that needs what ``pair`` lacks.
    """
    path = Path(path)
    if not (path.is_dir() if path.suffix == ".zarr" else path.is_file()):
        raise PatchMorphError(f"transform must be an existing file, got {path}")
    try:
        form = format_of(path, tool or _sniffed(path))
        return form.read(path, pair or Pair())
    except OSError as error:
        raise PatchMorphError(f"transform must be a file that can be read, got {path}: {error}") from None


def save_transform(
    transform: Transform, path: str | Path, tool: str | None = None, pair: Pair | None = None
) -> Format:
    """Write a transform file; its ending, and ``tool`` where that leaves a choice, say of which kind.

    Args:
        transform: affine maps, displacement and velocity fields and their inverses, composed with ``@``.
        path: see `FORMATS`. ``.mat`` and ``.nii.gz`` are ITK's unless ``tool`` says ``fsl``.
        tool: whose convention.
        pair: grids of the images: dense fields stand on the fixed one, FSL and FreeSurfer need both.

    Returns:
        What was written.

    Raises:
        PatchMorphError: an unknown ending, a format that cannot hold ``transform``, a grid that is needed, or
            a file system that refuses.
    """
    form = format_of(Path(path), tool)
    form.write(transform.to("cpu"), Path(path), (pair or Pair()).to("cpu"))
    return form


def format_of(path: Path, tool: str | None = None) -> Format:
    """The first format of ``tool`` (or any) with the file's ending.

    Raises:
        PatchMorphError: there is none.
    """
    if tool is not None and tool not in TOOLS:
        raise PatchMorphError(f"tool must be one of {', '.join(TOOLS)}, got {tool}")
    forms = [form for form in FORMATS if tool in (None, form.tool)]
    for form in forms:
        if path.name.endswith(form.endings):
            return form
    endings = ", ".join(dict.fromkeys(ending for form in forms for ending in form.endings))
    whose = f" of {tool}" if tool else ""
    raise PatchMorphError(f"transform file{whose} must end in {endings}, got {path}")


def _sniffed(path: Path) -> str | None:
    """Whose file it is, where an ending has two meanings."""
    if path.name.endswith(".mat"):
        return "itk" if b"\0" in path.read_bytes()[:512] else "fsl"
    if path.name.endswith((".nii", ".nii.gz")):
        header = open_volume(path).header
        return "itk" if int(header["intent_code"]) in VECTOR_IMAGE else "fsl"  # pyright: ignore[reportIndexIssue]
    return None
