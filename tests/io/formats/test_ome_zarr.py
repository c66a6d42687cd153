"""OME-Zarr: axes by their names, sizes and places by scale and translation, channels and times by choice."""

import json
import shutil

import numpy as np
import pytest
import torch
import zarr
from zarrs import axes_of, scaled, write_zarr

from patchmorph.errors import PatchMorphError
from patchmorph.io.chunked import open_frames, open_image
from patchmorph.io.formats import zarr_stores
from patchmorph.io.formats.zarr_stores import ZarrStore
from patchmorph.io.frames import Frames
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_grid, load_image, load_reference
from patchmorph.io.stated import Stated
from patchmorph.spatial.grid import VoxelBox

VALUES = np.random.default_rng(0).integers(0, 60000, (20, 17, 14)).astype(np.uint16)  # x, y, z
STACK = VALUES.T  # z, y, x
PSL = Stated(origin="psl")


def levels(*factors):
    return [np.ascontiguousarray(STACK[::k, ::k, ::k]) for k in factors]


def image_at(path, axes=None, **more):
    return write_zarr(path, [STACK], [scaled((50, 30, 20))], axes or axes_of("zyx"), **more)


def refused(path, message, stated=PSL, read=load_image):
    with pytest.raises(PatchMorphError, match=message) as error:
        read(path, stated)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("read", [load_image, lambda *given: open_image(*given, whole_voxels=0)])
def test_voxels_and_sizes_of_either_version(tmp_path, version, read):
    path = image_at(tmp_path / "brain.zarr", version=version)
    image = read(path, PSL)
    assert np.array_equal(image.values()[0, 0].numpy(), VALUES)
    assert image.dtype == torch.int32
    np.testing.assert_allclose(matrix_of(image.grid)[:3, :3], [[0.02, 0, 0], [0, 0, 0.05], [0, -0.03, 0]])
    assert load_grid(path, PSL).equals(image.grid)
    assert load_reference(path, PSL).grid.equals(image.grid)
    assert image.notes == (
        f"{path}: OME-Zarr files state no orientation; its axes were taken as RIA, as stated",
    )


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("micrometer", 1e-3), ("millimeter", 1.0), ("nanometer", 1e-6), ("meter", 1e3), ("um", 1e-3)],
)
def test_lengths_are_converted_to_mm(tmp_path, unit, mm):
    path = image_at(tmp_path / "brain.zarr", axes_of("zyx", unit))
    assert load_grid(path, PSL).spacing_mm[0].tolist() == pytest.approx([20 * mm, 30 * mm, 50 * mm])


def test_a_scale_of_the_whole_image_is_applied_after_that_of_a_dataset(tmp_path):
    path = image_at(tmp_path / "brain.zarr", coordinateTransformations=scaled((0.5, 2, 3)))
    assert load_grid(path, PSL).spacing_mm[0].tolist() == pytest.approx([0.06, 0.06, 0.025])


def test_axes_are_found_by_their_names(tmp_path):
    for names, order in (("xyz", (0, 1, 2)), ("yzx", (1, 2, 0))):
        sizes = dict(zip("xyz", (20, 30, 50), strict=True))
        arrays = [VALUES.transpose(order)]
        path = write_zarr(tmp_path / names, arrays, [scaled([sizes[name] for name in names])], axes_of(names))
        image = open_image(path, PSL, whole_voxels=0)
        assert np.array_equal(image.values()[0, 0].numpy(), VALUES)
        assert image.grid.spacing_mm[0].tolist() == pytest.approx([0.02, 0.03, 0.05])


def test_orientations_of_axes_place_the_image_in_the_world(tmp_path):
    axes = axes_of("zyx", "millimeter")
    said = ("inferior-to-superior", "anterior-to-posterior", "left-to-right")
    for axis, value in zip(axes, said, strict=True):
        axis["orientation"] = {"type": "anatomical", "value": value}
    path = write_zarr(tmp_path / "brain.zarr", [STACK], [scaled((5, 3, 2), (10, -7, 4))], axes)
    image = load_image(path)
    assert image.notes == image.doubts == ()
    np.testing.assert_allclose(
        matrix_of(image.grid), [[2, 0, 0, 4], [0, -3, 0, 7], [0, 0, 5, 10], [0, 0, 0, 1]]
    )


def test_our_own_files_keep_the_whole_matrix(tmp_path):
    path = image_at(tmp_path / "brain.zarr")
    matrix = [[0.0, 2, 0.1, 4], [-3, 0, 0, 7], [0, 0.2, 5, 10], [0, 0, 0, 1]]
    zarr.open_group(path).attrs["patchmorph"] = {"voxel_to_world": matrix}
    np.testing.assert_array_equal(matrix_of(load_grid(path)), matrix)


