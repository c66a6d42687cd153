"""The registry of transform formats: one entry a kind of file.

A transform maps the fixed world to the moving world (RAS+ mm), whatever the file's convention. Each format's
module documents its convention and converts it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms import (
    afni,
    field_headers,
    freesurfer_lta,
    freesurfer_warp,
    fsl,
    itk,
    matrices,
    native,
    ngff,
    x5,
)
from patchmorph.io.transforms.fields import read_field
from patchmorph.transforms.base import Transform

NIFTI, TEXT = (".nii.gz", ".nii"), (".mat", ".txt")
ALIASES = {"ants": "itk", "c3d": "greedy", "dipy": "ras"}
"""Other tools with the conventions of one."""
REMEDIES = {
    ".m3z": "mri_warp_convert converts it",
    ".dat": "lta_convert --inreg converts it",
    ".xfm": "lta_convert --inmni converts it",
}
"""For files that are not read."""


class Format(NamedTuple):
    """One kind of transform file.

    Attributes:
        tool: whose convention the file follows.
        endings: of its file names.
        holds: its content, frame and direction, in words.
        read: from a file, with the grids of the images.
        write: to a file, with the grids of the images; ``None`` if the format is only read.
    """

    tool: str
    endings: tuple[str, ...]
    holds: str
    read: Callable[[Path, GridPair], Transform]
    write: Callable[[Transform, Path, GridPair], None] | None = None


def _field(convention: field_headers.Convention, holds: str, write: Callable | None = None) -> Format:
    return Format(convention.tool, NIFTI, holds, partial(read_field, convention), write)


def _matrix(tool: str) -> Format:
    holds = "affine map, RAS+ mm, fixed → moving, as text"
    return Format(tool, TEXT, holds, matrices.read_matrix, matrices.write_matrix)


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
        (".tfm", *TEXT),
        "affine map, LPS+ mm, fixed → moving",
        itk.read_transform,
        itk.write_affine,
    ),
    _field(
        field_headers.ITK, "displacement field on the fixed grid, LPS+ mm, fixed → moving", itk.write_field
    ),
    Format(
        "fsl",
        TEXT,
        "FLIRT matrix, scaled mm of both images, moving → fixed",
        fsl.read_matrix,
        fsl.write_matrix,
    ),
    _field(
        field_headers.FSL,
        "relative displacement field on the fixed grid, scaled mm of both images, fixed → moving",
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
    _field(field_headers.AFNI, "displacement, LPS mm"),
    _matrix("greedy"),
    _field(field_headers.GREEDY, "displacement, LPS mm", itk.write_field),
    _matrix("niftyreg"),
    _field(field_headers.NIFTYREG, "positions or displacement, RAS mm"),
    _matrix("mrtrix"),
    _field(field_headers.MRTRIX, "positions or displacement, RAS mm"),
    _field(field_headers.SPM, "positions, RAS mm"),
    _field(field_headers.VOXELMORPH, "displacement, voxels"),
    _field(field_headers.RAS, "displacement, RAS mm"),
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
TOOLS = tuple(dict.fromkeys([*(form.tool for form in FORMATS), *ALIASES]))
WRITTEN = tuple(dict.fromkeys(form.tool for form in FORMATS if form.write is not None))


def format_of(path: Path, tool: str | None = None, writing: bool = False) -> Format:
    """The first format of ``tool`` (or any) with the file's ending; ``writing``: that can be written.

    Raises:
        PatchMorphError: an unknown tool, or no format with that ending.
    """
    if tool is not None and tool not in TOOLS:
        raise PatchMorphError(f"tool must be one of {', '.join(TOOLS)}, got {tool}")
    owner = ALIASES.get(tool or "", tool)
    forms = [form for form in FORMATS if owner in (None, form.tool) and not (writing and form.write is None)]
    if not forms:
        raise PatchMorphError(f"tool of a file to write must be one of {', '.join(WRITTEN)}, got {tool}")
    for form in forms:
        if path.name.endswith(form.endings):
            return form
    endings = ", ".join(dict.fromkeys(ending for form in forms for ending in form.endings))
    whose = f" of {tool}" if tool else ""
    remedy = f" ({REMEDIES[path.suffix]})" if path.suffix in REMEDIES else ""
    raise PatchMorphError(f"transform file{whose} must end in {endings}, got {path}{remedy}")
