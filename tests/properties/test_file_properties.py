"""What is written is what is read: every format of transforms and of images that can be written."""

from itertools import count

import pytest
import torch
from drawn import affines, few, flows, grids, images, points_in, seeds
from hypothesis import given
from hypothesis import strategies as st

from patchmorph.io.formats import registry as image_formats
from patchmorph.io.grids import GridPair
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.transforms.registry import FORMATS

WRITTEN = [(form.tool, ending) for form in FORMATS if form.write for ending in form.endings]
FIELDS = (".safetensors", ".h5", ".hdf5", ".nii.gz", ".nii", ".mgz", ".x5", ".zarr")
PLACED = [ending for ending in image_formats.ENDINGS if not ending.startswith(".tif")]
square = grids(least=3, most=9, shear=0.0)


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    """``path(ending)``: of a new file."""
    folder, number = tmp_path_factory.mktemp("written"), count()
    return lambda ending: folder / f"{next(number)}{ending}"


@pytest.mark.parametrize(("tool", "ending"), [form for form in WRITTEN if form[1] not in FIELDS])
@few
@given(affine=affines(), fixed=square, moving=square, seed=seeds)
def test_an_affine_map_comes_back_from_every_format(path, tool, ending, affine, fixed, moving, seed):
    file = path(ending)
    pair = GridPair() if tool == "afni" else GridPair(fixed, moving)  # AFNI's are not valid on oblique grids
    save_transform(affine, file, tool, pair)
    points = points_in(fixed, seed)
    found = load_transform(file, tool, pair)(points)
    # Coordinates of up to 400 mm in float32, through matrices of 6 decimals or more
    assert float((found - affine(points)).norm(dim=-1).max()) < 2e-3


@pytest.mark.parametrize(("tool", "ending"), [form for form in WRITTEN if form[1] in FIELDS])
@few
@given(affine=affines(), flow=flows(), fixed=square, moving=square)
def test_a_chain_comes_back_at_the_voxels_of_the_fixed_image(path, tool, ending, affine, flow, fixed, moving):
    chain, file, pair = affine @ flow, path(ending), GridPair(fixed, moving)
    save_transform(chain, file, tool, pair)
    found = load_transform(file, tool, pair).at_grid(fixed)
    off = (found - chain.at_grid(fixed)).norm(dim=-1)
    assert float(off.max()) < 0.05


@pytest.mark.parametrize("ending", PLACED)
@few
@given(grid=square, seed=seeds, integers=st.booleans())
def test_an_image_comes_back_with_its_voxels_and_its_place(path, ending, grid, seed, integers):
    image, file = images(grid, seed, integers), path(ending)
    save_image(image, file)
    found = load_image(file)
    assert torch.equal(found.data, image.data)
    assert found.dtype == image.dtype
    off = (found.grid.points_world() - image.grid.points_world()).norm(dim=-1)
    assert float(off.max()) < 1e-3 * max(1.0, float(grid.spacing_mm.max()))
