"""Deformation fields as each tool stores them, over grids of every orientation: all are one map."""

import nibabel
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, oblique

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import LPS, GridPair, matrix_of
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.transforms.fsl import world_to_fsl
from patchmorph.transforms.gaps import missing_voxels

PAIRS = [("RAS", "LIA"), ("LAS", "oblique"), ("oblique", "LAS"), ("LIA", "RAS")]
LINEAR = oblique(12) @ np.diag([1.1, 0.9, 1.05])
DISPLACEMENT, VECTOR, FNIRT = 1006, 1007, 2006


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request) -> GridPair:
    fixed, moving = (AFFINES[name] for name in request.param)
    return GridPair(
        grid_around((9, 10, 11), fixed * 12, (4.0, -2, 1)), grid_around((8, 12, 9), moving * 13, (9.0, 3, -5))
    )


@pytest.fixture
def one_grid() -> GridPair:
    grid = grid_around((9, 10, 11), AFFINES["LIA"] * 12, (4.0, -2, 1))
    return GridPair(grid, grid)


def mapped(points: np.ndarray) -> np.ndarray:
    """Turned, scaled, bent and shifted: fixed → moving world, RAS+ mm."""
    return points @ LINEAR.T + 4 * np.sin(points[..., ::-1] / 25) + np.array([10.0, -6, 4])


