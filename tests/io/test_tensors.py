"""Files of tensors with JSON beside them."""

import pytest
import torch
from safetensors.torch import save_file

from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import (
    check_finite,
    check_header,
    half_precision,
    read_header,
    read_tensors,
    write_tensors,
)

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


def test_a_header_tells_shapes_and_types_and_reads_no_tensor(tmp_path, monkeypatch):
    write_tensors(tmp_path / "a.safetensors", TENSORS, METADATA)
    header, metadata = read_header(tmp_path / "a.safetensors")
    assert metadata == METADATA
    assert header == {
        "weights/a": ((3, 4), "F32"),
        "ids": ((3,), "I64"),
        "bytes": ((1, 2), "U8"),
        "transposed": ((3, 2), "F32"),
    }


def test_tensors_that_share_memory_are_written_each_by_itself(tmp_path):
    """As weights of layers that a network uses twice."""
    shared = torch.arange(6.0)
    write_tensors(tmp_path / "a.safetensors", {"a": shared, "b": shared, "part": shared[2:4]}, METADATA)
    tensors, _ = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["a"], shared)
    assert torch.equal(tensors["b"], shared)
    assert torch.equal(tensors["part"], shared[2:4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "got metadata that are no JSON in"),
        ("[" * 100_000, "got metadata that are no JSON in"),
        ('{"step": ' + "9" * 5000 + "}", "got metadata that are no JSON in"),
        ('{"a": "' + "x" * 1_000_000 + '"}', "must have less than 1 MB of metadata, got 1000009 bytes in"),
        ("null", "must carry PatchMorph's metadata"),
        ('"text"', "must carry PatchMorph's metadata"),
    ],
)
@pytest.mark.parametrize("read", [read_tensors, read_header])
def test_metadata_that_are_broken_or_too_large_are_one_line(tmp_path, read, text, message):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"patchmorph": text})
    with pytest.raises(PatchMorphError, match=message) as error:
        read(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, 300, -1])
@pytest.mark.parametrize("read", [read_tensors, read_header])
def test_truncated_files_are_one_line(tmp_path, read, size):
    write_tensors(tmp_path / "a.safetensors", TENSORS, METADATA)
    raw = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(raw[:size])
    with pytest.raises(
        PatchMorphError, match=r"model must be a safetensors file, got .*a.safetensors: "
    ) as error:
        read(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


def header_of(path, tensors):
    write_tensors(path / "a.safetensors", tensors, METADATA)
    return read_header(path / "a.safetensors")[0]


@pytest.mark.parametrize("like", [TENSORS, half_precision(TENSORS)])
def test_tensors_of_any_precision_fit(tmp_path, like):
    wanted = {name: tensor.to("meta") for name, tensor in TENSORS.items()}  # needs no memory
    check_header(header_of(tmp_path, like), wanted, tmp_path, "checkpoint")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": None}, "must hold just the tensors of its networks, got no ids in"),
        ({"more\n\x1b": torch.ones(1)}, r"must hold just the tensors of its networks, got also more \? in"),
        ({"ids": torch.ones(3)}, r"must hold ids as int64 \(3,\), got F32 \(3,\) in"),
        ({"ids": torch.ones(3, dtype=torch.int32)}, r"must hold ids as int64 \(3,\), got I32 \(3,\) in"),
        ({"bytes": torch.ones(2, 1, dtype=torch.uint8)}, r"bytes as uint8 \(1, 2\), got U8 \(2, 1\) in"),
        ({"weights/a": torch.ones(3, 4, 1)}, r"weights/a as floating-point \(3, 4\), got F32 \(3, 4, 1\) in"),
        (
            {"weights/a": torch.ones(3, 4, dtype=torch.int8)},
            r"weights/a as floating-point .*, got I8 \(3, 4\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, changes, message):
    tensors = {name: tensor for name, tensor in {**TENSORS, **changes}.items() if tensor is not None}
    with pytest.raises(PatchMorphError, match=f"checkpoint .*{message}"):
        check_header(header_of(tmp_path, tensors), TENSORS, tmp_path, "checkpoint")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_numbers_that_are_not_finite_are_counted(tmp_path, bad, dtype):
    check_finite(TENSORS, tmp_path)
    tensors = {**TENSORS, "other": torch.tensor([1, bad, bad, 2], dtype=dtype)}
    with pytest.raises(
        PatchMorphError, match="model must hold finite numbers, got 2 that are not in other of"
    ):
        check_finite(tensors, tmp_path)
