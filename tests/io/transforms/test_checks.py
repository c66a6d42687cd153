"""Transforms that can be no map between images are refused when they are read, whatever the format."""

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField

PAIR = GridPair(
    grid_around((6, 7, 8), AFFINES["LIA"] * 9, (3, 2, 1)),
    grid_around((9, 8, 7), AFFINES["LAS"] * 9, (1, 2, 3)),
)


def matrix(**changes: float) -> np.ndarray:
    """A turn and a shift, with entries ``m00`` … replaced."""
    turned = rotation(10).matrix[0].numpy().copy()
    for name, value in changes.items():
        turned[int(name[1]), int(name[2])] = value
    return turned


BAD_MATRICES = {
    "NaN": (matrix(m01=np.nan), "affine must be finite, got nan"),
    "NaN shift": (matrix(m13=np.nan), "affine must be finite, got nan"),
    "infinite": (matrix(m03=np.inf), "affine must be finite, got (inf|nan)"),
    "singular": (np.diag([1.0, 0, 1, 1]), "affine must be invertible"),
    "nearly singular": (
        np.diag([1.0, 1e-7, 1, 1]),
        "affine must be invertible and scale by at least 0.0005, got",
    ),
    "huge": (np.diag([1.0, 1e6, 1, 1]), "affine must scale by at most 2000, got 1e"),
    "far": (matrix(m03=3e7), r"translation must be at most 100000 mm, got 3e\+07 mm"),
}
MATRIX_FILES = [
    ("x.safetensors", None),
    ("x.h5", None),
    ("x.tfm", None),
    ("x.txt", None),
    ("x.mat", None),
    ("x.mat", "greedy"),
    ("x.txt", "niftyreg"),
    ("x.txt", "mrtrix"),
    ("x.aff12.1D", None),
    ("x.x5", None),
    ("x.zarr", None),
]


@pytest.mark.parametrize("fault", BAD_MATRICES)
@pytest.mark.parametrize(("name", "tool"), MATRIX_FILES)
def test_matrices_that_no_map_has_are_refused(tmp_path, fault, name, tool):
    bad, message = BAD_MATRICES[fault]
    with np.errstate(all="ignore"):
        save_transform(AffineTransform(torch.from_numpy(bad)[None]), tmp_path / name, tool)
    with pytest.raises(PatchMorphError, match=f"{message}.*{name}"):
        load_transform(tmp_path / name, tool, PAIR)


@pytest.mark.parametrize("fault", ["NaN", "singular", "nearly singular", "huge", "far"])
@pytest.mark.parametrize("tool", ["fsl", "freesurfer"])
def test_files_that_map_moving_to_fixed_are_checked_after_their_inversion(tmp_path, fault, tool):
    bad, _ = BAD_MATRICES[fault]
    path = tmp_path / ("x.mat" if tool == "fsl" else "x.lta")
    save_transform(rotation(10), path, tool, PAIR)
    rows = [" ".join(map(str, row)) for row in bad.tolist()]
    lines = path.read_text().splitlines()
    start = lines.index("1 4 4") + 1 if tool == "freesurfer" else 0
    lines[start : start + 4] = rows
    path.write_text("\n".join(lines))
    with pytest.raises(PatchMorphError, match=rf"(affine|translation) must .*{path.name}"):
        load_transform(path, tool, PAIR)


@pytest.mark.parametrize("tool", ["greedy", "niftyreg", "fsl"])
def test_a_matrix_must_end_in_its_row(tmp_path, tool):
    np.savetxt(tmp_path / "x.txt", matrix(m30=0.1))
    with pytest.raises(PatchMorphError, match=r"affine must end in the row 0 0 0 1, got .*x\.txt"):
        load_transform(tmp_path / "x.txt", tool, PAIR)


def test_a_change_of_unit_between_species_is_no_fault(tmp_path):
    """Micrometres to millimetres, of a brain of half the size."""
    scale = AffineTransform(torch.diag(torch.tensor([1900.0, 1900, 1900, 1]))[None])
    for transform in (scale, scale.inverse()):
        save_transform(transform, tmp_path / "x.h5")
        torch.testing.assert_close(load_transform(tmp_path / "x.h5").matrix, transform.matrix)


