"""Fiducials and markups as 3D Slicer saves them: the head states the frame, and all other content is kept."""

import json

import numpy as np
import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.points import Frame, map_points

FLIP = np.array([-1, -1, 1])
POINTS = np.array([[1.5, 2, 3], [-10, 20, -5.25], [30, -12, 8]])
COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
LABELS = ["F-1", '"left, front"', "F-3"]


def fcsv(path, system, points=POINTS, version="4.11", columns=COLUMNS, newline="\n"):
    """Of version 5 the last two columns are an observed node's."""
    head = [f"# Markups fiducial file version = {version}", f"# CoordinateSystem = {system}", columns]
    head = [line for line in head if not line.endswith("= None")]
    rows = [
        f"vtkMRMLMarkupsFiducialNode_{k},{x},{y},{z},0,0,0,1,1,1,0,{label},,,2,0"
        for k, ((x, y, z), label) in enumerate(zip(points.tolist(), LABELS, strict=True))
    ]
    path.write_bytes((newline.join([*head, *rows]) + newline).encode())
    return path


def read_fcsv(path):
    """Head, coordinates, and the text of each row after them."""
    lines = path.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    rows = [line.split(",", 4) for line in lines[len(head) :]]
    return head, np.array([[float(cell) for cell in row[1:4]] for row in rows]), [row[4] for row in rows]


@pytest.mark.parametrize(("system", "flip"), [("LPS", FLIP), ("RAS", 1), ("0", 1), ("1", FLIP)])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_fiducials_keep_their_system(tmp_path, transform, mapped, system, flip, newline):
    """Numbers are of versions before 4.11: 0 is RAS, 1 is LPS."""
    source = fcsv(tmp_path / "in.fcsv", system, POINTS * flip, newline=newline)
    done = map_points(source, tmp_path / "out.fcsv", transform)
    name = "ras" if np.ndim(flip) == 0 else "lps"
    assert str(done) == f"3 points, frame: {name} (by its CoordinateSystem = {system})"
    head, points, rest = read_fcsv(tmp_path / "out.fcsv")
    assert (head, rest) == (read_fcsv(source)[0], read_fcsv(source)[2])
    np.testing.assert_allclose(points * flip, mapped(POINTS), atol=1e-5)
    assert (tmp_path / "out.fcsv").read_bytes().count(b"\r\n") == (6 if newline == "\r\n" else 0)


def test_columns_of_fiducials_are_found_by_name(tmp_path, transform, mapped):
    rows = [f"{name},1,{z},{y},{x}" for name, (x, y, z) in zip("abc", POINTS.tolist(), strict=True)]
    head = ["# Markups fiducial file version = 4.6", "# CoordinateSystem = 0", "# columns = label,sel,z,y,x"]
    (tmp_path / "in.fcsv").write_text("\n".join([*head, *rows]))
    map_points(tmp_path / "in.fcsv", tmp_path / "out.fcsv", transform)
    lines = (tmp_path / "out.fcsv").read_text().splitlines()[3:]
    found = np.array([[float(cell) for cell in line.split(",")[:1:-1]] for line in lines])
    np.testing.assert_allclose(found, mapped(POINTS), atol=1e-5)


@pytest.mark.parametrize("system", ["2", "IJK", "None", "LAS"])
def test_fiducials_that_do_not_state_ras_or_lps_need_a_frame(tmp_path, transform, mapped, system):
    source = fcsv(tmp_path / "in.fcsv", system, POINTS * FLIP)
    with pytest.raises(
        PatchMorphError, match=r"fiducials must be RAS or LPS \(else --frame\), got Coordinate"
    ):
        map_points(source, tmp_path / "out.fcsv", transform)
    map_points(source, tmp_path / "out.fcsv", transform, Frame.named("lps"))
    head, points, _ = read_fcsv(tmp_path / "out.fcsv")
    assert head[1] == "# CoordinateSystem = LPS"
    np.testing.assert_allclose(points * FLIP, mapped(POINTS), atol=1e-5)


def test_the_system_of_fiducials_changes_with_the_frame(tmp_path, transform, mapped):
    for system, to in (("LPS", "ras"), ("0", "lps"), ("RAS", "lps")):
        flip = FLIP if system == "LPS" else 1
        source = fcsv(tmp_path / "in.fcsv", system, POINTS * flip)
        map_points(source, tmp_path / "out.fcsv", transform, to=Frame.named(to))
        head, points, _ = read_fcsv(tmp_path / "out.fcsv")
        assert head[1] == f"# CoordinateSystem = {to.upper()}"
        np.testing.assert_allclose(points * FLIP * flip, mapped(POINTS), atol=1e-5)