def at(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def ends(pair: GridPair) -> tuple[np.ndarray, np.ndarray]:
    """The fixed voxels and where they go, RAS+ mm."""
    points = at(matrix_of(pair.fixed), pair.fixed.points_voxel()[0].double().numpy())
    return points, mapped(points)


def numbers(pair: GridPair, axes: str, kind: str) -> np.ndarray:
    """What a tool stores, by the description of its format."""
    start, end = ends(pair)
    to_file = {
        "ras": (np.eye(4), np.eye(4)),
        "lps": (LPS, LPS),
        "fsl": (world_to_fsl(pair.fixed), world_to_fsl(pair.moving)),
        "voxel": (np.linalg.inv(matrix_of(pair.fixed)),) * 2,
    }[axes]
    start, end = at(to_file[0], start), at(to_file[1], end)
    return end if kind == "positions" else end - start


def write(path, values, pair, code=0, name="", p1=0.0, five=False, descrip=""):
    image = nibabel.Nifti1Image(
        (values[:, :, :, None] if five else values).astype(np.float32), matrix_of(pair.fixed)
    )
    header = image.header
    header["intent_code"], header["intent_name"], header["intent_p1"] = code, name, p1
    header["descrip"] = descrip
    nibabel.save(image, path)
    return path


def assert_is_the_map(transform, pair):
    start, end = ends(pair)
    found = transform(torch.from_numpy(start).float()[None])[0].numpy()
    np.testing.assert_allclose(found, end, atol=2e-3)  # float32, coordinates up to 100 mm


ITK = {"code": VECTOR, "five": True}
SPM = ITK | {"name": "Mapping"}
NIFTYREG = ITK | {"name": "NREG_TRANS"}
STATED = {
    "ITK": (("lps", "displacement"), ITK),
    "SPM": (("ras", "positions"), SPM),
    "NiftyReg -def": (("ras", "positions"), NIFTYREG),
    "NiftyReg -disp": (
        ("ras", "displacement"),
        NIFTYREG | {"p1": 1},
    ),
    "FNIRT": (("fsl", "displacement"), {"code": FNIRT}),
    "FNIRT --abs": (("fsl", "positions"), {"code": FNIRT}),
    "intent 1006": (("ras", "displacement"), {"code": DISPLACEMENT, "five": True}),
    "intent 1006 of four axes": (("ras", "displacement"), {"code": DISPLACEMENT}),
    "MRtrix": (("ras", "positions"), {"descrip": "MRtrix version: 3.0.4"}),
}
SILENT = {
    "mrtrix": ("ras", "positions"),
    "mrtrix displacement": ("ras", "displacement"),
    "spm": ("ras", "positions"),
    "ras": ("ras", "displacement"),
    "dipy": ("ras", "displacement"),
    "niftyreg": ("ras", "displacement"),
    "niftyreg positions": ("ras", "positions"),
    "itk": ("lps", "displacement"),
    "ants": ("lps", "displacement"),
    "greedy": ("lps", "displacement"),
    "fsl": ("fsl", "displacement"),
    "fsl positions": ("fsl", "positions"),
    "voxelmorph": ("voxel", "displacement"),
}


@pytest.mark.parametrize("tool", STATED)
def test_a_header_that_states_the_convention_is_enough(tmp_path, pair, tool):
    content, header = STATED[tool]
    path = write(tmp_path / "field.nii.gz", numbers(pair, *content), pair, **header)
    assert_is_the_map(load_transform(path, pair=pair), pair)


@pytest.mark.parametrize("tool", SILENT)
@pytest.mark.parametrize("five", [False, True])
def test_a_field_without_a_statement_needs_a_name(tmp_path, pair, tool, five):
    path = write(tmp_path / "field.nii", numbers(pair, *SILENT[tool]), pair, five=five)
    with pytest.raises(
        PatchMorphError, match=r"format of a field must be named \(--from\).* got none in"
    ) as error:
        load_transform(path, pair=pair)
    for choice in (
        "itk or ants",
        "fsl",
        "niftyreg",
        "mrtrix",
        "spm",
        "voxelmorph",
        "ras or dipy",
        "afni",
        "greedy or c3d",
    ):
        assert f"{choice} (" in str(error.value)
    assert_is_the_map(load_transform(path, tool.split()[0], pair), pair)


@pytest.mark.parametrize("change", ["scaled", "big-endian", "double"])
def test_numbers_are_read_whatever_their_type(tmp_path, pair, change):
    values = numbers(pair, "lps", "displacement")[:, :, :, None]
    header = nibabel.Nifti1Header(endianness=">" if change == "big-endian" else "<")
    image = nibabel.Nifti1Image(values, matrix_of(pair.fixed), header)
    image.header["intent_code"] = VECTOR
    image.set_data_dtype({"scaled": np.int16, "big-endian": np.float32, "double": np.float64}[change])
    nibabel.save(image, tmp_path / "field.nii.gz")
    start, end = ends(pair)
    found = load_transform(tmp_path / "field.nii.gz")(torch.from_numpy(start).float()[None])[0].numpy()
    np.testing.assert_allclose(found, end, atol=5e-3)  # int16 steps of 0.002 mm


CONTRADICTIONS = [
    ("lps", "positions", ITK, None, "must hold displacements, got positions"),
    ("ras", "positions", ITK, None, "must hold displacements, got positions"),
    ("fsl", "positions", ITK, None, "must hold displacements, got positions"),
    ("ras", "positions", {"code": DISPLACEMENT}, None, "must hold displacements, got positions"),
    ("ras", "positions", {}, "voxelmorph", "must hold displacements, got positions"),
    ("ras", "positions", {}, "dipy", "must hold displacements, got positions"),
    (
        "ras",
        "displacement",
        SPM,
        None,
        "must hold positions, got displacements",
    ),
    (
        "ras",
        "displacement",
        NIFTYREG,
        None,
        "must hold positions, got displacements",
    ),
    ("voxel", "displacement", {}, "spm", "must hold positions, got displacements"),
    ("fsl", "positions", {}, "spm", "must hold positions along its axes, got mirrored ones"),
    (
        "ras",
        "displacement",
        {"code": FNIRT},
        "ras",
        "format must be fsl, as the header states, got --from ras",
    ),
    (
        "ras",
        "positions",
        SPM,
        "itk",
        "format must be spm, as the header",
    ),
    ("ras", "positions", {}, "fsl", "must hold positions or displacements of a map .* got neither"),
]


@pytest.mark.parametrize(("axes", "kind", "header", "tool", "message"), CONTRADICTIONS)
def test_numbers_that_contradict_the_convention_are_refused(
    tmp_path, one_grid, axes, kind, header, tool, message
):
    path = write(tmp_path / "field.nii.gz", numbers(one_grid, axes, kind), one_grid, **header)
    with pytest.raises(PatchMorphError, match=f"{message}.*field.nii.gz"):
        load_transform(path, tool, one_grid)


@pytest.mark.parametrize(("tool", "axes"), [("spm", "ras"), ("mrtrix", "ras"), ("fsl positions", "fsl")])
def test_positions_in_another_unit_are_refused(tmp_path, one_grid, tool, axes):
    path = write(tmp_path / "field.nii.gz", 1000 * numbers(one_grid, axes, "positions"), one_grid)
    with pytest.raises(
        PatchMorphError, match=r"must scale by at most 30 \(another unit\?\), got 1\.\d+e\+03"
    ):
        load_transform(path, tool.split()[0], one_grid)


@pytest.mark.parametrize("name", ["unknown", "NREG_TRANS?"])
def test_other_intent_names_state_nothing_or_no_field(tmp_path, one_grid, name):
    values = numbers(one_grid, "lps", "displacement")
    path = write(tmp_path / "field.nii.gz", values, one_grid, code=VECTOR, name=name, five=True)
    with pytest.raises(PatchMorphError, match="must be named" if name == "unknown" else "got NREG_TRANS?"):
        load_transform(path)


@pytest.mark.parametrize("code", [2007, 2008, 2009, 2016, 2018])
@pytest.mark.parametrize("tool", [None, "fsl"])
def test_coefficients_of_fsl_are_refused_by_name(tmp_path, one_grid, code, tool):
    path = write(tmp_path / "field.nii.gz", numbers(one_grid, "fsl", "displacement"), one_grid, code=code)
    with pytest.raises(PatchMorphError, match=rf"\(fnirtfileutils makes one\), got intent {code}"):
        load_transform(path, tool, one_grid)


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 17])
def test_grids_of_niftyreg_are_refused_by_name(tmp_path, one_grid, number):
    values = numbers(one_grid, "ras", "positions")
    path = write(
        tmp_path / "x.nii.gz", values, one_grid, code=VECTOR, name="NREG_TRANS", p1=number, five=True
    )
    got = {
        2: "a cubic B-spline",
        3: "a velocity field",
        4: "a velocity field",
        5: "a velocity grid",
        6: "a linear B",
    }
    with pytest.raises(PatchMorphError, match=f"got {got.get(number, 'NREG_TRANS')}"):
        load_transform(path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 6, 7), r"must have shape \(x, y, z, 3\), got \(5, 6, 7\)"),
        ((5, 6, 7, 2), r"must have shape \(x, y, z, 3\), got \(5, 6, 7, 2\)"),
        ((5, 6, 7, 1, 2), r"must have shape \(x, y, z, 3\), got \(5, 6, 7, 1, 2\)"),
        ((5, 6, 7, 3, 4), "got MRtrix's full warp"),
        ((5, 6, 7, 3, 2), "got DIPY's mapping"),
    ],
)
def test_other_shapes_are_refused(tmp_path, shape, message):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "field.nii")
    for tool in (None, "ras"):
        with pytest.raises(PatchMorphError, match=message):
            load_transform(tmp_path / "field.nii", tool)


