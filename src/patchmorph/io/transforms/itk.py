"""ITK's transform files, as read by ANTs, SimpleITK and 3D Slicer; SimpleITK is not needed.

Composites (``.h5``), single affine maps (``.tfm``, ``.txt``, ``.mat``) and displacement fields as images
(``.nii.gz``, as ANTs' ``1Warp.nii.gz``; `fields` reads them). World: LPS+ mm, so x and y of points and
vectors change sign. A composite's last transform acts first, as in `Transform.parts`. Files map fixed to
moving points, as these tools require to resample the moving image.
"""

from pathlib import Path

import nibabel
import numpy as np

from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import LPS, GridPair, check_square, matrix_of
from patchmorph.io.headers import set_forms
from patchmorph.io.placement import SCANNER
from patchmorph.io.transforms.field_headers import VECTOR_INTENT
from patchmorph.io.transforms.itk_composite import read_records, write_parts
from patchmorph.io.transforms.itk_matlab import read_matlab, write_matlab
from patchmorph.io.transforms.itk_records import Record, transform_of
from patchmorph.io.transforms.itk_text import read_text, write_text
from patchmorph.io.transforms.parts import dense_displacement, linear_part
from patchmorph.transforms.base import Transform
from patchmorph.transforms.fields import as_fields

MATLAB, HDF5 = ".mat", (".h5", ".hdf5")


def write_composite(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write ``transform`` as an ITK composite (``.h5``), each field on its own grid.

    ITK treats a field as zero outside its grid. The fields of a registration vanish at the rim
    (`patchmorph.patches.blending.rim`), so both conventions agree. A field that does not vanish there is
    reproduced inside its grid only.

    Raises:
        PatchMorphError: a sheared grid, or a path that cannot be written.
    """
    write_parts(as_fields(transform), path)


def write_affine(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write an affine map (``.tfm``, ``.txt``; ``.mat``: as ANTs' ``0GenericAffine.mat``).

    Raises:
        PatchMorphError: a transform that is not affine.
    """
    matrix = LPS @ linear_part(transform, f"file {path}") @ LPS
    numbers = np.concatenate([matrix[:3, :3].ravel(), matrix[:3, 3]])
    write = write_matlab if path.suffix == MATLAB else write_text
    with whole_file(path) as temporary:
        write(Record("AffineTransform_double_3_3", numbers, np.zeros(3)), temporary)


def write_field(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write the whole map as one displacement field on the fixed grid (``.nii.gz``), float32.

    Raises:
        PatchMorphError: a sheared grid, or a fixed image that was not given.
    """
    grid = pair.need_fixed(f"displacement field {path}")
    check_square(grid, f"displacement field {path}")
    vectors = dense_displacement(transform, grid) * np.diag(LPS)[:3].astype(np.float32)
    image = nibabel.Nifti1Image(vectors[:, :, :, None], matrix_of(grid))
    image.header.set_xyzt_units("mm", "sec")
    image.header["intent_code"] = VECTOR_INTENT
    set_forms(image.header, matrix_of(grid), SCANNER)
    with whole_file(path) as temporary:
        nibabel.save(image, temporary)


def read_transform(path: Path, pair: GridPair) -> Transform:
    """Read an ITK transform file of affine maps and displacement fields.

    Raises:
        PatchMorphError: not a whole transform file, not 3D, or another kind of transform.
    """
    if path.name.endswith(HDF5):
        records = read_records(path)
    else:
        records = read_matlab(path) if path.suffix == MATLAB else read_text(path)
    return transform_of(records, path)
