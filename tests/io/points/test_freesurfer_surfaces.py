"""Surfaces of FreeSurfer, in GIFTI and in its own files; the truth is the MGH header of nibabel."""

import warnings

import nibabel
import numpy as np
import pytest
from nibabel import gifti
from nibabel.freesurfer.io import read_geometry, write_geometry
from nibabel.freesurfer.mghformat import MGHHeader
from synthetic import AFFINES, oblique

from patchmorph.errors import PatchMorphError
from patchmorph.io.points import Frame, map_points

POINTS = np.array([[1.5, 2, 3], [-10, 20, -5.25], [30, -12, 8]])
FACES = np.array([[0, 1, 2]], np.int32)
CENTER = np.array([2.0, -13, 21.5])
SCANNER, UNKNOWN, TALAIRACH = 1, 0, 3  # codes of NIfTI
AXES = AFFINES | {"anisotropic": np.eye(3), "oblique LIA": oblique(15) @ AFFINES["LIA"]}
TALAIRACH_MATRIX = np.array([[1.1, 0, 0.1, 3], [0, 0.9, 0, -4], [0, 0.2, 1, 5], [0, 0, 0, 1]])


@pytest.fixture(params=AXES)
def header(request) -> MGHHeader:
    """Of a volume whose sides and voxels differ, in some orientation."""
    header = MGHHeader()
    header.set_data_shape((176, 240, 256))
    header.set_zooms((1.2, 0.8, 1.1))
    header["Mdc"], header["Pxyz_c"] = AXES[request.param].T, CENTER
    return header


def surface_to_scanner(header) -> np.ndarray:
    return header.get_vox2ras() @ np.linalg.inv(header.get_vox2ras_tkr())


def stored(header) -> np.ndarray:
    """`POINTS` in surface RAS."""
    return nibabel.affines.apply_affine(np.linalg.inv(surface_to_scanner(header)), POINTS)


def geometry(header) -> dict[str, str]:
    """FreeSurfer's metadata of a volume."""
    values = dict(zip(("Width", "Height", "Depth"), map(str, header.get_data_shape()), strict=True))
    values |= dict(zip(("Xsize", "Ysize", "Zsize"), map(str, header.get_zooms()), strict=True))
    for name, vector in zip("XYZC", (*header["Mdc"], header["Pxyz_c"]), strict=True):
        values |= {f"{name}_{axis}": f"{value:.6f}" for axis, value in zip("RAS", vector, strict=True)}
    return {f"VolGeom{name}": value for name, value in values.items()} | {"VolGeomFname": "/mri/orig.mgz"}


def system(data=UNKNOWN, transformed=UNKNOWN, matrix=None) -> gifti.GiftiCoordSystem:
    return gifti.GiftiCoordSystem(data, transformed, np.eye(4) if matrix is None else matrix)


def write(path, points, meta=(), coordsys=None):
    array = gifti.GiftiDataArray(
        points.astype(np.float32),
        "NIFTI_INTENT_POINTSET",
        meta=gifti.GiftiMetaData(dict(meta)),
        coordsys=coordsys,
    )
    faces = gifti.GiftiDataArray(FACES, "NIFTI_INTENT_TRIANGLE")
    nibabel.save(gifti.GiftiImage(darrays=[array, faces]), path)
    return path


def scanner_points(path) -> np.ndarray:
    """An independent reader: by data space, geometry and matrix to scanner RAS, which must agree."""
    array, faces = nibabel.load(path).darrays
    np.testing.assert_array_equal(faces.data, FACES)
    if array.coordsys.dataspace == SCANNER:
        by_space = np.eye(4)
    else:
        by_space = array.coordsys.xform if array.coordsys.xformspace == SCANNER else None
    by_geometry = None
    if "VolGeomX_R" in array.meta:
        header = MGHHeader()
        header.set_data_shape([int(array.meta[f"VolGeom{side}"]) for side in ("Width", "Height", "Depth")])
        header.set_zooms([float(array.meta[f"VolGeom{axis}size"]) for axis in "XYZ"])
        header["Mdc"] = [[float(array.meta[f"VolGeom{name}_{axis}"]) for axis in "RAS"] for name in "XYZ"]
        header["Pxyz_c"] = [float(array.meta[f"VolGeomC_{axis}"]) for axis in "RAS"]
        by_geometry = surface_to_scanner(header)
    ways = [way for way in (by_space, by_geometry) if way is not None] or [np.eye(4)]
    places = [nibabel.affines.apply_affine(way, array.data) for way in ways]
    for place in places:  # whichever statement a reader honours
        np.testing.assert_allclose(place, places[0], atol=1e-4)
    return places[0]


STYLES = {"by 6.0": TALAIRACH, "by 7.4": SCANNER, "by nibabel": UNKNOWN}
"""What the matrix of a surface leads to."""