def test_levels_lie_where_their_translations_say(tmp_path):
    steps = [scaled((5, 3, 2), (1, 1, 1)), scaled((10, 6, 4), (3.5, 2.5, 2))]
    image = open_image(
        write_zarr(tmp_path / "brain.zarr", levels(1, 2), steps, axes_of("zyx")), PSL, whole_voxels=0
    )
    to_finest = image.grid.world_to_voxel @ image.levels[1].grid.voxel_to_world
    expected = [[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]]
    np.testing.assert_allclose(to_finest[0], expected, atol=1e-9)
    assert np.array_equal(image.stored_levels[1].values()[0, 0].numpy(), VALUES[::2, ::2, ::2])


def test_levels_without_translations_begin_at_the_same_edge(tmp_path):
    steps = [scaled((20, 12, 8)), scaled((5, 3, 2)), scaled((10, 6, 4))]
    path = write_zarr(tmp_path / "brain.zarr", levels(4, 1, 2), steps, axes_of("zyx"))
    image = open_image(path, PSL, whole_voxels=0)
    assert [level.store.shape for level in image.levels] == [(20, 17, 14), (10, 9, 7), (5, 5, 4)]
    offsets = [(image.grid.world_to_voxel @ level.grid.voxel_to_world)[0, :3, 3] for level in image.levels]
    for offset, expected in zip(offsets, (0, 0.5, 1.5), strict=True):
        np.testing.assert_allclose(offset, [expected] * 3, atol=1e-9)


