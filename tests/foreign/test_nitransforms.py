"""nitransforms reads our files and agrees: X5, LTA, AFNI, FLIRT."""

import warnings

import nibabel
import nitransforms.io.afni
import nitransforms.io.itk
import nitransforms.io.lta
import nitransforms.io.x5 as x5
import nitransforms.manip
import numpy as np
import pytest
import torch
from foreign.conftest import apply, flow, nibabel_image, world_points
from nitransforms.linear import Affine
from synthetic import AFFINES, grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.fields import as_fields

CORNER_MM = 1e-4
"""What an affine file may be off at the corners of the image."""


def corners(grid):
    return grid.corners_world()[0].numpy()


def test_an_lta_is_the_same_map(tmp_path, affine, pair):
    save_transform(affine, tmp_path / "affine.lta", pair=pair)
    theirs = nitransforms.io.lta.FSLinearTransform.from_filename(tmp_path / "affine.lta")
    expected = affine.matrix[0].numpy()
    found = apply(theirs.to_ras(), corners(pair.fixed))
    np.testing.assert_allclose(found, apply(expected, corners(pair.fixed)), atol=CORNER_MM)
    # src is the moving image and dst the fixed one, as FreeSurfer's own programs take them.
    np.testing.assert_allclose(theirs["src"].as_affine(), matrix_of(pair.moving), atol=1e-5)
    np.testing.assert_allclose(theirs["dst"].as_affine(), matrix_of(pair.fixed), atol=1e-5)
    loaded = load_transform(tmp_path / "affine.lta").matrix[0].numpy()
    np.testing.assert_allclose(loaded, expected, atol=1e-10)


def test_an_lta_between_voxels_is_read(tmp_path, affine, pair):
    save_transform(affine, tmp_path / "ras.lta", pair=pair)
    forward = np.linalg.inv(matrix_of(pair.moving)) @ affine.matrix[0].numpy() @ matrix_of(pair.fixed)
    lines = (tmp_path / "ras.lta").read_text().splitlines()
    lines[0] = "type      = 0 # LINEAR_VOX_TO_VOX"
    lines[5:9] = [" ".join(f"{value:.15e}" for value in row) for row in np.linalg.inv(forward)]
    (tmp_path / "voxel.lta").write_text("\n".join(lines))
    loaded = load_transform(tmp_path / "voxel.lta").matrix[0].numpy()
    np.testing.assert_allclose(loaded, affine.matrix[0].numpy(), atol=1e-9)
    for kind, message in (("type      = 14", "got 1 of type 14"), ("type = x", "must be a whole file")):
        (tmp_path / "other.lta").write_text("\n".join([kind, *lines[1:]]))
        with pytest.raises(PatchMorphError, match=message):
            load_transform(tmp_path / "other.lta")


def test_a_flirt_matrix_is_the_same_map(tmp_path, affine, pair):
    save_transform(affine, tmp_path / "affine.mat", "fsl", pair)
    fixed, moving = nibabel_image(pair.fixed), nibabel_image(pair.moving)
    theirs = Affine.from_filename(tmp_path / "affine.mat", fmt="fsl", reference=fixed, moving=moving)
    found, expected = (
        apply(matrix, corners(pair.fixed)) for matrix in (theirs.matrix, affine.matrix[0].numpy())
    )
    np.testing.assert_allclose(found, expected, atol=CORNER_MM)


def test_an_afni_affine_is_the_same_map(tmp_path, affine):
    save_transform(affine, tmp_path / "affine.aff12.1D")
    theirs = nitransforms.io.afni.AFNILinearTransformArray.from_filename(tmp_path / "affine.aff12.1D")
    points = world_points()[0].double().numpy()
    expected = apply(affine.matrix[0].numpy(), points)
    np.testing.assert_allclose(apply(theirs.to_ras()[0], points), expected, atol=CORNER_MM)
    loaded = load_transform(tmp_path / "affine.aff12.1D")
    np.testing.assert_allclose(apply(loaded.matrix[0].numpy(), points), expected, atol=CORNER_MM)


def test_afni_and_oblique_images_do_not_go_together(tmp_path, affine):
    oblique = grid_around((9, 9, 9), AFFINES["oblique"])
    with pytest.raises(PatchMorphError, match="must be between images that are not oblique"):
        save_transform(affine, tmp_path / "affine.aff12.1D", pair=GridPair(oblique))
    (tmp_path / "two.1D").write_text("1 2 3\n")
    with pytest.raises(PatchMorphError, match="must be twelve numbers, got 3"):
        load_transform(tmp_path / "two.1D")


def by_nitransforms(path, points):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # chains have no reference
        return nitransforms.manip.TransformChain.from_filename(path, fmt="X5").map(points[0].double().numpy())


