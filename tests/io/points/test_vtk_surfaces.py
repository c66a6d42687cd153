"""Surfaces of VTK and PLY: points are mapped, other bytes kept; files that are not whole are one line."""

import base64
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.points import Frame, map_points
from patchmorph.io.points.polydata import read_polydata

FLIP = np.array([-1, -1, 1])
POINTS = np.array([[1.5, 2, 3], [-10, 20, -5.25], [30, -12, 8]])
FROZEN = Path(__file__).parents[2] / "foreign" / "data" / "vtk"
READABLE = sorted(path for path in FROZEN.iterdir() if path.suffix != ".txt" and "lz4" not in path.name)
every_file = pytest.mark.parametrize("source", READABLE, ids=lambda path: path.name)


def ply(path, comment=(), vertex_count=3, corners="0 1 2", kind="float"):
    """Three points with colours, in the text form of the format."""
    head = ["ply", "format ascii 1.0", *comment, f"element vertex {vertex_count}"]
    head += [f"property {kind} {axis}" for axis in "xyz"]
    head += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    head += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    rows = [" ".join(map(str, [*point, 10, 20 * k, 30])) for k, point in enumerate(POINTS.tolist())]
    path.write_text("\n".join([*head, *rows, f"3 {corners}", ""]))
    return path


def legacy(path, points="POINTS 3 float", cells="POLYGONS 1 4\n3 0 1 2", more="", title="a surface"):
    """Three points in the text form of legacy VTK, version 3.0."""
    rows = [" ".join(map(str, point)) for point in POINTS.tolist()]
    head = ["# vtk DataFile Version 3.0", title, "ASCII", "DATASET POLYDATA", points]
    path.write_text("\n".join([*head, *rows, cells, more]))
    return path


def xml(path, points=3, data=None, cells="<Polys/>", polygons=0, head=""):
    """Three points in XML; ``data`` is their array."""
    data = data or '<DataArray type="Float32" NumberOfComponents="3" format="ascii">{}</DataArray>'.format(
        " ".join(map(str, POINTS.ravel().tolist()))
    )
    path.write_text(
        f'<VTKFile type="PolyData" byte_order="LittleEndian" {head}><PolyData>'
        f'<Piece NumberOfPoints="{points}" NumberOfPolys="{polygons}">'
        f"<Points>{data}</Points>{cells}</Piece></PolyData></VTKFile>"
    )
    return path


MAKERS = {"vtk": legacy, "vtp": xml, "ply": ply}


@every_file
def test_points_and_frame_are_those_that_vtk_reads(source):
    file = read_polydata(source)
    np.testing.assert_allclose(file.points, np.loadtxt(FROZEN / "points.txt"), rtol=1e-7)
    assert str(file.frame()) == "lps (by its head, SPACE=LPS)"


@every_file
def test_mapped_points_come_back_as_written(tmp_path, transform, mapped, source):
    result = tmp_path / f"out{source.suffix}"
    assert map_points(source, result, transform).count == 6
    expected = mapped(read_polydata(source).points * FLIP) * FLIP
    np.testing.assert_allclose(read_polydata(result).points, expected, atol=2e-5)


@every_file
def test_bytes_beside_points_and_normals_are_kept(tmp_path, transform, source):
    """Cells, data of points, texts; of XML, attributes whose offsets stay."""
    result = tmp_path / f"out{source.suffix}"
    map_points(source, result, transform)
    before, after = (set(re.split(rb"[\s>]+", path.read_bytes())) for path in (source, result))
    words = (b"thickness", b"labels", b"ids", b"flag") if source.suffix != ".ply" else (b"vertex_indices",)
    kept = b" ".join(before & after)
    assert all(word in kept for word in words)
    for cells in (b"3 1 4", b"3 3 1 4", b"2 1 3 3 1 4"):
        assert source.read_bytes().count(cells) <= result.read_bytes().count(cells)


