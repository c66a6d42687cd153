"""A cohort is registered whatever happens to a pair or a worker, and each pair once."""

import csv
import json
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import dask
import distributed
import pytest
from distributed import Client, LocalCluster

from patchmorph.cluster import batch, connection
from patchmorph.cluster.cohort import Task
from patchmorph.cluster.ledger import Ledger, Outcome
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.transforms.formats import load_transform
from patchmorph.jobs import RegistrationRequest
from patchmorph.results.summary import Summary


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """The table of a cohort by the names of pairs."""
    return {row["name"]: row for row in csv.DictReader((folder / "cohort.csv").read_text().splitlines())}


@pytest.fixture
def registered(monkeypatch, summary) -> list[str]:
    """Names of the pairs that were registered, each in no time: the verdict is in the file of the mask."""
    names = []

    def register(request) -> Summary:
        names.append(request.output.name)
        text = request.paths.moving.read_bytes()
        if text.startswith(b"damaged"):
            raise PatchMorphError("image must be whole, got half of it")
        if text.startswith(b"bug"):
            raise KeyError("nobody expected this")
        found = summary("fail" if text.startswith(b"wrong") else "pass")
        request.output.mkdir(parents=True, exist_ok=True)
        found.save(request.output)
        for earlier in request.output.glob("warped.*"):
            earlier.unlink()
        for name in (f"warped.{request.image_format}", "transform.h5"):
            (request.output / name).write_text(f"{name} of {request.output.name}")
        return found

    monkeypatch.setattr(batch, "register_files", register)
    return names


@pytest.fixture
def command(run, folder, scheduler):
    """``batch`` on the table of the folder, on workers in this process."""

    def call(*options) -> tuple[int, str, str]:
        return run("batch", folder / "pairs.csv", "-o", folder / "out", "--scheduler", scheduler, *options)

    return call


def test_every_pair_is_registered_once(command, registered, folder):
    code, out, _ = command()
    assert code == 0
    assert sorted(registered) == [f"moving{k}_to_fixed" for k in range(3)]
    assert "3 pairs: 3 pass, 0 check, 0 fail, 0 failed" in out
    row = rows(folder / "out")["moving1_to_fixed"]
    assert (row["verdict"], row["similarity_after"], row["seconds"]) == ("pass", "0.9", "3.0")
    assert "index.html" in out
    page = (folder / "out" / "index.html").read_text()
    assert "<h1>out</h1>" in page
    assert all(page.count(f'data-value="moving{k}_to_fixed"') == 1 for k in range(3))
    assert row["moving"] == str(folder / "moving1.nii.gz")
    assert command()[0] == 0
    assert len(registered) == 3


def test_workers_keep_the_memory_that_a_pair_frees(command, registered, monkeypatch):
    kept = []
    monkeypatch.setattr(batch, "keep_freed_memory", lambda: kept.append(len(registered)))
    assert command()[0] == 0
    assert len(kept) == 3
    assert min(kept) == 0  # before the first registration


def test_a_pair_that_fails_stops_nobody_and_is_tried_again(command, registered, folder):
    whole = (folder / "moving1.nii.gz").read_bytes()
    (folder / "moving1.nii.gz").write_text("damaged")
    code, out, _ = command()
    assert code == 1
    assert "moving1_to_fixed: failed: image must be whole, got half of it" in out
    page = (folder / "out" / "index.html").read_text()
    assert page.index('data-value="moving1_to_fixed"') < page.index('data-value="moving0_to_fixed"')  # worst
    assert '<td data-value="image must be whole, got half of it">' in page
    assert [row["verdict"] for row in rows(folder / "out").values()].count("pass") == 2
    assert registered.count("moving1_to_fixed") == 1  # its input does not get better
    registered.clear()
    assert command()[0] == 1
    assert registered == ["moving1_to_fixed"]
    (folder / "moving1.nii.gz").write_bytes(whole)
    registered.clear()
    assert command()[0] == 0
    assert registered == ["moving1_to_fixed"]


