"""Every kind of transform that SimpleITK writes is read as SimpleITK maps points, without SimpleITK."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from foreign.conftest import world_points
from synthetic import rotation

from patchmorph.errors import PatchMorphError
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.transforms.itk_objects import from_itk

CENTRE, SHIFT = (4.0, 5.0, 6.0), (1.0, -2.0, 3.0)
VERSOR = (0.1, 0.2, 0.3, 0.86**0.5)
"""With its scalar part, as SimpleITK takes it."""


def x_first() -> sitk.Transform:
    euler = sitk.Euler3DTransform(CENTRE, 0.4, 0.5, 0.6, SHIFT)
    euler.SetComputeZYX(True)
    return euler


KINDS = {
    "affine": sitk.AffineTransform((1.1, 0.2, 0, -0.1, 0.9, 0.3, 0, 0.1, 1.2), SHIFT, CENTRE),
    "euler": sitk.Euler3DTransform(CENTRE, 0.4, 0.5, 0.6, SHIFT),
    "euler, x first": x_first(),
    "versor": sitk.VersorTransform(VERSOR, CENTRE),
    "half turn": sitk.VersorTransform((0.6, 0.0, 0.8, 0.0), CENTRE),
    "rigid": sitk.VersorRigid3DTransform(VERSOR, SHIFT, CENTRE),
    "similarity": sitk.Similarity3DTransform(1.3, VERSOR, SHIFT, CENTRE),
    "scale": sitk.ScaleTransform(3, (1.2, 0.8, 1.1)),
    "scale and versor": sitk.ScaleVersor3DTransform((1.2, 0.8, 1.1), VERSOR, SHIFT, CENTRE),
    "skewed": sitk.ScaleSkewVersor3DTransform(
        (1.2, 0.8, 1.1), (0.1, 0.2, -0.1, 0.05, 0.02, 0.03), VERSOR, SHIFT, CENTRE
    ),
    "composed": sitk.ComposeScaleSkewVersor3DTransform(
        (1.2, 0.8, 1.1), (0.1, 0.2, -0.1), VERSOR, SHIFT, CENTRE
    ),
    "translation": sitk.TranslationTransform(3, SHIFT),
    "identity": sitk.Transform(3, sitk.sitkIdentity),
}
"""By what they are; SimpleITK has no classes for the kinds of `TEXTS`."""
TEXTS = {
    "QuaternionRigidTransform": "0.1 0.2 0.3 0.9273618495495704 1 -2 3",
    "ScaleLogarithmicTransform": "0.2 -0.1 0.3",
}


def displaced(dtype=np.float64) -> sitk.Transform:
    """A field on a turned grid that holds all points of the tests."""
    vectors = np.random.default_rng(0).normal(scale=9, size=(9, 8, 7, 3)).astype(dtype)
    field = sitk.GetImageFromArray(vectors.astype(np.float64), isVector=True)
    field.SetSpacing((60.0, 65.0, 70.0))
    field.SetOrigin((-190.0, -230.0, -270.0))
    field.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix())
    return sitk.DisplacementFieldTransform(field)


def mapped(transform: sitk.Transform) -> np.ndarray:
    flip = np.array([-1, -1, 1])
    points = world_points(20)[0].double().numpy() * flip
    return np.array([transform.TransformPoint(point.tolist()) for point in points]) * flip


def same_map(path, expected: sitk.Transform) -> None:
    found = load_transform(path)(world_points(20))[0].numpy()
    np.testing.assert_allclose(found, mapped(expected), atol=1e-4)


@pytest.mark.parametrize("ending", ["tfm", "txt", "mat", "h5"])
@pytest.mark.parametrize("kind", KINDS)
def test_linear_kinds_are_read_from_every_file_of_itk(tmp_path, kind, ending):
    path = tmp_path / f"x.{ending}"
    sitk.WriteTransform(KINDS[kind], str(path))
    same_map(path, KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_linear_objects_are_the_same_maps(kind):
    found = from_itk(KINDS[kind], Path("object"))(world_points(20))[0].numpy()
    np.testing.assert_allclose(found, mapped(KINDS[kind]), atol=1e-4)


@pytest.mark.parametrize("precision", ["double", "float"])
@pytest.mark.parametrize("kind", TEXTS)
def test_kinds_without_a_class_of_simpleitk_are_read(tmp_path, kind, precision):
    path = tmp_path / "x.tfm"
    numbers = f"Parameters: {TEXTS[kind]}\nFixedParameters: 4 5 6\n"
    path.write_text(
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}_{precision}_3_3\n{numbers}"
    )
    same_map(path, sitk.ReadTransform(str(path)))


def test_the_general_kind_of_ants_is_affine(tmp_path):
    """As in ``Affine.txt`` of old versions of ANTs; SimpleITK itself cannot map points with it."""
    path = tmp_path / "x.txt"
    sitk.WriteTransform(KINDS["affine"], str(path))
    path.write_text(path.read_text().replace("AffineTransform", "MatrixOffsetTransformBase"))
    same_map(path, KINDS["affine"])


@pytest.mark.parametrize("ending", ["tfm", "mat", "h5"])
def test_a_field_is_read_from_every_file_of_itk(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    sitk.WriteTransform(displaced(), str(path))
    same_map(path, displaced())


@pytest.mark.parametrize("kind", ["GaussianSmoothingOnUpdate", "BSplineSmoothingOnUpdate"])
def test_fields_that_itk_smooths_are_fields(tmp_path, kind):
    path = tmp_path / "x.tfm"
    sitk.WriteTransform(displaced(), str(path))
    path.write_text(path.read_text().replace("Transform: Displ", f"Transform: {kind}Displ"))
    same_map(path, displaced())


CHAIN = sitk.CompositeTransform([displaced(np.float32), KINDS["euler"], KINDS["scale"], KINDS["translation"]])


@pytest.mark.parametrize("ending", ["tfm", "h5"])
def test_a_composite_is_read_from_every_file_of_itk(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    sitk.WriteTransform(CHAIN, str(path))
    same_map(path, CHAIN)


@pytest.mark.parametrize("misspelled", [False, True])
def test_single_precision_and_the_names_of_old_versions_are_read(tmp_path, misspelled):
    """As ``antsRegistration --float`` writes them; ITK 4 wrote ``TranformParameters``."""
    path = tmp_path / "x.h5"
    sitk.WriteTransform(CHAIN, str(path))
    with h5py.File(path, "r+") as file:
        for group in file["TransformGroup"].values():
            kind = group["TransformType"][0].decode().replace("double", "float")
            group["TransformType"][0] = kind.encode()
            for name in set(group) - {"TransformType"}:
                numbers = group[name][()].astype(np.float32)
                del group[name]
                group[name.replace("Transf", "Tranf") if misspelled else name] = numbers
    same_map(path, CHAIN)
    assert np.abs(mapped(sitk.ReadTransform(str(path))) - mapped(CHAIN)).max() < 1e-4  # ITK reads it, too


@pytest.mark.parametrize("ending", ["tfm", "mat"])
def test_our_affine_files_are_those_of_itk(tmp_path, ending):
    save_transform(rotation(), tmp_path / f"ours.{ending}")
    affine = sitk.ReadTransform(str(tmp_path / f"ours.{ending}"))
    sitk.WriteTransform(sitk.AffineTransform(affine), str(tmp_path / f"theirs.{ending}"))
    ours, theirs = ((tmp_path / f"{who}.{ending}").read_bytes() for who in ("ours", "theirs"))
    if ending == "mat":
        assert ours == theirs
        return
    for line, expected in zip(ours.decode().splitlines(), theirs.decode().splitlines(), strict=True):
        words, known = line.split(), expected.split()
        if "Parameters:" in words[0]:
            assert [float(word) for word in words[1:]] == [float(word) for word in known[1:]]
        else:
            assert words == known


REFUSED = {
    "two": (lambda text: text + text, "must hold one transform or a composite, got 2 transforms"),
    "none": (lambda text: text.splitlines()[0], "must hold one transform or a composite, got 0 transforms"),
    "no tag": (lambda text: text + "\nhello\n", "must be lines of tags, got 'hello'"),
    "numbers first": (lambda text: "Parameters: 1\n" + text, "must be lines of tags, got 'Parameters: 1'"),
    "letters": (lambda text: text.replace(": 1", ": one"), "must hold numbers, got .*'one"),
    "few numbers": (lambda text: text.replace(": 1", ":"), "AffineTransform must have 12 parameters, got 11"),
    "no numbers": (lambda text: text.replace("Param", "Other"), "must have a line of Parameters, got none"),
    "half a centre": (lambda text: text[:-2] + "\n", "must have 3 fixed parameters, its centre, got 2"),
    "flat": (lambda text: text.replace("3_3", "2_2"), "must be 3D, got 2D"),
    "no kind": (lambda text: text.replace("_double_3_3", ""), "must name its kind, got 'AffineTransform'"),
    "other kind": (lambda text: text.replace("Affine", "Kernel"), "or a displacement field, got KernelTrans"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_other_text_is_refused_in_one_line(tmp_path, fault):
    change, message = REFUSED[fault]
    path = tmp_path / "x.tfm"
    sitk.WriteTransform(sitk.AffineTransform((1, 0, 0, 0, 1, 0, 0, 0, 1), SHIFT, CENTRE), str(path))
    path.write_text(change(path.read_text()))
    with pytest.raises(PatchMorphError, match=message) as error:
        load_transform(path)
    assert "\n" not in str(error.value)
    assert "x.tfm" in str(error.value)


def test_a_composite_within_one_is_refused(tmp_path):
    """ITK writes no such file, and cannot say which transforms are whose."""
    path = tmp_path / "x.tfm"
    sitk.WriteTransform(CHAIN, str(path))
    path.write_text(path.read_text() + "Transform: CompositeTransform_double_3_3\n")
    with pytest.raises(PatchMorphError, match=r"or a displacement field, got CompositeTransform in .*x\.tfm"):
        load_transform(path)


def test_numbers_that_are_not_in_the_file_take_no_memory(tmp_path):
    """HDF5 allocates what a data set announces: here, 8 TB."""
    path = tmp_path / "x.h5"
    sitk.WriteTransform(displaced(), str(path))
    with h5py.File(path, "r+") as file:
        group = file["TransformGroup/0"]
        del group["TransformParameters"]
        group.create_dataset("TransformParameters", (10**12,), float, chunks=(10**6,))
    with pytest.raises(PatchMorphError, match=r"must be whole, got 10{12} numbers that are not in .*x\.h5"):
        load_transform(path)


@pytest.mark.parametrize(
    ("at", "values", "message"),
    [
        (0, (1000, 10, 1, 0, 4), "must be a MATLAB file of level 4"),
        (0, (0, 12, 1, 1, 27), "must be a MATLAB file of level 4"),
        (0, (0, 2**31 - 1, 2**31 - 1, 0, 27), "must be whole, got .* bytes"),
        (0, (0, 12, 1, 0, -1), "must be a MATLAB file of level 4"),
        (0, (0, 12, 1, 0, 2**31 - 1), "must be whole, got .* bytes"),
    ],
)
def test_what_a_matlab_file_announces_must_be_in_it(tmp_path, at, values, message):
    path = tmp_path / "x.mat"
    save_transform(rotation(), path)
    data = bytearray(path.read_bytes())
    data[at : at + 20] = np.array(values, "<i4").tobytes()
    path.write_bytes(data)
    with pytest.raises(PatchMorphError, match=message):
        load_transform(path, "itk")


def test_a_matlab_file_of_single_precision_is_read(tmp_path):
    path = tmp_path / "x.mat"
    save_transform(rotation(), path)
    data = path.read_bytes()
    at = 20 + len("AffineTransform_double_3_3") + 1
    numbers = np.frombuffer(data, "<f8", 12, at).astype("<f4").tobytes()
    name = b"AffineTransform_float_3_3\0"
    head = np.array([10, 12, 1, 0, len(name)], "<i4").tobytes()
    path.write_bytes(head + name + numbers + data[at + 96 :])
    assert load_transform(path).matrix.numpy() == pytest.approx(rotation().matrix.numpy(), abs=1e-5)


def test_a_second_matrix_of_another_name_is_refused(tmp_path):
    path = tmp_path / "x.mat"
    save_transform(rotation(), path)
    path.write_bytes(path.read_bytes().replace(b"fixed", b"other"))
    with pytest.raises(PatchMorphError, match=r"must be a matrix and its fixed one, got Affine.* other"):
        load_transform(path)
