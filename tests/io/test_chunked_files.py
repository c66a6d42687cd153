"""Files that are opened, not read: the same voxels in the same place, and levels as in memory."""

import gc
import gzip
import math
import shutil
import tempfile

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from foreign_images import write_imagej, write_pages, write_stack
from niftis import write_nifti
from synthetic import AFFINES, grid_around, smooth_image
from zarrs import axes_of, scaled, write_zarr

from patchmorph.errors import PatchMorphError
from patchmorph.images.cache import CACHE, MAX_BYTES, ChunkCache
from patchmorph.images.chunked import ChunkedImage, StoredLevel
from patchmorph.images.pyramid import downsample
from patchmorph.images.stores import ArrayStore
from patchmorph.images.volume import Image
from patchmorph.io import pyramids
from patchmorph.io.chunked import as_stored, open_image
from patchmorph.io.images import load_image
from patchmorph.io.numbers import rounded
from patchmorph.io.pyramids import BrickStore, with_pyramid
from patchmorph.io.stated import Stated
from patchmorph.memory import limited, memory_limit
from patchmorph.spatial.grid import VoxelBox

VALUES = np.random.default_rng(0).integers(0, 900, (40, 37, 34)).astype(np.int16)
PSL = Stated(origin="psl", spacing_mm=(0.05, 0.03, 0.02))
MATRIX = np.array([[0, -2.0, 0, 30], [1.5, 0, 0, -20], [0, 0, 2.5, 10], [0, 0, 0, 1]])


def compressed(path):
    tifffile.imwrite(path, VALUES.T, compression="zlib", photometric="minisblack")
    return path