BAD_VALUES = {"infinite": np.inf, "absurd": 3e6, "overflowing": 3e38}
FIELD_FILES = [
    ("x.h5", None),
    ("x.nii.gz", "itk"),
    ("x.nii.gz", "fsl"),
    ("x.mgz", None),
    ("x.x5", None),
    ("x.zarr", None),
]


def field_with(value: float, where=(2, 3, 4)) -> DisplacementField:
    displacement = torch.full((1, 3, 6, 7, 8), 2.0)
    displacement[(0, 1, *where)] = value
    return DisplacementField(displacement, PAIR.fixed, "zeros")


@pytest.mark.parametrize(
    ("fault", "name", "tool"),
    [
        (fault, *file)
        for fault in BAD_VALUES
        for file in FIELD_FILES
        if (fault, file[1]) != ("infinite", "fsl")
    ],
)
def test_displacements_that_no_map_has_are_refused(tmp_path, fault, name, tool):
    with np.errstate(all="ignore"):
        save_transform(field_with(BAD_VALUES[fault]), tmp_path / name, tool, PAIR)
    message = r"displacement must be finite and at most 100000 mm, got .* at voxel \(\d, \d, \d\) in .*"
    with pytest.raises(PatchMorphError, match=message + name):
        load_transform(tmp_path / name, tool, PAIR)


@pytest.mark.parametrize("name", ["x.h5", "x.mgz", "x.x5", "x.zarr"])
def test_nan_is_a_fault_where_no_tool_marks_voxels_with_it(tmp_path, name):
    save_transform(field_with(np.nan), tmp_path / name, pair=PAIR)
    with pytest.raises(
        PatchMorphError, match=r"displacement must be finite .* got .*nan.* at voxel \(\d, \d, \d\)"
    ):
        load_transform(tmp_path / name, pair=PAIR)


@pytest.mark.parametrize("tool", ["itk", "fsl"])
def test_a_field_of_nothing_is_refused(tmp_path, tool):
    save_transform(field_with(np.nan, (slice(None),) * 3), tmp_path / "x.nii.gz", tool, PAIR)
    with pytest.raises(PatchMorphError, match="displacement field must have values, got NaN in every voxel"):
        load_transform(tmp_path / "x.nii.gz", tool, PAIR)


def test_the_part_of_a_chain_is_named(tmp_path):
    save_transform(rotation() @ field_with(1e9) @ rotation(), tmp_path / "x.h5")
    with pytest.raises(PatchMorphError, match=r"displacement must be finite .* in part 2 of 3 of .*x\.h5"):
        load_transform(tmp_path / "x.h5")


def native(path: Path, change) -> Path:
    """A file of a flow and a turn after ``change(tensors, parts)``."""
    flow = smooth_velocity(PAIR.fixed, 3.0)
    flow.variance = torch.full((1, 1, 6, 7, 8), 0.25)
    save_transform(flow @ rotation() @ field_with(1.0).inverse(), path)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["patchmorph"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata["parts"])
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        path,
        {"patchmorph": json.dumps(metadata)},
    )
    return path


def setting(index: int, **entries):
    return lambda tensors, parts: parts[index].update(entries)


def replacing(name: str, make):
    return lambda tensors, parts: tensors.update({name: make(tensors[name])})