@pytest.mark.parametrize("style", STYLES)
def test_surface_ras_is_turned_and_shifted_by_the_geometry(tmp_path, transform, mapped, header, style):
    """Up to 94 mm off if only the centre is used."""
    matrix = {"by 6.0": TALAIRACH_MATRIX, "by 7.4": surface_to_scanner(header)}.get(style, np.eye(4))
    coordsys = system(UNKNOWN, STYLES[style], matrix)
    source = write(tmp_path / "in.surf.gii", stored(header), geometry(header), coordsys)
    done = map_points(source, tmp_path / "out.surf.gii", transform)
    assert str(done) == "3 points, frame: FreeSurfer's surface RAS (by its VolGeom); written as ras"
    np.testing.assert_allclose(scanner_points(tmp_path / "out.surf.gii"), mapped(POINTS), atol=1e-3)
    array = nibabel.load(tmp_path / "out.surf.gii").darrays[0]
    np.testing.assert_allclose(array.data, mapped(POINTS), atol=1e-3)  # for readers that honour nothing
    assert float(array.meta["VolGeomC_R"]) == 0
    assert array.meta["VolGeomFname"] == "unknown"  # the geometry is that of no volume any more
    assert array.meta["VolGeomWidth"] == "176"


def test_gifti_surfaces_in_scanner_ras_are_not_moved_again(tmp_path, transform, mapped, header):
    """mris_convert --to-scanner keeps the geometry; its matrix leads to surface RAS."""
    coordsys = system(SCANNER, UNKNOWN, np.linalg.inv(surface_to_scanner(header)))
    source = write(tmp_path / "in.surf.gii", POINTS, geometry(header), coordsys)
    done = map_points(source, tmp_path / "out.surf.gii", transform)
    assert str(done) == "3 points, frame: ras (by its data space, scanner)"
    np.testing.assert_allclose(scanner_points(tmp_path / "out.surf.gii"), mapped(POINTS), atol=1e-3)


def test_a_given_frame_overrules_the_geometry(tmp_path, transform, mapped, header):
    """Surfaces that FreeSurfer before 7.4 moved to scanner RAS do not state it."""
    source = write(tmp_path / "in.surf.gii", POINTS, geometry(header))
    map_points(source, tmp_path / "out.surf.gii", transform, Frame.named("ras"))
    np.testing.assert_allclose(scanner_points(tmp_path / "out.surf.gii"), mapped(POINTS), atol=1e-3)
    map_points(source, tmp_path / "lps.surf.gii", transform, Frame.named("ras"), Frame.named("lps"))
    np.testing.assert_allclose(scanner_points(tmp_path / "lps.surf.gii"), mapped(POINTS), atol=1e-3)
    array = nibabel.load(tmp_path / "lps.surf.gii").darrays[0]
    np.testing.assert_allclose(array.data * [-1, -1, 1], mapped(POINTS), atol=1e-3)


def test_a_centre_alone_is_an_offset(tmp_path, transform, mapped):
    meta = {"VolGeomC_R": "2.0", "VolGeomC_A": "-3.0", "VolGeomC_S": "1.5"}
    map_points(write(tmp_path / "in.surf.gii", POINTS, meta), tmp_path / "out.surf.gii", transform)
    array = nibabel.load(tmp_path / "out.surf.gii").darrays[0]
    np.testing.assert_allclose(array.data, mapped(POINTS + np.array([2, -3, 1.5])), atol=1e-4)
    assert [float(array.meta[f"VolGeomC_{axis}"]) for axis in "RAS"] == [0, 0, 0]


def test_a_geometry_that_contradicts_the_matrix_needs_a_frame(tmp_path, transform, mapped):
    header = MGHHeader()
    header.set_data_shape((256, 256, 256))
    header["Mdc"], header["Pxyz_c"] = np.eye(3), CENTER
    source = write(tmp_path / "in.gii", POINTS, geometry(header), system(UNKNOWN, SCANNER))
    with pytest.raises(PatchMorphError, match="VolGeom and the matrix to scanner RAS must agree"):
        map_points(source, tmp_path / "out.gii", transform)
    map_points(source, tmp_path / "out.gii", transform, Frame.named("ras"))
    np.testing.assert_allclose(scanner_points(tmp_path / "out.gii"), mapped(POINTS), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"VolGeomX_R": "0.5"}, "volume geometry must be orthogonal directions and a centre, got"),
        ({"VolGeomC_S": "nan"}, "volume geometry must be orthogonal directions and a centre, got"),
        ({"VolGeomY_A": "left"}, "VolGeom must be twelve numbers, got could not convert"),
        ({"VolGeomZ_S": None}, "VolGeom must be twelve numbers, got 'VolGeomZ_S'"),
        ({"VolGeomC_R": None}, "VolGeom must be twelve numbers, got 'VolGeomC_R'"),
    ],
)
def test_impossible_geometries_are_one_clear_line(tmp_path, transform, changes, message):
    header = MGHHeader()
    header.set_data_shape((256, 256, 256))
    meta = {key: value for key, value in (geometry(header) | changes).items() if value is not None}
    source = write(tmp_path / "in.gii", POINTS, meta)
    with pytest.raises(PatchMorphError, match=message) as error:
        map_points(source, tmp_path / "out.gii", transform)
    assert "\n" not in str(error.value)