def test_an_unexpected_error_is_retried_and_then_reported(command, registered, folder):
    (folder / "moving0.nii.gz").write_text("bug")
    assert command()[0] == 1
    assert registered.count("moving0_to_fixed") == 1 + batch.RETRIES
    assert rows(folder / "out")["moving0_to_fixed"]["reasons"] == "KeyError: 'nobody expected this'"


def test_a_pair_with_the_verdict_fail_is_done_but_the_command_says_so(command, registered, folder):
    (folder / "moving2.nii.gz").write_text("wrong")
    for count in (3, 0):
        registered.clear()
        code, out, _ = command()
        assert (code, len(registered)) == (1, count)
        assert "3 pairs: 2 pass, 0 check, 1 fail, 0 failed" in out
    assert rows(folder / "out")["moving2_to_fixed"]["reasons"] == "too rough, by far"


def test_a_pair_is_registered_again_where_its_options_or_results_are_others(command, registered, folder):
    command()
    registered.clear()
    (folder / "out" / "results" / "moving1_to_fixed" / "summary.json").unlink()
    assert command()[0] == 0
    assert registered == ["moving1_to_fixed"]
    registered.clear()
    command("--seed", 3)
    assert len(registered) == 3


def test_pairs_that_leave_the_cohort_leave_its_table(command, registered, folder):
    command()
    lines = (folder / "pairs.csv").read_text().splitlines(keepends=True)
    (folder / "pairs.csv").write_text("".join(lines[:2]))
    assert "1 pairs: 1 pass" in command()[1]
    assert list(rows(folder / "out")) == ["moving0_to_fixed"]
    assert (folder / "out" / "results" / "moving2_to_fixed").exists()


def test_a_cohort_that_was_killed_before_its_first_pair_ended_goes_on(command, registered, folder):
    Ledger(folder / "out").keep([], "")
    assert rows(folder / "out") == {}
    assert command()[0] == 0
    assert len(rows(folder / "out")) == 3


def test_a_second_table_in_the_same_folder_keeps_the_rows_of_the_first(
    command, registered, run, folder, scheduler
):
    assert command()[0] == 0
    (folder / "more.csv").write_text(
        "name,fixed,moving\nanna,fixed.nii.gz,moving0.nii.gz\nben,fixed.nii.gz,moving1.nii.gz\n"
    )
    more = ("batch", folder / "more.csv", "-o", folder / "out", "--scheduler", scheduler)
    code, out, _ = run(*more)
    assert code == 0
    assert "5 pairs: 5 pass" in out
    (folder / "more.csv").write_text("name,fixed,moving\nanna,fixed.nii.gz,moving0.nii.gz\n")
    assert run(*more)[0] == 0
    first = {f"moving{k}_to_fixed" for k in range(3)}
    assert {*rows(folder / "out")} == {"anna", *first}
    assert command()[0] == 0
    assert len(registered) == 5
    assert {*list(rows(folder / "out"))[:3]} == first  # those of the command come first


def test_images_of_two_suffixes_of_a_bids_folder_share_a_table(run, bids, registered, scheduler):
    out = bids.parent / "out"
    for image in list(bids.rglob("*_T1w.nii.gz")):
        image.with_name(image.name.replace("T1w", "T2w")).write_bytes(image.read_bytes())
    for suffix in ("T1w", "T2w"):
        fixed = ("--fixed", bids.parent / "atlas_1mm.nii.gz", "--suffix", suffix)
        assert run("batch", bids, "-o", out, "--scheduler", scheduler, *fixed)[0] == 0
    assert len(rows(out)) == 6


def test_a_table_whose_study_has_moved_is_the_same_one(
    command, registered, folder, tmp_path_factory, run, scheduler
):
    assert command()[0] == 0
    moved = tmp_path_factory.mktemp("moved") / "study"
    shutil.copytree(folder, moved)
    (moved / "pairs.csv").write_text((moved / "pairs.csv").read_text().split("fixed.nii.gz,moving2")[0])
    for _ in range(2):
        run("batch", moved / "pairs.csv", "-o", moved / "out", "--scheduler", scheduler)
    assert len(registered) == 3
    assert {row["source"] for row in rows(moved / "out").values()} == {
        str(moved / "pairs.csv"),
        str(folder / "pairs.csv"),
    }


