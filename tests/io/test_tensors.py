"""Files of tensors with JSON beside them."""

import pytest
import torch
from safetensors.torch import save_file

from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import half_precision, read_tensors, write_tensors

TENSORS = {
    "weights/a": torch.rand(3, 4, generator=torch.Generator().manual_seed(0)),
    "ids": torch.tensor([1, -2, 2**40]),
    "bytes": torch.tensor([[0, 255]], dtype=torch.uint8),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
}
METADATA = {"spec": {"name": "Grüße", "sizes": [1, 2], "none": None}, "step": 3, "best": 0.8125}


def test_tensors_and_metadata_survive_a_round_trip(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS, METADATA)
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_files_are_readable_by_others(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS, METADATA)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644


def test_half_precision_is_of_numbers_that_are_not_whole():
    halved = half_precision(TENSORS)
    assert {name: tensor.dtype for name, tensor in halved.items()} == {
        "weights/a": torch.float16,
        "ids": torch.int64,
        "bytes": torch.uint8,
        "transposed": torch.float16,
    }
    torch.testing.assert_close(halved["weights/a"].float(), TENSORS["weights/a"], atol=5e-4, rtol=0)
    assert torch.equal(halved["ids"], TENSORS["ids"])


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "list.safetensors", {"patchmorph": "[1]"})
    for name, message in (
        ("text", "transform must be a safetensors file, got"),
        ("foreign", "transform must carry PatchMorph's metadata, got none in"),
        ("list", "transform must carry PatchMorph's metadata, got none in"),
        ("missing", "transform must be an existing file, got"),
    ):
        with pytest.raises(PatchMorphError, match=f"{message} .*{name}.safetensors"):
            read_tensors(tmp_path / f"{name}.safetensors", "transform")
