"""ngff-zarr validates our scenes, and its conversion to ITK, run by SimpleITK, agrees."""

import json

import ngff_zarr
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from foreign.conftest import world_points
from ngff_zarr.validate import validate
from synthetic import AFFINES, grid_around, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.io.transforms.formats import load_transform, save_transform

pytestmark = pytest.mark.filterwarnings("ignore")  # ngff-zarr's own


def leaves(said):
    return (
        [leaf for step in said.transformations for leaf in leaves(step)]
        if said.type == "sequence"
        else [said]
    )


def by_itk(path, points: np.ndarray) -> np.ndarray:
    """``points`` (x, y, z) through a scene, as ngff-zarr and SimpleITK understand it."""
    (said,) = ngff_zarr.from_ome_zarr(path, kind="scene", validate=True).coordinateTransformations
    for leaf in leaves(said):
        fields = (
            {leaf.path: ngff_zarr.from_ome_zarr(f"{path}/{leaf.path}")}
            if leaf.type == "displacements"
            else None
        )
        (found,) = ngff_zarr.ngff_transform_to_itk_transform(leaf, ["z", "y", "x"], fields=fields)
        if leaf.type == "affine":
            transform = sitk.AffineTransform(3)
            transform.SetParameters(np.asarray(found.parameters).tolist())
        else:
            place = np.asarray(found.fixedParameters)
            numbers = np.asarray(found.parameters, np.float64).reshape(*place[:3].astype(int)[::-1], 3)
            image = sitk.GetImageFromArray(numbers, isVector=True)
            image.SetOrigin(place[3:6])
            image.SetSpacing(place[6:9])
            image.SetDirection(place[9:])
            transform = sitk.DisplacementFieldTransform(image)
        points = np.array([transform.TransformPoint(point.tolist()) for point in points])
    return points


@pytest.mark.parametrize("orientation", AFFINES)
def test_a_scene_is_the_same_map(tmp_path, affine, orientation):
    grid = grid_around((20, 22, 24), AFFINES[orientation] * 4, (3.0, -2, 1))
    transform = affine @ smooth_velocity(grid, 3.0).flow
    path = tmp_path / "chain.ome.zarr"
    save_transform(transform, path)
    points = world_points(60, extent=50)  # inside the field
    np.testing.assert_allclose(
        by_itk(path, points[0].double().numpy()), transform(points)[0].numpy(), atol=1e-3
    )
    loaded = load_transform(path)
    assert len(loaded.parts()) == 2
    torch.testing.assert_close(loaded(points), transform(points), atol=1e-4, rtol=0)


def test_a_scene_is_valid(tmp_path, chain):
    path = tmp_path / "chain.ome.zarr"
    save_transform(chain, path)

    def attributes(group):
        return json.loads((path / group / "zarr.json").read_text())["attributes"]

    validate(attributes(""), version="0.6", model="scene")
    for k in (1, 2):
        validate(attributes(f"coordinateTransformations/{k}"), version="0.6", model="image")


def test_a_scene_replaces_the_one_before(tmp_path, affine, chain):
    for transform in (chain, chain, affine):
        save_transform(transform, tmp_path / "one.zarr")
    assert not (tmp_path / "one.zarr" / "coordinateTransformations").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["one.zarr"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious.zarr").mkdir()
    with pytest.raises(PatchMorphError, match="must be new or a Zarr that it replaces"):
        save_transform(affine, tmp_path / "precious.zarr")


def test_what_is_no_scene_is_refused(tmp_path, affine):
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(PatchMorphError, match="must be a whole file of ngff"):
        load_transform(tmp_path / "empty.zarr")
    save_transform(affine, tmp_path / "affine.zarr")
    said = json.loads((tmp_path / "affine.zarr" / "zarr.json").read_text())
    said["attributes"]["ome"]["scene"]["coordinateTransformations"][0]["transformations"] = [
        {"type": "bijection"}
    ]
    (tmp_path / "affine.zarr" / "zarr.json").write_text(json.dumps(said))
    with pytest.raises(PatchMorphError, match="a transformation of type bijection"):
        load_transform(tmp_path / "affine.zarr")


def scene(folder, steps, unit="millimeter"):
    """A scene of linear transformations as another tool might write it, innermost first, axes z, y, x."""
    axes = [{"name": name, "type": "space", "unit": unit} for name in "zyx"]
    chain = {
        "type": "sequence",
        "transformations": steps,
        "input": {"name": "fixed"},
        "output": {"name": "moving"},
    }
    systems = [{"name": name, "axes": axes} for name in ("fixed", "moving")]
    ome = {"version": "0.6", "scene": {"coordinateSystems": systems, "coordinateTransformations": [chain]}}
    folder.mkdir()
    content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (folder / "zarr.json").write_text(json.dumps(content))
    return folder


def test_linear_steps_of_other_tools_are_applied_in_their_order(tmp_path):
    """By hand, on points (z, y, x): scaled, shifted, turned, left alone, and a sequence within it all."""
    turn = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    inner = [
        {"type": "affine", "affine": [[1, 0.5, 0, 3], [0, 1, 0, 0], [0, 0, 2, -1]]},
        {"type": "scale", "scale": [1.0, 4.0, 1.0]},
    ]
    steps = [
        {"type": "scale", "scale": [2.0, 3.0, 0.5]},
        {"type": "translation", "translation": [10.0, -20.0, 5.0]},
        {"type": "rotation", "rotation": turn},
        {"type": "identity"},
        {"type": "sequence", "transformations": inner},
    ]
    points = world_points(20)
    z, y, x = points[0].double().numpy().T[::-1]
    z, y, x = 2 * z + 10, 3 * y - 20, 0.5 * x + 5
    z, y = -y, z
    z, x = z + 0.5 * y + 3, 2 * x - 1
    expected = np.stack([x, 4 * y, z], axis=1)
    loaded = load_transform(scene(tmp_path / "linear.zarr", steps))
    np.testing.assert_allclose(loaded(points)[0].numpy(), expected, rtol=1e-5, atol=1e-3)


def test_other_units_are_refused(tmp_path):
    with pytest.raises(PatchMorphError, match=r"axes must be z, y, x in millimeter, got .*micrometer"):
        load_transform(scene(tmp_path / "small.zarr", [{"type": "identity"}], "micrometer"))
