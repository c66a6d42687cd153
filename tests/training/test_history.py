"""The log and the configuration of a training are read back, also of one that runs."""

import json
import shutil

import pytest
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.training.history import read_history
from patchmorph.training.record import LOG, Record


def test_every_figure_of_the_log_is_a_series(trained):
    lines = [json.loads(line) for line in (trained / LOG).read_text().splitlines()]
    history = read_history(trained)
    assert history.step == lines[-1]["step"]
    names = {name for line in lines for name in line} - {"step"}
    assert history.series.keys() == names
    for name, series in history.series.items():
        assert list(series.steps) == [line["step"] for line in lines if name in line]
        assert list(series.values) == [line[name] for line in lines if name in line]


def test_a_line_that_is_being_written_is_left_out(trained):
    before = read_history(trained)
    with (trained / LOG).open("a") as log:
        log.write('{"step": 99999, "loss"')
    assert read_history(trained).series == before.series


def test_values_that_are_not_finite_are_left_out(trained):
    with (trained / LOG).open("a") as log:
        log.write('{"step": 99999, "loss": NaN, "odd": "text", "large": 1' + 400 * "0" + "}\n")
    assert read_history(trained).step < 99999


def test_paths_are_relative_to_the_folder_around_the_run_wherever_it_is(trained, tmp_path):
    assert read_history(trained).config.folder == tmp_path
    shutil.copytree(trained, tmp_path / "moved" / "run")
    assert read_history(tmp_path / "moved" / "run").config.folder == tmp_path / "moved"
    shutil.copytree(trained, tmp_path / "renamed")
    assert read_history(tmp_path / "renamed").config.folder != tmp_path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (LOG, "text\nmore\n", "log must be that of a training, got another line 1 in"),
        (LOG, '{"step": 1}\n[2]\n{"step": 3}\n', "log must be that of a training, got another line 2 in"),
        (LOG, '{"step": -1}\n{"step": 3}\n', "log must be that of a training, got another line 1 in"),
        (
            LOG,
            f'{{"step": {2**53}}}\n{{"step": 3}}\n',
            "log must be that of a training, got another line 1 in",
        ),
        (LOG, "{}\n", "log must be that of a training, got another line 1 in"),
        ("config.json", "{}", r"config\.json must be that of a training, got .*: data: Field required"),
        ("config.json", "\x00", r"config\.json must be that of a training"),
    ],
)
def test_files_of_something_else_are_named(trained, name, text, message):
    (trained / name).write_text(text)
    with pytest.raises(PatchMorphError, match=message):
        read_history(trained)


def test_a_training_without_its_configuration_is_named(trained):
    (trained / "config.json").unlink()
    with pytest.raises(PatchMorphError, match=r"must hold config\.json, got none in"):
        read_history(trained)


def test_a_training_that_goes_on_keeps_the_lines_of_its_steps_only(tmp_path):
    lines = [
        b'{"step": 1}',
        b"[1]",
        b"5",
        b'{"step": "2"}',
        b"\xff\xfe",
        9999 * b"[",
        b'{"step": 2}',
        b'{"step": 3}',
    ]
    (tmp_path / LOG).write_bytes(b"\n".join(lines) + b'\n{"st')
    with Record(tmp_path, step=2, steps=5, device=torch.device("cpu")):
        pass
    assert (tmp_path / LOG).read_text() == '{"step": 1}\n{"step": 2}\n'
