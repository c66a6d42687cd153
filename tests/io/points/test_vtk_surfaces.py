"""Surfaces of VTK: the frame is what 3D Slicer states in them, and faces are kept."""

import numpy as np
import pytest
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkStringArray
from vtkmodules.vtkFiltersSources import vtkSphereSource
from vtkmodules.vtkIOLegacy import vtkPolyDataReader, vtkPolyDataWriter
from vtkmodules.vtkIOPLY import vtkPLYReader, vtkPLYWriter
from vtkmodules.vtkIOXML import vtkXMLPolyDataReader, vtkXMLPolyDataWriter

from patchmorph.errors import PatchMorphError
from patchmorph.io.points import Frame, map_points

FLIP = np.array([-1, -1, 1])
POINTS = np.array([[1.5, 2, 3], [-10, 20, -5.25], [30, -12, 8]])


@pytest.mark.parametrize(
    ("ending", "reader", "writer"),
    [
        ("vtk", vtkPolyDataReader, vtkPolyDataWriter),
        ("vtp", vtkXMLPolyDataReader, vtkXMLPolyDataWriter),
        ("ply", vtkPLYReader, vtkPLYWriter),
    ],
)
def test_polygons_keep_their_faces(tmp_path, transform, mapped, ending, reader, writer):
    sphere = vtkSphereSource()
    sphere.SetRadius(20)
    source = tmp_path / f"in.{ending}"
    out = writer()
    out.SetFileName(str(source))
    out.SetInputConnection(sphere.GetOutputPort())
    out.Write()

    def read(path):
        tool = reader()
        tool.SetFileName(str(path))
        tool.Update()
        return tool.GetOutput()

    done = map_points(source, tmp_path / f"out.{ending}", transform)
    before, after = read(source), read(tmp_path / f"out.{ending}")
    points = vtk_to_numpy(before.GetPoints().GetData())
    assert done.count == len(points) > 40
    found = vtk_to_numpy(after.GetPoints().GetData())
    np.testing.assert_allclose(found, mapped(points.astype(float)), atol=1e-4)
    assert after.GetNumberOfPolys() == before.GetNumberOfPolys() > 80
    assert after.GetPointData().GetNormals() is None


def test_a_surface_that_says_lps_is_taken_so(tmp_path, transform, mapped):
    (tmp_path / "in.vtk").write_text(
        "# vtk DataFile Version 5.1\n3D Slicer output. SPACE=LPS\nASCII\nDATASET POLYDATA\nPOINTS 3 float\n"
        + "\n".join(" ".join(map(str, point)) for point in (POINTS * FLIP).tolist())
        + "\nVERTICES 2 1\nOFFSETS vtktypeint64\n0 1\nCONNECTIVITY vtktypeint64\n0\n"
    )
    map_points(tmp_path / "in.vtk", tmp_path / "out.vtk", transform)
    tool = vtkPolyDataReader()
    tool.SetFileName(str(tmp_path / "out.vtk"))
    tool.Update()
    assert "SPACE=LPS" in tool.GetHeader()
    map_points(tmp_path / "in.vtk", tmp_path / "ras.vtk", transform, to=Frame.named("ras"))
    assert b"SPACE=RAS" in (tmp_path / "ras.vtk").read_bytes()[:200]
    map_points(tmp_path / "ras.vtk", tmp_path / "back.vtk", transform.inverse(), to=Frame.named("lps"))
    tool.SetFileName(str(tmp_path / "back.vtk"))
    tool.Update()
    back = vtk_to_numpy(tool.GetOutput().GetPoints().GetData())
    np.testing.assert_allclose(back, POINTS * FLIP, atol=2e-3)
    tool.SetFileName(str(tmp_path / "out.vtk"))
    tool.Update()
    found = vtk_to_numpy(tool.GetOutput().GetPoints().GetData())
    np.testing.assert_allclose(found * FLIP, mapped(POINTS), atol=1e-4)


def ply(path, comment):
    """Three points with colours, in the text form of the format."""
    head = ["ply", "format ascii 1.0", *comment, "element vertex 3"]
    head += [f"property float {axis}" for axis in "xyz"]
    head += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    head += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    rows = [" ".join(map(str, [*point, 10, 20 * k, 30])) for k, point in enumerate(POINTS.tolist())]
    path.write_text("\n".join([*head, *rows, "3 0 1 2", ""]))


