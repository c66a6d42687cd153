import nibabel
import numpy as np
import pytest
import torch
from nibabel import gifti
from synthetic import AFFINES, grid_around, rotation, smooth_velocity
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkFiltersSources import vtkSphereSource
from vtkmodules.vtkIOLegacy import vtkPolyDataReader, vtkPolyDataWriter
from vtkmodules.vtkIOPLY import vtkPLYReader, vtkPLYWriter
from vtkmodules.vtkIOXML import vtkXMLPolyDataReader, vtkXMLPolyDataWriter

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import save_image
from patchmorph.io.points import Frame, map_points

FLIP = np.array([-1, -1, 1])
POINTS = np.array([[1.5, 2, 3], [-10, 20, -5.25], [30, -12, 8]])


@pytest.fixture
def transform():
    return rotation() @ smooth_velocity(grid_around((16, 16, 16), AFFINES["RAS"] * 6), 3.0)


def expected(transform, points=POINTS):
    return transform(torch.from_numpy(np.asarray(points, np.float64)).float()[None])[0].numpy()


def table(path, points=POINTS):
    rows = [f"{x!r},{name},{y!r},{z!r}" for name, (x, y, z) in zip("abc", points.tolist(), strict=True)]
    path.write_text("\n".join(["x,name,y,z", *rows]) + "\n")
    return path


def coordinates(path):
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert rows[0] == ["x", "name", "y", "z"]
    assert [row[1] for row in rows[1:]] == ["a", "b", "c"]
    return np.array([[float(row[k]) for k in (0, 2, 3)] for row in rows[1:]])


def test_a_table_keeps_its_other_columns(tmp_path, transform):
    assert map_points(table(tmp_path / "in.csv"), tmp_path / "out.csv", transform) == (3, 0)
    np.testing.assert_allclose(coordinates(tmp_path / "out.csv"), expected(transform), atol=1e-5)


def test_frames(tmp_path, transform, linear):
    grid = grid_around((20, 22, 24), linear * 2, (5, 1, 2))
    save_image(Image(torch.zeros(1, 1, *grid.shape, dtype=torch.uint8), grid), tmp_path / "image.nii.gz")
    lps, voxel = Frame.named("lps"), Frame.named(str(tmp_path / "image.nii.gz"))
    map_points(table(tmp_path / "lps.csv", POINTS * FLIP), tmp_path / "out.csv", transform, lps)
    np.testing.assert_allclose(coordinates(tmp_path / "out.csv") * FLIP, expected(transform), atol=1e-5)
    map_points(table(tmp_path / "ras.csv"), tmp_path / "voxel.csv", transform, to=voxel)
    indices = coordinates(tmp_path / "voxel.csv")
    matrix = matrix_of(grid)
    world = indices @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(world, expected(transform), atol=1e-4)  # six decimals, header in float32
    map_points(tmp_path / "voxel.csv", tmp_path / "back.csv", transform.inverse(), voxel, Frame.named("ras"))
    np.testing.assert_allclose(coordinates(tmp_path / "back.csv"), POINTS, atol=2e-3)
    with pytest.raises(PatchMorphError, match="frame must be ras, lps or an image"):
        Frame.named("mni")


def test_gifti_keeps_its_triangles_and_loses_freesurfers_offset(tmp_path, transform):
    meta = gifti.GiftiMetaData({"VolGeomC_R": "2.0", "VolGeomC_A": "-3.0", "VolGeomC_S": "1.5"})
    arrays = [
        gifti.GiftiDataArray(POINTS.astype(np.float32), "NIFTI_INTENT_POINTSET", meta=meta),
        gifti.GiftiDataArray(np.array([[0, 1, 2]], np.int32), "NIFTI_INTENT_TRIANGLE"),
    ]
    nibabel.save(gifti.GiftiImage(darrays=arrays), tmp_path / "in.surf.gii")
    map_points(tmp_path / "in.surf.gii", tmp_path / "out.surf.gii", transform)
    points, triangles = nibabel.load(tmp_path / "out.surf.gii").darrays
    np.testing.assert_allclose(points.data, expected(transform, POINTS + np.array([2, -3, 1.5])), atol=1e-4)
    assert float(points.meta["VolGeomC_R"]) == 0
    np.testing.assert_array_equal(triangles.data, [[0, 1, 2]])


