"""Small NIfTI files with any header, as other tools write them."""

from pathlib import Path

import nibabel
import numpy as np

METRE, MM, MICRON = 1, 2, 3


def write_nifti(
    path: Path,
    array: np.ndarray,
    matrix: np.ndarray,
    sform: int = 1,
    qform: int = 1,
    qform_matrix: np.ndarray | None = None,
    version: int = 1,
    **fields,
) -> Path:
    """A file whose forms have codes and matrices of their own; ``fields`` of the header are set last."""
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    image = kind(array, None, dtype=array.dtype)
    image.header.set_qform(matrix if qform_matrix is None else qform_matrix, code=qform)
    image.header.set_sform(matrix, code=sform)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def edit_header(path: Path, **fields) -> Path:
    """Change fields of the header of an uncompressed NIfTI-1 file, whatever the format allows."""
    content = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


def forms_of(path: Path) -> tuple[tuple[np.ndarray, int], tuple[np.ndarray, int]]:
    """sform and qform with their codes, whether these are 0 or not."""
    header = nibabel.load(path).header
    return (header.get_sform(), int(header["sform_code"])), (header.get_qform(), int(header["qform_code"]))
