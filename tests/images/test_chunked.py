"""Images whose voxels stay where they are stored give what images in memory give, and read little."""

import threading

import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.images import volume
from patchmorph.images.cache import ChunkCache
from patchmorph.images.canonical import canonical
from patchmorph.images.chunked import ChunkedImage, StoredLevel
from patchmorph.images.stores import ArrayStore
from patchmorph.images.turning import Turn
from patchmorph.images.volume import Image
from patchmorph.spatial.grid import VoxelBox

SHAPE = (70, 53, 41)


def image_of(linear=AFFINES["LAS"]) -> Image:
    return smooth_image(grid_around(SHAPE, linear * 3, (4.0, -2, 7)))


def stored(image: Image, cache: ChunkCache, *levels: float, chunk=(16, 16, 16)) -> ChunkedImage:
    """The same image in chunks, with coarser levels of these spacings."""
    images = [image, *(image.level(spacing) for spacing in levels)]
    stores = [ArrayStore(one.values()[0, 0].numpy(), f"level {k}", chunk) for k, one in enumerate(images)]
    parts = [StoredLevel(store, one.grid) for store, one in zip(stores, images, strict=True)]
    return ChunkedImage(parts, "chunks", cache=cache)


@pytest.fixture
def cache() -> ChunkCache:
    return ChunkCache(2**22)


def boxes(count=30):
    generator = np.random.default_rng(0)
    for _ in range(count):
        ends = np.sort(generator.integers(0, np.array(SHAPE) + 1, (2, 3)), axis=0)
        yield VoxelBox(tuple(ends[0].tolist()), tuple(ends[1].tolist()))


def test_any_box_has_the_voxels_of_the_array(cache):
    image = image_of()
    chunked = stored(image, cache, chunk=(16, 9, 41))
    for box in boxes():
        assert torch.equal(chunked.read(box), image.read(box))


def test_single_voxels_of_an_image_whose_axes_are_turned_round(cache):
    image = image_of(AFFINES["LAS"])
    turned = canonical(stored(image, cache))
    box = VoxelBox.at((3, 5, 7), (1, 1, 1))
    assert torch.equal(turned.read(box), canonical(image).read(box))


def test_points_have_the_intensities_that_they_have_in_memory(cache, linear):
    image = image_of(linear)
    chunked = stored(image, cache)
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(1)) * 160 - 80
    for spacing_mm in (1.0, 5.0, 11.0):
        found, expected = chunked.sample(points, spacing_mm), image.sample(points, spacing_mm)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # crops: 1e-5 voxels
    patch = grid_around((20, 20, 20), AFFINES["RAS"] * 4)
    torch.testing.assert_close(chunked.sample_grid(patch, 4.0), image.sample_grid(patch, 4.0))


def test_what_is_measured_of_an_image_is_the_same(cache):
    image = image_of()
    chunked = stored(image, cache)
    assert chunked.window() == image.window()
    assert torch.equal(chunked.normalized().values(), image.normalized().values())
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(1)) * 100 - 50
    assert torch.equal(chunked.normalized().sample(points, 7.0), image.normalized().sample(points, 7.0))


def test_the_order_of_storage_is_turned_as_in_memory(cache, linear):
    image = image_of(linear)
    expected, found = canonical(image), canonical(stored(image, cache))
    assert found.grid.equals(expected.grid)
    assert torch.equal(found.values(), expected.values())
    for box in boxes(5):
        inside = VoxelBox(box.start, tuple(map(min, box.stop, found.grid.shape)))
        assert torch.equal(found.read(inside), expected.read(inside))
    again = found.turned(Turn((1, 2, 0), (0,)), Turn((1, 2, 0), (0,)).grid(found.grid), ())
    assert torch.equal(again.values(), expected.values().permute(0, 1, 3, 4, 2).flip(2))


def test_coarser_levels_that_are_stored_stay_in_place_when_they_are_turned(cache, linear):
    image = image_of(linear)
    found = canonical(stored(image, cache, 6.0)).stored_levels[1]
    points = torch.rand(1, 300, 3, generator=torch.Generator().manual_seed(1)) * 80 - 40
    apart = found.sample(points, 6.0) - image.level(6.0).sample(points, 6.0)
    assert apart.abs().max() < 1e-3  # the rounding of the grid, 4e-4 mm


def test_a_turned_image_reads_each_chunk_once(cache):
    image = canonical(stored(image_of(AFFINES["LPS"]), cache))
    for _, _values in image.blocks():
        pass
    assert sum(cache.bytes_read.values()) == image.store.nbytes


@pytest.mark.parametrize(
    ("spacing_mm", "used"),
    [(3.0, 0), (3.7, 0), (5.7, 0), (5.8, 1), (6.0, 1), (7.4, 1), (8.0, 1), (12.0, 2), (25.0, 2)],
)
def test_a_level_is_made_from_the_coarsest_stored_one_that_is_hardly_coarser(cache, spacing_mm, used):
    chunked = stored(image_of(AFFINES["RAS"]), cache, 6.0, 12.0)
    level = chunked.level(spacing_mm)
    level.values()
    assert set(cache.bytes_read) == {chunked.levels[used].store}
    own = (3.0, 6.0, 12.0)[used]
    assert level.spacing_mm == pytest.approx((spacing_mm if spacing_mm > 1.25 * own else own,) * 3)


