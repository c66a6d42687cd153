"""``evaluate`` keeps every row that succeeded, and takes the options of ``register``."""

import csv
import inspect
import json
import math
import os
import re
import shutil
import time

import pytest
import torch
from registered import registered

from patchmorph import api, jobs
from patchmorph.cli.options import MethodOptions
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.report import evaluated
from patchmorph.transforms.resample import resample


@pytest.fixture
def asked(monkeypatch, files):
    """Arguments of each registration, which ends at the true map."""
    caught = []

    def register(fixed, moving, **named):
        caught.append({"fixed": fixed, "moving": moving, **named})
        return registered(fixed, moving, files.truth)

    monkeypatch.setattr(jobs, "register", register)
    return caught


@pytest.fixture
def evaluate(run, files, tmp_path):
    """Run ``evaluate`` on a table: status, output, rows, summary."""

    def command(text: str, *options):
        (tmp_path / "pairs.csv").write_text(text)
        code, out, error = run(
            "evaluate", tmp_path / "pairs.csv", "-o", tmp_path / "out", "--model", files.model, *options
        )
        assert code < 2, error
        with (tmp_path / "out" / "pairs.csv").open() as file:
            rows = list(csv.DictReader(file))
        return code, out, rows, json.loads((tmp_path / "out" / "summary.json").read_text())

    return command


def empty_image(files, tmp_path):
    image = load_image(files.fixed)
    save_image(Image(torch.zeros_like(image.data), image.grid), tmp_path / "empty.nii.gz")
    return tmp_path / "empty.nii.gz"


def test_rows_that_succeed_are_kept_when_others_fail(evaluate, files, tmp_path):
    """An image without content between two pairs: its reason stands in its row, the exit status is 1."""
    empty = empty_image(files, tmp_path)
    good = f"{files.fixed},{files.moving}\n"
    code, out, rows, summary = evaluate(f"fixed,moving\n{good}{files.fixed},{empty}\n{good}")
    assert code == 1
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "empty.nii.gz" in rows[1]["error"]
    assert "\n" not in rows[1]["error"]
    assert rows[1]["moving"] == str(empty)
    assert math.isnan(float(rows[1]["ncc_after"]))
    assert rows[1]["error"] in " ".join(out.split())
    assert float(rows[0]["ncc_after"]) == float(rows[2]["ncc_after"]) > 0.95
    assert rows[0]["verdict"] == "pass"
    assert (summary["pairs"], summary["failed"]) == (2, 1)
    assert summary["mean"]["ncc_after"] == pytest.approx(float(rows[0]["ncc_after"]))
    assert "1 of 3 pairs failed" in out
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.index("empty_to_fixed") < page.index("moving_to_fixed")  # the worst first
    links = re.findall(r'href="(reports/.*?)"', page)
    assert links == ["reports/001_moving_to_fixed.html", "reports/003_moving_to_fixed.html"]
    report = (tmp_path / "out" / links[0]).read_text()
    assert (
        f'correlation of intensities, after</td><td class="number">{float(rows[0]["ncc_after"]):.3g}<'
        in report
    )
    assert f"patchmorph register {os.path.relpath(files.fixed, tmp_path / 'out' / 'reports')} " in report


def test_a_table_whose_rows_all_fail_is_written_too(evaluate, files, tmp_path):
    code, _, rows, summary = evaluate(f"fixed,moving\n{files.fixed},{empty_image(files, tmp_path)}\n")
    assert code == 1
    assert rows[0]["error"]
    assert (summary["pairs"], summary["failed"], summary["mean"]) == (0, 1, {})


def test_each_row_is_written_before_the_next_pair_begins(evaluate, run, asked, files, tmp_path, monkeypatch):
    seen = []
    register = jobs.register

    def watched(**named):
        table = tmp_path / "out" / "pairs.csv"
        seen.append(len(table.read_text().splitlines()) if table.exists() else 0)
        return register(**named)

    monkeypatch.setattr(jobs, "register", watched)
    pair = f"{files.fixed},{files.moving}\n"
    assert evaluate(f"fixed,moving\n{pair}{pair}{pair}")[0] == 0
    assert seen == [1, 2, 3]


