"""Truncated files and other files by the names of transforms: one line each, never another error."""

import random

import pytest
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.formats import load_transform, save_transform

PAIR = GridPair(
    grid_around((6, 7, 8), AFFINES["LIA"] * 9, (3, 2, 1)),
    grid_around((9, 8, 7), AFFINES["LAS"] * 9, (1, 2, 3)),
)
FILES = [
    ("x.safetensors", "patchmorph", True),
    ("x.h5", "itk", True),
    ("x.tfm", "itk", False),
    ("x.txt", "itk", False),
    ("x.mat", "itk", False),
    ("x.nii.gz", "itk", True),
    ("x.nii", "itk", True),
    ("x.nii.gz", "fsl", True),
    ("x.mat", "fsl", False),
    ("x.mat", "greedy", False),
    ("x.txt", "niftyreg", False),
    ("x.lta", "freesurfer", False),
    ("x.mgz", "freesurfer", True),
    ("x.aff12.1D", "afni", False),
    ("x.x5", "x5", True),
]
GARBAGE = {
    "nothing": b"",
    "text": b"no transform\n" * 20,
    "zeros": bytes(2000),
    "noise": random.Random(0).randbytes(3000),
    "no text": b"\xff\xfe" * 300,
    "gzip": b"\x1f\x8b\x08\x00" + bytes(200),
}


def refusal(path, tool=None) -> str:
    with pytest.raises(PatchMorphError, match=path.name) as error:
        load_transform(path, tool, PAIR)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(params=FILES, ids=lambda file: f"{file[1]}-{file[0]}")
def whole(request, tmp_path):
    name, tool, dense = request.param
    transform = smooth_velocity(PAIR.fixed, 2.0).flow if dense else rotation()
    save_transform(transform, tmp_path / name, tool, PAIR)
    return tmp_path / name, tool


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused_in_one_line(whole, kept, capfd):
    path, tool = whole
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refusal(path, tool)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", GARBAGE)
def test_another_file_is_refused_in_one_line(whole, content, capfd):
    path, tool = whole
    path.write_bytes(GARBAGE[content])
    for named in (tool, None):
        refusal(path, named)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
def test_flipped_bits_in_a_compressed_field_are_found(tmp_path, where):
    """The stream ends with a checksum, which is compared."""
    path = tmp_path / "x.nii.gz"
    save_transform(smooth_velocity(PAIR.fixed, 2.0).flow, path, "itk", PAIR)
    data = bytearray(path.read_bytes())
    for bit in range(8):
        damaged = bytearray(data)
        damaged[int(len(data) * where)] ^= 1 << bit
        path.write_bytes(bytes(damaged))
        refusal(path, "itk")


@pytest.mark.parametrize("damage", ["folder", "array", "json"])
def test_a_damaged_zarr_is_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "x.zarr"
    save_transform(smooth_velocity(PAIR.fixed, 2.0).flow, path)
    array = path / "coordinateTransformations" / "0" / "0" / "zarr.json"
    if damage == "folder":
        array.unlink()
    elif damage == "array":
        array.write_text(array.read_text().replace('"float32"', '"string"'))
    else:
        (path / "zarr.json").write_text("{")
    refusal(path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("x.m3z", "mri_warp_convert"), ("x.dat", "lta_convert --inreg"), ("x.xfm", "lta_convert")],
)
def test_what_is_not_read_says_what_converts_it(tmp_path, name, remedy):
    (tmp_path / name).write_text("subject\n1\n1\n0.15\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\nround\n")
    assert remedy in refusal(tmp_path / name)
