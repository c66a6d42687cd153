"""Images that are none, or not what their headers state: refused in one line, as image and as reference."""

import gzip
import struct
import zlib

import h5py
import nibabel
import numpy as np
import pytest
import tifffile

SIXTEEN_GB = (1600, 1600, 1600)


def nifti(shape=(5, 5, 5), *changes: tuple, voxels: bytes = bytes(600)) -> bytes:
    """A NIfTI file of float32 with some bytes of its header changed: (format, offset, values…)."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    data = bytearray(header.binaryblock)
    for form, offset, *values in (("<8h", 40, 3, *shape, 1, 1, 1, 1), ("<4f", 76, 1, 1, 1, 1), *changes):
        struct.pack_into(form, data, offset, *values)
    return bytes(data) + bytes(4) + voxels


def mgh(shape=(5, 5, 5), kind=3) -> bytes:
    head = struct.pack(">7i", 1, *shape, 1, kind, 0)
    return (head + struct.pack(">h15f", 1, 1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0)).ljust(900, b"\0")


def nrrd(voxels: bytes = bytes(600), **fields: str) -> bytes:
    known = {
        "type": "float",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "5 5 5",
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "endian": "little",
        "encoding": "raw",
    }
    lines = [f"{name}: {value}" for name, value in (known | fields).items()]
    return "\n".join(["NRRD0004", *lines, "", ""]).encode() + voxels


def meta(voxels: bytes = bytes(600), **fields: str) -> bytes:
    known = {
        "ObjectType": "Image",
        "NDims": "3",
        "DimSize": "5 5 5",
        "ElementType": "MET_FLOAT",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "ElementSpacing": "1 1 1",
    }
    last = fields.pop("ElementDataFile", "LOCAL")
    lines = [f"{name} = {value}" for name, value in {**known, **fields, "ElementDataFile": last}.items()]
    return "\n".join([*lines, ""]).encode() + voxels


def tiff(tag: int, value: int) -> bytes:
    """A TIFF of ImageJ with another number in the first page."""
    from io import BytesIO

    file = BytesIO()
    meta = {"spacing": 1, "unit": "mm", "axes": "ZYX"}
    tifffile.imwrite(file, np.zeros((5, 6, 7), np.uint16), imagej=True, resolution=(1, 1), metadata=meta)
    data = bytearray(file.getvalue())
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from(f"{order}H", data, start)[0], 12):
        if struct.unpack_from(f"{order}H", data, entry)[0] == tag:
            struct.pack_into(f"{order}HII", data, entry + 2, 4, 1, value)
    return bytes(data)


def huge(make, **packed) -> bytes:
    return make(sizes=" ".join(map(str, SIXTEEN_GB)), **packed)


BOTH = {
    "16gb.nii": (nifti(SIXTEEN_GB), "too short for shape (1600, 1600, 1600)"),
    "16gb.nii.gz": (gzip.compress(nifti(SIXTEEN_GB)), "too short for shape (1600, 1600, 1600)"),
    "16gb.mgh": (mgh(SIXTEEN_GB), "too short for shape (1600, 1600, 1600)"),
    "16gb.mgz": (gzip.compress(mgh(SIXTEEN_GB)), "too short for shape (1600, 1600, 1600)"),
    "16gb.nrrd": (huge(nrrd), "too short for shape (1600, 1600, 1600)"),
    "16gb_packed.nrrd": (huge(nrrd, encoding="gzip", voxels=gzip.compress(bytes(9))), "too short for shape"),
    "16gb.mha": (meta(DimSize="1600 1600 1600"), "too short for shape (1600, 1600, 1600)"),
    "16gb.tif": (tiff(256, 2**31), "TIFF must hold one image, got 2"),
    "negative.nii": (nifti((-5, 5, 5)), "must"),
    "zero.nii": (nifti((0, 5, 5)), "must have sizes above 0, got shape (0, 5, 5)"),
    "eight_axes.nii": (nifti((5, 5, 5), ("<h", 40, 8)), "must"),
    "negative_axes.nii": (nifti((5, 5, 5), ("<h", 40, -1)), "must"),
    "offset_nan.nii": (nifti((5, 5, 5), ("<f", 108, np.nan)), "must"),
    "offset_inside.nii": (nifti((5, 5, 5), ("<f", 108, 10)), "vox offset 10 too low"),
    "offset_huge.nii": (nifti((5, 5, 5), ("<f", 108, 1e12)), "too short for shape"),
    "no_type.nii": (nifti((5, 5, 5), ("<h", 70, 999)), "must be a readable NIfTI"),
    "sform_nan.nii": (nifti((5, 5, 5), ("<f", 280, np.nan)), "affine must be finite"),
    "no_type.mgz": (gzip.compress(mgh(kind=77)), "must be a readable NIfTI or MGZ volume"),
    "negative.mgz": (gzip.compress(mgh((-5, -5, 5))), "must"),
    "sizes_negative.nrrd": (nrrd(sizes="-5 5 5"), "one for each dimension, got 3 dimensions, sizes -5 5 5"),
    "sizes_nan.nrrd": (nrrd(sizes="nan 5 5"), "sizes nan 5 5"),
    "sizes_long.nrrd": (nrrd(sizes="9" * 30 + " 5 5"), "its sizes must be positive numbers"),
    "dimension.nrrd": (nrrd(dimension="99"), "got 99 dimensions"),
    "no_type.nrrd": (nrrd(type="evil"), "must be a readable NRRD file"),
    "no_encoding.nrrd": (nrrd(encoding="evil"), "must be a readable NRRD file"),
    "one_line.nrrd": (b"NRRD0004\n" + b"a" * 10**6, "got no dimensions"),
    "elsewhere.nrrd": (
        nrrd(**{"data file": "/etc/passwd"}),
        "folder of their header, got /etc/passwd",
    ),
    "above.nrrd": (nrrd(**{"data file": "a/../../x"}), "folder of their header, got a/../../x"),
    "list.nrrd": (nrrd(**{"data file": "LIST\n../x.raw"}), "folder of their header, got ../x.raw"),
    "sizes.mha": (meta(DimSize="5 5"), "got 3 dimensions, sizes 5 5"),
    "twice.mha": (
        meta().replace(b"NDims", b"NDims = 344444444444434\nNDims"),
        "ElementNumberOfChannels once each, got two",
    ),
    "no_equals.mha": (
        meta().replace(b"NDims", b"NDims\n3 = 3\nNDims"),
        "must be lines of a name, = and a value",
    ),
    "pattern.mha": (meta(ElementDataFile="x%s%n.raw 1 5 1"), "names of its files must have one %d"),
    "channels.mha": (meta(ElementNumberOfChannels="0"), "its sizes must be positive numbers"),
    "elsewhere.mha": (meta(ElementDataFile="/etc/passwd"), "must be in the folder of their header"),
    "name.mha": (meta(ElementDataFile="x" * 300), "voxels must be in an existing file"),
    "list.mha": (meta(ElementDataFile="LIST\n/etc/passwd"), "must be in the folder of their header"),
    "no_type.mha": (meta(ElementType="MET_EVIL"), "must be a readable MetaImage"),
    "compression.tif": (tiff(259, 65000), "must be a readable TIFF file"),
    "head.tif": (tiff(256, 7)[:8], "TIFF must hold one image, got 0"),
    "slices.tif": (tiff(256, 7).replace(b"slices=5", b"slices=9"), "its header states (7, 6, 9)"),
    "folder.nii.gz": (b"\x1f\x8b", "must"),
    "noise.mgz": (bytes(range(256)) * 4, "must be a readable NIfTI"),
    "nothing.hdr": (b"", "must be a readable NIfTI or MGZ volume, got an empty file"),
}
"""Files by name: bytes, and what is said of them as an image and as a reference."""

AS_IMAGE = {
    "bomb.nii.gz": (
        gzip.compress(nifti(voxels=bytes(2**26 + 2**21)), 1),
        "file must hold the 852 bytes of its header",
    ),
    "bomb.nrrd": (
        nrrd(encoding="gzip", voxels=gzip.compress(bytes(2**26 + 2**21), 1)),
        "file must hold the 500 bytes of its header",
    ),
    "bomb.mha": (meta(CompressedData="True", voxels=zlib.compress(bytes(2**22))), "must hold 500 bytes"),
    "short.mha": (meta(voxels=b""), "too short for shape"),
    "complex.nii": (nifti((4, 4, 4), ("<hh", 70, 32, 64)), "must hold plain numbers, got complex64"),
    "skip.nrrd": (nrrd(**{"byte skip": "99999999999"}), "must be a readable NRRD file"),
}
PLACE = ("--fixed-orientation", "psl", "--fixed-spacing", "1")
"""Options that a TIFF requires."""


@pytest.mark.parametrize("name", [*BOTH, *AS_IMAGE])
def test_bad_images_are_refused(refused, tmp_path, name):
    data, message = (BOTH | AS_IMAGE)[name]
    (tmp_path / name).write_bytes(data)
    place = PLACE if name.endswith("tif") else ()
    refused(message, "register", name, "good.nii.gz", "-o", "results", *place)
    if name in BOTH:
        options = ("--reference", name, *place, "-o", "out.nii.gz")
        refused(message, "apply", "shift.tfm", "good.nii.gz", *options)


def test_images_of_other_libraries_are_none(refused, tmp_path):
    """nibabel opens MINC, whose HDF5 may take its voxels from any file of the computer."""
    with h5py.File(tmp_path / "x.mnc", "w") as file:
        image = file.create_group("minc-2.0/image/0")
        image.create_dataset("image", (2, 2, 2), "u1", external=[(str(tmp_path / "points.csv"), 0, 8)])
    refused("must be a readable NIfTI or MGZ volume", "register", "x.mnc", "good.nii.gz", "-o", "results")


@pytest.mark.parametrize("option", ["--fixed-mask", "--fixed-ignore", "--moving-labels"])
def test_other_images_of_a_pair_are_checked_alike(refused, tmp_path, option):
    (tmp_path / "16gb.nii").write_bytes(nifti(SIXTEEN_GB))
    pair = ("register", "good.nii.gz", "good.nii.gz", "-o", "results")
    refused("too short for shape (1600, 1600, 1600)", *pair, option, "16gb.nii")


@pytest.mark.parametrize("name", ["a\0b.nii.gz", "a" * 300 + ".nii.gz", "a\nb.nii.gz", "loop.nii.gz"])
def test_names_that_are_none(refused, tmp_path, name):
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    refused("", "apply", "shift.tfm", name, "--reference", "good.nii.gz", "-o", "out.nii.gz")
    refused("", "apply", "shift.tfm", "good.nii.gz", "--reference", name, "-o", "out.nii.gz")
    refused("", "register", "good.nii.gz", name, "-o", "results")
    if name[0] == "l":
        refused("must be a folder, got the broken link", "register", *["good.nii.gz"] * 2, "-o", name)