def test_an_interrupted_evaluation_leaves_the_rows_that_were_done(run, asked, files, tmp_path, monkeypatch):
    register = jobs.register

    def interrupted(**named):
        if len(asked) == 1:
            raise KeyboardInterrupt
        return register(**named)

    monkeypatch.setattr(jobs, "register", interrupted)
    pair = f"{files.fixed},{files.moving}\n"
    (tmp_path / "pairs.csv").write_text(f"fixed,moving\n{pair}{pair}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.json").write_text("of an earlier evaluation")
    folder = ("-o", tmp_path / "out", "--overwrite")
    assert run("evaluate", tmp_path / "pairs.csv", *folder, "--model", "none")[0] == 130
    assert len((tmp_path / "out" / "pairs.csv").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "summary.json").exists()


def test_an_earlier_evaluation_stays_unless_it_may_be_replaced(evaluate, run, asked, files, tmp_path):
    pair = f"{files.fixed},{files.moving}\n"
    evaluate(f"fixed,moving\n{pair}{pair}")
    again = ("evaluate", tmp_path / "pairs.csv", "-o", tmp_path / "out", "--model", files.model)
    code, _, error = run(*again)
    assert code == 2
    assert (
        "without an earlier evaluation, or --overwrite given, got pairs.csv, tools.csv, summary.json" in error
    )
    assert len(evaluate(f"fixed,moving\n{pair}", "--overwrite")[2]) == 1


def test_every_option_of_the_method_reaches_every_pair(evaluate, asked, files):
    chosen = {
        "--transform": ("affine", "transform", "affine"),
        "--initial-transform": ("header", "initial_transform", "header"),
        "--initial-from": ("fsl", "initial_from", "fsl"),
        "--refine": (3, "refine", 3),
        "--similarity": ("mi", "similarity", "mi"),
        "--seed": (5, "seed", 5),
        "--device": ("cpu", "device", "cpu"),
        "--background": (-1, "background", -1.0),
        "--trust": ("other:Net", "trust", ("other:Net",)),
        "--finest": (2, "finest", 2.0),
        "--memory-limit": (8, "memory_limit", 8.0),
        "--gpu-memory-limit": (6, "gpu_memory_limit", 6.0),
    }
    options = [word for flag, (value, _, _) in chosen.items() for word in (flag, value)]
    pair = f"{files.fixed},{files.moving}\n"
    summary = evaluate(f"fixed,moving\n{pair}{pair}", *options, "--jitter", "--assume-orientation", "RAS")[3]
    assert len(asked) == 2
    for arguments in asked:
        assert {name: arguments[name] for _, name, _ in chosen.values()} == {
            name: expected for _, name, expected in chosen.values()
        }
        assert arguments["jitter"] is True
    assert summary["arguments"]["refine"] == 3
    elsewhere = {"jitter", "model", "fast", "best", "channel_weight", "pyramid"}
    names = {name for _, name, _ in chosen.values()} | elsewhere
    of_files = {
        name for name in MethodOptions.__dataclass_fields__ if name.endswith(("orientation", "spacing"))
    }
    assert names | of_files == set(MethodOptions.__dataclass_fields__)


def test_the_options_of_a_method_are_arguments_of_the_python_interface():
    arguments = inspect.signature(api.register).parameters
    own = api.Method().keywords()
    assert own.keys() <= arguments.keys()
    assert all(arguments[name].default == value for name, value in own.items())


def test_masks_labels_and_initial_transforms_are_columns(evaluate, asked, files, tmp_path):
    save_transform(files.truth, tmp_path / "start.h5")
    columns = ("fixed_mask", "moving_mask", "fixed_ignore", "moving_ignore", "initial_transform")
    paths = [files.fixed_mask, files.moving_mask, files.fixed_mask, files.moving_mask, "start.h5"]
    labels = ("fixed_labels,moving_labels", f"{files.fixed_mask},{files.moving_mask}")
    row = f"{files.fixed},{files.moving},{','.join(map(str, paths))},{labels[1]}"
    rows = evaluate(f"fixed,moving,{','.join(columns)},{labels[0]}\n{row}\n")[2]
    (arguments,) = asked
    for name, path in zip(columns, paths, strict=True):
        given = arguments[name]
        assert str(given if name == "initial_transform" else given.name).endswith(str(path).split("/")[-1])
    assert float(rows[0]["dice"]) > 0.9