NATIVE_FAULTS = {
    "no tensor": (lambda tensors, parts: tensors.pop("0.values"), "it has no '0.values'"),
    "no parts": (lambda tensors, parts: parts.clear(), "must have parts, got none"),
    "parts of another type": (lambda tensors, parts: parts.insert(0, "affine"), "must be a whole file"),
    "unknown kind": (setting(1, kind="spline"), "spline where one of affine, "),
    "unknown border": (setting(2, outside="mirror"), "mirror where one of zeros, border belongs"),
    "flag": (setting(2, inverse="yes"), "yes where one of True, False belongs"),
    "negative steps": (
        setting(0, steps=-1),
        "steps must be a whole number from 0 to 16, got -1 in part 1 of 3",
    ),
    "many steps": (setting(0, steps=10**9), "steps must be a whole number from 0 to 16, got 1000000000"),
    "broken steps": (setting(0, steps=2.5), "whole"),
    "no unit": (setting(0, unit_mm=None), "must be a whole file"),
    "NaN unit": (
        setting(0, unit_mm=float("nan")),
        "velocity must be finite and at most 100000 mm, got nan nan nan",
    ),
    "huge unit": (setting(0, unit_mm=1e9), "velocity must be finite and at most 100000 mm"),
    "huge unit of an inverse": (setting(2, unit_mm=1e9), "displacement must be finite .* in part 3 of 3"),
    "NaN matrix": (
        replacing("1.matrix", lambda m: m * torch.nan),
        "affine must be finite, got nan in part 2 of 3",
    ),
    "flat matrix": (replacing("1.matrix", lambda m: m[0]), "whole|one matrix of 4 by 4"),
    "small matrix": (replacing("1.matrix", lambda m: m[:, :3, :3]), "whole|one matrix of 4 by 4"),
    "singular grid": (replacing("0.voxel_to_world", lambda m: m * 0), "grid of the field: affine must"),
    "NaN grid": (
        replacing("2.voxel_to_world", lambda m: m * torch.nan),
        "grid of the field: affine must be finite",
    ),
    "two channels": (replacing("0.values", lambda v: v[:, :2]), "whole|3 numbers a voxel"),
    "two fields": (replacing("0.values", lambda v: v.repeat(2, 1, 1, 1, 1)), "whole|3 numbers a voxel"),
    "flat values": (replacing("0.values", lambda v: v[0]), "whole"),
    "negative variance": (replacing("0.variance", lambda v: -v), "variance must be finite and not negative"),
    "NaN variance": (
        replacing("0.variance", lambda v: v * torch.nan),
        "variance must be finite and not negative",
    ),
    "other variance": (replacing("0.variance", lambda v: v[..., :3]), "whole|1 numbers a voxel"),
}


@pytest.mark.parametrize("fault", NATIVE_FAULTS)
def test_our_own_file_is_checked_too(tmp_path, fault):
    change, message = NATIVE_FAULTS[fault]
    with pytest.raises(PatchMorphError, match=message) as error:
        load_transform(native(tmp_path / "x.safetensors", change))
    assert "x.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def composite(path: Path, group: int, name: str, change) -> Path:
    """A composite of a turn (1) and a field (2) whose numbers ``name`` are changed."""
    save_transform(rotation() @ field_with(1.0), path)
    with h5py.File(path, "r+") as file:
        key = f"TransformGroup/{group}/Transform{name}"
        numbers = file[key][()]
        del file[key]
        file[key] = change(numbers)
    return path


def entry(index: int, value: float):
    return lambda numbers: np.concatenate([numbers[:index], [value], numbers[index + 1 :]])


@pytest.mark.parametrize(
    ("group", "name", "change"),
    [
        (2, "Parameters", lambda numbers: numbers[:-3]),
        (2, "Parameters", lambda numbers: np.append(numbers, [0.0, 0, 0])),
        (2, "Parameters", lambda numbers: numbers[:0]),
        (1, "Parameters", lambda numbers: numbers[:9]),
        (1, "Parameters", lambda numbers: np.append(numbers, 1.0)),
        (1, "FixedParameters", lambda numbers: numbers[:2]),
        (1, "FixedParameters", lambda numbers: numbers * np.nan),
        (2, "FixedParameters", lambda numbers: numbers[:9]),
        *((2, "FixedParameters", entry(0, value)) for value in (np.nan, -4.0, 0.0, 5.0, 1e6)),
        *((2, "FixedParameters", entry(3, value)) for value in (np.nan, np.inf)),
        *((2, "FixedParameters", entry(6, value)) for value in (np.nan, 0.0, -1.0)),
        *((2, "FixedParameters", entry(9, value)) for value in (np.nan, 1e9)),
    ],
)
def test_composites_with_other_numbers_than_their_kind_has_are_refused(tmp_path, capfd, group, name, change):
    path = composite(tmp_path / "x.h5", group, name, change)
    with pytest.raises(PatchMorphError, match=r"x\.h5") as error:
        load_transform(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", [".tfm", ".txt"])
def test_itks_text_must_have_all_its_numbers(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    save_transform(rotation(), path)
    text = path.read_text()
    without = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("Fixed"))
    for changed, message in (
        (without, "must have a line of FixedParameters, got none"),
        (text.replace("\nFixed", " 5 6\nFixed"), "AffineTransform must have 12 parameters, got 14"),
        (
            text[: text.index("Fixed") - 20],
            "must have a line of FixedParameters, got none|must have 12 parameters",
        ),
    ):
        path.write_text(changed)
        with pytest.raises(PatchMorphError, match=message):
            load_transform(path)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8, 0.9, 0.99])