def markups(path, system="LPS", points=POINTS, kind="Curve", **more):
    orientation = [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0]
    controls = [
        {
            "id": str(k),
            "label": f"é-{k}\ud800",
            "position": position,
            "orientation": orientation,
            "selected": True,
            "positionStatus": "defined",
        }
        for k, position in enumerate(points.tolist())
    ]
    undefined = {"id": "9", "position": "", "orientation": orientation, "positionStatus": "undefined"}
    markup = {
        "type": kind,
        "coordinateSystem": system,
        "coordinateUnits": "mm",
        "controlPoints": [*controls, undefined],
        "measurements": [{"name": "length", "enabled": False, "value": 12.5, "units": "mm"}],
        "display": {"color": [0.4, 1.0, 1.0]},
    } | more
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/markups-schema-v1.0.3.json#"
    markup = {key: value for key, value in markup.items() if value is not None}
    path.write_text(json.dumps({"@schema": schema, "markups": [markup]}, indent=4), encoding="utf-8")
    return path


def read_markups(path):
    """Content without positions, and the defined positions."""
    content = json.loads(path.read_text(encoding="utf-8"))
    positions = [point.pop("position") for point in content["markups"][0]["controlPoints"]]
    return content, np.array([position for position in positions if position != ""])


@pytest.mark.parametrize(("system", "flip"), [("LPS", FLIP), ("RAS", 1)])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("in.mrk.json", "Fiducial"), ("in.json", "Line"), ("in.mrk.json", "ClosedCurve"), ("in.json", "Angle")],
)
def test_markups_keep_their_system_and_all_other_content(
    tmp_path, transform, mapped, system, flip, name, kind
):
    source = markups(tmp_path / name, system, POINTS * flip, kind)
    done = map_points(source, tmp_path / "out.mrk.json", transform)
    assert str(done) == f"3 points, frame: {system.lower()} (by its coordinateSystem {system})"
    content, positions = read_markups(tmp_path / "out.mrk.json")
    assert content == read_markups(source)[0]
    np.testing.assert_allclose(positions * flip, mapped(POINTS), atol=1e-5)


@pytest.mark.parametrize("unit", ["um", ["um", "UCUM", "micrometer"], None, ["mm", "UCUM", "millimeter"]])
def test_units_of_markups_are_mm_and_micron(tmp_path, transform, mapped, unit):
    scale = 1000 if unit is not None and "um" in unit else 1
    source = markups(tmp_path / "in.mrk.json", "LPS", POINTS * FLIP * scale, coordinateUnits=unit)
    map_points(source, tmp_path / "out.mrk.json", transform)
    content, positions = read_markups(tmp_path / "out.mrk.json")
    assert content["markups"][0].get("coordinateUnits") == unit
    np.testing.assert_allclose(positions * FLIP / scale, mapped(POINTS), atol=1e-4)
    map_points(source, tmp_path / "ras.mrk.json", transform, to=Frame.named("ras"))
    content, positions = read_markups(tmp_path / "ras.mrk.json")
    assert content["markups"][0]["coordinateUnits"] == "mm"
    np.testing.assert_allclose(positions, mapped(POINTS), atol=1e-4)


def test_the_system_of_markups_changes_with_the_frame_and_orientations_turn(tmp_path, transform, mapped):
    source = markups(tmp_path / "in.json", points=POINTS * FLIP)
    map_points(source, tmp_path / "out.json", transform, to=Frame.named("ras"))
    content, positions = read_markups(tmp_path / "out.json")
    assert content["markups"][0]["coordinateSystem"] == "RAS"
    np.testing.assert_allclose(positions, mapped(POINTS), atol=1e-5)
    for point in content["markups"][0]["controlPoints"]:
        np.testing.assert_array_equal(np.reshape(point["orientation"], (3, 3)), np.eye(3))
    map_points(source, tmp_path / "given.json", transform, Frame.named("ras"))
    assert read_markups(tmp_path / "given.json")[0]["markups"][0]["coordinateSystem"] == "RAS"


def test_markups_that_state_no_system_are_lps(tmp_path, transform, mapped):
    """The default of the schema."""
    source = markups(tmp_path / "in.json", None, POINTS * FLIP)
    map_points(source, tmp_path / "out.json", transform)
    np.testing.assert_allclose(read_markups(tmp_path / "out.json")[1] * FLIP, mapped(POINTS), atol=1e-5)


@pytest.mark.parametrize("status", ["undefined", "preview", "missing"])
def test_positions_that_are_not_defined_stay(tmp_path, transform, mapped, status):
    source = markups(tmp_path / "in.json", "RAS")
    content = json.loads(source.read_text())
    content["markups"][0]["controlPoints"][1]["positionStatus"] = status
    source.write_text(json.dumps(content))
    assert map_points(source, tmp_path / "out.json", transform).count == 2
    positions = read_markups(tmp_path / "out.json")[1]
    np.testing.assert_array_equal(positions[1], POINTS[1])
    np.testing.assert_allclose(positions[[0, 2]], mapped(POINTS)[[0, 2]], atol=1e-5)


