"""Other tools read the OME-Zarr images that we write: they are valid, and their voxels lie where ours do."""

import ngff_zarr
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, lopsided

from patchmorph.images.volume import Image
from patchmorph.io.formats import ome_zarr_writing
from patchmorph.io.images import load_image, save_image

pytestmark = pytest.mark.filterwarnings("ignore")  # ngff-zarr's own


@pytest.fixture(params=[1, 2])
def written(request, tmp_path, monkeypatch):
    """An image of one or two channels, in several levels."""
    monkeypatch.setattr(ome_zarr_writing, "SMALLEST", 16)
    image = lopsided(grid_around((40, 37, 45), AFFINES["anisotropic"] * 3, (1, 2, 3)))
    image = Image(torch.cat([image.data] * request.param, 1), image.grid)
    save_image(image, tmp_path / "brain.ome.zarr")
    return tmp_path / "brain.ome.zarr", image


def test_ngff_zarr_validates_them_and_agrees(written):
    path, image = written
    found = ngff_zarr.from_ngff_zarr(str(path), validate=True)
    assert len(found.images) > 2
    finest = min(image.spacing_mm)
    for level, expected in zip(found.images[:2], (image, image.level(2 * finest)), strict=True):
        first = [level.translation[axis] for axis in "xyz"]
        np.testing.assert_allclose(first, expected.grid.voxel_to_world[0, :3, 3], atol=1e-6)
        np.testing.assert_allclose([level.scale[axis] for axis in "xyz"], expected.spacing_mm, rtol=1e-6)
        assert {level.axes_units[axis] for axis in "xyz"} == {"millimeter"}
    voxels = np.asarray(found.images[0].data)
    order = (3, 2, 1, 0) if image.channels > 1 else (2, 1, 0)
    np.testing.assert_array_equal(voxels.transpose(order), image.numpy())


def test_ome_zarr_models_validates_them(written):
    models = pytest.importorskip("ome_zarr_models")
    path, image = written
    group = models.open_ome_zarr(str(path))
    assert type(group).__module__.startswith("ome_zarr_models.v05")
    names = [axis.name for axis in group.attributes.ome.multiscales[0].axes]
    assert names == (["c", "z", "y", "x"] if image.channels > 1 else ["z", "y", "x"])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_ngff_zarr_writes_is_read(tmp_path, version):
    array = np.random.default_rng(0).integers(0, 900, (12, 15, 18)).astype(np.uint16)
    scale, translation = {"z": 50.0, "y": 30.0, "x": 20.0}, {"z": 5.0, "y": -3.0, "x": 2.0}
    units = dict.fromkeys("zyx", "micrometer")
    image = ngff_zarr.to_ngff_image(
        array, dims=["z", "y", "x"], scale=scale, translation=translation, axes_units=units
    )
    scales = ngff_zarr.to_multiscales(image, scale_factors=[2], chunks=8)
    ngff_zarr.to_ngff_zarr(str(tmp_path / "a.ome.zarr"), scales, version=version)
    found = load_image(tmp_path / "a.ome.zarr", "LPS")
    np.testing.assert_array_equal(found.data[0, 0].numpy(), array.T)
    assert found.grid.spacing_mm[0].tolist() == pytest.approx([0.02, 0.03, 0.05])