def test_itks_matlab_file_must_have_all_its_numbers(tmp_path, kept):
    """ITK itself reads the parameters of a file without its centre, which is then wrong."""
    sitk.WriteTransform(
        sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0)), str(tmp_path / "x.mat")
    )
    load_transform(tmp_path / "x.mat")
    data = (tmp_path / "x.mat").read_bytes()
    (tmp_path / "x.mat").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(PatchMorphError, match=r"x\.mat"):
        load_transform(tmp_path / "x.mat")


LTA_FAULTS = [
    ("voxelsize = ", "voxelsize = -", "a geometry of"),
    ("volume = 9", "volume = 0", "a geometry of"),
    ("xras   = ", "xras   = 0.1 0.2 0.3 #", "a geometry of"),
    ("yras   = ", "yras   = nan 0 0 #", "a geometry of"),
    ("cras   = ", "cras   = inf 0 0 #", "a geometry of"),
    ("voxelsize = ", "size = ", "it has no 'voxelsize'"),
    ("dst volume info", "other volume info", "must be a whole file of freesurfer"),
]


@pytest.mark.parametrize(("before", "after", "message"), LTA_FAULTS)
@pytest.mark.parametrize("kind", [0, 1])
def test_an_lta_with_a_geometry_that_no_image_has_is_refused(tmp_path, before, after, message, kind):
    save_transform(rotation(), tmp_path / "x.lta", pair=PAIR)
    text = (tmp_path / "x.lta").read_text()
    assert before in text
    (tmp_path / "x.lta").write_text(
        text.replace(before, after).replace("type      = 1", f"type      = {kind}")
    )
    with pytest.raises(PatchMorphError, match=message):
        load_transform(tmp_path / "x.lta")


def test_an_lta_between_voxels_needs_both_geometries(tmp_path):
    save_transform(rotation(), tmp_path / "x.lta", pair=PAIR)
    text = (tmp_path / "x.lta").read_text().replace("valid = 1", "valid = 0", 1)
    (tmp_path / "ras.lta").write_text(text)
    torch.testing.assert_close(load_transform(tmp_path / "ras.lta").matrix, rotation().matrix)
    (tmp_path / "voxel.lta").write_text(text.replace("type      = 1", "type      = 0"))
    with pytest.raises(PatchMorphError, match="between voxels must have both geometries, got an invalid one"):
        load_transform(tmp_path / "voxel.lta")


def test_a_field_on_another_grid_than_its_numbers_is_refused(tmp_path):
    save_transform(field_with(1.0), tmp_path / "x.x5")
    with h5py.File(tmp_path / "x.x5", "r+") as file:
        file["TransformGroup/0/Domain/Size"][()] = (6, 7, 9)
    with pytest.raises(
        PatchMorphError, match=r"must be 3 numbers a voxel of \(6, 7, 9\), got \(6, 7, 8, 3\)"
    ):
        load_transform(tmp_path / "x.x5")
    image = nibabel.Nifti1Image(np.ones((5, 6, 7, 3), np.float32), np.eye(4))
    image.set_sform(np.diag([1.0, 0, 1, 1]), 1)
    nibabel.save(image, tmp_path / "x.nii")
    with pytest.raises(PatchMorphError, match=r"affine must be invertible, .*x\.nii"):
        load_transform(tmp_path / "x.nii", "ras")
