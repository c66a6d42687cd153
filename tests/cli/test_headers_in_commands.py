"""Units, orientations and forms of image headers, through whole commands."""

import itertools
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from estimators import NO_SEARCH, TRUST
from niftis import METRE, MICRON, MM, forms_of
from pages import text_of

from patchmorph.api import Method
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_grid
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.transforms.base import AffineTransform

MM_PER_UNIT = {METRE: 1000.0, MM: 1.0, MICRON: 0.001}
CODES = "sform and qform codes are 0"


def rewritten(source, target, unit=MM, sform=1, qform=1, turned=None):
    """A copy of an image: the same place in another unit, with other codes, or with a qform of its own."""
    volume = nibabel.load(source)
    scale = np.diag([1 / MM_PER_UNIT[unit]] * 3 + [1])
    copy = nibabel.Nifti1Image(np.asarray(volume.dataobj), None)
    copy.header.set_qform(scale @ (volume.affine if turned is None else turned), qform)
    copy.header.set_sform(scale @ volume.affine, sform)
    copy.header["xyzt_units"] = unit
    nibabel.save(copy, target)
    return target


@pytest.fixture
def shift(tmp_path):
    """A map of 1 mm, which is three voxels."""
    save_transform(AffineTransform.translation(torch.tensor([[1.0, 0, 0]])), tmp_path / "shift.tfm")
    return tmp_path / "shift.tfm"


@pytest.fixture(scope="module")
def in_mm(files, tmp_path_factory):
    """Results of the pair in mm, with a mask of the fixed image."""
    folder = tmp_path_factory.mktemp("mm") / "results"
    paths = PairPaths(files.fixed, files.moving, fixed_mask=files.fixed_mask)
    register_files(
        RegistrationRequest(
            paths, folder, Method(model=str(files.model), trust=TRUST, initial_transform="centers")
        )
    )
    return folder


@pytest.mark.parametrize(("fixed_unit", "moving_unit"), [(MICRON, MM), (MM, METRE), (METRE, MICRON)])
def test_the_map_is_the_same_in_any_units(run, files, in_mm, tmp_path, fixed_unit, moving_unit):
    """Images, masks, the files for other tools and the warped image."""
    fixed = rewritten(files.fixed, tmp_path / "fixed.nii.gz", fixed_unit)
    moving = rewritten(files.moving, tmp_path / "moving.nii.gz", moving_unit)
    mask = rewritten(files.fixed_mask, tmp_path / "mask.nii.gz", moving_unit)
    options = ("--model", files.model, "--fixed-mask", mask, *NO_SEARCH, "-o", tmp_path / "other")
    saved = ("--save", "warped,transform,itk,summary")
    assert run("register", fixed, moving, *options, *saved)[0] == 0
    for name in ("transform.safetensors", "transform.h5"):
        plain, other = (load_transform(folder / name) for folder in (in_mm, tmp_path / "other"))
        torch.testing.assert_close(other(files.points), plain(files.points), atol=0.02, rtol=0)
    warped = nibabel.load(tmp_path / "other" / "warped.nii.gz")
    assert warped.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(warped.affine, nibabel.load(files.fixed).affine, atol=1e-5)
    by_itk = sitk.Resample(
        *(sitk.ReadImage(str(path)) for path in (moving, fixed)),
        sitk.ReadTransform(str(tmp_path / "other" / "transform.h5")),
    )
    found = sitk.GetArrayFromImage(by_itk).transpose(2, 1, 0)
    assert np.corrcoef(found.ravel(), warped.get_fdata().ravel())[0, 1] > 0.999
    notes = json.loads((tmp_path / "other" / "summary.json").read_text())["notes"]
    assert sum("were converted to mm" in note for note in notes) == sum(
        unit != MM for unit in (fixed_unit, moving_unit, moving_unit)
    )