def points_of(path, reader):
    tool = reader()
    tool.SetFileName(str(path))
    tool.Update()
    surface = tool.GetOutput()
    return vtk_to_numpy(surface.GetPoints().GetData()), surface


@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_a_ply_file_keeps_its_space(tmp_path, transform, mapped, space):
    """What 3D Slicer writes and reads: a comment in the head."""
    flip = FLIP if space == "LPS" else 1
    ply(tmp_path / "in.ply", [f"comment SPACE={space}"])
    map_points(tmp_path / "in.ply", tmp_path / "out.ply", transform)
    assert f"comment SPACE={space}\n".encode() in (tmp_path / "out.ply").read_bytes()[:300]
    found, surface = points_of(tmp_path / "out.ply", vtkPLYReader)
    np.testing.assert_allclose(found * flip, mapped(POINTS * flip), atol=1e-4)
    colours = vtk_to_numpy(surface.GetPointData().GetArray("RGB"))
    np.testing.assert_array_equal(colours[:, 1], [0, 20, 40])
    other = "ras" if space == "LPS" else "lps"
    map_points(tmp_path / "in.ply", tmp_path / "other.ply", transform, to=Frame.named(other))
    assert f"comment SPACE={other.upper()}\n".encode() in (tmp_path / "other.ply").read_bytes()[:300]
    np.testing.assert_allclose(points_of(tmp_path / "other.ply", vtkPLYReader)[0], found * FLIP, atol=1e-4)


@pytest.mark.parametrize("ending", ["vtk", "ply"])
def test_a_surface_without_a_space_is_ras_unless_a_frame_is_given(tmp_path, transform, mapped, ending):
    ply(tmp_path / "plain.ply", [])
    surface = points_of(tmp_path / "plain.ply", vtkPLYReader)[1]
    source = tmp_path / f"in.{ending}"
    reader, writer = {"vtk": (vtkPolyDataReader, vtkPolyDataWriter), "ply": (vtkPLYReader, vtkPLYWriter)}[
        ending
    ]
    out = writer()
    out.SetFileName(str(source))
    out.SetInputData(surface)
    out.Write()
    assert b"SPACE" not in source.read_bytes()
    for frame, flip in ((None, 1), (Frame.named("ras"), 1), (Frame.named("lps"), FLIP)):
        map_points(source, tmp_path / f"out.{ending}", transform, frame)
        found = points_of(tmp_path / f"out.{ending}", reader)[0]
        np.testing.assert_allclose(found * flip, mapped(POINTS * flip), atol=1e-4)


def test_a_given_frame_overrides_that_of_the_file(tmp_path, transform, mapped):
    ply(tmp_path / "in.ply", ["comment SPACE=LPS"])
    map_points(tmp_path / "in.ply", tmp_path / "out.ply", transform, Frame.named("ras"))
    found = points_of(tmp_path / "out.ply", vtkPLYReader)[0]
    np.testing.assert_allclose(found, mapped(POINTS), atol=1e-4)
    assert b"SPACE=RAS" in (tmp_path / "out.ply").read_bytes()[:300]


def test_normals_of_points_and_of_faces_are_dropped(tmp_path, transform, mapped):
    """They do not hold for the deformed surface."""
    ply(tmp_path / "plain.ply", [])
    surface = points_of(tmp_path / "plain.ply", vtkPLYReader)[1]
    surface.GetPointData().SetNormals(numpy_to_vtk(np.eye(3, dtype=np.float32), deep=True))
    surface.GetCellData().SetNormals(numpy_to_vtk(np.ones((1, 3), np.float32), deep=True))
    out = vtkPolyDataWriter()
    out.SetFileName(str(tmp_path / "in.vtk"))
    out.SetInputData(surface)
    out.Write()
    before = points_of(tmp_path / "in.vtk", vtkPolyDataReader)[1]
    assert before.GetPointData().GetNormals() is not None
    assert before.GetCellData().GetNormals() is not None
    map_points(tmp_path / "in.vtk", tmp_path / "out.vtk", transform)
    after = points_of(tmp_path / "out.vtk", vtkPolyDataReader)[1]
    assert after.GetPointData().GetNormals() is None
    assert after.GetCellData().GetNormals() is None
    assert after.GetNumberOfPolys() == 1


