import json

import pytest
import torch
from safetensors.torch import save_file
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import read_tensors
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.transforms.native import _restore, stored
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.steps import to_whole_steps
from patchmorph.transforms.velocity import VelocityField


@pytest.fixture
def chain(linear):
    flow = smooth_velocity(grid_around((20, 22, 24), linear * 4), 6.0)
    return rotation() @ flow @ smooth_velocity(grid_around((12, 12, 12), linear * 5), 2.0, seed=1).flow


def points():
    return torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0)) * 60 - 30


def test_a_chain_comes_back_with_its_kinds(tmp_path, chain):
    save_transform(chain, tmp_path / "chain.safetensors")
    loaded = load_transform(tmp_path / "chain.safetensors")
    assert [type(part) for part in loaded.parts()] == [type(part) for part in chain.parts()]
    # Numbers of up to 12 mm in int16: steps of 0.0004 mm, and sixfold squaring adds up their errors.
    torch.testing.assert_close(loaded(points()), chain(points()), atol=2e-3, rtol=0)


def test_inverting_twice_gives_the_file_again(tmp_path, chain):
    save_transform(chain, tmp_path / "chain.safetensors")
    once = load_transform(tmp_path / "chain.safetensors").inverse()
    save_transform(once, tmp_path / "inverse.safetensors")
    back = load_transform(tmp_path / "inverse.safetensors")
    torch.testing.assert_close(back(points()), once(points()))
    twice = back.inverse()
    torch.testing.assert_close(twice(points()), load_transform(tmp_path / "chain.safetensors")(points()))


def test_what_is_stored_is_what_is_read(tmp_path, chain):
    save_transform(chain, tmp_path / "chain.safetensors")
    loaded = load_transform(tmp_path / "chain.safetensors")
    assert torch.equal(stored(chain)(points()), loaded(points()))
    save_transform(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "chain.safetensors").read_bytes()


def test_velocities_in_steps_keep_their_flows():
    grid = grid_around((8, 9, 10), torch.eye(3).numpy() * 4)
    velocity = smooth_velocity(grid, 6.0).velocity
    rounded = velocity.clone()
    to_whole_steps(rounded)
    kept, other = VelocityField(rounded, grid), VelocityField(velocity, grid)
    found = stored(rotation() @ kept @ other).parts()
    assert found[1] is kept
    assert found[2] is not other


@pytest.mark.parametrize("kind", ["velocity", "displacement", "gaps"])
def test_points_are_made_where_the_values_are(kind):
    """Those of a registration on a GPU go through `stored`; the matrix is in the processor's memory there."""
    entry = {"kind": kind, "unit_mm": 0.5, "steps": 4, "outside": "border", "inverse": False}
    names = {"k.values": (3, torch.int16), "k.missing": (1, torch.uint8)}
    tensors = {
        name: torch.zeros(1, count, 4, 5, 6, dtype=dtype, device="meta")
        for name, (count, dtype) in names.items()
    }
    part = _restore(entry, "k", tensors | {"k.voxel_to_world": torch.eye(4, dtype=torch.float64)[None]})
    assert part.grid.device.type == "meta"
    assert part.grid.voxel_to_world.device.type == "cpu"


def test_parts_may_share_what_they_are_made_of(tmp_path, chain):
    flow = chain.parts()[1]
    save_transform(flow.inverse() @ flow, tmp_path / "loop.safetensors")
    found = load_transform(tmp_path / "loop.safetensors")(points())
    torch.testing.assert_close(found, points(), atol=2e-3, rtol=0)


def test_variance_is_kept(tmp_path):
    grid = grid_around((8, 8, 8), torch.eye(3).numpy() * 4)
    flow = VelocityField(torch.zeros(1, 3, 8, 8, 8), grid, 5, torch.full((1, 1, 8, 8, 8), 0.25))
    save_transform(flow, tmp_path / "flow.safetensors")
    loaded = load_transform(tmp_path / "flow.safetensors")
    assert loaded.steps == 5
    assert torch.equal(loaded.variance, flow.variance)