def binary(path, header, points, head=(2, 0, 20), valid="1  # volume info valid"):
    """As FreeSurfer writes: triangles, and tags with the volume."""
    info = {
        "head": list(head),
        "valid": valid,
        "filename": "/mri/filled-pretess255.mgz",
        "volume": header.get_data_shape(),
        "voxelsize": header.get_zooms(),
        **dict(zip(("xras", "yras", "zras"), header["Mdc"], strict=True)),
        "cras": header["Pxyz_c"],
    }
    with warnings.catch_warnings():  # of coordinates in scanner RAS nibabel has not heard
        warnings.simplefilter("ignore")
        write_geometry(path, points, FACES, "created by hand", info)
    with path.open("ab") as file:  # TAG_CMDLINE follows
        file.write(b"\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x0bmris_smooth\x00")
    return path


def test_binary_surfaces_keep_their_faces_and_tags(tmp_path, transform, mapped, header):
    source = binary(tmp_path / "lh.white", header, stored(header))
    done = map_points(source, tmp_path / "lh.white.moving", transform)
    assert str(done) == ("3 points, frame: FreeSurfer's surface RAS (by its volume geometry); written as ras")
    points, faces, info = read_geometry(tmp_path / "lh.white.moving", read_metadata=True)
    np.testing.assert_array_equal(faces, FACES)
    np.testing.assert_allclose(points, mapped(POINTS), atol=1e-3)
    found = MGHHeader()
    found.set_data_shape(info["volume"])
    found.set_zooms(info["voxelsize"])
    found["Mdc"], found["Pxyz_c"] = [info["xras"], info["yras"], info["zras"]], info["cras"]
    np.testing.assert_allclose(surface_to_scanner(found), np.eye(4), atol=1e-5)
    assert info["filename"] == "unknown"
    assert (tmp_path / "lh.white.moving").read_bytes().endswith(b"mris_smooth\x00")


def test_binary_surfaces_in_scanner_ras_are_not_moved_again(tmp_path, transform, mapped, header):
    """The tag useRealRAS is 1."""
    source = binary(tmp_path / "rh.pial", header, POINTS, head=(2, 1, 20))
    done = map_points(source, tmp_path / "rh.out", transform)
    assert str(done) == "3 points, frame: ras (by its tag of scanner coordinates)"
    np.testing.assert_allclose(read_geometry(tmp_path / "rh.out")[0], mapped(POINTS), atol=1e-3)


def test_binary_surfaces_without_a_geometry_need_a_frame(tmp_path, transform, mapped):
    header = MGHHeader()
    header.set_data_shape((256, 256, 256))
    write_geometry(tmp_path / "lh.white", POINTS, FACES, "created by hand")
    binary(tmp_path / "lh.invalid", header, POINTS, valid="0  # volume info invalid")
    for name in ("lh.white", "lh.invalid"):
        with pytest.raises(PatchMorphError, match=r"must have the geometry of its volume \(else --frame\)"):
            map_points(tmp_path / name, tmp_path / "lh.out", transform)
        map_points(tmp_path / name, tmp_path / "lh.out", transform, Frame.named("ras"))
        np.testing.assert_allclose(read_geometry(tmp_path / "lh.out")[0], mapped(POINTS), atol=1e-3)
    with pytest.raises(PatchMorphError, match=r"must be ras \(--output-frame ras\), got lps"):
        map_points(tmp_path / "lh.white", tmp_path / "lh.out", transform, Frame.named("lps"))


@pytest.mark.parametrize("magic", [b"\xff\xff\xff", b"\xff\xff\xfd"])
def test_surfaces_of_quadrangles_name_the_tool_that_converts_them(tmp_path, transform, magic):
    (tmp_path / "lh.orig").write_bytes(magic + bytes(100))
    with pytest.raises(PatchMorphError, match=r"surface must be of triangles .*mris_convert"):
        map_points(tmp_path / "lh.orig", tmp_path / "lh.out", transform)


@pytest.mark.parametrize("size", [3, 15, 30, 60, 70])
def test_truncated_binary_surfaces_are_one_clear_line(tmp_path, transform, size):
    write_geometry(tmp_path / "lh.white", POINTS, FACES, "created by hand")
    raw = (tmp_path / "lh.white").read_bytes()
    (tmp_path / "lh.white").write_bytes(raw[:size])
    with pytest.raises(PatchMorphError, match="surface must be whole, got"):
        map_points(tmp_path / "lh.white", tmp_path / "lh.out", transform)


def test_a_surface_that_is_not_mapped_as_a_whole_is_refused(tmp_path, nowhere):
    write_geometry(tmp_path / "lh.white", POINTS, FACES, "created by hand")
    with pytest.raises(
        PatchMorphError, match="surface must lie where points are mapped, got 1 that are not in"
    ):
        map_points(tmp_path / "lh.white", tmp_path / "lh.out", nowhere, Frame.named("ras"))
