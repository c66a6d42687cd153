import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file, whole_folder


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