@pytest.fixture
def several(tmp_path):
    """Two times and three channels; each voxel differs between them."""
    array = np.stack([np.stack([STACK // 2 + 9 * t + c for c in range(3)]) for t in range(2)])
    omero = {"channels": [{"label": name} for name in ("DAPI", "GFP", "auto")]}
    steps = [scaled((1, 1, 50, 30, 20))]
    return write_zarr(tmp_path / "brain.zarr", [array], steps, axes_of("tczyx"), omero=omero)


@pytest.mark.parametrize("choice", ["c=1,t=1", "c=GFP,t=1"])
def test_a_channel_and_a_time_are_chosen_by_number_or_name(several, choice):
    for read in (load_image, lambda *given: open_image(*given, whole_voxels=0)):
        image = read(f"{several}#{choice}", PSL)
        assert np.array_equal(image.values()[0, 0].numpy(), VALUES // 2 + 10)


def test_all_channels_and_times_are_frames(several):
    frames = Frames(several, PSL)
    assert frames.further == (3, 2)
    expected = [(c, t) for t in range(2) for c in range(3)]
    opened = list(open_frames(several, PSL))
    for (c, t), frame, image in zip(expected, frames, opened, strict=True):
        assert np.array_equal(frame, VALUES // 2 + 9 * t + c)
        assert np.array_equal(image.values()[0, 0].numpy(), frame)
    assert Frames(f"{several}#t=1", PSL).further == (3,)


def test_several_channels_are_not_one_image(several):
    refused(several, r"one 3D volume, got shape \(20, 17, 14, 3, 2\).*by its number: .*\.zarr#c=0\)$")
    for choice in ("7", "²", "9" * 5000):
        refused(f"{several}#c={choice},t=0", f"channel must be one of DAPI, GFP, auto, got {choice[:9]}")
    refused(f"{several}#c=RFP,t=0", "channel must be one of DAPI, GFP, auto, got RFP")
    refused(f"{several}#c=0,t=2", "time must be one of 0, 1, got 2")


def test_a_channel_of_an_image_without_channels_is_refused(tmp_path):
    refused(f"{image_at(tmp_path / 'brain.zarr')}#c=0", "must have an axis c, got z, y, x")


def test_a_plain_array_has_the_sizes_that_are_stated(tmp_path):
    path = tmp_path / "plain.zarr"
    zarr.create_array(path, data=np.ascontiguousarray(STACK), chunks=(8, 8, 8))
    image = load_image(path, Stated(origin="psl", spacing_mm=(0.05, 0.03, 0.02)))
    assert np.array_equal(image.data[0, 0].numpy(), VALUES)
    assert image.grid.spacing_mm[0].tolist() == pytest.approx([0.02, 0.03, 0.05])
    refused(path, "voxel sizes must be stated .*since a plain Zarr array states none")
    refused(path, "orientation must be stated", Stated(spacing_mm=1.0))


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_urls_are_opened_by_fsspec(tmp_path, scheme):
    path = image_at(tmp_path / "brain.zarr")
    url = f"file://{path}"
    if scheme == "memory":
        import fsspec

        url, memory = "memory://brain.zarr", fsspec.filesystem("memory")
        memory.put(str(path), "/brain.zarr", recursive=True)
    image = open_image(url, PSL, whole_voxels=0)
    assert np.array_equal(image.values()[0, 0].numpy(), VALUES)
    assert load_grid(url, PSL).equals(image.grid)


def test_what_is_not_there_behind_a_url_is_one_line():
    refused("memory://nothing.zarr", "must be a readable Zarr, got memory:/+nothing.zarr")
    refused("nosuch://bucket/a.zarr", "must be a readable Zarr")


def test_chunks_that_are_not_stored_are_background(tmp_path):
    path = image_at(tmp_path / "brain.zarr")
    shutil.rmtree(path / "0" / "c" / "0" / "1")
    image = open_image(path, PSL, whole_voxels=0)
    expected = VALUES.copy()
    expected[:, 16:] = 0
    assert np.array_equal(image.values()[0, 0].numpy(), expected)


def test_a_damaged_chunk_is_one_line(tmp_path):
    path = image_at(tmp_path / "brain.zarr")
    chunk = path / "0" / "c" / "0" / "0" / "1"
    chunk.write_bytes(chunk.read_bytes()[:50])
    for read in (load_image, lambda *given: open_image(*given, whole_voxels=0).values()):
        refused(path, r"chunks must be readable, got voxels \(.*of 0 in .*brain.zarr", read=read)


def test_chunks_of_no_side_are_refused(tmp_path):
    path = image_at(tmp_path / "brain.zarr")
    head = path / "0" / "zarr.json"
    content = json.loads(head.read_text())
    content["chunk_grid"]["configuration"]["chunk_shape"][2] = 0
    head.write_text(json.dumps(content))
    refused(path, r"chunks must have voxels, got sides of \[14, 16, 0\] in .*brain.zarr")


def test_many_small_chunks_that_are_not_stored_are_refused(tmp_path, monkeypatch):
    """A header of 500 bytes may claim a million of them, which zarr takes minutes to find missing."""
    sparse = zarr.create_array(tmp_path / "a.zarr", shape=(5_000_000, 4, 3), chunks=(5, 4, 3), dtype="f4")
    sparse[:5] = 1
    with pytest.raises(PatchMorphError, match=r"^chunks must be stored, got 1 of 1000000 in .*a\.zarr$"):
        ZarrStore(sparse, (2, 1, 0), {}, tmp_path / "a.zarr")
    longer = zarr.create_array(tmp_path / "c.zarr", shape=(5_000_000, 4, 3), chunks=(5, 4, 9999), dtype="f4")
    with pytest.raises(PatchMorphError, match=r"^chunks must be stored, got 0 of 1000000 in"):
        ZarrStore(longer, (2, 1, 0), {}, tmp_path / "c.zarr")
    sparse.resize((5_000_000, 4_000_000, 3))
    with pytest.raises(PatchMorphError, match=r"^chunks must be larger .* got 1000000000000 in"):
        ZarrStore(sparse, (2, 1, 0), {}, tmp_path / "a.zarr")
    monkeypatch.setattr(zarr_stores, "MANY_CHUNKS", 8)
    values = np.zeros((50, 4, 3), "f4")
    values[15:20] = 1
    stored = zarr.create_array(tmp_path / "b.zarr", data=values, chunks=(5, 4, 3))
    assert stored.nchunks_initialized == 1  # of ten: one in a hundred is enough
    assert np.array_equal(
        ZarrStore(stored, (2, 1, 0), {}, tmp_path).read(VoxelBox.at((0, 0, 0), (3, 4, 50))),
        values.transpose(2, 1, 0),
    )
    monkeypatch.setattr(zarr_stores, "MIN_STORED", 0.2)
    with pytest.raises(PatchMorphError, match="got 1 of 10 in"):
        ZarrStore(stored, (2, 1, 0), {}, tmp_path)
    monkeypatch.setattr(zarr_stores, "SMALL_CHUNK", 60)
    ZarrStore(stored, (2, 1, 0), {}, tmp_path)  # larger chunks are soon read, stored or not


def test_small_chunks_are_read_together(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(70, 60, 50), chunks=(7, 16, 50), dtype="u1")
    store = ZarrStore(array, (2, 1, 0), {}, tmp_path)
    assert store.chunk == (50, 32, 35)


AXES = axes_of("zyx")
BAD = {
    "no multiscales": ({"ome": {"version": "0.5"}}, "must have OME's multiscales"),
    "a number": ({"ome": 5}, "attribute ome of a Zarr group must hold names and values, got 5"),
    "a text": ({"ome": "multiscales"}, "attribute ome .* got multiscales"),
    "version": ({"version": "0.3"}, "must be version 0.4 or 0.5, got 0.3"),
    "no axes": ({"axes": None}, "metadata must be those of OME-Zarr"),
    "two axes": ({"axes": AXES[:2]}, "axes must be x, y, z and perhaps c and t, got z, y"),
    "unknown axis": ({"axes": [*AXES[:2], {"name": "q", "type": "space"}]}, "axes must be x, y, z"),
    "twice x": ({"axes": [AXES[0], AXES[2], AXES[2]]}, "axes must be x, y, z"),
    "too many axes": ({"axes": [{"name": "c", "type": "channel"}, *AXES]}, "scale must have 4 numbers"),
    "no unit": ({"axes": axes_of("zyx", None)}, "voxel sizes must be stated .*its axes have no unit"),
    "unknown unit": (
        {"axes": axes_of("zyx", "parsec")},
        "must be one of length, got x parsec",
    ),
    "no transformations": ({"steps": None}, "must have a scale, got none"),
    "translation alone": (
        {"steps": [{"type": "translation", "translation": [1, 1, 1]}]},
        "must have a scale",
    ),
    "negative scale": ({"steps": scaled((5, -3, 2))}, r"scale must be above 0"),
    "infinite scale": ({"steps": scaled((5, float("inf"), 2))}, r"scale must be above 0"),
    "text": ({"steps": scaled(("a", 3, 2))}, "metadata must be those of OME-Zarr"),
    "rotation": ({"steps": [{"type": "rotation", "rotation": [1]}]}, "must be scales and translations"),
    "by path": ({"steps": [{"type": "scale", "path": "x"}]}, "must be scales and translations, got scale"),
    "no such dataset": ({"dataset": "7"}, "dataset 7 must be an array"),
    "no datasets": ({"datasets": []}, "must have a dataset, got none"),
}


@pytest.mark.parametrize("case", BAD)
def test_metadata_that_are_not_complete_are_one_line(tmp_path, case):
    changes, message = BAD[case]
    path = image_at(tmp_path / "brain.zarr")
    root = zarr.open_group(path)
    ome = dict(root.attrs["ome"])
    image = ome["multiscales"][0]
    for key, value in changes.items():
        if key == "ome":
            ome = value
        elif key == "version":
            ome[key] = value
        elif key == "steps":
            image["datasets"][0]["coordinateTransformations"] = value
        elif key == "dataset":
            image["datasets"][0]["path"] = value
        else:
            image[key] = value
    root.attrs["ome"] = ome
    refused(path, message)


def test_numbers_beyond_all_sizes_are_one_line(tmp_path):
    for name, key, axes in (("x", 10**400, "zyx"), ("x", 2**40, "zyx"), ("c", 2**40, "czyx")):
        shape = (1,) * (len(axes) - 3) + VALUES.T.shape
        steps = [scaled((1,) * len(axes))]
        path = write_zarr(tmp_path / "a.zarr", [VALUES.T.reshape(shape)], steps, axes_of(axes))
        metadata = json.loads((path / "0" / "zarr.json").read_text())
        metadata["shape"][axes.index(name)] = key
        (path / "0" / "zarr.json").write_text(json.dumps(metadata))
        refused(path, f"axis {name} must have a possible size|must be a readable Zarr")
    path = image_at(tmp_path / "b.zarr")
    zarr.open_group(path).attrs["patchmorph"] = {"voxel_to_world": [[10**400] * 4] * 4}
    refused(path, "voxel_to_world must be a matrix of 4 rows")
    path = write_zarr(tmp_path / "c.zarr", [VALUES.T], [scaled((10**400, 1, 1))], axes_of("zyx"))
    refused(path, "must be those of OME-Zarr")


def test_levels_of_another_volume_are_refused(tmp_path):
    steps = [scaled((5, 3, 2)), scaled((10, 6, 4))]
    path = write_zarr(tmp_path / "brain.zarr", levels(1, 4), steps, axes_of("zyx"))
    refused(path, "levels must cover the same volume", read=lambda *given: open_image(*given, whole_voxels=0))


def test_metadata_that_are_no_json_are_one_line(tmp_path):
    path = image_at(tmp_path / "brain.zarr")
    (path / "zarr.json").write_text("{")
    refused(path, "must be a readable Zarr")


def test_the_first_image_of_a_converted_series_is_read(tmp_path):
    root = zarr.open_group(tmp_path / "brain.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    image_at(tmp_path / "brain.zarr" / "0", version="0.4")
    assert np.array_equal(load_image(tmp_path / "brain.zarr", PSL).data[0, 0].numpy(), VALUES)
    shutil.rmtree(tmp_path / "brain.zarr" / "0")
    refused(tmp_path / "brain.zarr", "image must be in group 0, got no such group")


def test_n5_is_named(tmp_path):
    (tmp_path / "brain.n5").mkdir()
    (tmp_path / "brain.n5" / "attributes.json").write_text('{"n5": "2.0.0"}')
    refused(tmp_path / "brain.n5", "must be OME-Zarr, which N5 is converted to first")