def test_splines_come_back_with_their_degree_and_only_their_files_have_version_3(tmp_path, chain):
    flow = chain.parts()[1]
    for field, version in ((flow, 1), (spline_of(flow, 3), 3), (spline_of(flow, 5), 3)):
        for kind in (field, field.flow):
            file = tmp_path / "field.safetensors"
            save_transform(rotation() @ kind.inverse() @ kind, file)
            assert read_tensors(file, "transform")[1]["version"] == version
            _, back, forth = load_transform(file).parts()
            assert back.forward.degree == forth.degree == field.degree
            torch.testing.assert_close(forth(points()), kind(points()), atol=2e-3, rtol=0)
    difference = (spline_of(flow, 3)(points()) - flow(points())).abs().max()
    assert difference > 0.01  # so that one read for the other would show


def test_a_degree_may_be_written_with_a_point(tmp_path, chain):
    flow, file = spline_of(chain.parts()[1], 5), tmp_path / "field.safetensors"
    save_transform(flow, file)
    tensors, metadata = read_tensors(file, "transform")
    metadata["parts"][0]["degree"] = 5.0
    save_file(tensors, file, {"patchmorph": json.dumps(metadata)})
    torch.testing.assert_close(load_transform(file)(points()), flow(points()), atol=2e-3, rtol=0)


def test_files_of_version_2_have_cubic_splines(tmp_path, chain):
    flow, file = spline_of(chain.parts()[1], 3), tmp_path / "field.safetensors"
    save_transform(flow, file)
    tensors, metadata = read_tensors(file, "transform")
    del metadata["parts"][0]["degree"]
    metadata["parts"][0]["spline"] = True
    save_file(tensors, file, {"patchmorph": json.dumps(metadata | {"version": 2})})
    torch.testing.assert_close(load_transform(file)(points()), flow(points()), atol=2e-3, rtol=0)


def spline_of(flow, degree):
    return VelocityField(flow.velocity, flow.grid, flow.steps, degree=degree)


@pytest.mark.parametrize(
    "change",
    [
        {"spline": "yes"},
        {"degree": 4},
        {"degree": 5, "outside": "zeros"},
        {"spline": True, "outside": "zeros"},
    ],
)
def test_splines_of_other_kinds_are_refused(tmp_path, chain, change):
    save_transform(chain.parts()[2], tmp_path / "field.safetensors")
    tensors, metadata = read_tensors(tmp_path / "field.safetensors", "transform")
    metadata["parts"][0] |= change
    save_file(tensors, tmp_path / "field.safetensors", {"patchmorph": json.dumps(metadata)})
    with pytest.raises(PatchMorphError, match="must be a whole file"):
        load_transform(tmp_path / "field.safetensors")


def test_other_tensors_are_refused(tmp_path):
    save_file({"0.matrix": torch.eye(4)}, tmp_path / "plain.safetensors")
    with pytest.raises(PatchMorphError, match="transform must carry PatchMorph's metadata"):
        load_transform(tmp_path / "plain.safetensors")
    for said, message in (
        ({"spec": {}}, "got no transform, version None"),
        ({"format": "patchmorph-transform", "version": 4}, "got patchmorph-transform, version 4"),
        (
            {"format": "patchmorph-transform", "version": 1, "parts": [{"kind": "affine"}]},
            "must be a whole file",
        ),
    ):
        save_file({"x": torch.eye(4)}, tmp_path / "other.safetensors", {"patchmorph": json.dumps(said)})
        with pytest.raises(PatchMorphError, match=message):
            load_transform(tmp_path / "other.safetensors")


def test_the_ending_says_whose_file_it_is(tmp_path):
    identity = AffineTransform.identity()
    with pytest.raises(PatchMorphError, match=r"of fsl must end in \.mat, .*\.nii\.gz, \.nii, got .*x\.lta"):
        save_transform(identity, tmp_path / "x.lta", "fsl")
    with pytest.raises(PatchMorphError, match=r"tool must be one of patchmorph, itk, .*, got elastix"):
        save_transform(identity, tmp_path / "x.mat", "elastix")
    with pytest.raises(PatchMorphError, match=r"file to write must be one of patchmorph, .*, got spm"):
        save_transform(identity, tmp_path / "x.nii.gz", "spm")
    with pytest.raises(PatchMorphError, match="transform must be an existing file"):
        load_transform(tmp_path / "x.mat")
