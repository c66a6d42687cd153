"""Files of tensors (safetensors) with JSON metadata: models, checkpoints and transforms. Never pickle."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.atomic import whole_file

KEY = "patchmorph"
MAX_METADATA = 1_000_000
"""Bytes of JSON that are read; our files have a few hundred, and some more for each part of a transform."""
FLOATING = "floating-point"
DTYPES = {
    **dict.fromkeys(("F16", "BF16", "F32", "F64"), FLOATING),
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8", "BOOL": "bool"},
}
"""Kinds of tensors by their name in safetensors."""


class TensorInfo(NamedTuple):
    """Shape of a tensor in a file, and its type by safetensors' name."""

    shape: tuple[int, ...]
    dtype: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON-serializable ``metadata`` to one file.

    Raises:
        PatchMorphError: ``path`` cannot be written; an existing file is then kept.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    counts = Counter(tensor.untyped_storage().data_ptr() for tensor in contiguous.values())
    for name, tensor in contiguous.items():
        if counts[tensor.untyped_storage().data_ptr()] > 1:  # layers that share weights; files do not
            contiguous[name] = tensor.clone()
    with whole_file(path) as temporary:
        try:
            save_file(contiguous, temporary, {KEY: json.dumps(metadata)})
            temporary.chmod(0o644)  # safetensors creates files that only their owner can read
        except SafetensorError as error:  # raised for a full disk
            raise OSError(error) from None


def read_tensors(path: Path, what: str = "model") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `write_tensors` onto the CPU; ``what`` names it in messages.

    Raises:
        PatchMorphError: no such file, or not a PatchMorph file.
    """
    with _opened(path, what) as file:
        metadata = _metadata(file, path, what)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def read_header(path: Path, what: str = "model") -> tuple[dict[str, TensorInfo], dict[str, Any]]:
    """What a file of `write_tensors` holds, by name, and its metadata; no tensor is read.

    Raises:
        PatchMorphError: as for `read_tensors`.
    """
    with _opened(path, what) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        infos = {name: TensorInfo(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
        return infos, _metadata(file, path, what)


def check_header(
    found: Mapping[str, TensorInfo], wanted: Mapping[str, Tensor], path: Path, what: str = "model"
) -> None:
    """Check that a file holds just the tensors that are wanted.

    Args:
        found: from `read_header`.
        wanted: tensors of these shapes and kinds, maybe without memory; the precision may differ.
        path: the file, for messages.
        what: its name there.

    Raises:
        PatchMorphError: a tensor that is missing, or of another shape or kind, or one too many.
    """
    missing, other = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    for names, word in ((missing, "no"), (other, "also")):
        if names:
            got = f"{word} {one_line(min(names))} in {path}"
            raise PatchMorphError(f"{what} must hold just the tensors of its networks, got {got}")
    for name, info in found.items():
        kind, shape = _kind(wanted[name]), tuple(wanted[name].shape)
        if (DTYPES.get(info.dtype), info.shape) != (kind, shape):
            got = f"{info.dtype} {info.shape} in {path}"
            raise PatchMorphError(f"{what} must hold {one_line(name)} as {kind} {shape}, got {got}")


def check_finite(tensors: Mapping[str, Tensor], path: Path, what: str = "model") -> None:
    """Check that all numbers of a file are finite.

    Raises:
        PatchMorphError: some are not.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            got = f"{int((~tensor.isfinite()).sum())} that are not in {one_line(name)} of {path}"
            raise PatchMorphError(f"{what} must hold finite numbers, got {got}")


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    if not path.is_file():
        raise PatchMorphError(f"{what} must be an existing file, got {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise PatchMorphError(f"{what} must be a safetensors file, got {path}: {one_line(error)}") from None


def _metadata(file: Any, path: Path, what: str) -> dict[str, Any]:
    text = (file.metadata() or {}).get(KEY, "null")
    if len(text) > MAX_METADATA:
        raise PatchMorphError(f"{what} must have less than 1 MB of metadata, got {len(text)} bytes in {path}")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PatchMorphError(
            f"{what} must be a safetensors file, got metadata that are no JSON in {path}: {error}"
        ) from None
    if not isinstance(metadata, dict):
        raise PatchMorphError(f"{what} must carry PatchMorph's metadata, got none in {path}")
    return metadata


def _kind(tensor: Tensor) -> str:
    return FLOATING if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")


def half_precision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with floating-point ones as float16, as in packaged models."""
    return {name: t.to(torch.float16) if t.is_floating_point() else t for name, t in tensors.items()}
