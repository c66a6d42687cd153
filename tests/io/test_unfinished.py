"""Temporary folders of processes that were killed are removed; those of living ones are not."""

import subprocess
import sys

from patchmorph.io.atomic import whole_file, whole_folder, whole_tree
from patchmorph.io.unfinished import UNFINISHED, clear_abandoned, unfinished_folder

HOLD = """
import sys
from pathlib import Path
from patchmorph.io.unfinished import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("of it")
    print("ready", flush=True)
    sys.stdin.read()
"""


def left(place) -> list[str]:
    return [path.name for path in place.iterdir() if path.name.startswith(UNFINISHED)]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        held = left(tmp_path)
        clear_abandoned(tmp_path)
        with whole_file(tmp_path / "a.txt") as path:
            path.write_text("a")
        assert left(tmp_path) == held
        assert len(held) == 1
        process.kill()
    assert left(tmp_path) == held
    with whole_file(tmp_path / "b.txt") as path:
        assert held[0] not in left(tmp_path)
        path.write_text("b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_every_kind_of_output_clears_its_place(tmp_path):
    for make, name in ((whole_file, "x.txt"), (whole_folder, "new"), (whole_tree, "x.zarr")):
        (tmp_path / f"{UNFINISHED}old" / "deep").mkdir(parents=True)
        with make(tmp_path / name) as path:
            assert f"{UNFINISHED}old" not in left(tmp_path)
            path.write_text("x") if make is whole_file else path.mkdir(exist_ok=True)
        assert left(tmp_path) == []


def test_a_link_by_the_name_of_a_temporary_folder_is_not_followed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / f"{UNFINISHED}link").symlink_to(tmp_path / "kept")
    (tmp_path / f"{UNFINISHED}broken").symlink_to("nowhere")
    with unfinished_folder(tmp_path):
        pass
    assert (tmp_path / "kept").is_dir()
