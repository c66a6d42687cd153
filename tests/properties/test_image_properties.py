"""What holds for every image: however it is stored, it shows the same."""

import torch
from drawn import affines, boxes, few, grids, images, points_in, seeds, turned, turns
from hypothesis import given
from hypothesis import strategies as st

from patchmorph.images.cache import ChunkCache
from patchmorph.images.canonical import canonical
from patchmorph.images.chunked import ChunkedImage, StoredLevel
from patchmorph.images.stores import ArrayStore
from patchmorph.images.volume import Image
from patchmorph.transforms.resample import resample

sides = st.integers(1, 9)


def in_chunks(image: Image, chunk: tuple[int, int, int]) -> ChunkedImage:
    """The same image, read in chunks through a cache of a few of them."""
    store = ArrayStore(image.data[0, 0].numpy(), chunk=chunk)
    return ChunkedImage([StoredLevel(store, image.grid)], cache=ChunkCache(2**12))


@given(grids(least=2), seeds, turns)
def test_the_order_of_storage_changes_no_intensity_anywhere(grid, seed, turn):
    image, points = images(grid, seed), points_in(grid, seed)
    spacing_mm = float(grid.spacing_mm.min())
    found = turned(image, turn).sample(points, spacing_mm)
    # float32 points of up to 200 mm are 2e-5 mm off, across edges of up to six a voxel
    torch.testing.assert_close(found, image.sample(points, spacing_mm), atol=1e-3 / spacing_mm, rtol=0)


@given(grids(least=2), seeds, turns)
def test_the_order_of_storage_does_not_reach_the_canonical_image(grid, seed, turn):
    image = images(grid, seed)
    once, again = canonical(image), canonical(turned(image, turn))
    assert once.grid.shape == again.grid.shape
    assert torch.equal(once.values(), again.values())
    off = (once.grid.points_world() - again.grid.points_world()).norm(dim=-1)
    assert float(off.max()) < 1e-3 * float(grid.spacing_mm.min())


@given(st.data(), grids(least=2), seeds, turns, st.tuples(sides, sides, sides), st.booleans())
def test_a_box_in_chunks_has_the_voxels_of_memory(data, grid, seed, turn, chunk, integers):
    image = images(grid, seed, integers)
    shown, chunked = turned(image, turn), in_chunks(image, chunk)
    shown = image.turned(turn, shown.grid, ())
    chunked = chunked.turned(turn, shown.grid, ())
    box = boxes(shown.grid, data.draw)
    assert torch.equal(chunked.read(box), shown.read(box))


@few
@given(grids(least=2), grids(least=2, most=9), affines(), seeds, st.tuples(sides, sides, sides))
def test_an_image_in_chunks_is_resampled_as_in_memory(grid, fixed, affine, seed, chunk):
    image = images(grid, seed)
    there = affine.inverse()(grid.center_world[:, None].float())[0]  # the fixed grid, moved to where it sees
    fixed = fixed.crop((0, 0, 0), fixed.shape)
    fixed.voxel_to_world[:, :3, 3] += there - fixed.center_world
    for interpolation in ("linear", "nearest"):
        expected = resample(image, affine, fixed, interpolation).data
        found = resample(in_chunks(image, chunk), affine, fixed, interpolation).data
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
