"""Transform files that are none, or not what they state: refused in one line."""

import gzip
import json
import pickle
import struct

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save

COMPOSITE = ("CompositeTransform_double_3_3", None, None)
FIELD = "DisplacementFieldTransform_double_3_3"
PLACE = np.array([2, 2, 2, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1.0])
ZEROS = np.zeros(24)
NAN = float("nan")


def placed(index: int, value: float) -> np.ndarray:
    """Fixed parameters of a field, one of which is another."""
    numbers = PLACE.copy()
    numbers[index] = value
    return numbers


def composite(path, *parts: tuple) -> None:
    """ITK's file of parts (kind, parameters, fixed parameters)."""
    with h5py.File(path, "w") as file:
        for number, (kind, *numbers) in enumerate(parts):
            group = file.create_group(f"TransformGroup/{number}")
            group.create_dataset("TransformType", data=[kind], dtype=h5py.string_dtype("ascii"))
            for name, values in zip(("Parameters", "FixedParameters"), numbers, strict=True):
                if values is not None:
                    group[f"Transform{name}"] = values


FIELDS = {
    "direction_nan": (ZEROS, placed(9, NAN), "affine must be finite"),
    "size_negative": (ZEROS, placed(0, -2), "three numbers a voxel, got 24 for a size of -2 2 2"),
    "size_huge": (ZEROS, placed(0, 1e18), "three numbers a voxel"),
    "size_nan": (ZEROS, placed(0, NAN), "three numbers a voxel"),
    "spacing_zero": (ZEROS, placed(6, 0), "spacing of an ITK displacement field must be above 0, got 0 1 1"),
    "origin_nan": (ZEROS, placed(3, NAN), "affine must be finite"),
    "numbers_nan": (ZEROS * NAN, PLACE, "displacement must be finite"),
    "text": (np.array([b"a"] * 24), PLACE, "must be"),
    "short": (ZEROS, PLACE[:4], "must have 18 fixed parameters, got 4"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_bad_fields_of_itk(refused, tmp_path, name):
    parameters, fixed, message = FIELDS[name]
    composite(tmp_path / "x.h5", COMPOSITE, (FIELD, parameters, fixed))
    refused(message, "apply", "x.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")


def external(group, name, folder) -> None:
    group.create_dataset(name, (24,), "f8", external=[(str(folder / "secret"), 0, 192)])


def linked(group, name, folder) -> None:
    group[name] = h5py.ExternalLink(str(folder / "other.h5"), f"/TransformGroup/1/{name}")


def virtual(group, name, folder) -> None:
    layout = h5py.VirtualLayout((24,), "f8")
    source = f"/TransformGroup/1/{name}"
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), source, (24,))
    group.create_virtual_dataset(name, layout)


def unwritten(group, name, folder) -> None:
    group.create_dataset(name, (24 * 10**9,), "f8", chunks=(10**6,))


@pytest.mark.parametrize("name", ["TransformParameters", "TransformType"])
@pytest.mark.parametrize(
    ("elsewhere", "message"),
    [
        (external, "must hold its data itself, got numbers in"),
        (linked, "must hold its data itself, got a link to"),
        (virtual, "must hold its data itself, got a virtual data set"),
        (unwritten, "must be whole, got 24000000000 numbers that are not in"),
    ],
)
@pytest.mark.parametrize("ending", ["h5", "x5"])
def test_hdf5_takes_nothing_from_other_files(refused, tmp_path, elsewhere, message, name, ending):
    (tmp_path / "secret").write_bytes(np.ones(24).tobytes())
    composite(tmp_path / "other.h5", COMPOSITE, (FIELD, ZEROS + 1, PLACE))
    composite(tmp_path / f"x.{ending}", COMPOSITE, (FIELD, ZEROS + 1, PLACE))
    with h5py.File(tmp_path / f"x.{ending}", "r+") as file:
        group = file["TransformGroup/1"]
        del group[name]
        elsewhere(group, name, tmp_path)
    transform = f"x.{ending}"
    refused(message, "apply", transform, "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")


HEAPS = {
    "no_size": {16: bytes(16)},
    "reserved": {5: b"\1", 16: bytes(16)},
    "beyond_its_end": {9: b"\x18"},
}
"""Bytes of a global heap of HDF5 that are others: the first object is free space of no size; the same where
bytes have a value that should have none; the heap ends within other things."""


@pytest.mark.parametrize("name", HEAPS)
def test_a_heap_of_hdf5_that_does_not_end_is_no_endless_loop(refused, tmp_path, name):
    path = tmp_path / "x.h5"
    composite(path, COMPOSITE, (FIELD, ZEROS, PLACE))
    with h5py.File(path, "r+") as file:
        file["further"] = np.zeros(5000)  # so that the heap is not the last part of the file
    data = bytearray(path.read_bytes())
    for place, new in HEAPS[name].items():
        start = data.index(b"GCOL") + place
        data[start : start + len(new)] = new
    path.write_bytes(data)
    message = "HDF5 file must be whole, got texts that do not end in"
    refused(message, "apply", "x.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")


