"""Whose deformation field a NIfTI file holds, by its header.

Every tool stores three numbers a voxel; what they mean differs, and few headers tell. Sources: ITK's
``itkNiftiImageIO``, NiftyReg's ``_reg_maths.h`` and ``nifti1.h`` for the intents; SPM's ``spm_deformations``
for its intent name; AFNI's ``thd_niftiwrite.c`` for its extension.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from nibabel.nifti1 import Nifti1Image
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError

Kind = Literal["positions", "displacement"]
"""Where a voxel goes, or how far."""
Axes = Literal["ras", "lps", "fsl", "voxel"]
"""Of the numbers: world mm, FSL's scaled mm of both images, or voxels of the field's grid."""


class Convention(NamedTuple):
    """What the numbers of a field mean.

    Attributes:
        tool: that writes them.
        axes: that they follow.
        kind: ``None`` if the tool writes both and the numbers have to tell.
    """

    tool: str
    axes: Axes
    kind: Kind | None = None


ITK = Convention("itk", "lps", "displacement")
GREEDY = Convention("greedy", "lps", "displacement")
AFNI = Convention("afni", "lps", "displacement")
FSL = Convention("fsl", "fsl")
SPM = Convention("spm", "ras", "positions")
NIFTYREG = Convention("niftyreg", "ras")
MRTRIX = Convention("mrtrix", "ras")
RAS = Convention("ras", "ras", "displacement")
VOXELMORPH = Convention("voxelmorph", "voxel", "displacement")

FIRM = (FSL.tool, SPM.tool, NIFTYREG.tool)
"""Tools whose files carry an intent or a name that no other tool writes."""

DISPLACEMENT_INTENT, VECTOR_INTENT, FNIRT_INTENT = 1006, 1007, 2006
COEFFICIENTS = range(2007, 2019)
"""Intents of FSL's spline and DCT coefficients and of topup's files."""
NIFTYREG_KINDS: dict[float, Kind] = {0: "positions", 1: "displacement"}
NIFTYREG_GRIDS = {
    2: "a cubic B-spline grid",
    3: "a velocity field",
    4: "a velocity field",
    5: "a velocity grid",
    6: "a linear B-spline grid",
}
"""By the first intent parameter of an ``NREG_TRANS`` file."""
AFNI_EXTENSION = 4
STACKS: dict[tuple[int, ...], str] = {
    (3, 4): "MRtrix's full warp (warpconvert warpfull2deformation makes a field)",
    (3, 2): "DIPY's mapping, which lacks a grid (save its forward field with the static image's affine)",
}
"""Files of several fields, by the sizes of their last two axes."""


def recognised(image: SpatialImage, path: Path) -> Convention | None:
    """The convention that the header states; ``None`` if it states none.

    Raises:
        PatchMorphError: a file that by its header is no deformation field, or several.
    """
    if (stack := STACKS.get(tuple(image.shape[3:]))) is not None:
        raise PatchMorphError(f"deformation field must be one field, got {stack} in {path}")
    if image.shape[3:] not in ((3,), (1, 3)) and not (len(image.shape) == 4 and image.shape[0] == 3):
        raise PatchMorphError(f"deformation field must have shape (x, y, z, 3), got {image.shape} in {path}")
    if not isinstance(image, Nifti1Image):
        return None
    code, name = int(image.header["intent_code"]), _text(image.header["intent_name"])
    if name.startswith("NREG"):
        return NIFTYREG._replace(kind=_niftyreg_kind(name, float(image.header["intent_p1"]), path))
    if code in COEFFICIENTS:
        remedy = "fnirtfileutils makes one"
        raise PatchMorphError(
            f"FSL warp must be a displacement field ({remedy}), got intent {code} in {path}"
        )
    if code == FNIRT_INTENT:
        return FSL
    if code == DISPLACEMENT_INTENT:
        return RAS
    if name == "Mapping":
        return SPM
    five_axes = len(image.shape) == 5
    if five_axes and AFNI_EXTENSION in image.header.extensions.get_codes():
        return AFNI
    if five_axes and code == VECTOR_INTENT and not name:
        return ITK
    return MRTRIX if _text(image.header["descrip"]).startswith("MRtrix version") else None


def _niftyreg_kind(name: str, number: float, path: Path) -> Kind:
    if name != "NREG_TRANS" or number not in NIFTYREG_KINDS:
        got = NIFTYREG_GRIDS.get(int(number), name) if name == "NREG_TRANS" else name
        remedy = "reg_transform -def makes one"
        raise PatchMorphError(f"NiftyReg file must be a deformation field ({remedy}), got {got} in {path}")
    return NIFTYREG_KINDS[number]


def _text(value: object) -> str:
    return bytes(value.item()).decode("latin-1").strip("\0 ")  # pyright: ignore[reportAttributeAccessIssue]
