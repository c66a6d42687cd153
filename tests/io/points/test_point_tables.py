"""Tables of points: which columns state which frame, and what real tables look like."""

import csv

import numpy as np
import pytest
import torch
from synthetic import grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import save_image
from patchmorph.io.points import Frame, map_points

FLIP = np.array([-1, -1, 1])
POINTS = np.array([[1.5, 2, 3], [-10, 20, -5.25], [30, -12, 8]])


def write(path, points=POINTS, head="x,name,y,z", separator=",", newline="\n"):
    """A table with a first, a third and a fourth column of coordinates."""
    rows = [[x, name, y, z] for name, (x, y, z) in zip("abc", points.tolist(), strict=True)]
    lines = [head.replace(",", separator), *(separator.join(map(str, row)) for row in rows)]
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


def read(path, separator=","):
    with path.open(newline="") as file:
        head, *rows = csv.reader(file, delimiter=separator)
    assert [row[1] for row in rows] == ["a", "b", "c"]
    return head, np.array([[float(row[k]) for k in (0, 2, 3)] for row in rows])


def test_a_table_keeps_its_other_columns(tmp_path, transform, mapped):
    done = map_points(write(tmp_path / "in.csv"), tmp_path / "out.csv", transform)
    assert (done.count, done.unmapped) == (3, 0)
    head, points = read(tmp_path / "out.csv")
    assert head == ["x", "name", "y", "z"]
    np.testing.assert_allclose(points, mapped(POINTS), atol=1e-5)


def test_frames(tmp_path, transform, mapped, linear):
    grid = grid_around((20, 22, 24), linear * 2, (5, 1, 2))
    save_image(Image(torch.zeros(1, 1, *grid.shape, dtype=torch.uint8), grid), tmp_path / "image.nii.gz")
    lps, voxel = Frame.named("lps"), Frame.named(str(tmp_path / "image.nii.gz"))
    map_points(write(tmp_path / "lps.csv", POINTS * FLIP), tmp_path / "out.csv", transform, lps)
    np.testing.assert_allclose(read(tmp_path / "out.csv")[1] * FLIP, mapped(POINTS), atol=1e-5)
    map_points(write(tmp_path / "ras.csv"), tmp_path / "voxel.csv", transform, to=voxel)
    indices = read(tmp_path / "voxel.csv")[1]
    matrix = matrix_of(grid)
    world = indices @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(world, mapped(POINTS), atol=1e-4)  # six decimals, header in float32
    map_points(tmp_path / "voxel.csv", tmp_path / "back.csv", transform.inverse(), voxel, Frame.named("ras"))
    np.testing.assert_allclose(read(tmp_path / "back.csv")[1], POINTS, atol=2e-3)
    with pytest.raises(PatchMorphError, match="frame must be ras, lps or an image"):
        Frame.named("mni")


@pytest.mark.parametrize(
    ("head", "flip", "reason"),
    [
        ("x,name,y,z", 1, "ras (by convention; --frame changes it)"),
        ("X,Name,Y,Z", 1, "ras (by convention; --frame changes it)"),
        ("r,label,a,s", 1, "ras (by its columns r,a,s)"),
        ("l,label,p,s", FLIP, "lps (by its columns l,p,s)"),
        ("L,label,P,S", FLIP, "lps (by its columns l,p,s)"),
    ],
)
def test_columns_state_the_frame(tmp_path, transform, mapped, head, flip, reason):
    done = map_points(write(tmp_path / "in.csv", POINTS * flip, head), tmp_path / "out.csv", transform)
    assert str(done) == f"3 points, frame: {reason}"
    found, points = read(tmp_path / "out.csv")
    assert found == head.split(",")
    np.testing.assert_allclose(points * flip, mapped(POINTS), atol=1e-5)


@pytest.mark.parametrize(
    "head", ["x,y,z,t", "x,y,z,t,label,comment", "X,Y,Z,T,label", "# x,y,z,t,label,comment"]
)
def test_tables_of_ants_are_lps(tmp_path, transform, mapped, head):
    """The head with # is of numpy.savetxt, by which fMRIPrep writes tables for ANTs."""
    more = ",7" * head.count(",")
    rows = [",".join(map(str, point)) + more[4:] for point in (POINTS * FLIP).tolist()]
    (tmp_path / "in.csv").write_text("\n".join([head, *rows]) + "\n")
    done = map_points(tmp_path / "in.csv", tmp_path / "out.csv", transform)
    assert str(done) == "3 points, frame: lps (by its columns x,y,z,t, as of ANTs; --frame changes it)"
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == head
    found = np.array([[float(cell) for cell in line.split(",")[:3]] for line in lines[1:]])
    np.testing.assert_allclose(found * FLIP, mapped(POINTS), atol=1e-5)
    assert all(line.endswith(more[4:]) for line in lines[1:])
    done = map_points(tmp_path / "in.csv", tmp_path / "ras.csv", transform, Frame.named("ras"))
    assert str(done) == "3 points, frame: ras (as given)"


