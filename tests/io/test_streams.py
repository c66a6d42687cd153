"""Compressed files: damage anywhere is an error, and content decides what a file is."""

import bz2
import gzip
import itertools

import nibabel
import numpy as np
import pytest
import torch
from niftis import write_nifti
from synthetic import grid_around, rotation

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.frames import Frames
from patchmorph.io.grids import GridPair
from patchmorph.io.images import load_image, load_reference, save_image
from patchmorph.io.series import warp_files
from patchmorph.io.streams import MOST_PER_BYTE, check_whole, most_bytes
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.base import AffineTransform

GRID = grid_around((20, 22, 18), np.eye(3) * 2)
NAMES = ("image.nii.gz", "image.mgz")
DAMAGED = "compressed file must be intact|must be a readable|must be whole|must be an existing"


@pytest.fixture(params=NAMES)
def packed(request, tmp_path):
    """A compressed file, and its voxels."""
    values = torch.rand(1, 1, *GRID.shape, generator=torch.Generator().manual_seed(0))
    save_image(Image(values, GRID), tmp_path / request.param)
    return tmp_path / request.param, values


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_no_flipped_bit_changes_voxels_without_an_error(packed):
    """A flip in a part of gzip's own header that no checksum covers may leave the voxels as they are."""
    path, values = packed
    content, read = path.read_bytes(), 0
    for bit in np.linspace(0, 8 * len(content) - 1, 120).astype(int):
        path.write_bytes(flipped(content, int(bit)))
        try:
            found = load_image(path)
        except PatchMorphError:
            continue
        read += 1
        torch.testing.assert_close(found.data, values, rtol=0, atol=0)
        torch.testing.assert_close(found.grid.voxel_to_world, GRID.voxel_to_world)
    assert read < 5


@pytest.mark.parametrize("part", ["checksum", "length", "last voxels"])
def test_the_end_of_a_stream_is_compared(packed, part):
    """Every voxel is there, but the checksum or the length after them is not theirs."""
    path, _ = packed
    content = bytearray(path.read_bytes())
    content[{"checksum": -8, "length": -4, "last voxels": -20}[part]] ^= 1
    path.write_bytes(content)
    for read in (load_image, load_reference, check_whole):
        with pytest.raises(PatchMorphError, match=DAMAGED):
            read(path)


@pytest.mark.parametrize("kept", [0.3, 0.9, -1])
def test_a_missing_end_is_an_error(packed, kept):
    path, _ = packed
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept > 0 else -1])
    with pytest.raises(PatchMorphError, match=DAMAGED):
        load_image(path)


def members(content: bytes, count: int) -> bytes:
    """As bgzip and pigz write: several streams, the last one empty."""
    cuts = np.linspace(0, len(content), count + 1).astype(int)
    parts = [content[a:b] for a, b in itertools.pairwise(cuts)]
    return b"".join(map(gzip.compress, [*parts, b""]))


def test_concatenated_streams_are_one_file(packed):
    path, values = packed
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(members(plain, 5))
    torch.testing.assert_close(load_image(path).data, values)
    path.write_bytes(path.read_bytes() + bytes(512))  # padding, as on tapes
    torch.testing.assert_close(load_image(path).data, values)
    broken = bytearray(members(plain, 5))
    broken[len(broken) // 2] ^= 1
    path.write_bytes(broken)
    with pytest.raises(PatchMorphError, match=DAMAGED):
        load_image(path)


@pytest.mark.parametrize("rest", [b"x", b"no gzip data", b"\x1f\x8bgarbage"])
def test_bytes_after_the_end_are_an_error(packed, rest):
    path, _ = packed
    path.write_bytes(path.read_bytes() + rest)
    with pytest.raises(PatchMorphError, match="compressed file must be intact"):
        load_image(path)


@pytest.mark.parametrize("name", ["gzip.nii", "plain.nii.gz", "bzip2.nii", "gzip.mgh", "plain.mgz"])
def test_a_file_is_what_it_contains_whatever_its_name(tmp_path, name):
    values = torch.rand(1, 1, *GRID.shape)
    whole = tmp_path / ("a.nii" if "nii" in name else "a.mgh")
    save_image(Image(values, GRID), whole)
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "plain": bytes}[name.split(".")[0]]
    (tmp_path / name).write_bytes(pack(whole.read_bytes()))
    found = load_image(tmp_path / name)
    torch.testing.assert_close(found.data, values)
    torch.testing.assert_close(found.grid.voxel_to_world, GRID.voxel_to_world)
    warp_files([(tmp_path / name, tmp_path / "out.nii")], AffineTransform.identity(), GRID, "nearest")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj), values[0, 0])