@every_file
def test_normals_and_stored_ranges_are_dropped(tmp_path, transform, source):
    """They do not hold for the deformed surface."""
    result = tmp_path / f"out{source.suffix}"
    map_points(source, result, transform)
    text = result.read_bytes()
    for word in (b"NORMALS", b'Normals="', b'"CN"', b"property float nx"):
        assert word not in text
    points = re.search(rb"<Points>.*</Points>", text, re.DOTALL)
    assert b"RANGE" not in (points[0] if points else text).upper().replace(b"TRIANGLE", b"")
    if source.suffix == ".ply":
        assert b"property float nx" in source.read_bytes()


@every_file
@pytest.mark.parametrize("space", ["ras", "lps"])
def test_the_space_of_the_result_is_stated(tmp_path, transform, source, space):
    first, second = tmp_path / f"first{source.suffix}", tmp_path / f"second{source.suffix}"
    map_points(source, first, transform, to=Frame.named(space))
    assert str(read_polydata(first).frame()) == f"{space} (by its head, SPACE={space.upper()})"
    map_points(first, second, transform.inverse(), to=Frame.named("lps"))
    np.testing.assert_allclose(read_polydata(second).points, np.loadtxt(FROZEN / "points.txt"), atol=5e-3)


@pytest.mark.parametrize("ending", MAKERS)
def test_a_surface_without_a_space_is_ras_unless_a_frame_is_given(tmp_path, transform, mapped, ending):
    source = MAKERS[ending](tmp_path / f"in.{ending}")
    for frame, flip in ((None, 1), (Frame.named("ras"), 1), (Frame.named("lps"), FLIP)):
        map_points(source, tmp_path / f"out.{ending}", transform, frame)
        found = read_polydata(tmp_path / f"out.{ending}").points
        np.testing.assert_allclose(found * flip, mapped(POINTS * flip), atol=1e-4)


def test_a_given_frame_overrides_that_of_the_file(tmp_path, transform, mapped):
    ply(tmp_path / "in.ply", ["comment SPACE=LPS"])
    map_points(tmp_path / "in.ply", tmp_path / "out.ply", transform, Frame.named("ras"))
    np.testing.assert_allclose(read_polydata(tmp_path / "out.ply").points, mapped(POINTS), atol=1e-4)
    assert b"SPACE=RAS" in (tmp_path / "out.ply").read_bytes()[:300]
    assert b"SPACE=LPS" not in (tmp_path / "out.ply").read_bytes()


def test_a_long_title_keeps_room_for_the_space(tmp_path, transform):
    legacy(tmp_path / "in.vtk", title="x" * 255)
    map_points(tmp_path / "in.vtk", tmp_path / "out.vtk", transform)
    title = (tmp_path / "out.vtk").read_text().split("\n")[1]
    assert title.endswith(" SPACE=RAS")
    assert len(title) <= 255


@pytest.mark.parametrize("ending", ["vtk", "ply"])
def test_points_of_integers_become_floats(tmp_path, transform, mapped, ending):
    source = tmp_path / f"in.{ending}"
    if ending == "vtk":
        legacy(source, "POINTS 3 int")
    else:
        ply(source, kind="int")
    text = source.read_text().replace("-5.25", "-5").replace("1.5 ", "1 ").replace(".0", "")
    source.write_text(text.replace("Version 3", "Version 3.0").replace("ascii 1", "ascii 1.0"))
    map_points(source, tmp_path / f"out.{ending}", transform)
    found = read_polydata(tmp_path / f"out.{ending}").points
    np.testing.assert_allclose(found, mapped(np.trunc(POINTS)), atol=1e-4)


def test_pieces_are_mapped_one_after_another(tmp_path, transform, mapped):
    text = xml(tmp_path / "in.vtp").read_text()
    piece = re.search("<Piece.*</Piece>", text)[0]
    (tmp_path / "in.vtp").write_text(text.replace(piece, 2 * piece))
    assert map_points(tmp_path / "in.vtp", tmp_path / "out.vtp", transform).count == 6
    found = read_polydata(tmp_path / "out.vtp").points
    np.testing.assert_allclose(found, np.tile(mapped(POINTS), (2, 1)), atol=1e-4)


