import os
import time
from types import SimpleNamespace

import pytest
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io import unfinished
from patchmorph.io.atomic import check_file, check_outputs, whole_file, whole_folder, whole_tree
from patchmorph.io.tensors import write_tensors


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with whole_file(target) as temporary:
        temporary.write_text("done")
        assert not target.exists()
    assert target.read_text() == "done"
    assert [item.name for item in target.parent.iterdir()] == ["file.txt"]


def test_what_threads_write_after_a_failure_is_removed_too(tmp_path, monkeypatch):
    """Those of Zarr go on with other chunks, and make the folders that these need."""
    kept, left = [], [1, 1, 0, 1, 0, 0, 0]

    def meanwhile(_: float) -> None:
        if left and left.pop(0):
            (kept[0] / "c" / "0").mkdir(parents=True)

    monkeypatch.setattr(unfinished, "time", SimpleNamespace(monotonic=time.monotonic, sleep=meanwhile))

    def fail():
        with whole_tree(tmp_path / "a.zarr") as temporary:
            kept.append(temporary)
            raise OSError(28, "No space left on device")

    with pytest.raises(PatchMorphError, match="No space left"):
        fail()
    assert left == []
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_file_as_it_was(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("before")

    def fail():
        with whole_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "before"
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_keeps_what_else_is_in_it(tmp_path):
    target = tmp_path / "results"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    (target / "old.txt").write_text("old")
    with whole_folder(target) as temporary:
        (temporary / "old.txt").write_text("new")
    assert (target / "notes.txt").read_text() == "mine"
    assert (target / "old.txt").read_text() == "new"


def test_a_failure_leaves_no_folder(tmp_path):
    def fail():
        with whole_folder(tmp_path / "results") as temporary:
            (temporary / "half.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(PatchMorphError, match="output must be a folder, got the file"),
        whole_folder(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(PatchMorphError, match="place that can be written"),
        whole_file(tmp_path / "file" / "a.txt"),
    ):
        pass


def permissions(path):
    return path.stat().st_mode & 0o777


def test_others_may_read_what_appears(tmp_path):
    """Temporary folders and safetensors files are their owner's alone; results are not."""
    with whole_folder(tmp_path / "results") as temporary:
        (temporary / "a.txt").write_text("a")
    assert permissions(tmp_path / "results") == 0o755
    with whole_folder(tmp_path / "results") as temporary:
        (temporary / "b.txt").write_text("b")
    assert permissions(tmp_path / "results") == 0o755
    write_tensors(tmp_path / "model.safetensors", {"a": torch.ones(2)}, {})
    assert permissions(tmp_path / "model.safetensors") == 0o644
    (tmp_path / "plain.txt").write_text("by the system's own rule")
    with whole_file(tmp_path / "file.txt") as temporary:
        temporary.write_text("done")
    assert permissions(tmp_path / "file.txt") == permissions(tmp_path / "plain.txt")
    assert permissions(tmp_path / "results" / "a.txt") == permissions(tmp_path / "plain.txt")


def test_a_folder_that_was_there_keeps_its_rights(tmp_path):
    target = tmp_path / "results"
    target.mkdir(mode=0o700)
    with whole_folder(target) as temporary:
        (temporary / "a.txt").write_text("a")
    assert permissions(target) == 0o700


def test_a_tree_replaces_all_that_was_in_it_or_nothing(tmp_path):
    target = tmp_path / "scene.zarr"
    for content in ("old", "new"):
        with whole_tree(target) as temporary:
            temporary.mkdir()
            (temporary / f"{content}.txt").write_text(content)
            assert not (target / f"{content}.txt").exists()
    assert [item.name for item in target.iterdir()] == ["new.txt"]

    def fail():
        with whole_tree(target) as temporary:
            temporary.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [item.name for item in target.iterdir()] == ["new.txt"]
    assert [item.name for item in tmp_path.iterdir()] == ["scene.zarr"]


def test_a_temporary_file_has_the_ending_of_its_target(tmp_path):
    """Writers choose the format by it."""
    with whole_file(tmp_path / "image.nii.gz") as temporary:
        assert temporary.name == "image.nii.gz"
        temporary.touch()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to a pipe", "link to a folder"])
def test_a_target_that_is_no_regular_file_is_refused_and_stays(tmp_path, kind):
    """A rename would replace a device by a file."""
    target = tmp_path / "target"
    (tmp_path / "folder").mkdir()
    if "pipe" in kind:
        if not hasattr(os, "mkfifo"):
            pytest.skip("no named pipes on this system")
        os.mkfifo(tmp_path / "pipe")
    if kind.startswith("link"):
        target.symlink_to(tmp_path / kind.split()[-1])
    else:
        target = tmp_path / kind
    before = sorted(path.name for path in tmp_path.iterdir())
    with (
        pytest.raises(PatchMorphError, match=r"output must be a file or new, got a (folder|device or pipe)"),
        whole_file(target),
    ):
        pass
    with pytest.raises(PatchMorphError, match="output must be a file or new"):
        check_file(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not target.is_file()


def test_a_link_to_a_file_is_replaced_and_its_file_stays(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with whole_file(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").read_text() == "new"
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("name", ["same", "dotted", "link", "hard link", "linked folder"])
def test_an_output_is_no_input_by_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "folder" / "image.nii"
    source.parent.mkdir()
    source.write_text("image")
    output = {
        "same": source,
        "dotted": tmp_path / "folder" / ".." / "folder" / "image.nii",
        "link": tmp_path / "link.nii",
        "hard link": tmp_path / "hard.nii",
        "linked folder": tmp_path / "other" / "image.nii",
    }[name]
    (tmp_path / "link.nii").symlink_to(source)
    (tmp_path / "hard.nii").hardlink_to(source)
    (tmp_path / "other").symlink_to(source.parent)
    for paths in ([output], [tmp_path / "new.nii", output], [output.relative_to(tmp_path)]):
        with pytest.raises(
            PatchMorphError, match=r"output must be another file than the inputs, got .*\.nii for"
        ):
            check_outputs(paths, [None, tmp_path / "missing", source])
    check_outputs([tmp_path / "new.nii"], [source, None])
    check_outputs([output], [tmp_path / "missing.nii"])


def test_an_output_folder_holds_no_input(tmp_path):
    """A Zarr is replaced as a whole."""
    (tmp_path / "scene.zarr").mkdir()
    (tmp_path / "scene.zarr" / "fixed.nii").write_text("image")
    with pytest.raises(PatchMorphError, match="must be another file than the inputs"):
        check_outputs([tmp_path / "scene.zarr"], [tmp_path / "scene.zarr" / "fixed.nii"])
    with pytest.raises(PatchMorphError, match="must be another file than the inputs"):
        check_outputs([tmp_path / "scene.zarr"], [tmp_path / "scene.zarr"])
    with pytest.raises(PatchMorphError, match="new or a Zarr that it replaces"):
        check_outputs([tmp_path / "scene.zarr"], [tmp_path / "fixed.nii"])
    (tmp_path / "scene.zarr" / "zarr.json").touch()
    check_outputs([tmp_path / "scene.zarr"], [tmp_path / "fixed.nii"])


def test_two_outputs_are_two_files(tmp_path):
    with pytest.raises(PatchMorphError, match="outputs must be different files"):
        check_outputs([tmp_path / "a.nii", tmp_path / "b" / ".." / "a.nii"], [])
    check_outputs([tmp_path / "a.nii", tmp_path / "b.nii"], [])


OWNED = ("a.txt", "b.txt", "c.txt")


def earlier(folder):
    folder.mkdir()
    for name in ("a.txt", "c.txt", "mine.txt"):
        (folder / name).write_text("old")
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("linked", [False, True])
def test_results_are_replaced_as_a_whole(tmp_path, linked):
    """What the new run does not write is gone, too; other files stay."""
    folder = earlier(tmp_path / "results")
    if linked:
        (tmp_path / "link").symlink_to(folder)
    with whole_folder(tmp_path / "link" if linked else folder, OWNED) as temporary:
        (temporary / "a.txt").write_text("new")
        (temporary / "b.txt").write_text("new")
        assert (folder / "a.txt").read_text() == "old"
    assert contents(folder) == {"a.txt": "new", "b.txt": "new", "mine.txt": "old"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_loses_no_results(tmp_path, error):
    folder = earlier(tmp_path / "results")
    before = contents(folder)

    def fail():
        with whole_folder(folder, OWNED) as temporary:
            (temporary / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert contents(folder) == before


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exchange_that_fails_is_undone(tmp_path, monkeypatch, step, error):
    """At each of its renames: two old files go, three new ones come."""
    folder, done, rename = earlier(tmp_path / "results"), [], os.rename
    before = contents(folder)

    def failing(source, target):
        if len(done) == step:
            done.append("failed")
            raise error("disk")
        done.append(target)
        rename(source, target)

    def replace():
        with whole_folder(folder, OWNED) as temporary:
            for name in OWNED:
                (temporary / name).write_text("new")
            monkeypatch.setattr(os, "rename", failing)

    if step == 5:
        replace()
        assert contents(folder) == {**dict.fromkeys(OWNED, "new"), "mine.txt": "old"}
        return
    with pytest.raises(PatchMorphError if error is OSError else error):
        replace()
    assert contents(folder) == before
