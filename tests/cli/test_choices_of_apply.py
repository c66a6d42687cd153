"""``apply`` by default: labels stay labels, intensities are linear, vectors are not mistaken for either."""

import nibabel
import numpy as np
import pytest
from niftis import edit_header, write_nifti
from synthetic import AFFINES, grid_around, rotation, smooth_image

from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.transforms.resample import resample

GRID = grid_around((34, 38, 32), AFFINES["LIA"] * 5)
OTHER = grid_around((30, 34, 28), AFFINES["LAS"] * 6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    save_image(smooth_image(OTHER), tmp_path / "fixed.nii.gz")
    save_transform(rotation(30), tmp_path / "turn.tfm")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(step):
    """Parcels, the cells of a lattice: ids that are far apart."""
    x, y, z = (np.arange(n) // 6 for n in GRID.shape)
    return (1 + x[:, None, None] * 49 + y[:, None] * 7 + z) * step


def intensities():
    noise = np.random.default_rng(0).standard_normal(GRID.shape) * 4
    return (smooth_image(GRID).data[0, 0].numpy() * 200 + noise).clip(0, 255)


def applied(run, name, *options):
    code, out, error = run(
        "apply", "turn.tfm", name, "--reference", "fixed.nii.gz", "-o", "out.nii.gz", *options
    )
    assert code == 0, error
    return np.asarray(nibabel.load("out.nii.gz").dataobj), out


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("name", ["aparc+aseg.nii.gz", "scan.nii"])
def test_no_id_is_made_up(run, folder, dtype, name):
    values = (ids(1) % 251 if dtype == "u1" else ids(17)).astype(dtype)
    write_nifti(folder / name, values, matrix_of(GRID))
    found, out = applied(run, name)
    assert set(np.unique(found)) <= {0, *np.unique(values)}
    assert len(np.unique(found)) > 100
    assert f"{name}: label interpolation (" in out
    expected = resample(load_image(folder / name), rotation(30), OTHER, "label").data[0, 0].numpy()
    assert (found == expected).mean() > 0.999  # headers are float32
    assert (
        len(set(np.unique(applied(run, name, "--interpolation", "linear")[0])) - set(np.unique(values))) > 25
    )


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4", "f8"])
@pytest.mark.parametrize("name", ["T1w.nii.gz", "atlas_T1w.nii.gz", "brainmask.nii"])
def test_intensities_are_linear(run, folder, dtype, name):
    write_nifti(folder / name, intensities().astype(dtype), matrix_of(GRID))
    found, out = applied(run, name)
    assert f"{name}: linear interpolation (" in out
    expected = resample(load_image(folder / name), rotation(30), OTHER).data[0, 0].numpy()
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=1.01)


def test_several_images_are_chosen_for_one_by_one(run, folder):
    write_nifti(folder / "aseg.nii.gz", ids(3).astype(np.int16), matrix_of(GRID))
    write_nifti(folder / "T1.nii.gz", intensities().astype(np.uint8), matrix_of(GRID))
    write_nifti(folder / "mask.nii.gz", (intensities() > 60).astype(np.uint8), matrix_of(GRID))
    names = ("aseg.nii.gz", "T1.nii.gz", "mask.nii.gz")
    code, out, _ = run("apply", "turn.tfm", *names, "--reference", "fixed.nii.gz", "-o", "out")
    assert code == 0
    for name, found in zip(names, ("label", "linear", "label"), strict=True):
        assert f"{name}: {found} interpolation (" in out
    assert set(np.unique(nibabel.load("out/mask.nii.gz").get_fdata())) == {0, 1}
    code, out, _ = run(
        "apply", "turn.tfm", *names, "--reference", "fixed.nii.gz", "-o", "o", "--interpolation", "nearest"
    )
    assert out.count("nearest interpolation (as asked for)") == 3


@pytest.mark.parametrize("name", ["out.nii.gz", "out.ome.zarr"])
def test_several_images_go_into_a_folder_that_is_not_named_as_an_image(run, folder, name):
    write_nifti(folder / "T1.nii.gz", intensities().astype(np.uint8), matrix_of(GRID))
    images = ("T1.nii.gz", "fixed.nii.gz")
    code, _, error = run("apply", "turn.tfm", *images, "--reference", "fixed.nii.gz", "-o", name)
    assert code == 2
    assert error == f"patchmorph: output must be a folder, got the name of an image file: {name}\n"
    assert not (folder / name).exists()


@pytest.mark.parametrize("frames", [2, 5])
def test_a_series_of_either_kind(run, folder, frames):
    for kind, values in (("label", ids(17)), ("linear", intensities())):
        stack = np.stack([values * 0, *[values] * (frames - 1)], -1).astype(np.int16)
        write_nifti(folder / "series.nii.gz", stack, matrix_of(GRID))
        found, out = applied(run, "series.nii.gz")
        assert f"series.nii.gz: {kind} interpolation (" in out
        assert (set(np.unique(found)) <= {0, *np.unique(values)}) == (kind == "label")


@pytest.mark.parametrize("intent", [1005, 1006, 1007])
@pytest.mark.parametrize("axes", ["ras", "lps"])
def test_vectors_and_tensors_are_refused_or_turned(run, folder, intent, axes):
    count, turn = 6 if intent == 1005 else 3, rotation(30).matrix[0, :3, :3].numpy()
    values = np.zeros((*GRID.shape, 1, count), np.float32)
    values[..., 0] = 1  # along x; a tensor of one direction
    write_nifti(folder / "in.nii.gz", values, matrix_of(GRID), intent_code=intent)
    options = ("--reference", "fixed.nii.gz", "-o", "out.nii.gz")
    code, _, error = run("apply", "turn.tfm", "in.nii.gz", *options)
    assert code == 2
    assert error.count("\n") == 1
    assert error.startswith("patchmorph: --reorient must be ras or lps")
    assert not (folder / "out.nii.gz").exists()
    found, out = applied(run, "in.nii.gz", "--reorient", axes)
    x = turn[0] * (1 if axes == "ras" else np.array([1, 1, -1]))
    expected = np.outer(x, x)[np.tril_indices(3)] if intent == 1005 else x
    np.testing.assert_allclose(found[15, 17, 14].ravel(), expected, atol=1e-4)
    assert "turned by the map's rotation (finite strain)" in out
    np.testing.assert_allclose(
        applied(run, "in.nii.gz", "--reorient", "none")[0][15, 17, 14].ravel(),
        values[0, 0, 0].ravel(),
        atol=1e-4,
    )
    code, _, error = run("apply", "turn.tfm", "in.nii.gz", *options, "--reorient", "ant")
    assert code == 2
    assert "reorient must be one of ras, lps, none, got ant" in error


@pytest.mark.parametrize("what", ["gzip stream", "cut", "dims", "checksum"])
def test_damaged_images_and_references_are_one_line_and_nothing_is_written(run, folder, what):
    write_nifti(folder / "plain.nii", intensities().astype(np.int16), matrix_of(GRID))
    write_nifti(folder / "packed.nii.gz", intensities().astype(np.int16), matrix_of(GRID))
    if what == "cut":
        path = folder / "plain.nii"
        path.write_bytes(path.read_bytes()[:-100])
    elif what == "dims":
        path = edit_header(folder / "plain.nii", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    else:
        path = folder / "packed.nii.gz"
        content = bytearray(path.read_bytes())
        content[-7 if what == "checksum" else len(content) // 2] ^= 64
        path.write_bytes(content)
    before = sorted(item.name for item in folder.iterdir())
    for command in (
        ("apply", "turn.tfm", path, "--reference", "fixed.nii.gz", "-o", "out.nii.gz"),
        (
            "apply",
            "turn.tfm",
            path,
            "--reference",
            "fixed.nii.gz",
            "-o",
            "out.nii.gz",
            "--interpolation",
            "cubic",
        ),
        ("apply", "turn.tfm", "fixed.nii.gz", "--reference", path, "-o", "out.nii.gz"),
        ("jacobian", "turn.tfm", "--reference", path, "-o", "out.nii.gz"),
        ("register", path, "fixed.nii.gz", "--model", "none", "-o", "out"),
        ("register", "fixed.nii.gz", path, "--model", "none", "-o", "out"),
        ("register", "fixed.nii.gz", "fixed.nii.gz", "--fixed-mask", path, "--model", "none", "-o", "out"),
        ("convert", "turn.tfm", "--reference", path, "-o", "out.nii.gz"),
    ):
        code, _, error = run(*command)
        assert code == 2, command
        assert error.count("\n") == 1
        assert path.name in error
    assert sorted(item.name for item in folder.iterdir()) == before