def test_an_afni_field_is_known_by_its_extension(tmp_path, one_grid):
    """AFNI writes five axes without an intent (``thd_niftiwrite.c``), in DICOM's order: LPS+ mm."""
    values = numbers(one_grid, "lps", "displacement")[:, :, :, None].astype(np.float32)
    image = nibabel.Nifti1Image(values, matrix_of(one_grid.fixed))
    image.header.extensions.append(
        nibabel.nifti1.Nifti1Extension("afni", b"<AFNI_attributes></AFNI_attributes>")
    )
    nibabel.save(image, tmp_path / "warp.nii.gz")
    assert_is_the_map(load_transform(tmp_path / "warp.nii.gz"), one_grid)
    image.set_sform(matrix_of(grid_around((9, 10, 11), AFFINES["oblique"] * 12)))
    nibabel.save(image, tmp_path / "oblique.nii.gz")
    with pytest.raises(PatchMorphError, match="must be between images that are not oblique"):
        load_transform(tmp_path / "oblique.nii.gz")


def holes(values: np.ndarray, mark: float) -> np.ndarray:
    marked = values.copy()
    marked[2:4, 3, 5] = mark
    marked[6, 6, 6, 1] = mark  # one component is enough
    return marked


@pytest.mark.parametrize("tool", ["itk", "spm", "mrtrix", "fsl", "voxelmorph"])
def test_nan_marks_voxels_that_are_not_mapped(tmp_path, one_grid, tool):
    path = write(tmp_path / "field.nii.gz", holes(numbers(one_grid, *SILENT[tool]), np.nan), one_grid)
    transform = load_transform(path, tool, one_grid)
    assert missing_voxels(transform) == 3
    start, end = ends(one_grid)
    found = transform(torch.from_numpy(start).float()[None])[0].numpy()
    missing = np.isnan(holes(start, np.nan)).any(-1)
    assert np.isnan(found[missing]).all()
    np.testing.assert_allclose(found[~missing], end[~missing], atol=2e-3)  # neighbours too


