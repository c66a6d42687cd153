"""One array in files of every format, as other tools write them."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
import tifffile

LPS = np.diag([-1.0, -1, 1, 1])
UIDS = "1.2.826.0.1.3680043.2.1125"


def itk_image(array: np.ndarray, matrix: np.ndarray) -> sitk.Image:
    """SimpleITK's image of ``[X, Y, Z]`` (components last); ``matrix`` is that of its voxels, RAS+ mm."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, *range(3, array.ndim)), isVector=array.ndim > 3)
    flipped = LPS @ matrix
    spacing = np.linalg.norm(flipped[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((flipped[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(flipped[:3, 3].tolist())
    return image


def write_itk(path: Path, array: np.ndarray, matrix: np.ndarray, packed: bool = False) -> Path:
    sitk.WriteImage(itk_image(array, matrix), str(path), packed)
    return path


def write_nibabel(path: Path, array: np.ndarray, matrix: np.ndarray) -> Path:
    kind = nibabel.MGHImage if path.suffix == ".mgz" else nibabel.Nifti1Image
    nibabel.save(kind(array, matrix), path)
    return path


def write_dicom(
    folder: Path,
    array: np.ndarray,
    matrix: np.ndarray,
    series: str = "1",
    compressor: str | None = None,
    **tags: Callable[[int], str],
) -> Path:
    """A series of slices (the last axis); ``tags``: functions of the slice, by names such as t0020_0032."""
    folder.mkdir(parents=True, exist_ok=True)
    image, writer = itk_image(array, matrix), sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    if compressor is not None:
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
    cosines = np.array(image.GetDirection()).reshape(3, 3)
    for k in range(array.shape[2]):
        page = image[:, :, k]
        place = image.TransformIndexToPhysicalPoint((0, 0, k))
        values = {
            "0008|0060": "MR",
            "0008|103e": f"scan {series}",
            "0020|000d": f"{UIDS}.1",
            "0020|000e": f"{UIDS}.2.{series}",
            "0008|0018": f"{UIDS}.3.{series}.{k + 1}",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{number:.10g}" for number in place),
            "0020|0037": "\\".join(f"{number:.10g}" for number in cosines[:, :2].T.ravel()),
        } | {name[1:].replace("_", "|"): value(k) for name, value in tags.items()}
        for key, value in values.items():
            page.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}-{k % 3}{k:03d}.dcm"))
        writer.Execute(page)
    return folder


def write_imagej(path: Path, array: np.ndarray, spacing: tuple[float, ...], unit: str = "mm") -> Path:
    """An ImageJ stack of ``[X, Y, Z]``: pages are slices."""
    x, y, z = spacing
    metadata = {"spacing": z, "unit": unit, "axes": "ZYX"}
    tifffile.imwrite(path, array.T, imagej=True, resolution=(1 / x, 1 / y), metadata=metadata)
    return path


def write_ome(path: Path, array: np.ndarray, spacing: tuple[float, ...], unit: str | None = "mm") -> Path:
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", spacing, strict=True)}
    units = {} if unit is None else {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    tifffile.imwrite(path, array.T, ome=True, metadata={"axes": "ZYX"} | sizes | units)
    return path


def write_pages(path: Path, array: np.ndarray, **options) -> Path:
    """A TIFF of pages that states nothing."""
    tifffile.imwrite(path, array.T, metadata=None, photometric="minisblack", **options)
    return path


def write_stack(folder: Path, array: np.ndarray) -> Path:
    """A folder of pages whose names sort otherwise than their numbers."""
    folder.mkdir()
    for k in range(array.shape[2]):
        tifffile.imwrite(folder / f"slice{k + 1}.tif", array[:, :, k].T)
    return folder
