"""The four examples of docs/extend.md run, each as a reader would use it."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from synthetic import AFFINES, grid_around, lopsided, rotation

import patchmorph
from patchmorph.errors import PatchMorphError
from patchmorph.io.formats import registry
from patchmorph.networks.contract import check_answer
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.objective import objective
from patchmorph.registration.pipeline import refine
from patchmorph.registration.preparation import prepare_pair
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

PAGE = (Path(__file__).parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")
GRID = grid_around((30, 34, 28), AFFINES["LAS"] * 6, (4.0, -3, 2))


def example(title: str, language: str = "python") -> str:
    """The block of a section."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    (block,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return block


def test_the_network_keeps_the_contract_and_is_trained(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(example("A network"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)  # of another page
    content = yaml.safe_load(example("A network", "yaml"))["model"]
    model = PatchMorphModel(ModelSpec.model_validate({**content, "patch_size": 16, "spacings_mm": [8.0]}))
    (network,) = model.dense
    check_answer(network, 16, affine=False)
    network.train()
    network(torch.rand(1, 2, 16, 16, 16)).square().sum().backward()
    assert all(weights.grad is not None for weights in network.parameters())


def test_the_loss_drives_a_refinement(monkeypatch):
    monkeypatch.setattr(objective, "SIMILARITIES", objective.SIMILARITIES.copy())
    lines: dict = {}
    exec(example("A loss"), lines)
    patch = torch.rand(2, 1, 8, 8, 8)
    assert lines["objective"].dissimilarity(patch, patch).tolist() == [0.0, 0.0]
    mask = torch.zeros_like(patch)
    mask[:, :, :4] = 1
    other = patch.clone()
    other[:, :, 4:] += 1
    assert lines["charbonnier"](patch, other, mask).tolist() == [0.0, 0.0]
    assert (lines["charbonnier"](patch, other) > 0.4).all()


def test_the_format_is_read_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "FORMATS", registry.FORMATS)
    exec(example("A file format"), {})
    image = lopsided(GRID)
    patchmorph.save_image(image, tmp_path / "brain.npz")
    found = patchmorph.load_image(tmp_path / "brain.npz")
    assert torch.equal(found.data, image.data)
    torch.testing.assert_close(found.grid.voxel_to_world, image.grid.voxel_to_world)
    (tmp_path / "other.npz").write_bytes((tmp_path / "brain.npz").read_bytes().replace(b"voxels", b"values"))
    with pytest.raises(PatchMorphError, match="must have arrays voxels and affine, got values, affine in"):
        patchmorph.load_image(tmp_path / "other.npz")


def test_the_stage_brings_the_map_nearer_to_the_truth():
    lines: dict = {}
    exec(example("A stage"), lines)
    truth = rotation(4) @ AffineTransform.translation(torch.tensor([[9.0, -6, 3]]))
    moving = lopsided(GRID)
    pair = prepare_pair(resample(moving, truth, GRID), moving)
    start = AffineTransform.identity()
    stages = [lines["ShiftStage"](step_mm) for step_mm in (8.0, 4.0)]
    history = refine(pair, (start,), stages)
    points = GRID.points_world()[moving.data[:, 0] > 0.2][None]
    errors = [float((found(points) - truth(points)).norm(dim=-1).mean()) for found in history]
    assert len(history) == 3
    assert errors[2] < errors[1] < errors[0]