@pytest.mark.parametrize("frames", [(), (4,), (1, 2)])
def test_a_damaged_series_leaves_no_result(tmp_path, frames):
    """Its frames are read one by one; the damage is in the checksum after the last."""
    values = np.random.default_rng(0).random((*GRID.shape, *frames)).astype(np.float32)
    path = write_nifti(tmp_path / "series.nii.gz", values, GRID.voxel_to_world[0].numpy())
    content = bytearray(path.read_bytes())
    content[-6] ^= 4
    path.write_bytes(content)
    for interpolation in ("linear", "auto"):
        with pytest.raises(PatchMorphError, match="compressed file must be intact"):
            warp_files([(path, tmp_path / "out.nii")], AffineTransform.identity(), GRID, interpolation)
    assert [item.name for item in tmp_path.iterdir()] == ["series.nii.gz"]
    with pytest.raises(PatchMorphError, match="compressed file must be intact"):
        list(Frames(path))


@pytest.mark.parametrize("tool", ["itk", "fsl"])
def test_a_damaged_field_is_no_transform(tmp_path, tool):
    pair, path = GridPair(GRID, GRID), tmp_path / "field.nii.gz"
    save_transform(rotation(), path, tool, pair)  # a stream of many different numbers: each bit of it counts
    content = path.read_bytes()
    for place in (-8, -2, len(content) // 2):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(PatchMorphError, match=DAMAGED):
            load_transform(path, tool, pair)


@pytest.mark.parametrize("damaged", ["image.hdr.gz", "image.img.gz"])
def test_both_files_of_a_pair_are_checked(tmp_path, damaged):
    values = np.random.default_rng(0).random(GRID.shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Pair(values, np.eye(4)), tmp_path / "image.img.gz")
    np.testing.assert_array_equal(load_image(tmp_path / "image.hdr.gz").data[0, 0], values)
    content = bytearray((tmp_path / damaged).read_bytes())
    content[-8] ^= 1
    (tmp_path / damaged).write_bytes(content)
    with pytest.raises(PatchMorphError, match=DAMAGED):
        load_image(tmp_path / "image.img.gz")


def test_the_size_that_a_stream_may_have_is_bounded(tmp_path):
    (tmp_path / "zeros.gz").write_bytes(gzip.compress(bytes(10**7), 9))
    (tmp_path / "plain").write_bytes(bytes(1000))
    (tmp_path / "zeros.bz2").write_bytes(bz2.compress(bytes(10**7)))
    assert 10**7 < most_bytes(tmp_path / "zeros.gz") < 1.1 * 10**7
    assert MOST_PER_BYTE == 1032
    assert most_bytes(tmp_path / "plain") == 1000
    assert most_bytes(tmp_path / "zeros.bz2") is None


@pytest.mark.parametrize("frames", [(), (3,)])
@pytest.mark.parametrize("interpolation", ["nearest", "auto"])
def test_one_damaged_image_of_several_leaves_no_result(tmp_path, frames, interpolation):
    values = np.random.default_rng(0).random((*GRID.shape, *frames)).astype(np.float32)
    paths = [write_nifti(tmp_path / f"{name}.nii.gz", values, np.eye(4)) for name in "abc"]
    content = bytearray(paths[1].read_bytes())
    content[-6] ^= 4
    paths[1].write_bytes(content)
    pairs = [(path, tmp_path / "out" / path.name) for path in paths]
    with pytest.raises(PatchMorphError, match=r"compressed file must be intact, got .*b\.nii\.gz"):
        warp_files(pairs, AffineTransform.identity(), GRID, interpolation)
    assert not (tmp_path / "out").exists()
