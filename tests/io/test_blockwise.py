"""OME-Zarr written block by block: the voxels that are computed in memory, also after a kill."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_velocity
from zarrs import (
    assert_same_but_for_ties,
    axes_of,
    make_blocks_small,
    save_brain,
    scaled,
    write_zarr,
)

from patchmorph.errors import PatchMorphError
from patchmorph.images.chunked import ChunkedImage
from patchmorph.images.volume import Image
from patchmorph.io import blockwise
from patchmorph.io.blockwise import (
    choice_of,
    folding_by_blocks,
    jacobian_blocks,
    warp_blocks,
    written_figures,
)
from patchmorph.io.chunked import open_frames, open_image
from patchmorph.io.formats import ome_zarr_writing
from patchmorph.io.images import load_image, save_image
from patchmorph.io.resumable import PARTIAL, Ledger, resumable
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import folding, jacobian_determinant
from patchmorph.transforms.resample import resample

REFERENCE = grid_around((41, 37, 45), AFFINES["oblique"] * 3.7, (2.0, 1, -3))
MAP = smooth_velocity(Grid.centered((12, 12, 12), 16.0, torch.zeros(1, 3)), 8.0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    make_blocks_small(monkeypatch)


@pytest.fixture
def moving(tmp_path) -> ChunkedImage:
    opened = open_image(save_brain(tmp_path / "moving.ome.zarr"), whole_voxels=0)
    assert isinstance(opened, ChunkedImage)
    return opened


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "nearest", "label"])
def test_an_image_has_the_voxels_that_it_has_in_memory(tmp_path, moving, interpolation):
    whole = load_image(moving.name)
    expected = resample(whole, MAP, REFERENCE, interpolation, 3)
    warp_blocks([moving], MAP, REFERENCE, tmp_path / "out.ome.zarr", interpolation, 3, {})
    found = load_image(tmp_path / "out.ome.zarr")
    assert found.grid.equals(expected.grid)
    assert found.dtype == expected.dtype == torch.uint8
    different = (found.data.int() - expected.data.int()).abs()
    assert different.max() <= 1  # coordinates of crops differ by 1e-5 voxels: a tie may be rounded otherwise
    assert (different > 0).float().mean() < 1e-3


def test_levels_are_means_and_lie_in_the_same_place(tmp_path, moving):
    warp_blocks([moving], MAP, REFERENCE, tmp_path / "out.ome.zarr", "linear", 0, {})
    image = open_image(tmp_path / "out.ome.zarr", whole_voxels=0)
    assert len(image.levels) == 3
    whole = load_image(tmp_path / "out.ome.zarr")
    expected = whole.level(2 * 3.7)
    torch.testing.assert_close(image.levels[1].grid.voxel_to_world, expected.grid.voxel_to_world)
    torch.testing.assert_close(
        image.stored_levels[1].values().float(), expected.values().round(), atol=1, rtol=0
    )
    assert (image.stored_levels[1].values() - expected.values()).abs().mean() < 0.3


def test_every_channel_is_resampled(tmp_path):
    stack = np.random.default_rng(0).integers(0, 60000, (2, 20, 17, 14)).astype(np.uint16)
    axes = axes_of("czyx", "millimeter")
    for axis, value in zip(
        axes[1:], ("inferior-to-superior", "posterior-to-anterior", "left-to-right"), strict=True
    ):
        axis["orientation"] = {"type": "anatomical", "value": value}
    path = write_zarr(tmp_path / "two.zarr", [stack], [scaled((1, 5, 4, 6), (0, -40, -30, -35))], axes)
    images = list(open_frames(path))
    warp_blocks(images, MAP, REFERENCE, tmp_path / "out.ome.zarr", "linear", 0, {})
    for channel in range(2):
        expected = resample(load_image(f"{path}#c={channel}"), MAP, REFERENCE).data
        found = load_image(f"{tmp_path / 'out.ome.zarr'}#c={channel}").data
        assert found.any()
        torch.testing.assert_close(found, expected, atol=1, rtol=0)
    assert blockwise.number_type(images[0]) == np.uint16
    assert next(open_frames(tmp_path / "out.ome.zarr")).store.dtype == np.uint16


def test_metadata_of_channels_with_voxels_that_are_nan_are_valid_json(tmp_path):
    data = torch.linspace(0, 1, 8**3).reshape(1, 1, 8, 8, 8)
    images = [Image(data, Grid.centered((8, 8, 8), 4.0, torch.zeros(1, 3)))]
    images.append(Image(torch.full_like(data, torch.nan), images[0].grid))
    warp_blocks(images, MAP, REFERENCE, tmp_path / "out.ome.zarr", "nearest", float("nan"), {})
    text = (tmp_path / "out.ome.zarr" / "zarr.json").read_text()
    channels = json.loads(text, parse_constant=pytest.fail)["attributes"]["ome"]["omero"]["channels"]
    assert 0 <= channels[0]["window"]["min"] < channels[0]["window"]["max"] <= 1
    assert channels[1]["window"] == {"min": 0, "max": 1, "start": 0, "end": 1}


def test_a_determinant_is_that_in_memory(tmp_path):
    path = tmp_path / "out.ome.zarr"
    jacobian_blocks(MAP, REFERENCE, path, "central", False, {})
    expected = jacobian_determinant(MAP, REFERENCE, "central")
    torch.testing.assert_close(load_image(path).data[0, 0], expected, atol=1e-5, rtol=1e-5)
    figures = written_figures(path)
    assert figures == pytest.approx(
        {"smallest": float(expected.min()), "largest": float(expected.max())}, abs=1e-5
    )


def test_inverted_cells_are_those_in_memory(monkeypatch):
    monkeypatch.setattr(blockwise, "FOLDING_SIDE", 17)
    folded = DisplacementField(12 * MAP.velocity, MAP.grid)
    found, expected = folding_by_blocks(folded, REFERENCE), folding(folded, REFERENCE)
    assert expected.voxels > 100
    # Coordinates of blocks differ by 1e-5 mm: a tetrahedron of hardly any volume may be inverted in one only.
    assert found == pytest.approx(expected, rel=1e-3)


def killed_after(count: int, path, source) -> None:
    """Warp in this process, which is killed when a block is written, before it is recorded."""
    ome_zarr_writing.SIDE = ome_zarr_writing.SMALLEST = 16
    recorded = Ledger.add

    def add(self, part):
        if len(self) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        recorded(self, part)

    Ledger.add = add
    warp_blocks([open_image(source, whole_voxels=0)], MAP, REFERENCE, path, "linear", 0, {})


def test_a_killed_process_is_continued(tmp_path, moving, monkeypatch):
    count = 20
    warp_blocks([moving], MAP, REFERENCE, tmp_path / "whole.ome.zarr", "linear", 0, {})
    path = tmp_path / "out.ome.zarr"
    process = multiprocessing.get_context("spawn").Process(
        target=killed_after, args=(count, path, moving.name)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()
    computed = []
    monkeypatch.setattr(blockwise, "resample", lambda *given: computed.append(0) or resample(*given))
    warp_blocks([moving], MAP, REFERENCE, path, "linear", 0, {})
    assert len(computed) == 27 - count  # 3 × 3 × 3 blocks, and levels after them
    assert_same_but_for_ties(path, tmp_path / "whole.ome.zarr")
    assert not list(tmp_path.glob(f"{PARTIAL}*"))


def failing(path, job) -> bool:
    """Whether a part was finished before, in a process that finishes it and fails."""
    was_there = None
    try:
        with resumable(path, job) as ledger:
            was_there = 3 in ledger
            ledger.add(3)
            raise PatchMorphError("chunks must be readable, got damage")
    except PatchMorphError:
        assert was_there is not None
        return was_there


def test_another_job_begins_anew(tmp_path):
    path = tmp_path / "out.ome.zarr"
    for job, expected in (({"a": 1}, False), ({"a": 1}, True), ({"a": 2}, False)):
        assert failing(path, job) == expected
    assert not path.exists()


def test_a_line_that_a_kill_cut_is_no_finished_part(tmp_path):
    ledger = Ledger(tmp_path, "job")
    ledger.add(7)
    with (tmp_path / "finished.txt").open("a") as file:
        file.write("1")
    again = Ledger(tmp_path, "job")
    assert (7 in again, 1 in again) == (True, False)
    again.add(8)
    assert 8 in Ledger(tmp_path, "job")


def test_a_damaged_ledger_begins_anew(tmp_path):
    Ledger(tmp_path, "job").add(7)
    (tmp_path / "finished.txt").write_bytes(b"\xff\xfe7\n")
    again = Ledger(tmp_path, "job")
    assert len(again) == 0
    again.add(8)
    assert 8 in Ledger(tmp_path, "job")


def test_a_failure_before_any_part_leaves_nothing(tmp_path):
    with pytest.raises(PatchMorphError), resumable(tmp_path / "out.ome.zarr", {}):
        raise PatchMorphError("nothing")
    assert not list(tmp_path.iterdir())


def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "out.ome.zarr"
    with (
        pytest.raises(PatchMorphError, match="by one process at a time"),
        resumable(path, {}),
        resumable(path, {}),
    ):
        pass


def test_what_is_no_zarr_is_not_replaced(tmp_path):
    (tmp_path / "out.ome.zarr").mkdir()
    (tmp_path / "out.ome.zarr" / "precious").write_text("data")
    with pytest.raises(PatchMorphError, match="new or a Zarr that it replaces"):
        jacobian_blocks(MAP, REFERENCE, tmp_path / "out.ome.zarr", "forward", False, {})
    assert (tmp_path / "out.ome.zarr" / "precious").exists()
    assert not (tmp_path / f"{PARTIAL}out.ome.zarr").exists()  # refused before the first block


def test_the_interpolation_is_chosen_from_what_the_image_shows(tmp_path, moving, monkeypatch):
    assert choice_of(moving).interpolation == "linear"
    labels = torch.zeros(1, 1, 60, 50, 40, dtype=torch.int16)
    labels[..., 4:12, 4:14, 3:9] = 17  # in a corner; the middle is empty
    labels[..., 12:20, 4:14, 3:9] = 4
    save_image(Image(labels, grid_around((60, 50, 40), AFFINES["RAS"])), tmp_path / "ids.ome.zarr")
    monkeypatch.setattr(blockwise, "CHOICE_SIDE", 20)
    assert choice_of(open_image(tmp_path / "ids.ome.zarr", whole_voxels=0)).interpolation == "label"