@pytest.mark.parametrize("unit", [METRE, MICRON])
def test_other_commands_convert_units(run, files, tmp_path, shift, unit):
    fixed = rewritten(files.fixed, tmp_path / "fixed.nii.gz", unit)
    moving = rewritten(files.moving, tmp_path / "moving.nii.gz", unit)
    (tmp_path / "points.csv").write_text("x,y,z\n20,22,18\n")
    outputs = []
    for name, (one, other) in {"mm": (files.fixed, files.moving), "other": (fixed, moving)}.items():
        images = ("--reference", one, "--moving", other)
        commands = [
            ("apply", shift, other, "--reference", one, "-o", tmp_path / f"{name}.nii"),
            ("jacobian", shift, "--reference", one, "-o", tmp_path / f"{name}_j.nii"),
            ("apply-points", shift, tmp_path / "points.csv", "--frame", one, "-o", tmp_path / f"{name}.csv"),
            ("convert", shift, "-o", tmp_path / f"{name}.mat", "--to", "fsl", *images),
            ("convert", shift, "-o", tmp_path / f"{name}_f.nii", *images[:2]),
            (
                "invert",
                shift,
                "-o",
                tmp_path / f"{name}.lta",
                "--missed",
                tmp_path / f"{name}_m.nii",
                *images,
            ),
        ]
        said = [run(*command) for command in commands]
        assert [code for code, _, _ in said] == [0] * len(commands), said
        outputs.append([out for _, out, _ in said])
    for name in ("", "_j", "_m", "_f"):
        one, other = (nibabel.load(tmp_path / f"{unit}{name}.nii") for unit in ("mm", "other"))
        np.testing.assert_allclose(other.affine, one.affine, atol=1e-5)
        np.testing.assert_allclose(other.get_fdata(), one.get_fdata(), atol=1e-3)
        assert other.header.get_xyzt_units()[0] == "mm"
    for ending in (".mat", ".csv"):
        texts = [(tmp_path / f"{unit}{ending}").read_text().replace(",", " ") for unit in ("mm", "other")]
        one, other = (
            np.array([float(word) for word in text.split() if word[-1].isdigit()]) for text in texts
        )
        np.testing.assert_allclose(other, one, atol=1e-4)
    torch.testing.assert_close(
        load_transform(tmp_path / "other.lta")(files.points),
        load_transform(tmp_path / "mm.lta")(files.points),
        atol=1e-4,
        rtol=0,
    )
    for command in (0, 1, 3):
        assert "were converted to mm" in outputs[1][command]
        assert "converted" not in outputs[0][command]


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_an_unknown_orientation_is_a_warning_until_it_is_stated(run, files, tmp_path, side):
    """The arrays are stored RAS and LIA, the convention is LAS: nothing in the file says so."""
    images = {"fixed": files.fixed, "moving": files.moving}
    images[side] = rewritten(images[side], tmp_path / f"{side}.nii.gz", sform=0, qform=0)
    options = ("--model", files.model, *NO_SEARCH, "-o", tmp_path / "out")
    code, out, _ = run("register", *images.values(), *options)
    assert code == 0
    warning = f"{images[side]}: the orientation is unknown, since its {CODES}; its axes were taken as LAS"
    notes = json.loads((tmp_path / "out" / "summary.json").read_text())["notes"]
    assert sum(note.startswith(warning) for note in notes) == 1
    assert warning in out
    stored = {"fixed": "RAS", "moving": "LIA"}[side]
    code, out, _ = run("register", *images.values(), *options, "--overwrite", "--assume-orientation", stored)
    assert code == 0
    assert "orientation is unknown" not in out
    assert f"{images[side]}: its {CODES}; its axes were taken as {stored}, as stated" in out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["arguments"]["assume_orientation"] == stored
    assert summary["similarity_after"] > 0.97
    page = (tmp_path / "out" / "report.html").read_text()
    assert run("report", tmp_path / "out")[0] == 0
    assert text_of((tmp_path / "out" / "report.html").read_text()) == text_of(page)


@pytest.mark.parametrize("stated", [None, "RAS", "PIR"])
def test_every_command_warns_of_an_unknown_orientation(run, files, tmp_path, shift, stated):
    one = rewritten(files.fixed, tmp_path / "one.nii.gz", sform=0, qform=0)
    images = ("--reference", one, "--moving", one)
    option = () if stated is None else ("--assume-orientation", stated)
    expected = matrix_of(load_grid(one, stated))
    for name, command in {
        "a.nii": ("apply", shift, one, "--reference", one, "-o"),
        "j.nii": ("jacobian", shift, "--reference", one, "-o"),
        "f.mat": ("convert", shift, *images, "--to", "fsl", "-o"),
        "i.lta": ("invert", shift, *images, "-o"),
        "c.mat": ("compose", shift, shift, *images, "--to", "fsl", "-o"),
    }.items():
        code, out, _ = run(*command, tmp_path / name, *option)
        assert code == 0, out
        warned = (
            f"warning: {one}: the orientation is unknown, since its {CODES}; its axes were taken as LAS"
            in out
        )
        assert warned == (stated is None), name
        assert (f"{one}: its {CODES}; its axes were taken as {stated}, as stated" in out) == (
            stated is not None
        )
        if name.endswith(".nii"):
            np.testing.assert_allclose(nibabel.load(tmp_path / name).affine, expected, atol=1e-5)