@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_an_xml_surface_keeps_its_space(tmp_path, transform, mapped, space):
    """3D Slicer states it in an array of field data."""
    flip = FLIP if space == "LPS" else 1
    ply(tmp_path / "plain.ply", [])
    surface = points_of(tmp_path / "plain.ply", vtkPLYReader)[1]
    array = vtkStringArray()
    array.SetName("SPACE")
    array.InsertNextValue(space)
    surface.GetFieldData().AddArray(array)
    out = vtkXMLPolyDataWriter()
    out.SetFileName(str(tmp_path / "in.vtp"))
    out.SetInputData(surface)
    out.Write()
    done = map_points(tmp_path / "in.vtp", tmp_path / "out.vtp", transform)
    assert str(done) == f"3 points, frame: {space.lower()} (by its head, SPACE={space})"
    found, after = points_of(tmp_path / "out.vtp", vtkXMLPolyDataReader)
    np.testing.assert_allclose(found * flip, mapped(POINTS * flip), atol=1e-4)
    assert after.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == space
    other = "ras" if space == "LPS" else "lps"
    map_points(tmp_path / "in.vtp", tmp_path / "other.vtp", transform, to=Frame.named(other))
    turned, after = points_of(tmp_path / "other.vtp", vtkXMLPolyDataReader)
    assert after.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == other.upper()
    np.testing.assert_allclose(turned, found * FLIP, atol=1e-4)


@pytest.mark.parametrize("ending", ["vtk", "vtp", "ply"])
@pytest.mark.parametrize(
    "text", ["", "no surface", "# vtk DataFile Version 3.0\nx\nASCII\nDATASET POLYDATA\n"]
)
def test_broken_surfaces_are_one_line(tmp_path, transform, capfd, ending, text):
    (tmp_path / f"a.{ending}").write_text(text)
    with pytest.raises(PatchMorphError, match=rf"surface must be a whole \.{ending} file"):
        map_points(tmp_path / f"a.{ending}", tmp_path / f"out.{ending}", transform)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""  # VTK itself would print several


def test_surfaces_with_points_that_are_not_finite_are_refused(tmp_path, transform):
    ply(tmp_path / "in.ply", [])
    text = (tmp_path / "in.ply").read_text().replace("30.0 -12.0", "nan -12.0")
    (tmp_path / "in.ply").write_text(text)
    with pytest.raises(PatchMorphError, match=r"points must be finite, got 1 that are not in .*in\.ply"):
        map_points(tmp_path / "in.ply", tmp_path / "out.ply", transform)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.35, 0.15])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("ending", ["vtk", "vtp", "ply"])
def test_truncated_surfaces_are_one_line(tmp_path, transform, capfd, ending, text, share):
    """VTK itself reads some of them without a word, and crashes on others."""
    kinds = {"vtk": vtkPolyDataWriter, "vtp": vtkXMLPolyDataWriter, "ply": vtkPLYWriter}
    ply(tmp_path / "plain.ply", [])
    out = kinds[ending]()
    out.SetFileName(str(tmp_path / f"in.{ending}"))
    out.SetInputData(points_of(tmp_path / "plain.ply", vtkPLYReader)[1])
    if ending == "vtp":
        (out.SetDataModeToAscii if text else out.SetDataModeToAppended)()
    else:
        (out.SetFileTypeToASCII if text else out.SetFileTypeToBinary)()
    out.Write()
    source = tmp_path / f"in.{ending}"
    assert map_points(source, tmp_path / f"out.{ending}", transform).count == 3
    raw = source.read_bytes()
    last = raw.rindex(b"COLOR_SCALARS") if ending == "vtk" else len(raw)
    source.write_bytes(raw[: int(share * last)])
    with pytest.raises(PatchMorphError, match=rf"surface must be a whole \.{ending} file"):
        map_points(source, tmp_path / f"cut.{ending}", transform)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize("ending", ["vtk", "vtp", "ply"])
def test_a_surface_that_is_not_mapped_as_a_whole_is_refused(tmp_path, nowhere, ending):
    ply(tmp_path / "in.ply", [])
    if ending != "ply":
        out = {"vtk": vtkPolyDataWriter, "vtp": vtkXMLPolyDataWriter}[ending]()
        out.SetFileName(str(tmp_path / f"in.{ending}"))
        out.SetInputData(points_of(tmp_path / "in.ply", vtkPLYReader)[1])
        out.Write()
    with pytest.raises(
        PatchMorphError, match="surface must lie where points are mapped, got 1 that are not in"
    ):
        map_points(tmp_path / f"in.{ending}", tmp_path / f"out.{ending}", nowhere)
