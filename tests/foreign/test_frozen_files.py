"""Transforms that other tools wrote (``data/README.md``) resample an image as these tools did."""

from pathlib import Path

import numpy as np
import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.base import compose
from patchmorph.transforms.gaps import missing_voxels
from patchmorph.transforms.resample import resample

DATA = Path(__file__).parent / "data"
RIM = 2
"""Voxels at the faces, where tools differ in what lies beyond an image."""
TOLERANCE = 0.5
"""Of intensities up to 1600: headers and coordinates are float32."""
STATED = [
    ("greedy_warped", ["greedy_warp.nii.gz", "greedy.mat"], ["itk", "greedy"]),
    ("niftyreg_warped", ["niftyreg_def.nii.gz"], [None]),
    ("niftyreg_warped", ["niftyreg_disp.nii.gz"], [None]),
    ("mrtrix_affine_warped", ["mrtrix.txt"], [None]),
    ("mrtrix_warped", ["mrtrix_warp.nii.gz"], [None]),
    ("ants_warped", ["ants_1Warp.nii.gz", "ants_0GenericAffine.mat"], [None, None]),
    ("surfa_warped", ["surfa.nii.gz"], [None]),
]
NAMED = [
    ("greedy_affine_warped", "greedy.mat", "greedy"),
    ("greedy_affine_warped", "greedy.mat", "c3d"),
    ("niftyreg_affine_warped", "niftyreg.txt", "niftyreg"),
    ("mrtrix_warped", "mrtrix_displacement.nii.gz", "mrtrix"),
    ("mrtrix_warped", "mrtrix_displacement.nii.gz", "ras"),
    ("dipy_warped", "dipy.nii.gz", "dipy"),
    ("voxelmorph_warped", "voxelmorph.nii.gz", "voxelmorph"),
    ("voxelmorph_warped", "voxelmorph_torch.nii.gz", "voxelmorph"),
]


def inner_difference(warped: str, names, tools, rim=RIM) -> float:
    """Largest difference of our resampled image from the tool's, away from the faces."""
    expected = load_image(DATA / f"{warped}.nii.gz")
    moving = load_image(DATA / ("voxelmorph_moving.nii.gz" if "voxel" in warped else "moving.nii.gz"))
    pair = GridPair(expected.grid, moving.grid)
    parts = [load_transform(DATA / name, tool, pair) for name, tool in zip(names, tools, strict=True)]
    found = resample(moving, compose(*reversed(parts)), expected.grid)
    inner = (..., *(slice(rim, -rim),) * 3)
    assert expected.data[inner].max() > 1000
    return float((found.data - expected.data)[inner].abs().max())


@pytest.mark.parametrize(("warped", "names", "tools"), STATED, ids=lambda value: str(value))
def test_a_file_that_states_its_convention_warps_as_its_tool_does(warped, names, tools):
    assert inner_difference(warped, names, tools) < TOLERANCE


@pytest.mark.parametrize(("warped", "name", "tool"), NAMED)
def test_a_file_of_a_named_convention_warps_as_its_tool_does(warped, name, tool):
    assert inner_difference(warped, [name], [tool]) < TOLERANCE
    with pytest.raises(PatchMorphError, match=rf"must be named \(--from\), got none in .*{name}; choices: "):
        load_transform(DATA / name)


@pytest.mark.parametrize(("name", "tool"), [("greedy.mat", "niftyreg"), ("niftyreg.txt", "greedy")])
def test_three_tools_share_one_kind_of_matrix(name, tool):
    """Each in RAS+ mm, fixed → moving; FLIRT's is another."""
    assert inner_difference(f"{name.split('.')[0]}_affine_warped", [name], [tool]) < TOLERANCE
    assert inner_difference(f"{name.split('.')[0]}_affine_warped", [name], ["fsl"]) > 100


@pytest.mark.parametrize(
    ("name", "tool"),
    [("greedy.mat", "greedy"), ("niftyreg.txt", "niftyreg"), ("mrtrix.txt", "mrtrix")],
)
def test_a_matrix_is_written_with_the_numbers_of_its_tool(tmp_path, name, tool):
    save_transform(load_transform(DATA / name, tool), tmp_path / name, tool)
    np.testing.assert_allclose(np.loadtxt(tmp_path / name), np.loadtxt(DATA / name), atol=1e-9)


@pytest.mark.parametrize("name", ["mrtrix_nan.nii.gz", "mrtrix_zeros.nii.gz"])
def test_voxels_that_mrtrix_does_not_map_are_background(name):
    """NaN as ``warpcorrect`` writes it, and zeros as it finds them: one voxel on every side."""
    transform = load_transform(DATA / name)
    expected, moving = load_image(DATA / "mrtrix_nan_warped.nii.gz"), load_image(DATA / "moving.nii.gz")
    padded = np.pad(np.zeros([count - 2 for count in expected.grid.shape], bool), 1, constant_values=True)
    assert missing_voxels(transform) == padded.sum()
    found = resample(moving, transform, expected.grid, background=-7).data[0, 0].numpy()
    assert (found[padded] == -7).all()
    assert inner_difference("mrtrix_nan_warped", [name], [None], RIM + 1) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "tool", "message"),
    [
        (
            "niftyreg_cpp.nii.gz",
            None,
            r"\(reg_transform -def makes one\), got a cubic",
        ),
        ("niftyreg_vel.nii.gz", None, "must be a deformation field .* got a velocity grid"),
        ("niftyreg_cpp.nii.gz", "niftyreg", "must be a deformation field .* got a cubic B-spline grid"),
        ("niftyreg_disp.nii.gz", "itk", "format must be niftyreg, as the header states, got --from itk"),
        ("dipy_mapping.nii.gz", None, "must be one field, got DIPY's mapping"),
        ("dipy_mapping.nii.gz", "dipy", "must be one field, got DIPY's mapping"),
        ("mrtrix_warp.nii.gz", "dipy", "must hold displacements, got positions"),
        ("mrtrix_warp.nii.gz", "itk", "must hold displacements, got positions"),
        ("mrtrix_displacement.nii.gz", "spm", "must hold positions, got displacements"),
        ("moving.nii.gz", None, r"must have shape \(x, y, z, 3\), got \(10, 8, 11\)"),
    ],
)
def test_what_is_no_field_of_the_convention_is_refused(name, tool, message):
    with pytest.raises(PatchMorphError, match=message):
        load_transform(DATA / name, tool)


def test_a_voxelmorph_field_is_refused_for_a_moving_image_on_another_grid():
    """VoxelMorph counts voxels, so both images must share a grid."""
    grid = load_image(DATA / "voxelmorph_moving.nii.gz").grid
    shifted = GridPair(grid, grid.crop((1, 0, 0), grid.shape))
    with pytest.raises(PatchMorphError, match=r"must be between images on its own grid, got .* 17 mm"):
        load_transform(DATA / "voxelmorph.nii.gz", "voxelmorph", shifted)
