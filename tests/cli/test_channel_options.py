"""Further channels of ``register`` and ``evaluate``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from estimators import NO_SEARCH
from registered import registered

import patchmorph
from patchmorph import jobs
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths, load_pairs
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform


@pytest.fixture(scope="module")
def channels(files, tmp_path_factory) -> dict[str, Path]:
    """A second channel of both images: their squares."""
    folder = tmp_path_factory.mktemp("channels")
    for side in ("fixed", "moving"):
        image = load_image(getattr(files, side))
        save_image(Image(image.data.float().square(), image.grid), folder / f"{side}2.nii.gz")
    return {side: folder / f"{side}2.nii.gz" for side in ("fixed", "moving")}


@pytest.fixture
def asked(monkeypatch, files):
    """Arguments of each registration, which ends at the true map."""
    caught = []

    def register(fixed, moving, **named):
        caught.append(named)
        return registered(fixed, moving, files.truth)

    monkeypatch.setattr(jobs, "register", register)
    return caught


@pytest.fixture
def register(run, files, tmp_path):
    """Run ``register OPTIONS``: status, summary or error."""

    def command(*options):
        folder = tmp_path / "out"
        pair = ("register", files.fixed, files.moving, "-o", folder)
        code, _, error = run(
            *pair, "--model", files.model, *NO_SEARCH, "--overwrite", "--save", "transform,summary", *options
        )
        return code, error if code else json.loads((folder / "summary.json").read_text())

    return command


def given(channels: dict[str, Path], times: int = 1) -> list:
    return [word for side, path in channels.items() for word in (f"--{side}-channel", path) * times]


def test_a_channel_takes_part_and_is_recorded(register, files, channels, tmp_path):
    code, summary = register(*given(channels), "--channel-weight", 0.5)
    assert code == 0
    assert summary["arguments"]["fixed_channel"] == [str(channels["fixed"])]
    assert summary["arguments"]["moving_channel"] == [str(channels["moving"])]
    assert summary["arguments"]["channel_weights"] == [0.5]
    assert "1 further channel was compared beside the images" in " ".join(summary["notes"])
    both = load_transform(tmp_path / "out" / "transform.safetensors")
    assert (both(files.points) - files.truth(files.points)).norm(dim=-1).mean() < 0.1
    code, alone = register()
    assert alone["arguments"]["fixed_channel"] == alone["arguments"]["channel_weights"] == []
    single = load_transform(tmp_path / "out" / "transform.safetensors")
    assert not torch.equal(single(files.points), both(files.points))
    assert alone["notes"] == []


def test_channels_are_paired_in_their_order_with_their_weights(register, asked, files, channels):
    options = ("--fixed-channel", files.fixed_mask, "--moving-channel", files.moving_mask)
    register(*given(channels), *options, "--channel-weight", 2, "--channel-weight", 0.25)
    first, second = asked[0]["channels"]
    assert (first.fixed.name, first.moving.name) == (str(channels["fixed"]), str(channels["moving"]))
    assert (second.fixed.name, second.moving.name) == (str(files.fixed_mask), str(files.moving_mask))
    assert (first.weight, second.weight) == (2, 0.25)
    register(*given(channels))
    assert asked[1]["channels"][0].weight == 1


@pytest.mark.parametrize(
    ("left_out", "weights", "message"),
    [
        ("moving", [], "channels must be as many of the fixed as of the moving image, got 1 and 0"),
        ("fixed", [], "channels must be as many of the fixed as of the moving image, got 0 and 1"),
        ("", [1, 2], "--channel-weight must be given once for each further channel, got 2 for 1"),
        ("both", [1], "--channel-weight must be given once for each further channel, got 1 for 0"),
        ("", [0], "weight of a channel must be a number above 0, got 0.0"),
        ("", [-1], "weight of a channel must be a number above 0, got -1.0"),
        ("", ["nan"], "weight of a channel must be a number above 0, got nan"),
    ],
)
def test_channels_that_do_not_fit_are_one_line(
    register, asked, channels, tmp_path, left_out, weights, message
):
    kept = {side: path for side, path in channels.items() if left_out not in (side, "both")}
    code, error = register(*given(kept), *(word for w in weights for word in ("--channel-weight", w)))
    assert code == 2
    assert error == f"patchmorph: {message}\n"
    assert asked == []
    assert not (tmp_path / "out").exists()


def test_a_channel_is_no_output(run, files, channels, tmp_path):
    (tmp_path / "out").mkdir()
    copy = tmp_path / "out" / "warped.nii.gz"
    copy.write_bytes(channels["moving"].read_bytes())
    options = given({"fixed": channels["fixed"], "moving": copy})
    code, _, error = run(
        "register", files.fixed, files.moving, "-o", tmp_path / "out", "--overwrite", *options
    )
    assert code == 2
    assert "output must be another file than the inputs" in error
    assert copy.read_bytes() == channels["moving"].read_bytes()


def test_a_file_of_several_channels_is_refused_with_the_option_for_them(register, files, tmp_path):
    image = load_image(files.moving)
    save_image(Image(torch.cat([image.data] * 3, 1), image.grid), tmp_path / "rgb.nii.gz")
    code, error = register("--moving-channel", tmp_path / "rgb.nii.gz", "--fixed-channel", files.fixed)
    assert code == 2
    assert f"must be one 3D volume, got shape (36, 36, 42, 3) in {tmp_path / 'rgb.nii.gz'}" in error
    assert "(of several channels, each is a file: --fixed-channel)" in error


def test_a_table_has_room_for_a_channel(run, asked, files, channels, tmp_path):
    head, row = "fixed,moving", f"{files.fixed},{files.moving}"
    table = tmp_path / "pairs.csv"
    table.write_text(f"{head},fixed_channel,moving_channel\n{row},{channels['fixed']},{channels['moving']}\n")
    run("evaluate", table, "-o", tmp_path / "out", "--model", files.model, "--channel-weight", 0.5)
    (channel,) = asked[0]["channels"]
    assert (channel.fixed.name, channel.moving.name) == (str(channels["fixed"]), str(channels["moving"]))
    assert channel.weight == 0.5
    table.write_text(f"{head},fixed_channel\n{row},{channels['fixed']}\n")
    with pytest.raises(
        PatchMorphError, match="channel must be given for both images or none, got one in line 2"
    ):
        load_pairs(table)


def test_the_inputs_of_a_pair_include_its_channels():
    paths = PairPaths(Path("a"), Path("b"), fixed_channel=(Path("c"),), moving_channel=(Path("d"),))
    assert set(paths.inputs()) == {Path("a"), Path("b"), Path("c"), Path("d")}
    assert set(paths.given()) == {"fixed", "moving"}


def test_python_takes_every_kind_of_image_as_a_channel(files, channels):
    def found(*images):
        channel = patchmorph.Channel(*images, weight=0.5)
        options = {"transform": "affine", "initial_transform": "centers", "channels": [channel]}
        return patchmorph.register(files.fixed, files.moving, files.model, **options)

    images = [load_image(path) for path in channels.values()]
    first = found(*channels.values()).transform(files.points)
    for kind in (
        images,
        [image.to_nibabel() for image in images],
        [(image.numpy(), image.grid.voxel_to_world[0].numpy()) for image in images],
    ):
        torch.testing.assert_close(found(*kind).transform(files.points), first, atol=1e-4, rtol=0)


def test_python_names_the_channel_that_is_no_image(files):
    channel = patchmorph.Channel(np.zeros(3), files.moving)
    with pytest.raises(PatchMorphError, match="fixed channel must be a path"):
        patchmorph.register(files.fixed, files.moving, "none", channels=[channel])