@pytest.mark.parametrize("option", ["--frame", "--output-frame"])
def test_voxels_of_an_image_without_an_orientation_are_a_warning(run, files, tmp_path, shift, option):
    one = rewritten(files.fixed, tmp_path / "one.nii.gz", sform=0, qform=0)
    (tmp_path / "points.csv").write_text("x,y,z\n20,22,18\n")
    command = ("apply-points", shift, tmp_path / "points.csv", "--frame", "ras", option, one, "-o")
    code, out, _ = run(*command, tmp_path / "out.csv")
    assert code == 0
    assert f"warning: {one}: the orientation is unknown, since its {CODES}" in out
    content = bytearray(one.read_bytes())
    content[-6] ^= 1
    one.write_bytes(content)
    code, _, error = run(*command, tmp_path / "other.csv")
    assert code == 2
    assert "compressed file must be intact" in error
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize("stated", ["RAZ", "XYZ", "RA", "RRS", "anterior"])
def test_no_orientation_is_one_line(run, files, tmp_path, shift, stated):
    option = ("--assume-orientation", stated)
    for command in (
        ("register", files.fixed, files.moving, "--model", "none", "-o", tmp_path / "out"),
        ("apply", shift, files.moving, "--reference", files.fixed, "-o", tmp_path / "out.nii"),
        ("jacobian", shift, "--reference", files.fixed, "-o", tmp_path / "out.nii"),
    ):
        code, _, error = run(*command, *option)
        assert code == 2
        assert error.startswith("patchmorph: orientation must be one letter each of L or R")
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shift.tfm"]


@pytest.mark.parametrize(("sform", "qform"), [(4, 1), (2, 1), (1, 2), (0, 3), (3, 0)])
def test_results_are_in_the_space_of_their_reference(run, files, tmp_path, shift, sform, qform):
    """One matrix in both forms by one code, from every command; the moving image's codes do not matter."""
    turned = nibabel.load(files.fixed).affine @ np.diag([1, 1, -1, 1])
    fixed = rewritten(
        files.fixed, tmp_path / "fixed.nii.gz", sform=sform, qform=qform, turned=turned if sform else None
    )
    moving = rewritten(files.moving, tmp_path / "moving.nii.gz", sform=4 if sform == 1 else 1, qform=0)
    options = ("--model", files.model, *NO_SEARCH, "--save", "warped,uncertainty", "-o", tmp_path / "out")
    code, out, _ = run("register", fixed, moving, *options)
    assert code == 0
    reference = ("--reference", fixed, "-o")
    said = [
        out,
        run("apply", shift, moving, *reference, tmp_path / "a.nii")[1],
        run("jacobian", shift, *reference, tmp_path / "j.nii")[1],
        run("invert", shift, "-o", tmp_path / "i.tfm", "--moving", fixed, "--missed", tmp_path / "m.nii.gz")[
            1
        ],
    ]
    names = ("out/warped.nii.gz", "out/uncertainty.nii.gz", "a.nii", "j.nii", "m.nii.gz")
    place = nibabel.load(fixed).affine
    for name in names:
        (one, one_code), (other, other_code) = forms_of(tmp_path / name)
        assert (one_code, other_code) == (sform or qform, sform or qform), name
        np.testing.assert_allclose(one, place, atol=1e-4)
        np.testing.assert_allclose(other, place, atol=1e-4)
    note = f"{fixed}: sform (code {sform}) and qform (code {qform}) differ by up to "
    assert [note in text for text in said] == [bool(sform and qform)] * 4


def test_fields_for_other_tools_state_one_matrix_twice(run, files, tmp_path, shift):
    for tool, name in itertools.product(("itk", "fsl"), ("f.nii", "f.nii.gz")):
        images = ("--reference", files.fixed, "--moving", files.moving)
        assert run("convert", shift, "-o", tmp_path / name, "--to", tool, *images)[0] == 0
        (one, one_code), (other, other_code) = forms_of(tmp_path / name)
        assert (one_code, other_code) == (1, 1)
        np.testing.assert_allclose(one, other, atol=1e-4)
