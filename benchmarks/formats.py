"""Whether a pair registers to the same map in every format and object: writes results/formats.json.

    python benchmarks/formats.py [--data FOLDER]

Both T1w images of a pair lie with their centres at the origin, as a TIFF with stated sizes and sides does.
Distances (mm) between the map of each form and that of NIfTI, at every fourth voxel along each axis, with
networks in float32 and in bfloat16. A DICOM series lists the slices of these images from the other end, so
that voxels and affine are not the same numbers. A header that is off by 1e-6 mm, and the same array on one
thread instead of two, are measured as well.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

import patchmorph
from patchmorph import Image, Registration, Stated
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import image_from
from patchmorph.io.placement import Placement
from patchmorph.networks.contract import Precision
from patchmorph.networks.model import PatchMorphModel

STRIDE = 4
FILES = (".nii.gz", ".mgz", ".nrrd", ".nhdr", ".mha", ".mhd")
OPPOSITE = str.maketrans("LRPAIS", "RLAPSI")
ONE_THREAD = "one thread"
UID = "1.2.826.0.1.3680043.2.1125"


def centred(path: Path) -> Image:
    """The image with its centre at the origin, as int16, which DICOM holds as well."""
    image = patchmorph.load_image(path)
    matrix = matrix_of(image.grid).copy()
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(image.grid.shape) - 1) / 2)
    return image_from(image.numpy().astype(np.int16), Placement(matrix), Path(path.name))


def write_dicom(image: Image, folder: Path) -> Path:
    """A series of slices along the last axis."""
    folder.mkdir()
    volume, writer = image.to_simpleitk(), sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    cosines = np.reshape(volume.GetDirection(), (3, 3))[:, :2].T.ravel()
    for k in range(volume.GetDepth()):
        page = volume[:, :, k]
        tags = {
            "0008|0060": "MR",
            "0020|000d": f"{UID}.1",
            "0020|000e": f"{UID}.2",
            "0008|0018": f"{UID}.3.{k + 1}",
            "0020|0032": "\\".join(f"{x:.10g}" for x in volume.TransformIndexToPhysicalPoint((0, 0, k))),
            "0020|0037": "\\".join(f"{x:.10g}" for x in cosines),
        }
        for key, value in tags.items():
            page.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(page)
    return folder


def from_tiff(image: Image, folder: Path) -> Image:
    patchmorph.save_image(image, folder / "image.tif")
    origin = image.grid.orientation.translate(OPPOSITE)[::-1].lower()
    return patchmorph.load_image(folder / "image.tif", Stated(origin=origin))


def from_file(ending: str) -> Callable[[Image, Path], Path]:
    def write(image: Image, folder: Path) -> Path:
        patchmorph.save_image(image, folder / f"image{ending}")
        return folder / f"image{ending}"

    return write


FORMS: dict[str, Callable[[Image, Path], Any]] = {
    **{ending: from_file(ending) for ending in FILES},
    ".tif": from_tiff,
    "DICOM series": lambda image, folder: write_dicom(image, folder / "series"),
    "nibabel": lambda image, folder: image.to_nibabel(),
    "SimpleITK": lambda image, folder: image.to_simpleitk(),
    "numpy and affine": lambda image, folder: (image.numpy(), matrix_of(image.grid)),
    "shifted by 1e-6 mm": lambda image, folder: shifted(image, folder),
    ONE_THREAD: lambda image, folder: image,
}


def shifted(image: Image, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The image a nanometre away, which no format states."""
    matrix = matrix_of(image.grid).copy()
    matrix[:3, 3] += 1e-6
    return image.numpy(), matrix


def registered(images: list[Image], form: str, model: PatchMorphModel) -> tuple[Registration, float]:
    """The registration of a pair in one form, and the seconds that reading and registering took."""
    with tempfile.TemporaryDirectory() as name:
        given = []
        for k, image in enumerate(images):
            folder = Path(name) / str(k)
            folder.mkdir()
            given.append(FORMS[form](image, folder))
        began = time.perf_counter()
        torch.set_num_threads(1 if form == ONE_THREAD else 2)
        result = patchmorph.register(given[0], given[1], model=model)
        return result, time.perf_counter() - began


def differences(images: list[Image], precision: Precision) -> dict[str, dict[str, float]]:
    """The largest and the mean difference of each form's map to that of the first, in mm."""
    model = patchmorph.load_model("t1-brain", "cpu")
    model.spec = model.spec.model_copy(update={"precision": precision})
    points = images[0].grid.points_world()[:, ::STRIDE, ::STRIDE, ::STRIDE]
    reference, rows = None, {}
    for form in FORMS:
        result, seconds = registered(images, form, model)
        mapped = result.transform(points)
        reference = mapped if reference is None else reference
        apart = (mapped - reference).norm(dim=-1)
        rows[form] = {
            "largest_mm": round(float(apart.max()), 6),
            "mean_mm": round(float(apart.mean()), 6),
            "seconds": round(seconds, 1),
        }
        print(precision, form, rows[form], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA)
    folder = parser.parse_args().data / "t1-labelled"
    images = [centred(folder / f"sub-0{k}_T1w.nii.gz") for k in (1, 2)]
    figures: dict[str, Any] = {"pair": "t1-labelled sub-01, sub-02", "model": "t1-brain"}
    machine.write("formats", figures | {name: differences(images, name) for name in ("fp32", "bf16")})


if __name__ == "__main__":
    main()