SEQUENCES = np.array([np.arange(2), np.arange(3)], object), h5py.vlen_dtype(np.int64)
"""HDF5 crashes on sequences whose places are those of no heap."""


@pytest.mark.parametrize("ending", ["h5", "x5"])
def test_hdf5_holds_no_sequences_of_any_length(refused, tmp_path, ending):
    command = ("apply", f"x.{ending}", "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")
    message = "must hold numbers and texts, got another kind in"
    values, kind = SEQUENCES
    for place, add in {
        "/TransformGroup/0/x": lambda group: group.create_dataset("x", data=values, dtype=kind),
        "x of /TransformGroup/0": lambda group: group.attrs.create("x", values, dtype=kind),
        "x of /": lambda group: group.file.attrs.create("x", values, dtype=kind),
    }.items():
        composite(tmp_path / f"x.{ending}", COMPOSITE, (FIELD, ZEROS, PLACE))
        with h5py.File(tmp_path / f"x.{ending}", "r+") as file:
            add(file["TransformGroup/0"])
        refused(f"{message} {place} of x.{ending}", *command)


@pytest.mark.parametrize("order", ["-1", "0/0", "1", "a"])
def test_a_chain_of_x5_names_its_transforms_once(refused, run, tmp_path, order):
    run("convert", "shift.tfm", "-o", "x.x5")
    with h5py.File(tmp_path / "x.x5", "r+") as file:
        del file["TransformChain/0"]
        file["TransformChain/0"] = order
    refused("x.x5", "apply", "x.x5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")


def native(entry: object, **tensors: torch.Tensor) -> bytes:
    known = {
        "0.values": torch.zeros(1, 3, 2, 2, 2, dtype=torch.int16),
        "0.voxel_to_world": torch.eye(4, dtype=torch.float64)[None],
    }
    metadata = {"format": "patchmorph-transform", "version": 1, "parts": entry}
    return save(
        known | {f"0.{name}": tensor for name, tensor in tensors.items()},
        {"patchmorph": json.dumps(metadata)},
    )


def velocity(**changes: object) -> list[dict[str, object]]:
    return [{"kind": "velocity", "steps": 4, "inverse": False, "unit_mm": 1.0} | changes]


def warp(shape=(2, 2, 2, 3), tags: bytes = b"", kind: int = 3) -> bytes:
    """FreeSurfer's warp: header, voxels, scan parameters, tags."""
    head = struct.pack(">7i", 3 << 8 | 1, *shape, kind, 0)
    head += struct.pack(">h15f", 1, 1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0)
    return head.ljust(284, b"\0") + bytes(96 + 20) + tags


def geometry(shape=(2, 2, 2), spacing=(1.0, 1.0, 1.0), valid=1) -> bytes:
    numbers = (*spacing, -1.0, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0)
    return struct.pack(">4i15f", valid, *shape, *numbers) + bytes(512)


def tag(number: int, length: int) -> bytes:
    return struct.pack(">iq", number, length)


