"""Transform files of every supported kind, chosen by ending and content.

A transform maps the fixed world to the moving world (RAS+ mm), whatever the file's convention. Each format's
module documents its convention and converts it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms import afni, freesurfer_lta, freesurfer_warp, fsl, itk, native, ngff, x5
from patchmorph.io.volumes import open_volume
from patchmorph.transforms.base import Transform

ITK_INTENTS = (1006, 1007)
"""NIfTI intent codes of displacement fields written by ITK; FSL has its own."""


class Format(NamedTuple):
    """One kind of transform file.

    Attributes:
        tool: whose convention the file follows.
        endings: of its file names.
        holds: its content, frame and direction, in words.
        read: from a file, with the grids of the images.
        write: to a file, with the grids of the images.
    """

    tool: str
    endings: tuple[str, ...]
    holds: str
    read: Callable[[Path, GridPair], Transform]
    write: Callable[[Transform, Path, GridPair], None]


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


def load_transform(path: str | Path, tool: str | None = None, pair: GridPair | None = None) -> Transform:
    """Read a transform file of any kind: fixed world → moving world, RAS+ mm.

    Args:
        path: see `FORMATS`.
        tool: whose convention the file follows; by default inferred from its ending and content.
        pair: grids of the images, which FSL's files require.

    Raises:
        PatchMorphError: no such file, not a transform, or a grid missing from ``pair``.
    """
    path = Path(path)
    if not (path.is_dir() if path.suffix == ".zarr" else path.is_file()):
        raise PatchMorphError(f"transform must be an existing file, got {path}")
    try:
        form = format_of(path, tool or _detected_tool(path))
        return form.read(path, pair or GridPair())
    except OSError as error:
        raise PatchMorphError(f"transform must be a file that can be read, got {path}: {error}") from None


def save_transform(
    transform: Transform, path: str | Path, tool: str | None = None, pair: GridPair | None = None
) -> Format:
    """Write a transform file, of the format given by its ending and, where formats share one, by ``tool``.

    Args:
        transform: affine maps, displacement and velocity fields and their inverses, composed with ``@``.
        path: see `FORMATS`. ``.mat`` and ``.nii.gz`` are ITK's unless ``tool`` is ``fsl``.
        tool: whose convention the file follows.
        pair: grids of the images: dense fields are sampled on the fixed one; FSL and FreeSurfer require both.

    Returns:
        The format of the file.

    Raises:
        PatchMorphError: an unknown ending, a format that cannot hold ``transform``, a missing grid, or a path
            that cannot be written.
    """
    form = format_of(Path(path), tool)
    form.write(transform.to("cpu"), Path(path), (pair or GridPair()).to("cpu"))
    return form


def format_of(path: Path, tool: str | None = None) -> Format:
    """The first format of ``tool`` (or any) with the file's ending.

    Raises:
        PatchMorphError: an unknown tool, or no format with that ending.
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


def _detected_tool(path: Path) -> str | None:
    """The tool that wrote a file, where formats share its ending; else ``None``."""
    if path.name.endswith(".mat"):
        return "itk" if b"\0" in path.read_bytes()[:512] else "fsl"
    if path.name.endswith((".nii", ".nii.gz")):
        header = open_volume(path).header
        return "itk" if int(header["intent_code"]) in ITK_INTENTS else "fsl"  # pyright: ignore[reportIndexIssue]
    return None