def test_positions_without_a_place_are_missing(tmp_path, nowhere):
    """JSON has no NaN; 3D Slicer writes such points so."""
    done = map_points(markups(tmp_path / "in.json", "RAS"), tmp_path / "out.json", nowhere)
    assert done.unmapped == 1
    points = json.loads((tmp_path / "out.json").read_text())["markups"][0]["controlPoints"]
    assert [point["positionStatus"] for point in points] == ["defined", "missing", "defined", "undefined"]
    assert points[1]["position"] == ""
    map_points(fcsv(tmp_path / "in.fcsv", "RAS"), tmp_path / "out.fcsv", nowhere)
    assert np.isnan(read_fcsv(tmp_path / "out.fcsv")[1]).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("ending", ["fcsv", "mrk.json"])
def test_voxels_are_no_frame_of_3d_slicer(tmp_path, transform, ending):
    source = tmp_path / f"in.{ending}"
    (fcsv if ending == "fcsv" else markups)(source, "RAS")
    voxels = Frame(np.diag([2.0, 2, 2, 1]), "voxels of a.nii")
    with pytest.raises(PatchMorphError, match=r"must be ras or lps \(--output-frame\), got voxels of a.nii"):
        map_points(source, tmp_path / f"out.{ending}", transform, voxels)
    map_points(source, tmp_path / f"out.{ending}", transform, voxels, Frame.named("lps"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "points must have rows, got none"),
        ("# CoordinateSystem = LPS\n", "points must have rows, got none"),
        ("# CoordinateSystem = LPS\na,1,2\n", "must have three coordinates, got 3 cells in line 2"),
        ("# CoordinateSystem = LPS\na,1,2,far\n", "z must be a number, got 'far' in line 2"),
        ("# CoordinateSystem = LPS\na,1,nan,2\n", "y must be a number, got 'nan' in line 2"),
        ("# CoordinateSystem = LPS\na,1,,2\n", "y must be a number, got '' in line 2"),
    ],
)
def test_broken_fiducials_are_one_clear_line(tmp_path, transform, text, message):
    (tmp_path / "a.fcsv").write_text(text)
    with pytest.raises(PatchMorphError, match=message):
        map_points(tmp_path / "a.fcsv", tmp_path / "out.fcsv", transform)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "Plane"},
            r"must be markups of 3D Slicer, got .*markups\.0\.type: Input should be 'Fiducial'",
        ),
        ({"kind": "ROI"}, r"markups\.0\.type: Input should be"),
        ({"system": "IJK"}, r"markups\.0\.coordinateSystem: Input should be 'LPS' or 'RAS'"),
        ({"coordinateUnits": "inch"}, r"markups\.0\.coordinateUnits: Input should be 'mm' or 'um'"),
        ({"controlPoints": [{"position": [1, 2]}]}, r"controlPoints\.0\.position"),
        ({"controlPoints": [{"position": [1, 2, "far"]}]}, r"controlPoints\.0\.position"),
        ({"controlPoints": [{"position": [1, 2, float("nan")]}]}, r"controlPoints\.0\.position.*finite"),
        ({"controlPoints": [{"position": ""}]}, "points must have positions, got none"),
        ({"controlPoints": []}, "points must have positions, got none"),
        ({"controlPoints": None}, r"markups\.0\.controlPoints: Field required"),
    ],
)
def test_markups_that_cannot_be_mapped_are_one_clear_line(tmp_path, transform, changes, message):
    markups(tmp_path / "a.json", **changes)
    with pytest.raises(PatchMorphError, match=message) as error:
        map_points(tmp_path / "a.json", tmp_path / "out.json", transform)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "points must be JSON"),
        ("", "points must be JSON"),
        ("[" * 100_000, "points must be JSON"),
        ("[]", "must be markups of 3D Slicer"),
        ('{"markups": []}', "must be markups of 3D Slicer"),
        ('{"Sidecar": 1}', "markups: Field required"),
    ],
)
def test_json_that_holds_no_markups_is_one_clear_line(tmp_path, transform, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PatchMorphError, match=message):
        map_points(tmp_path / "a.json", tmp_path / "out.json", transform)


def test_markups_of_two_frames_in_one_file_are_refused(tmp_path, transform):
    source = markups(tmp_path / "a.json")
    content = json.loads(source.read_text())
    content["markups"].append(content["markups"][0] | {"coordinateSystem": "RAS"})
    source.write_text(json.dumps(content))
    with pytest.raises(PatchMorphError, match="markups of one file must share their frame"):
        map_points(source, tmp_path / "out.json", transform)