@pytest.mark.parametrize(
    ("tool", "count"), [("mrtrix", 4), ("spm", 4), ("fsl positions", 4), ("ras", 0), ("itk", 0)]
)
def test_zeros_mark_what_is_not_mapped_among_positions_only(tmp_path, one_grid, tool, count):
    values = numbers(one_grid, *SILENT[tool])
    values[:2, :2, 0] = 0
    path = write(tmp_path / "field.nii.gz", values, one_grid)
    assert missing_voxels(load_transform(path, tool.split()[0], one_grid)) == count


def test_one_voxel_may_go_to_the_origin(tmp_path, one_grid):
    values = numbers(one_grid, "ras", "positions")
    values[4, 4, 4] = 0
    path = write(tmp_path / "field.nii.gz", values, one_grid)
    assert missing_voxels(load_transform(path, "mrtrix")) == 0


@pytest.mark.parametrize("tool", ["itk", "spm", "mrtrix", "fsl", "ras"])
@pytest.mark.parametrize("ending", [".nii.gz", ".safetensors"])
def test_gaps_are_kept_in_files_that_can_mark_them(tmp_path, one_grid, tool, ending):
    path = write(tmp_path / "in.nii.gz", holes(numbers(one_grid, *SILENT[tool]), np.nan), one_grid)
    transform = load_transform(path, tool, one_grid)
    form = save_transform(transform, tmp_path / f"out{ending}", pair=one_grid)
    again = load_transform(tmp_path / f"out{ending}", form.tool, one_grid)
    points = one_grid.fixed.points_world()
    torch.testing.assert_close(again(points), transform(points), atol=2e-3, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["x.h5", "x.mgz", "x.x5", "x.zarr"])
def test_gaps_are_not_written_where_they_would_be_lost(tmp_path, one_grid, name):
    path = write(tmp_path / "in.nii.gz", holes(numbers(one_grid, "ras", "positions"), np.nan), one_grid)
    transform = load_transform(path, "mrtrix")
    with pytest.raises(
        PatchMorphError, match=r"must be written to \.safetensors, \.nii\.gz, \.nii, got 3 such voxels"
    ):
        save_transform(transform, tmp_path / name, pair=one_grid)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("growth", [0.0, 0.05, -0.05])
@pytest.mark.parametrize("tool", ["spm", "niftyreg"])
def test_displacements_of_an_even_growth_are_no_positions(tmp_path, one_grid, growth, tool):
    """NiftyReg's may be either, where its header does not say."""
    values = ends(one_grid)[0] * growth + np.array([10.0, -6, 4])
    path = write(tmp_path / "field.nii.gz", values, one_grid)
    if tool == "spm":
        with pytest.raises(PatchMorphError, match="must hold positions, got displacements"):
            load_transform(path, tool)
    else:
        start = one_grid.fixed.points_world()
        found = load_transform(path, tool)(start)[0].numpy()
        np.testing.assert_allclose(found, ends(one_grid)[0] + values, atol=1e-3)