FILES = {
    "nifti": lambda folder: write_nifti(folder / "a.nii", VALUES, MATRIX),
    "big-endian": lambda folder: write_nifti(folder / "a.nii", VALUES.astype(">i2"), MATRIX),
    "slope": lambda folder: write_nifti(folder / "a.nii", VALUES, MATRIX, scl_slope=0.5, scl_inter=-7),
    "nifti-2": lambda folder: write_nifti(folder / "a.nii", VALUES.astype(np.float32), MATRIX, version=2),
    "pages": lambda folder: write_pages(folder / "a.tif", VALUES.astype(np.uint16)),
    "imagej": lambda folder: write_imagej(folder / "a.tif", VALUES.astype(np.uint16), (0.02, 0.03, 0.05)),
    "zlib": lambda folder: compressed(folder / "a.tif"),
    "stack": lambda folder: write_stack(folder / "a", VALUES.astype(np.uint16)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_has_the_voxels_and_the_place_that_it_has_in_memory(tmp_path, kind):
    path = FILES[kind](tmp_path)
    whole, image = load_image(path, PSL), open_image(path, PSL, whole_voxels=0)
    assert isinstance(image, ChunkedImage)
    assert not image.in_memory
    assert image.grid.equals(whole.grid)
    assert (image.notes, image.doubts, image.name) == (whole.notes, whole.doubts, whole.name)
    for box in (VoxelBox((0, 0, 0), whole.grid.shape), VoxelBox((3, 31, 2), (39, 34, 33))):
        assert torch.equal(image.read(box).float(), whole.read(box).float())


def test_small_images_and_compressed_ones_are_read_as_a_whole(tmp_path):
    path = FILES["nifti"](tmp_path)
    assert isinstance(open_image(path), Image)
    with gzip.open(tmp_path / "a.nii.gz", "wb") as packed, path.open("rb") as file:
        shutil.copyfileobj(file, packed)
    assert isinstance(open_image(tmp_path / "a.nii.gz", whole_voxels=0), Image)


def test_a_limit_of_memory_bounds_what_is_read_and_kept(tmp_path):
    path = FILES["nifti"](tmp_path)  # 50 000 voxels
    with limited(memory_gib=0.004):
        assert isinstance(open_image(path), Image)
    with limited(memory_gib=0.002):
        assert isinstance(open_image(path), ChunkedImage)
        assert CACHE.max_bytes == int(0.002 * 2**30) // 8
    open_image(path)
    assert CACHE.max_bytes == min(MAX_BYTES, memory_limit() // 8)


def with_other_levels(folder):
    """OME-Zarr whose coarser level is every other voxel."""
    levels, scales = [VALUES.T, VALUES.T[::2, ::2, ::2]], [scaled((1, 1, 1)), scaled((2, 2, 2))]
    return write_zarr(folder / "a.zarr", levels, scales, axes_of("zyx", "millimeter"))


@pytest.mark.parametrize("write", [FILES["nifti"], with_other_levels])
def test_little_memory_does_not_change_what_a_coarser_level_shows(monkeypatch, tmp_path, write):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 10**3)
    path, orientation = write(tmp_path), Stated(origin="psl")
    whole = open_image(path, orientation)
    with limited(memory_gib=0.002):
        image = open_image(path, orientation)
    assert not image.in_memory
    for spacing_mm in (3.0, 5.0, 9.0):
        assert torch.equal(image.level(spacing_mm).values(), whole.level(spacing_mm).values())
    assert image.window() == whole.window()


def test_paths_and_images_are_taken_as_images(tmp_path):
    path = FILES["nifti"](tmp_path)
    image = open_image(path, whole_voxels=0)
    assert as_stored(image) is image
    assert isinstance(as_stored(str(path)), Image)
    assert isinstance(as_stored(nibabel.load(path)), Image)


def test_a_file_that_was_cut_after_it_was_opened_is_one_line(tmp_path):
    path = FILES["nifti"](tmp_path)
    image = open_image(path, whole_voxels=0)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PatchMorphError, match=r"image must be whole, got .*a\.nii"):
        image.values()


def test_pages_that_differ_are_one_line(tmp_path):
    folder = FILES["stack"](tmp_path)
    last = sorted(folder.iterdir())[-1]
    tifffile.imwrite(last, np.zeros((5, 6), np.uint16))
    with pytest.raises(PatchMorphError, match=r"files of one size and type, got uint16 \(5, 6\)"):
        open_image(folder, PSL, whole_voxels=0).values()


def chunked(data: np.ndarray, chunk=(16, 16, 16), spacing=2.0) -> ChunkedImage:
    grid = grid_around(data.shape, AFFINES["LIA"] * spacing, (1.0, 2, 3))
    return ChunkedImage([StoredLevel(ArrayStore(data, chunk=chunk), grid)], cache=ChunkCache(2**24))


@pytest.mark.parametrize(
    ("dtype", "chunk"), [("f4", (16, 16, 16)), ("u2", (16, 16, 16)), ("f4", (150, 9, 9))]
)
def test_missing_levels_have_the_values_that_are_computed_in_memory(monkeypatch, tmp_path, dtype, chunk):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 20**3)
    monkeypatch.setattr(pyramids, "BRICK", 16)
    data = smooth_image(grid_around((150, 70, 61), AFFINES["RAS"])).values()[0, 0].numpy()
    data = rounded(data * 900, np.dtype(dtype))
    image = with_pyramid(chunked(data, chunk), tmp_path / "levels")
    assert len(image.levels) == 4
    finer, grid = torch.from_numpy(data.astype(np.float32))[None, None], image.grid
    for level in image.stored_levels[1:]:
        values, grid = downsample(Image(finer, grid).read, grid, tuple(2 * grid.spacing_mm[0].numpy()))
        assert level.grid.equals(grid)
        finer = torch.from_numpy(rounded(values.numpy(), np.dtype(dtype)).astype(np.float32))
        # Sums in another order; a tie may be rounded otherwise.
        torch.testing.assert_close(level.values().float(), finer, atol=1e-3 if dtype == "f4" else 1.0, rtol=0)
        assert (level.values() - finer).abs().float().mean() < 1e-3
        finer = level.values().float()