def labelled_pair(files, folder) -> str:
    """A table's row with labels: 1 and 2 of both images, 9 of the moving one alone."""
    image, moving = load_image(files.fixed_mask), load_image(files.moving).grid
    labels = (image.values() > 0).to(torch.int16)
    labels[:, :, : labels.shape[2] // 2] *= 2
    fixed = Image(labels, image.grid)
    moved = resample(fixed, files.truth.inverse(), moving, "nearest").values()
    moved[..., :2] = 9
    save_image(fixed, folder / "fixed_labels.nii.gz")
    save_image(Image(moved, moving), folder / "moving_labels.nii.gz")
    return f"{files.fixed},{files.moving},fixed_labels.nii.gz,moving_labels.nii.gz"


def test_a_map_made_elsewhere_is_measured_and_nothing_is_registered(evaluate, asked, files, tmp_path):
    save_transform(files.truth, tmp_path / "true.h5")
    shift = "#Insight Transform File V1.0\n#Transform 0\nTransform: TranslationTransform_double_3_3\n"
    (tmp_path / "far.txt").write_text(f"{shift}Parameters: 4 0 0\nFixedParameters:\n")
    pair = labelled_pair(files, tmp_path)
    head = "fixed,moving,fixed_labels,moving_labels,transform,tool,seconds"
    table = f"{head}\n{pair},true.h5,truth,12.5\n{pair},far.txt,far,\n{pair},,,\n"
    _, out, rows, summary = evaluate(table)
    assert len(asked) == 1  # the last row
    assert [row["transform"].rpartition("/")[2] for row in rows] == ["true.h5", "far.txt", ""]
    assert [math.isnan(float(row["seconds"])) for row in rows] == [False, True, False]
    assert float(rows[0]["seconds"]) == 12.5
    assert [row["tool"] for row in rows] == ["truth", "far", "model"]
    true, far, ours = ({name: row[name] for name in row if name.startswith(("dice", "hd95"))} for row in rows)
    assert true == ours
    assert float(true["dice"]) > float(far["dice"])
    assert float(true["hd95_mm"]) < float(far["hd95_mm"])
    assert summary["pairs"] == 3
    pages = sorted(path.name for path in (tmp_path / "out" / "reports").iterdir())
    assert [name.partition("_by_")[2] for name in pages] == ["truth.html", "far.html", ""]
    page = (tmp_path / "out" / "reports" / pages[0]).read_text()
    assert "patchmorph apply ../../true.h5 " in page
    assert "nan" not in out


def test_structures_have_a_table_and_means(evaluate, asked, files, tmp_path):
    pair = labelled_pair(files, tmp_path)
    row, summary = evaluate(f"fixed,moving,fixed_labels,moving_labels\n{pair}\n{pair}\n")[2:]
    with (tmp_path / "out" / "structures.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [one["label"] for one in found] == ["1", "2", "9"] * 2
    assert {one["fixed"] for one in found} == {str(files.fixed)}
    assert [one["note"][:12] for one in found[:3]] == ["", "", "not in the f"]
    mean = sum(float(one["hd95_mm"]) for one in found[:2]) / 2  # over the labels of the fixed image
    assert float(row[0]["hd95_mm"]) == pytest.approx(mean)
    assert summary["structures"]["1"]["dice"] == pytest.approx(float(found[0]["dice"]))
    assert summary["structures"]["9"] == {"pairs": 2, "dice": 0, "jaccard": 0}
    (page,) = (tmp_path / "out" / "reports").glob("001_*")
    for one in found[:2]:  # those of the fixed image, as in the table
        assert f"{float(one['dice']):.3f}" in page.read_text()
    # An evaluation without labels replaces it.
    evaluate(f"fixed,moving\n{files.fixed},{files.moving}\n", "--overwrite")
    assert not (tmp_path / "out" / "structures.csv").exists()


def test_several_models_and_other_tools_are_compared(run, asked, files, tmp_path):
    """Two files of one name are told apart by their folders."""
    save_transform(files.truth, tmp_path / "true.h5")
    models = [tmp_path / name / "model.safetensors" for name in ("one", "two")]
    for model in models:
        model.parent.mkdir()
        shutil.copy(files.model, model)
    pair, head = labelled_pair(files, tmp_path), "fixed,moving,fixed_labels,moving_labels,transform,tool"
    (tmp_path / "pairs.csv").write_text(f"{head}\n{pair},,\n{pair},true.h5,truth\n")
    options = [word for model in models for word in ("--model", model)]
    code, out, error = run("evaluate", tmp_path / "pairs.csv", "-o", tmp_path / "out", *options)
    assert code == 0, error
    assert asked[0]["model"] is not asked[1]["model"]
    with (tmp_path / "out" / "pairs.csv").open() as file:
        assert [row["tool"] for row in csv.DictReader(file)] == ["one_model", "two_model", "truth"]
    with (tmp_path / "out" / "tools.csv").open() as file:
        assert "two_model mean" in next(csv.reader(file))
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["first"], row["second"]) for row in rows} == {
        ("one_model", "two_model"),
        ("one_model", "truth"),
        ("two_model", "truth"),
    }
    assert "two_model: mean of 1 pairs" in out
    pages = sorted(path.name.partition("_by_")[2] for path in (tmp_path / "out" / "reports").iterdir())
    assert pages == ["one_model.html", "truth.html", "two_model.html"]
    index = (tmp_path / "out" / "index.html").read_text()
    assert "moving_to_fixed by two_model" in index
    assert "one_model minus truth" in index