@pytest.mark.parametrize("order", "<>")
def test_faces_of_several_lengths_are_read(tmp_path, order):
    name = {"<": "little", ">": "big"}[order]
    head = f"ply\nformat binary_{name}_endian 1.0\nelement vertex 3\n" + "".join(
        f"property double {axis}\n" for axis in "xyz"
    )
    head += "element face 3\nproperty uchar red\nproperty list uchar uint vertex_index\nend_header\n"
    lists = [[0, 1, 2], [2, 1], [0, 2, 1, 0]]
    faces = b"".join(bytes([7, len(row)]) + np.array(row, f"{order}u4").tobytes() for row in lists)
    body = POINTS.astype(f"{order}f8").tobytes() + faces
    (tmp_path / "a.ply").write_bytes(head.encode() + body)
    np.testing.assert_array_equal(read_polydata(tmp_path / "a.ply").points, POINTS)
    (tmp_path / "a.ply").write_bytes(head.encode() + body[:-4] + np.array([3], f"{order}u4").tobytes())
    with pytest.raises(PatchMorphError, match=r"cells must use points 0 to 2, got 3"):
        read_polydata(tmp_path / "a.ply")


@pytest.mark.parametrize("ending", MAKERS)
@pytest.mark.parametrize(
    "text",
    ["", "no surface", "# vtk DataFile Version 3.0\nx\nASCII\nDATASET POLYDATA\n", "ply\nend_header\n"],
)
def test_broken_surfaces_are_one_line(tmp_path, transform, ending, text):
    (tmp_path / f"a.{ending}").write_text(text)
    with pytest.raises(PatchMorphError, match=rf"surface must be a whole \.{ending} file") as caught:
        map_points(tmp_path / f"a.{ending}", tmp_path / f"out.{ending}", transform)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.97, 0.9, 0.6, 0.35, 0.15])
@every_file
def test_truncated_surfaces_are_one_line(tmp_path, source, share):
    raw = source.read_bytes()
    last = raw.rindex(b"flag") if source.suffix == ".vtk" else len(raw)  # before its last array
    cut = tmp_path / f"cut{source.suffix}"
    cut.write_bytes(raw[: int(share * last)])
    with pytest.raises(PatchMorphError, match=rf"surface must be a whole \{source.suffix} file"):
        read_polydata(cut)