def test_an_x5_field_is_the_same_map(tmp_path, chain, pair):
    save_transform(chain, tmp_path / "dense.x5", pair=pair)
    inner = pair.fixed.crop((1, 1, 1), (28, 32, 26))
    points = inner.points_world().reshape(1, -1, 3)[:, ::97]
    np.testing.assert_allclose(
        by_nitransforms(tmp_path / "dense.x5", points), chain(points)[0].numpy(), atol=1e-3
    )


def test_an_x5_chain_is_the_same_map(tmp_path, chain):
    save_transform(chain, tmp_path / "chain.x5")
    points = world_points(100, extent=60)  # inside all fields: beyond, nitransforms has its own rule
    # Between the points of fields of 8 and 4 mm it follows splines, we straight lines.
    np.testing.assert_allclose(
        by_nitransforms(tmp_path / "chain.x5", points), chain(points)[0].numpy(), atol=0.5
    )
    loaded = load_transform(tmp_path / "chain.x5")
    torch.testing.assert_close(loaded(points), chain(points), atol=1e-4, rtol=0)


def test_x5_of_one_transform_and_of_an_inverse(tmp_path, affine):
    save_transform(affine, tmp_path / "affine.x5")
    torch.testing.assert_close(load_transform(tmp_path / "affine.x5").matrix, affine.matrix)
    backwards = flow(6.0, 1.0, 2).inverse()
    save_transform(backwards, tmp_path / "inverse.x5")
    (tabulated,) = as_fields(backwards)
    points = world_points(100, extent=60)
    torch.testing.assert_close(
        load_transform(tmp_path / "inverse.x5")(points), tabulated(points), atol=1e-4, rtol=0
    )
    (tmp_path / "text.x5").write_text("no transform")
    with pytest.raises(PatchMorphError, match="must be a whole file of x5"):
        load_transform(tmp_path / "text.x5")


def test_an_x5_field_of_places_is_read_as_one_of_shifts(tmp_path, pair):
    """The format has both: where a point goes, or how far."""
    grid = pair.fixed
    points = grid.points_world()[0].double().numpy()
    shift = 3 * np.sin(points / 20)
    nodes = [
        x5.X5Transform(
            "nonlinear",
            points + shift,
            "densefield",
            "deformations",
            dimension_kinds=("space", "space", "space", "vector"),
            domain=x5.X5Domain(True, grid.shape, matrix_of(grid), "cartesian"),
        )
    ]
    x5.to_filename(tmp_path / "places.x5", nodes)
    loaded = load_transform(tmp_path / "places.x5")
    found = loaded(grid.points_world())[0].numpy()
    np.testing.assert_allclose(found, points + shift, atol=1e-3)


@pytest.mark.parametrize("tool", ["afni", "itk"])
def test_a_field_is_what_nitransforms_reads(tmp_path, tool):
    """AFNI's fields as ITK's: five axes, LPS; AFNI has no intent but an extension."""
    grid = grid_around((9, 10, 11), AFFINES["LIA"] * 8, (3, 2, 1))
    shift = 3 * np.sin(grid.points_world()[0].double().numpy() / 20)
    image = nibabel.Nifti1Image((shift * [-1, -1, 1])[:, :, :, None].astype(np.float32), matrix_of(grid))
    if tool == "afni":
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("afni", b"<AFNI_attributes/>"))
        reader = nitransforms.io.afni.AFNIDisplacementsField
    else:
        image.header.set_intent("vector")
        reader = nitransforms.io.itk.ITKDisplacementsField
    nibabel.save(image, tmp_path / "warp.nii.gz")
    theirs = reader.from_image(nibabel.load(tmp_path / "warp.nii.gz"))
    points = grid.points_world()
    moved = (load_transform(tmp_path / "warp.nii.gz")(points) - points)[0].numpy()
    np.testing.assert_allclose(moved, theirs.get_fdata(), atol=1e-4)


@pytest.mark.parametrize("names", [("oblique", "LAS"), ("LAS", "oblique")])
def test_neither_image_may_be_oblique_for_afni(tmp_path, affine, names):
    fixed, moving = (grid_around((9, 9, 9), AFFINES[name]) for name in names)
    path = tmp_path / "affine.aff12.1D"
    with pytest.raises(PatchMorphError, match="must be between images that are not oblique"):
        save_transform(affine, path, pair=GridPair(fixed, moving))
    save_transform(affine, path)
    with pytest.raises(PatchMorphError, match="must be between images that are not oblique"):
        load_transform(path, pair=GridPair(fixed, moving))


def test_an_lta_of_several_transforms_is_refused(tmp_path, affine, pair):
    save_transform(affine, tmp_path / "one.lta", pair=pair)
    text = (tmp_path / "one.lta").read_text()
    assert "nxforms   = 1" in text
    (tmp_path / "two.lta").write_text(text.replace("nxforms   = 1", "nxforms   = 2"))
    with pytest.raises(PatchMorphError, match="must hold one matrix of type 0 or 1, got 2 of type 1"):
        load_transform(tmp_path / "two.lta")