def test_no_page_is_written_beside_a_registration_that_is_timed(evaluate, asked, files, monkeypatch):
    events, register = [], jobs.register

    def slow(*_):
        time.sleep(0.3)
        events.append("page")

    monkeypatch.setattr(evaluated, "write_page", slow)
    monkeypatch.setattr(jobs, "register", lambda **named: events.append("register") or register(**named))
    pair = f"{files.fixed},{files.moving}\n"
    evaluate(f"fixed,moving\n{pair}{pair}")
    assert events == ["register", "page", "register", "page"]


def test_models_of_one_name_are_refused(run, files, tmp_path):
    (tmp_path / "pairs.csv").write_text(f"fixed,moving\n{files.fixed},{files.moving}\n")
    models = ("--model", files.model, "--model", files.model)
    code, _, error = run("evaluate", tmp_path / "pairs.csv", "-o", tmp_path / "out", *models)
    assert code == 2
    assert "models must have different names, got" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "cells", "message"),
    [
        ("transform,initial_transform", "true.h5,true.h5", "transform must come without initial transform"),
        ("transform", "pairs.csv", "pairs.csv"),
        ("transform", "none.h5", "none.h5"),
    ],
    ids=["both", "no transform", "no file"],
)
def test_a_map_that_cannot_be_used_is_said_in_one_line(run, asked, files, tmp_path, columns, cells, message):
    save_transform(files.truth, tmp_path / "true.h5")
    table = tmp_path / "pairs.csv"
    table.write_text(f"fixed,moving,{columns}\n{files.fixed},{files.moving},{cells}\n")
    code, out, error = run("evaluate", table, "-o", tmp_path / "out")
    assert code in (1, 2)
    assert message in "".join((out + error).split("\n")) or message in " ".join((out + error).split())
    assert "Traceback" not in out + error
    assert not asked


def test_pairs_that_are_registered_as_a_batch_have_no_map_made_elsewhere(run, files, tmp_path):
    save_transform(files.truth, tmp_path / "true.h5")
    table = tmp_path / "pairs.csv"
    table.write_text(f"fixed,moving,transform\n{files.fixed},{files.moving},true.h5\n")
    code, _, error = run("batch", table, "-o", tmp_path / "out")
    assert code == 2
    assert "transform" in error