@pytest.mark.parametrize("chunk", [(64, 8, 8), (8, 64, 8), (16, 16, 16), (128, 128, 1)])
def test_a_level_reads_each_chunk_once_though_few_are_kept(monkeypatch, tmp_path, chunk):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 64**3)
    monkeypatch.setattr(pyramids, "BRICK", 16)
    data = np.zeros((128, 128, 128), np.uint8)
    grid = grid_around(data.shape, AFFINES["RAS"])
    cache = ChunkCache(data.nbytes // 2)
    image = ChunkedImage([StoredLevel(ArrayStore(data, chunk=chunk), grid)], cache=cache)
    with_pyramid(image, tmp_path / "levels")
    assert cache.bytes_read[image.store] <= 1.1 * data.nbytes


def test_levels_that_are_stored_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 20**3)
    image = with_pyramid(chunked(VALUES), tmp_path / "levels")
    assert len(image.levels) == 2
    again = with_pyramid(image, tmp_path / "not made")
    assert again is image
    assert not (tmp_path / "not made").exists()


def test_a_scratch_folder_goes_with_the_image(monkeypatch, tmp_path):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 20**3)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image = with_pyramid(chunked(VALUES))
    assert [one.name.startswith(pyramids.PREFIX) for one in tmp_path.iterdir()] == [True]
    del image
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_levels_beside_a_file_are_kept_and_used_again(monkeypatch, tmp_path):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 20**3)
    path = FILES["nifti"](tmp_path)
    computed = []
    own = pyramids.rounded
    monkeypatch.setattr(pyramids, "rounded", lambda *given: computed.append(0) or own(*given))
    first = open_image(path, whole_voxels=0, pyramid=True)
    folder = tmp_path / "a.nii.pyramid"
    assert sorted(one.name for one in folder.iterdir()) == ["image.txt", "level-1", "level-2"]
    again = open_image(path, whole_voxels=0)
    assert len(computed) == 2
    assert torch.equal(again.stored_levels[1].values(), first.stored_levels[1].values())
    write_nifti(path, VALUES + 2, MATRIX)  # another image of that name
    other = open_image(path, whole_voxels=0)
    assert len(computed) == 4
    rise = other.stored_levels[1].values() - first.stored_levels[1].values()
    assert set(rise.unique().tolist()) <= {1, 2, 3}  # a tie may be rounded otherwise


def test_a_level_that_a_kill_cut_is_computed_again(monkeypatch, tmp_path):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 20**3)
    image = chunked(VALUES)
    monkeypatch.setattr(BrickStore, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        with_pyramid(image, tmp_path / "levels", "image")
    monkeypatch.undo()
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 20**3)
    found = with_pyramid(image, tmp_path / "levels", "image")
    assert torch.equal(found.stored_levels[1].values(), with_pyramid(image).stored_levels[1].values())


def test_a_folder_of_other_files_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(pyramids, "COARSEST_VOXELS", 20**3)
    (tmp_path / "precious").write_text("data")
    with pytest.raises(PatchMorphError, match="must be new or one of PatchMorph's"):
        with_pyramid(chunked(VALUES), tmp_path)
    assert (tmp_path / "precious").exists()


def test_bricks_of_zeros_take_no_room(tmp_path):
    store = BrickStore(tmp_path / "level", (200, 100, 70), np.dtype("u2"), (64, 64, 64))
    values = np.zeros((64, 64, 64), np.uint16)
    values[3, 5, 7] = 9
    store.write(VoxelBox((64, 0, 0), (128, 64, 64)), values)
    store.write(VoxelBox((128, 64, 64), (200, 100, 70)), np.zeros((72, 36, 6), np.uint16))
    whole = store.read(VoxelBox((0, 0, 0), store.shape))
    assert whole[67, 5, 7] == 9
    assert np.count_nonzero(whole) == 1
    assert (tmp_path / "level").stat().st_blocks * 512 < math.prod(store.shape) * 2 / 2
