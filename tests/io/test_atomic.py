import pytest
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file, whole_folder, whole_tree
from patchmorph.io.tensors import write_tensors


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with whole_file(target) as temporary:
        temporary.write_text("done")
        assert not target.exists()
    assert target.read_text() == "done"
    assert [item.name for item in target.parent.iterdir()] == ["file.txt"]


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
