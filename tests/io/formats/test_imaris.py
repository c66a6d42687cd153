"""Imaris: sizes from the attributes of channels, voxel sizes from extents, levels with the same edges."""

import h5py
import numpy as np
import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.chunked import open_image
from patchmorph.io.frames import Frames
from patchmorph.io.images import load_image
from patchmorph.io.stated import Stated

VALUES = np.random.default_rng(0).integers(0, 60000, (18, 15, 11)).astype(np.uint16)  # x, y, z
PSL = Stated(origin="psl")


def text(value) -> np.ndarray:
    return np.frombuffer(str(value).encode(), "S1")


def write_ims(path, channels=1, times=1, levels=2, padded=4, unit="um", names=()):
    """As Imaris writes it: arrays z, y, x, padded; each attribute an array of characters."""
    with h5py.File(path, "w") as file:
        image = file.create_group("DataSetInfo/Image")
        for k, (low, high) in enumerate(((10, 10 + 18 * 20), (-5, -5 + 15 * 30), (0, 11 * 50))):
            image.attrs[f"ExtMin{k}"], image.attrs[f"ExtMax{k}"] = text(low), text(high)
        if unit is not None:
            image.attrs["Unit"] = text(unit)
        for k, name in enumerate(names):
            file.create_group(f"DataSetInfo/Channel {k}").attrs["Name"] = text(name)
        for level in range(levels):
            for t in range(times):
                for c in range(channels):
                    array = (VALUES // 2 + 9 * t + c)[:: 2**level, :: 2**level, :: 2**level]
                    group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint {t}/Channel {c}")
                    for axis, count in zip("XYZ", array.shape, strict=True):
                        group.attrs[f"ImageSize{axis}"] = text(count)
                    full = np.pad(array.T, [(0, padded)] * 3, constant_values=7)
                    group.create_dataset("Data", data=full, chunks=(4, 8, 8), compression="gzip")
    return path


def refused(path, message, stated=PSL):
    with pytest.raises(PatchMorphError, match=message) as error:
        open_image(path, stated, whole_voxels=0).values()
    assert "\n" not in str(error.value)


def test_voxels_sizes_and_levels(tmp_path):
    path = write_ims(tmp_path / "brain.ims")
    whole, image = load_image(path, PSL), open_image(path, PSL, whole_voxels=0)
    for one in (whole, image):
        assert np.array_equal(one.values()[0, 0].numpy(), VALUES // 2)
        assert one.grid.spacing_mm[0].tolist() == pytest.approx([0.02, 0.03, 0.05])
    assert image.grid.equals(whole.grid)
    coarse = image.levels[1]
    assert coarse.store.shape == (9, 8, 6)
    to_finest = (image.grid.world_to_voxel @ coarse.grid.voxel_to_world)[0]
    np.testing.assert_allclose(to_finest.diagonal()[:3], [2, 15 / 8, 11 / 6])
    np.testing.assert_allclose(to_finest[:3, 3], [0.5, 7 / 16, 5 / 12])


def test_channels_and_times(tmp_path):
    path = write_ims(tmp_path / "brain.ims", channels=2, times=2, names=("GFP", "auto"))
    assert np.array_equal(load_image(f"{path}#c=auto,t=1", PSL).data[0, 0].numpy(), VALUES // 2 + 10)
    assert Frames(path, PSL).further == (2, 2)
    refused(f"{path}#c=2,t=0", "channel must be one of GFP, auto, got 2")
    refused(path, "must be one 3D volume")


def test_what_is_missing_is_one_line(tmp_path):
    refused(
        write_ims(tmp_path / "unit.ims", unit="parsec"), "voxel sizes must be stated .*extents or their unit"
    )
    refused(write_ims(tmp_path / "none.ims"), "orientation must be stated", Stated())
    path = write_ims(tmp_path / "levels.ims")
    with h5py.File(path, "a") as file:
        del file["DataSet/ResolutionLevel 0/TimePoint 0/Channel 0/Data"]
    refused(path, "must be a readable Imaris file")
    with h5py.File(tmp_path / "other.ims", "w") as file:
        file.create_group("something")
    refused(tmp_path / "other.ims", "must be a readable Imaris file, got .*other.ims: no ")
    whole = write_ims(tmp_path / "cut.ims").read_bytes()
    (tmp_path / "cut.ims").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.ims", "must be a readable Imaris file")


def test_attributes_of_a_kind_that_hdf5_crashes_on_are_refused(tmp_path):
    path = write_ims(tmp_path / "a.ims")
    with h5py.File(path, "r+") as file:
        sequence = np.array([np.arange(2), np.arange(3)], object)
        file["DataSetInfo/Image"].attrs.create("Unit", sequence, dtype=h5py.vlen_dtype(np.int32))
    refused(path, "must hold numbers and texts, got another kind in Unit of .*a.ims")


def test_a_damaged_chunk_is_one_line(tmp_path):
    path = write_ims(tmp_path / "brain.ims")
    with h5py.File(path) as file:
        place = file["DataSet/ResolutionLevel 0/TimePoint 0/Channel 0/Data"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[place.byte_offset + 2 : place.byte_offset + 60] = b"\xff" * 58
    path.write_bytes(data)
    refused(path, "chunks must be readable, got voxels")


def test_sizes_beyond_the_array_are_refused(tmp_path):
    path = write_ims(tmp_path / "brain.ims")
    with h5py.File(path, "a") as file:
        file["DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"].attrs["ImageSizeX"] = text(99)
    refused(path, "sizes of the image must lie inside its array")