@pytest.mark.parametrize("spacing_mm", [8.0, 9.0, 11.0, 25.0])
def test_a_level_of_a_stored_level_is_as_smooth_as_one_of_the_finest(cache, spacing_mm):
    """The mean of x² around a voxel at x is x² and the variance of the weights: a sixth of the spacing's."""
    grid = grid_around((200, 3, 3), AFFINES["RAS"] * 3)
    x = grid.points_world()[0, ..., 0]
    image = Image(x[None, None] ** 2, grid)
    deviations = []
    for one in (stored(image, cache, 6.0, 12.0), image):
        level = one.level(spacing_mm)
        assert level.spacing_mm[0] == pytest.approx(spacing_mm)
        places = level.grid.points_world()[0, :, 0, 0, 0]
        inside = places.abs() < 230
        variance = (level.values()[0, 0, :, 0, 0] - places**2)[inside].mean()
        deviations.append(float(variance) ** 0.5)
    assert deviations[1] == pytest.approx(spacing_mm / 6**0.5, rel=0.06)  # of few voxels
    assert deviations[0] == pytest.approx(deviations[1], rel=0.16)  # interpolation adds 12 % at most


def test_views_use_the_stored_levels_too(cache):
    image = image_of(AFFINES["RAS"])
    view = stored(image, cache, 6.0).normalized()
    cache.bytes_read.clear()
    points = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(1)) * 100 - 50
    found = view.sample(points, 6.0)
    assert set(cache.bytes_read) == {view.source.levels[1].store}
    expected = image.level(6.0).mapped(image.window()).sample(points, 6.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_level_too_large_for_memory_has_the_voxels_of_one_in_memory(cache, monkeypatch):
    image = image_of()
    monkeypatch.setattr(volume, "MAX_KEPT_VOXELS", 100)
    monkeypatch.setattr(volume, "SOURCE_SIDE", 24)
    for view, expected in (
        (stored(image, cache), image),
        (stored(image, cache).normalized(), image.normalized()),
    ):
        level, whole = view.level(7.0), expected.level(7.0)
        assert not isinstance(level, Image)
        assert level.grid.equals(whole.grid)
        torch.testing.assert_close(level.values(), whole.values(), atol=1e-6, rtol=1e-6)
        box = VoxelBox((3, 5, 2), (9, 6, 13))
        torch.testing.assert_close(level.read(box), whole.read(box), atol=1e-6, rtol=1e-6)


def test_a_level_of_a_large_volume_is_computed_block_by_block(cache, monkeypatch):
    image = image_of()
    monkeypatch.setattr(volume, "MAX_SLABS_VOXELS", 100)
    level = stored(image, cache).level(7.0)
    assert isinstance(level, Image)
    torch.testing.assert_close(level.values(), image.level(7.0).values(), atol=1e-6, rtol=1e-6)


def test_intensities_are_measured_in_a_coarse_level(cache, monkeypatch):
    monkeypatch.setattr(volume, "OVERVIEW_VOXELS", 40**3)
    chunked = stored(image_of(), cache, 6.0)
    chunked.normalized()
    assert set(cache.bytes_read) == {chunked.levels[1].store}
    assert chunked.intensity_range() == chunked.stored_levels[1].intensity_range()


def test_the_cache_stays_within_its_bytes_and_drops_what_was_used_least_recently():
    cache = ChunkCache(3 * 16**3 * 4)
    chunked = stored(image_of(), cache)
    corner = VoxelBox((0, 0, 0), (16, 16, 16))
    for start in (16, 32, 48):
        chunked.read(corner)  # stays in use
        chunked.read(VoxelBox((start, 0, 0), (start + 16, 16, 16)))
        assert cache.held_bytes <= cache.max_bytes
    assert cache.bytes_read[chunked.store] == 4 * 16**3 * 4  # the corner was read once
    chunked.read(VoxelBox((16, 0, 0), (32, 16, 16)))
    assert cache.bytes_read[chunked.store] == 5 * 16**3 * 4


def test_the_next_block_is_read_while_one_is_used(cache):
    chunked = stored(image_of(), cache, chunk=(64, 64, 64))
    blocks = chunked.blocks()
    next(blocks)
    cache.wait()
    assert cache.bytes_read[chunked.store] == chunked.store.nbytes  # both blocks, though one was taken


class Broken(ArrayStore):
    def read(self, box):
        raise PatchMorphError("chunk must be intact, got damage")


def test_a_chunk_that_cannot_be_read_is_an_error_each_time(cache):
    store = Broken(np.zeros((8, 8, 8), np.float32))
    image = ChunkedImage([StoredLevel(store, grid_around((8, 8, 8), AFFINES["RAS"]))], cache=cache)
    for _ in range(2):
        with pytest.raises(PatchMorphError, match="damage"):
            image.values()


class Slow(ArrayStore):
    def __init__(self, array):
        super().__init__(array)
        self.reads, self.go = 0, threading.Event()

    def read(self, box):
        self.reads += 1
        self.go.wait(10)
        return super().read(box)


def test_threads_that_want_the_same_chunk_read_it_once(cache):
    store = Slow(np.ones((8, 8, 8), np.float32))
    box = VoxelBox((0, 0, 0), (8, 8, 8))
    threads = [threading.Thread(target=cache.read, args=(store, box)) for _ in range(4)]
    for thread in threads:
        thread.start()
    store.go.set()
    for thread in threads:
        thread.join()
    assert store.reads == 1


@pytest.mark.parametrize(
    ("stored_as", "read_as"),
    [("u1", torch.uint8), ("<u2", torch.int32), (">i2", torch.int16), ("f8", torch.float32)],
)
def test_number_types_are_those_of_an_image_in_memory(cache, stored_as, read_as):
    array = np.arange(8 * 9 * 10).reshape(8, 9, 10).astype(stored_as)
    image = ChunkedImage(
        [StoredLevel(ArrayStore(array), grid_around((8, 9, 10), AFFINES["RAS"]))], cache=cache
    )
    assert image.dtype == image.values().dtype == read_as
    assert np.array_equal(image.values()[0, 0].numpy(), array)