@pytest.mark.parametrize(
    ("ending", "reader", "writer"),
    [
        ("vtk", vtkPolyDataReader, vtkPolyDataWriter),
        ("vtp", vtkXMLPolyDataReader, vtkXMLPolyDataWriter),
        ("ply", vtkPLYReader, vtkPLYWriter),
    ],
)
def test_polygons_keep_their_faces(tmp_path, transform, ending, reader, writer):
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

    count, _ = map_points(source, tmp_path / f"out.{ending}", transform)
    before, after = read(source), read(tmp_path / f"out.{ending}")
    points = vtk_to_numpy(before.GetPoints().GetData())
    assert count == len(points) > 40
    found = vtk_to_numpy(after.GetPoints().GetData())
    np.testing.assert_allclose(found, expected(transform, points), atol=1e-4)
    assert after.GetNumberOfPolys() == before.GetNumberOfPolys() > 80
    assert after.GetPointData().GetNormals() is None


def test_a_surface_that_says_lps_is_taken_so(tmp_path, transform):
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
    np.testing.assert_allclose(found * FLIP, expected(transform), atol=1e-4)


def test_what_is_no_point_file_is_refused(tmp_path, transform):
    def refused(name, message, text=None, target="out.csv"):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(PatchMorphError, match=message):
            map_points(tmp_path / name, tmp_path / target, transform)
        (tmp_path / name).unlink(missing_ok=True)
        assert not list(tmp_path.iterdir())

    refused("a.csv", "points must be an existing file")
    refused("a.csv", "columns must be x,y,z, got x,y", "x,y\n1,2\n")
    refused("a.csv", "columns must have different names", "x,y,z,n,n\n1,2,3,4,5\n")
    refused("a.csv", "rows must be as long as the head, got more in line 2", "x,y,z\n1,2,3,4\n")
    refused("a.csv", "z must be a number, got 'far' in line 3", "x,y,z\n1,2,3\n1,2,far\n")
    refused("a.csv", "x must be a number, got 'nan' in line 2", "x,y,z\nnan,2,3\n")
    refused("a.txt", r"must be in a file that ends in \.csv, ", "")
    refused("a.csv", r"must be written as \.csv", "x,y,z\n1,2,3\n", "out.ply")
    refused("a.gii", "surface must be a GIFTI file", "no surface", "out.gii")


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
def test_a_ply_file_keeps_its_space(tmp_path, transform, space):
    """What 3D Slicer writes and reads: a comment in the head."""
    flip = FLIP if space == "LPS" else 1
    ply(tmp_path / "in.ply", [f"comment SPACE={space}"])
    map_points(tmp_path / "in.ply", tmp_path / "out.ply", transform)
    assert f"comment SPACE={space}\n".encode() in (tmp_path / "out.ply").read_bytes()[:300]
    found, surface = points_of(tmp_path / "out.ply", vtkPLYReader)
    np.testing.assert_allclose(found * flip, expected(transform, POINTS * flip), atol=1e-4)
    colours = vtk_to_numpy(surface.GetPointData().GetArray("RGB"))
    np.testing.assert_array_equal(colours[:, 1], [0, 20, 40])
    other = "ras" if space == "LPS" else "lps"
    map_points(tmp_path / "in.ply", tmp_path / "other.ply", transform, to=Frame.named(other))
    assert f"comment SPACE={other.upper()}\n".encode() in (tmp_path / "other.ply").read_bytes()[:300]
    np.testing.assert_allclose(points_of(tmp_path / "other.ply", vtkPLYReader)[0], found * FLIP, atol=1e-4)


@pytest.mark.parametrize("ending", ["vtk", "ply"])
def test_a_surface_without_a_space_is_ras_unless_a_frame_is_given(tmp_path, transform, ending):
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
        np.testing.assert_allclose(found * flip, expected(transform, POINTS * flip), atol=1e-4)


def test_a_given_frame_overrides_that_of_the_file(tmp_path, transform):
    ply(tmp_path / "in.ply", ["comment SPACE=LPS"])
    map_points(tmp_path / "in.ply", tmp_path / "out.ply", transform, Frame.named("ras"))
    found = points_of(tmp_path / "out.ply", vtkPLYReader)[0]
    np.testing.assert_allclose(found, expected(transform), atol=1e-4)
    assert b"SPACE=RAS" in (tmp_path / "out.ply").read_bytes()[:300]


def test_normals_of_points_and_of_faces_are_dropped(tmp_path, transform):
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