TWO = struct.pack(">i", 10) + geometry() + geometry()
AS_SHIFTS = struct.pack(">iqiif", 13, 12, 3, 1, 0.0)
AFFINE = (
    "Transform: AffineTransform_double_3_3\nParameters: {} 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"
)
MATRIX = struct.Struct("<5i")
FILES = {
    "steps.safetensors": (native(velocity(steps=10**12)), "steps must be a whole number from 0 to 16"),
    "steps_text.safetensors": (native(velocity(steps="a")), "steps"),
    "unit.safetensors": (native(velocity(unit_mm=NAN)), "velocity must be finite"),
    "unit_text.safetensors": (native(velocity(unit_mm="x")), "must be a whole file of patchmorph"),
    "unit_huge.safetensors": (native(velocity(unit_mm=10**400)), "must be a whole file of patchmorph"),
    "kind.safetensors": (native(velocity(kind=[1])), "must be a whole file of patchmorph"),
    "parts.safetensors": (native(5), "must be a whole file of patchmorph"),
    "shape.safetensors": (
        native(velocity(), values=torch.zeros(3, 2, 2, dtype=torch.int16)),
        "must be a whole file of patchmorph",
    ),
    "matrix.safetensors": (
        native(velocity(), voxel_to_world=torch.eye(3)[None]),
        "must be a whole file of patchmorph",
    ),
    "variance.safetensors": (native(velocity(), variance=torch.zeros(1, 1, 9, 9, 9)), "variance"),
    "deep.safetensors": (save({"a": torch.zeros(1)}, {"patchmorph": "[" * 10**5}), "that are no JSON"),
    "digits.safetensors": (save({"a": torch.zeros(1)}, {"patchmorph": "9" * 5000}), "that are no JSON"),
    "head.safetensors": (struct.pack("<Q", 2**40) + bytes(100), "must be a safetensors file"),
    "pickle.safetensors": (pickle.dumps({"a": 1}), "must be a safetensors file"),
    "length.mgz": (warp(tags=tag(99, -12)), "its tag 99 has the length -12"),
    "length_twice.mgz": (warp(tags=TWO + tag(99, -12)), "its tag 99 has the length -12"),
    "huge_tag.mgz": (warp(tags=tag(99, 2**62)), "it names format None and no geometries"),
    "16gb.mgz": (gzip.compress(warp((1600, 1600, 1600, 3))), "FreeSurfer warp must be whole"),
    "overflow.mgz": (warp((2**31 - 1, 2**31 - 1, 2**31 - 1, 3)), "FreeSurfer warp must be whole"),
    "negative.mgz": (warp((-2, -2, 2, 3)), "FreeSurfer warp must be whole"),
    "zero.mgz": (warp((0, 2, 2, 3)), "FreeSurfer warp must be whole"),
    "type.mgz": (warp(kind=50), "must be a FreeSurfer warp"),
    "geometry.mgz": (
        warp(tags=struct.pack(">i", 10) + geometry() + geometry((-2, 2, 2)) + AS_SHIFTS),
        "a geometry of [-2, 2, 2] voxels",
    ),
    "grid.mgz": (
        warp(tags=struct.pack(">i", 10) + geometry() + geometry((2**30, 2**30, 2**30)) + AS_SHIFTS),
        "must be 3 numbers a voxel of",
    ),
    "bomb.mgz": (gzip.compress(warp(tags=TWO + AS_SHIFTS) + bytes(2**27 + 2**22), 1), "file must hold the"),
    "nan.tfm": (AFFINE.format("nan"), "affine must be finite, got nan"),
    "infinite.tfm": (AFFINE.format("1e999"), "affine must be finite"),
    "digits.tfm": (AFFINE.format("9" * 5000), "affine must be finite"),
    "long.tfm": ("a" * 10**6, "must be lines of tags"),
    "control.tfm": ("Transform: \033[31mEvil\nParameters: 1\nFixedParameters: 1\n", "'?[31mEvil'"),
    "type.lta": (f"type = {'9' * 5000}\nnxforms = 1\n1 4 4\n" + "1 0 0 0\n" * 4, "must be a whole file"),
    "nothing.lta": ("1 4 4\n", "must be a whole file of freesurfer"),
    "rows.mat": ("1 0 0 0\n0 1 0 0\n0 0 1 0\n", "must be"),
    "negative.mat": (MATRIX.pack(0, -1, -1, 0, 5), "must be a MATLAB file of level 4"),
    "huge.mat": (MATRIX.pack(0, 2**30, 2**30, 0, 5), "must be whole, got 20 of"),
    "name.mat": (MATRIX.pack(0, 1, 1, 0, -5), "must be a MATLAB file of level 4"),
    "numbers.aff12.1D": ("1 2 3 4 5 6 7 8 9 10 11 12 13", "must be twelve numbers, got 13"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_transforms(refused, tmp_path, name):
    data, message = FILES[name]
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    refused(message, "apply", name, "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")
    refused(message, "register", *["good.nii.gz"] * 2, "-o", "results", "--initial-transform", name)


def scene(path, step: str) -> None:
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    systems = [{"name": name, "axes": axes} for name in ("fixed", "moving")]
    content = {"coordinateSystems": systems, "coordinateTransformations": ["STEP"]}
    attributes = {"ome": {"version": "0.6", "scene": content}}
    text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes})
    path.mkdir()
    (path / "zarr.json").write_text(text.replace('"STEP"', step))


DEEP = '{"type": "sequence", "transformations": [' * 10**4 + '{"type": "identity"}' + "]}" * 10**4
STEPS = {
    "outside": ('{"type": "displacements", "path": "../other.zarr"}', "contains '.' or '..' segments"),
    "absolute": ('{"type": "displacements", "path": "/etc/passwd"}', "it has no '/etc/passwd'"),
    "deep": (DEEP, "maximum recursion depth exceeded"),
    "no_type": ("{}", "it has no 'type'"),
    "text": ('{"type": "affine", "affine": "a"}', "could not convert string to float"),
    "singular": ('{"type": "scale", "scale": [0, 1, 1]}', "affine must be invertible"),
}


@pytest.mark.parametrize("name", STEPS)
def test_bad_scenes(refused, tmp_path, name):
    step, message = STEPS[name]
    scene(tmp_path / "x.zarr", step)
    refused(message, "apply", "x.zarr", "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_chunks_of_a_field_are_all_there(refused, run, tmp_path, damage):
    """Also where the field is zero, whose chunks other writers leave out."""
    assert run("convert", "shift.tfm", "-o", "x.nii.gz", "--reference", "good.nii.gz")[0] == 0
    assert run("convert", "x.nii.gz", "--from", "itk", "-o", "x.zarr")[0] == 0
    (chunk,) = (path for path in (tmp_path / "x.zarr").rglob("c/*/*/*/*") if path.is_file())
    chunk.write_bytes(b"xx") if damage == "damaged" else chunk.unlink()
    message = "1 of its chunks are missing" if damage == "missing" else "must be a whole file of ngff"
    refused(message, "apply", "x.zarr", "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii.gz")