HUGE = "9" * 18
POLYGON = '<DataArray type="Int64" Name="connectivity" format="ascii">0 1 {}</DataArray>'
CELLS = f'<Polys>{POLYGON}<DataArray type="Int64" Name="offsets" format="ascii">{{}}</DataArray></Polys>'
WRONG = {
    "vtk: huge number of points": (legacy, {"points": f"POINTS {HUGE} float"}, "do not fit"),
    "vtk: negative number": (legacy, {"points": "POINTS -3 float"}, "whole number, got '-3'"),
    "vtk: unknown type": (legacy, {"points": "POINTS 3 half"}, "no 'half'"),
    "vtk: another data set": (legacy, {"points": "DATASET UNSTRUCTURED_GRID"}, "DATASET UNSTRUCTURED_GRID"),
    "vtk: corner outside": (legacy, {"cells": "POLYGONS 1 4\n3 0 1 3"}, "points 0 to 2, got 3"),
    "vtk: negative corner": (legacy, {"cells": "POLYGONS 1 4\n3 0 1 -1"}, "points 0 to 2, got -1"),
    "vtk: huge cells": (legacy, {"cells": f"POLYGONS {HUGE} 4\n3 0 1 2"}, "it ends early"),
    "vtk: wrong size of cells": (legacy, {"cells": "POLYGONS 1 4\n2 0 1 2"}, "cells must have 4 values"),
    "vtk: data of other points": (legacy, {"more": "POINT_DATA 4\nSCALARS a int\n"}, "POINT_DATA 4"),
    "vtk: data of other cells": (legacy, {"more": "CELL_DATA 2\n"}, "CELL_DATA 2"),
    "vtk: too few data": (
        legacy,
        {"more": "POINT_DATA 3\nSCALARS a int\nLOOKUP_TABLE default\n1 2"},
        "3 values",
    ),
    "vtk: many texts": (legacy, {"more": f"FIELD f 1\na 1 {HUGE} string\nx"}, "texts are announced"),
    "vtp: huge number of points": (xml, {"points": HUGE}, f"must have {HUGE} points, got 9 coordinates"),
    "vtp: too few points": (xml, {"points": 4}, "must have 4 points"),
    "vtp: no cells": (xml, {"polygons": 1}, "no 'offsets'"),
    "vtp: other number of cells": (
        xml,
        {"polygons": 2, "cells": CELLS.format(2, 3)},
        "must have 2 Polys, got 1",
    ),
    "vtp: corner outside": (xml, {"polygons": 1, "cells": CELLS.format(3, 3)}, "points 0 to 2, got 3"),
    "vtp: wrong offsets": (xml, {"polygons": 1, "cells": CELLS.format(2, 2)}, "must rise to 3"),
    "vtp: appended to nothing": (
        xml,
        {"data": '<DataArray type="Float32" format="appended" offset="99"/>'},
        "buffer",
    ),
    "vtp: LZ4": (xml, {"head": 'compressor="vtkLZ4DataCompressor"'}, "must be vtkZLibDataCompressor or"),
    "ply: huge number of points": (ply, {"vertex_count": HUGE}, "do not fit"),
    "ply: too few points": (ply, {"vertex_count": 4}, "surface must be a whole"),
    "ply: corner outside": (ply, {"corners": "0 1 3"}, "points 0 to 2, got 3"),
    "ply: no number": (ply, {"corners": "0 1 x"}, "surface must be a whole"),
    "ply: unknown type": (ply, {"kind": "half"}, "no 'half'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_counts_and_cells_are_one_line(tmp_path, name):
    make, arguments, message = WRONG[name]
    with pytest.raises(PatchMorphError, match=re.escape(message)):
        read_polydata(make(tmp_path / f"a.{name[:3]}", **arguments))


def test_a_compressed_array_is_not_unpacked_beyond_what_a_surface_needs(tmp_path):
    """1 GB of zeros in 1 MB; and a block that holds more than it states."""
    for claim, size in ((2**30, 2**30), (36, 10**6)):
        packed = zlib.compress(bytes(min(size, 10**6)))
        parts = (np.array([1, claim, 0, len(packed)], "<u4").tobytes(), packed)
        text = b"".join(map(base64.b64encode, parts)).decode()
        data = f'<DataArray type="Float32" format="binary">{text}</DataArray>'
        source = xml(tmp_path / "a.vtp", claim // 12, data, head='compressor="vtkZLibDataCompressor"')
        with pytest.raises(PatchMorphError, match=r"announces 1073741824 bytes|must have 36 bytes"):
            read_polydata(source)


def test_appended_arrays_that_share_bytes_are_refused(tmp_path):
    """One of them could not be replaced without the other."""
    text = (FROZEN / "xml_appended_zlib_32.vtp").read_text()
    offsets = re.findall(r'offset="(\d+)"', text)
    (tmp_path / "a.vtp").write_text(text.replace(f'offset="{offsets[2]}"', f'offset="{offsets[1]}"'))
    with pytest.raises(PatchMorphError, match="must not overlap"):
        read_polydata(tmp_path / "a.vtp")


def test_entities_are_refused(tmp_path):
    text = xml(tmp_path / "a.vtp").read_text()
    (tmp_path / "a.vtp").write_text(f'<!DOCTYPE x [<!ENTITY y "z">]>{text}')
    with pytest.raises(PatchMorphError, match="document type"):
        read_polydata(tmp_path / "a.vtp")


@pytest.mark.parametrize("ending", MAKERS)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_surfaces_with_points_that_are_not_finite_are_refused(tmp_path, transform, ending, value):
    source = MAKERS[ending](tmp_path / f"in.{ending}")
    source.write_text(source.read_text().replace("30.0 -12.0", f"{value} -12.0"))
    with pytest.raises(PatchMorphError, match=r"points must be finite, got 1 that are not in .*in\."):
        map_points(source, tmp_path / f"out.{ending}", transform)


@pytest.mark.parametrize("ending", MAKERS)
def test_a_surface_that_is_not_mapped_as_a_whole_is_refused(tmp_path, nowhere, ending):
    source = MAKERS[ending](tmp_path / f"in.{ending}")
    message = "surface must lie where points are mapped, got 1 that are not in"
    with pytest.raises(PatchMorphError, match=message):
        map_points(source, tmp_path / f"out.{ending}", nowhere)