@pytest.mark.parametrize(
    ("head", "frame", "renamed"), [("r,n,a,s", "lps", "lnps"), ("l,n,p,s", "ras", "rnas")]
)
def test_columns_that_name_a_frame_are_renamed_with_it(tmp_path, transform, mapped, head, frame, renamed):
    flip = FLIP if frame == "ras" else np.ones(3)
    write(tmp_path / "in.csv", POINTS * flip, head)
    done = map_points(tmp_path / "in.csv", tmp_path / "out.csv", transform, to=Frame.named(frame))
    assert str(done).endswith(f"; written as {frame}")
    found, points = read(tmp_path / "out.csv")
    assert found == list(renamed)
    np.testing.assert_allclose(points * FLIP * flip, mapped(POINTS), atol=1e-5)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_separators_and_line_ends_are_kept(tmp_path, transform, mapped, separator, newline):
    name = "in.tsv" if separator == "\t" else "in.csv"
    source = write(tmp_path / name, head='"x",name,"y","z"', separator=separator, newline=newline)
    target = tmp_path / f"out{source.suffix}"
    map_points(source, target, transform)
    head, points = read(target, separator)
    assert head == ["x", "name", "y", "z"]
    np.testing.assert_allclose(points, mapped(POINTS), atol=1e-5)
    assert target.read_bytes().count(b"\r\n") == (4 if newline == "\r\n" else 0)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_marks_of_the_byte_order_and_blank_lines_are_read(tmp_path, transform, mapped, encoding):
    text = "\n\nx,name,y,z\n" + "".join(f"{x} , é,{y}, {z}\n\n" for x, y, z in POINTS.tolist()) + "  \n"
    (tmp_path / "in.csv").write_bytes(text.encode(encoding))
    assert map_points(tmp_path / "in.csv", tmp_path / "out.csv", transform).count == 3
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "x,name,y,z"
    assert all(line.split(",")[1] == "é" for line in lines[1:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", "columns must be x,y,z, got x,y in"),
        ("1,2,3\n4,5,6\n", "columns must be x,y,z, got 1,2,3 in"),
        ("x y z\n1 2 3\n", "columns must be x,y,z, got x y z in"),
        ("", "columns must be x,y,z, got  in"),
        ("x,y,z,r,a,s\n1,2,3,1,2,3\n", "columns must be x,y,z, got x,y,z,r,a,s in .* but one of these"),
        ("x,y,z,n,n\n1,2,3,4,5\n", "columns must have different names"),
        ("x,X,y,z\n1,1,2,3\n", "columns must have different names"),
        ("x,y,z\n", "points must have rows, got none"),
        ("x,y,z\n\n \n", "points must have rows, got none"),
        ("x,y,z\n1,2,3,4\n", "rows must be as long as the head, got more in line 2"),
        ("x,y,z,name\n1,2,3,a\n\n1,2,3\n", "rows must be as long as the head, got fewer in line 4"),
        ("x,y,z\n1,2\n", "rows must be as long as the head, got fewer in line 2"),
        ("x,y,z\n1,2,3\n1,2,far\n", "z must be a number, got 'far' in line 3"),
        ("x,y,z\nnan,2,3\n", "x must be a number, got 'nan' in line 2"),
        ("x,y,z\n1,inf,3\n", "y must be a number, got 'inf' in line 2"),
        ("x,y,z\n1,1e999,3\n", "y must be a number, got '1e999' in line 2"),
        ("x,y,z\n1,2_0,3\n", "y must be a number, got '2_0' in line 2"),
        ("x,y,z\n1,,3\n", "y must be a number, got '' in line 2"),
        ("x;y;z\n1,5;2;3\n", "x must be a number, got '1,5' in line 2"),
        ('x,y,z\n1,"2,3\n', "points must be CSV, got"),
        ("x,y,z\n1,2,3\n\udcff", "points must be text in UTF-8, got"),
    ],
)
def test_tables_that_cannot_be_read_are_one_clear_line(tmp_path, transform, text, message):
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PatchMorphError, match=message) as error:
        map_points(tmp_path / "a.csv", tmp_path / "out.csv", transform)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.csv").exists()


def test_points_without_a_place_are_counted_and_written_as_nan(tmp_path, nowhere):
    done = map_points(write(tmp_path / "in.csv"), tmp_path / "out.csv", nowhere)
    assert str(done).endswith("; 1 points are not mapped: their coordinates are nan")
    points = read(tmp_path / "out.csv")[1]
    assert np.isnan(points).all(axis=1).tolist() == [False, True, False]


def test_what_is_no_point_file_is_refused(tmp_path, transform):
    def refused(name, message, target="out.csv"):
        with pytest.raises(PatchMorphError, match=message):
            map_points(tmp_path / name, tmp_path / target, transform)

    refused("none.csv", "points must be an existing file")
    for name in ("a.txt", "a", "a.stl", "a.csv.gz"):
        (tmp_path / name).write_text("x,y,z\n1,2,3\n")
        refused(name, r"must be in a file that ends in \.csv, .*, or a FreeSurfer surface, got")
    write(tmp_path / "a.csv")
    for target in ("out.ply", "out.fcsv", "out.tsv", "out"):
        refused("a.csv", r"must be written as \.csv, as they were read, got", target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.csv", "a.csv.gz", "a.stl", "a.txt"]