def test_commands_that_write_one_table_at_once_lose_no_row(folder):
    (folder / "out").mkdir()
    one, other = Ledger(folder / "out"), Ledger(folder / "out")
    one.add(Outcome("anna", "pass", source="a"))
    other.add(Outcome("ben", "fail", source="b"))
    other.keep(["ben"], "b")
    assert {row["name"]: row["verdict"] for row in rows(folder / "out").values()} == {
        "anna": "pass",
        "ben": "fail",
    }


def test_a_table_of_an_earlier_version_is_read(command, registered, folder):
    assert command()[0] == 0
    lines = (folder / "out" / "cohort.csv").read_text().splitlines()
    (folder / "out" / "cohort.csv").write_text("".join(f"{line.rpartition(',')[0]}\n" for line in lines))
    assert command()[0] == 0
    assert len(registered) == 3
    assert len(rows(folder / "out")) == 3


def test_results_of_a_bids_folder_have_the_names_of_derivatives(run, bids, registered, scheduler):
    out = bids.parent / "out"
    fixed = ("--fixed", bids.parent / "atlas_1mm.nii.gz")
    assert run("batch", bids, "-o", out, "--scheduler", scheduler, *fixed)[0] == 0
    linked = out / "sub-02" / "ses-b" / "anat" / "sub-02_ses-b_space-atlas1mm_T1w.nii.gz"
    assert linked.read_text() == "warped.nii.gz of sub-02_ses-b_T1w"
    assert linked.samefile(out / "results" / "sub-02_ses-b_T1w" / "warped.nii.gz")
    assert len(list(out.glob("sub-*/**/*_xfm.h5"))) == 3
    assert '"DatasetType": "derivative"' in (out / "dataset_description.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--scheduler", "tcp://127.0.0.1:1"),
            "scheduler must be the address of a running one, got tcp://127",
        ),
        (("--scheduler", "nonsense://x"), "scheduler must be the address of a running one, got nonsense"),
        (("--scheduler", "tcp://127.0.0.1:1", "--workers", 2), "--workers must be left out"),
        (("--model", "missing.safetensors"), "model must be one of"),
    ],
)
def test_what_stops_all_pairs_is_one_line(run, folder, options, message, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    code, _, error = run("batch", folder / "pairs.csv", "-o", folder / "out", *options)
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_links_follow_the_format_and_go_with_what_they_name(run, bids, registered, scheduler):
    out, place = bids.parent / "out", Path("sub-01/anat")
    command = (
        "batch",
        bids,
        "-o",
        out,
        "--scheduler",
        scheduler,
        "--fixed",
        bids.parent / "atlas_1mm.nii.gz",
    )
    assert run(*command, "--format", "mgz")[0] == 0
    other, warped = (out / place / f"sub-01_space-atlas1mm_T1w.{name}" for name in ("mgz", "nii.gz"))
    assert (other.exists(), warped.exists()) == (True, False)
    assert run(*command)[0] == 0
    assert (other.exists(), warped.exists()) == (False, True)
    stale = out / place / "sub-01_from-atlas1mm_to-T1w_mode-image_xfm.h5"
    stale.write_text("of an earlier run, which saved the inverse")
    assert run(*command, "--seed", 2)[0] == 0
    assert warped.exists()
    assert not stale.exists()


def test_a_pair_that_fails_now_loses_the_names_of_its_earlier_results(run, bids, registered, scheduler):
    out, image = bids.parent / "out", bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    fixed = ("--fixed", bids.parent / "atlas_1mm.nii.gz")
    command = ("batch", bids, "-o", out, "--scheduler", scheduler, *fixed)
    assert run(*command)[0] == 0
    warped = out / "sub-01/anat/sub-01_space-atlas1mm_T1w.nii.gz"
    assert warped.exists()
    kept = (out / "results/sub-01_T1w/warped.nii.gz").read_text()
    (out / "results/sub-01_T1w/report.html").write_text("of the earlier run")
    assert run(*command)[0] == 0  # nothing to do but the page
    assert "results/sub-01_T1w/report.html" in (out / "index.html").read_text()
    image.write_bytes(b"damaged")
    assert run(*command)[0] == 1
    assert rows(out)["sub-01_T1w"]["verdict"] == "failed"
    assert not warped.exists()
    assert (out / "results/sub-01_T1w/warped.nii.gz").read_text() == kept
    assert "results/sub-01_T1w/report.html" not in (out / "index.html").read_text()


def test_the_uncertainty_is_estimated_where_it_is_saved(run, folder, scheduler, monkeypatch, summary):
    asked = []
    monkeypatch.setattr(batch, "register_files", lambda request: asked.append(request) or summary("pass"))
    options = ("-o", folder / "out", "--scheduler", scheduler, "--save", "itk,uncertainty")
    assert run("batch", folder / "pairs.csv", *options)[0] == 0
    assert [request.method.uncertainty for request in asked] == [True] * 3


def test_a_scheduler_is_found_by_its_file(run, registered, folder, scheduler):
    (folder / "scheduler.json").write_text(json.dumps({"type": "Scheduler", "address": scheduler}))
    options = ("-o", folder / "out", "--scheduler", folder / "scheduler.json")
    assert run("batch", folder / "pairs.csv", *options)[0] == 0
    assert len(registered) == 3


def test_what_a_killed_worker_left_is_removed(command, registered, folder):
    left = [folder / "out" / "results" / name for name in (".unfinished-a", "moving0_to_fixed/.unfinished-b")]
    for path in left:
        path.mkdir(parents=True)
        (path / "warped.nii.gz").write_text("half of it")
    assert command()[0] == 0
    assert not any(path.exists() for path in left)


def test_workers_of_this_computer_write_no_profiles(monkeypatch, folder):
    """Which they would keep for an hour: Dask hands them the configuration that it has when they start."""
    found = []

    @contextmanager
    def cluster(**_):
        found.append(dask.config.get("distributed.worker.profile.enabled"))
        yield None

    monkeypatch.setattr(distributed, "LocalCluster", cluster)
    monkeypatch.setattr(distributed, "Client", lambda *_, **__: nullcontext())
    request = RegistrationRequest(
        PairPaths(folder / "fixed.nii.gz", folder / "moving0.nii.gz"), folder / "out"
    )
    with batch._client(batch.Workers(count=1), [Task("a", request, "f", {})]):
        pass
    assert found == [False]
    assert dask.config.get("distributed.worker.profile.enabled")


def kill_a_busy_worker(address: str, killed: list[int]) -> None:
    """Kill the first worker that has a task."""
    with Client(address, set_as_default=False) as client:
        processes = client.run(os.getpid)
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            busy = [worker for worker, tasks in client.processing().items() if tasks]
            for worker in busy[:1]:
                os.kill(processes[worker], signal.SIGKILL)
                killed.append(processes[worker])
            time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_that_dies_loses_no_pair(run, folder):
    """Real registrations in processes of their own."""
    killed: list[int] = []
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        address = cluster.scheduler_address
        thread = threading.Thread(target=kill_a_busy_worker, args=(address, killed))
        thread.start()
        options = ("--scheduler", address, "--transform", "rigid", "--initial-transform", "header")
        options += ("--save", "itk")
        code, out, error = run("batch", folder / "pairs.csv", "-o", folder / "out", *options)
        thread.join()
    assert killed
    assert (code, error) == (0, ""), out
    assert "3 pairs: 3 pass" in out
    for k in range(3):
        results = folder / "out" / "results" / f"moving{k}_to_fixed"
        assert load_transform(results / "transform.h5").parts()
        assert Summary.load(results).verdict == "pass"
    assert not list(folder.rglob(".unfinished-*"))
