"""What every transform file holds, read by other code than the package's, and what the commands write."""

import functools
import gzip
import json
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import nibabel
import numpy as np
import scipy.io
import torch
import typer.testing
import zarr
from frozen import brains
from frozen.internals import (
    AffineTransform,
    DisplacementField,
    GridPair,
    Image,
    VelocityField,
    command_line,
    load_transform,
    save_image,
    save_transform,
    set_verbosity,
)
from frozen.maps import Cases, Outputs, mapped, points
from safetensors import safe_open
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

CASES = Cases()
PAIR = GridPair(
    grid_around((16, 18, 15), AFFINES["LIA"] * 9, (4.0, -2, 1)),
    grid_around((14, 17, 19), AFFINES["LAS"] * 10, (9.0, 3, -5)),
)
"""Coarse, so that dense files are small; not oblique, which AFNI refuses."""
NUMBER = re.compile(r"-?\d+\.\d*(?:e[-+]?\d+)?|-?\d+e[-+]?\d+|(?<![\w.#])-?\d+(?![\w.])", re.IGNORECASE)
MACHINE = {"ITKVersion", "HDFVersion", "OSName", "OSVersion"}
"""What an ITK file says of the machine that wrote it."""
GEOMETRY = struct.Struct(">4i15f")
MGZ_HEADER, MGZ_SCAN, MGZ_NAME = 284, 20, 512


def affine() -> AffineTransform:
    shear = torch.eye(4, dtype=torch.float64)
    shear[0, 1], shear[2, 0], shear[0, 3] = 0.08, -0.05, 6.0
    return AffineTransform(shear[None]) @ rotation(14.0)


def chain():
    """An affine map and two flows, each on a grid that some points lie outside of."""
    coarse = smooth_velocity(grid_around((12, 14, 11), AFFINES["LPS"] * 12, (2.0, -3, 4)), 9.0)
    fine = smooth_velocity(grid_around((13, 13, 13), AFFINES["oblique"] * 7), 6.0, seed=1)
    return affine() @ coarse @ fine


def everything():
    """Each kind of part: inverses, a variance, and fields that end in either way."""
    velocity = smooth_velocity(grid_around((9, 10, 8), AFFINES["RAS"] * 14), 7.0, seed=2)
    variance = velocity.velocity.square().sum(1, keepdim=True)
    doubtful = VelocityField(velocity.velocity, velocity.grid, 5, variance)
    shift = smooth_velocity(grid_around((8, 9, 7), AFFINES["LAS"] * 11), 4.0, seed=3)
    zeros = DisplacementField(shift.velocity + 1.5, shift.grid, outside="zeros")
    border = DisplacementField(shift.velocity - 1.0, shift.grid, outside="border")
    return affine() @ doubtful @ zeros @ border @ velocity.inverse() @ border.inverse()


def summary(values: np.ndarray) -> np.ndarray:
    """A checksum that rounding changes little: mean, mean size, two weighted means, ends, and some values."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    if flat.size <= 32:
        return flat
    weights = [np.cos(np.arange(flat.size) * step) for step in (0.7, 0.0123)]
    probes = flat[np.linspace(0, flat.size - 1, 9).astype(int)]
    means = [flat.mean(), np.abs(flat).mean(), *((flat * weight).mean() for weight in weights)]
    return np.array([*means, flat.min(), flat.max(), *probes])


def of_array(name: str, values: np.ndarray) -> Outputs:
    values = np.asarray(values)
    if values.dtype.kind in "SUO":
        return of_text(name, " ".join(str(v.decode() if isinstance(v, bytes) else v) for v in values.ravel()))
    kind = "step" if values.dtype.kind in "iu" and values.size > 32 else "number"
    form = f"{values.dtype.str} {list(values.shape)}"
    return {f"exact form of {name}": np.array(form), f"{kind} {name}": summary(values)}


def of_text(name: str, text: str) -> Outputs:
    """The text with its numbers left out, and the numbers."""
    numbers = np.array([float(number) for number in NUMBER.findall(text)])
    return {
        f"exact text of {name}": np.array(NUMBER.sub("#", text)),
        f"number in {name}": summary(numbers),
    }


def in_safetensors(path: Path) -> Outputs:
    with safe_open(path, "np") as file:
        outputs = of_text("metadata", json.dumps(file.metadata(), sort_keys=True))
        for key in sorted(file.keys()):
            outputs |= of_array(key, file.get_tensor(key))
    return outputs


def in_hdf5(path: Path) -> Outputs:
    outputs: Outputs = {}

    def visit(name: str, node) -> None:
        nonlocal outputs
        if name.split("/")[-1] in MACHINE:
            return
        for key, value in sorted(node.attrs.items()):
            outputs |= of_array(f"{name}@{key}", np.asarray(value))
        if isinstance(node, h5py.Dataset):
            outputs |= of_array(name, np.asarray(node[()]))

    with h5py.File(path) as file:
        file.visititems(visit)
    return outputs


def in_text(path: Path) -> Outputs:
    return of_text("file", path.read_text())


def in_matlab(path: Path) -> Outputs:
    return {
        name: part
        for key, values in sorted(scipy.io.loadmat(path).items())
        if not key.startswith("__")
        for name, part in of_array(key, values).items()
    }


def in_nifti(path: Path) -> Outputs:
    image = nibabel.load(path)
    header = image.header
    codes = [int(header[key]) for key in ("intent_code", "qform_code", "sform_code", "xyzt_units")]
    outputs = of_array("values", np.asarray(image.dataobj)) | of_array("affine", image.affine)
    return outputs | {"exact codes": np.array(str(codes))}


def in_mgz(path: Path) -> Outputs:
    """By FreeSurfer's layout: header, big-endian float32, tags with the geometries of both volumes."""
    data = gzip.decompress(path.read_bytes())
    version, *shape, kind = struct.unpack_from(">6i", data)
    values = np.frombuffer(data, ">f4", int(np.prod(shape)), MGZ_HEADER)
    tags = MGZ_HEADER + values.nbytes + MGZ_SCAN
    geometries = [GEOMETRY.unpack_from(data, tags + 4 + k * (GEOMETRY.size + MGZ_NAME)) for k in (0, 1)]
    return of_array("values", values.astype(np.float32)) | {
        "exact header": np.array(
            str([version, *shape, kind, struct.unpack_from(">i", data, tags), len(data)])
        ),
        "exact last tag": np.array(data[-28:].hex()),
        "number pose": np.array(struct.unpack_from(">15f", data, 30)),
        "number moving geometry": np.array(geometries[0]),
        "number fixed geometry": np.array(geometries[1]),
    }


def in_zarr(path: Path) -> Outputs:
    outputs: Outputs = {}

    def visit(name: str, node) -> None:
        nonlocal outputs
        outputs |= of_text(f"{name} attributes", json.dumps(node.attrs.asdict(), sort_keys=True))
        if isinstance(node, zarr.Array):
            outputs |= of_array(name, node[:])
            return
        for key in sorted(node):
            visit(f"{name}/{key}", node[key])

    visit("root", zarr.open_group(path, mode="r"))
    return outputs


FILES: dict[str, tuple[str, str | None, Callable, Callable[[Path], Outputs]]] = {
    "patchmorph_file": ("chain.safetensors", None, everything, in_safetensors),
    "itk_composite": ("chain.h5", None, chain, in_hdf5),
    "itk_affine": ("affine.tfm", None, affine, in_text),
    "itk_affine_as_ants": ("affine.mat", None, affine, in_matlab),
    "itk_field": ("field.nii.gz", None, chain, in_nifti),
    "fsl_matrix": ("affine.mat", "fsl", affine, in_text),
    "fsl_field": ("field.nii.gz", "fsl", chain, in_nifti),
    "freesurfer_lta": ("affine.lta", None, affine, in_text),
    "freesurfer_warp": ("warp.mgz", None, chain, in_mgz),
    "afni_affine": ("affine.aff12.1D", None, affine, in_text),
    "x5_chain": ("chain.x5", None, chain, in_hdf5),
    "ngff_scene": ("chain.zarr", None, chain, in_zarr),
}


def written(name: str) -> Outputs:
    """What a file holds, and the map that the package reads from it."""
    file, tool, make, contents = FILES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        pair = GridPair() if name in ("x5_chain", "itk_composite", "ngff_scene", "patchmorph_file") else PAIR
        save_transform(make(), path, tool, pair)
        return contents(path) | {"mm map read back": mapped(load_transform(path, tool, pair))}


CASES |= {f"file_{name}": functools.partial(written, name) for name in FILES}


@contextmanager
def workplace() -> Iterator[tuple[Path, Callable[..., str]]]:
    """A folder with images and transforms, and the command line in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_image(brains.fixed(), folder / "fixed.nii")
        moving = brains.moving(brains.TURNED, grid="other")
        save_image(moving, folder / "moving.nii")
        labels = (moving.data * 6).round().to(torch.int16)
        save_image(Image(labels, moving.grid), folder / "labels.nii")
        for name, grid in (("coarse_fixed", PAIR.fixed), ("coarse_moving", PAIR.moving)):
            save_image(Image(torch.zeros(1, 1, *grid.shape), grid), folder / f"{name}.nii")
        save_transform(chain(), folder / "chain.safetensors")
        save_transform(affine(), folder / "affine.tfm")

        def run(*words: str) -> str:
            known = {path.name for path in folder.iterdir()} | {"out.nii", "out.csv", "out.h5", "points.csv"}
            given = [
                str(folder / word) if word in known or word.startswith("out.") else word for word in words
            ]
            set_verbosity(0)  # an earlier command of this process may have been quiet
            result = typer.testing.CliRunner().invoke(command_line, given, catch_exceptions=False)
            assert result.exit_code == 0, result.output
            return result.output.replace(str(folder), "")

        yield folder, run


def volume(path: Path) -> np.ndarray:
    """Values of a volume on the fixed grid next to the fixed points."""
    image = nibabel.load(path)
    voxels = (
        nibabel.affines.apply_affine(np.linalg.inv(image.affine), points()[0].numpy()).round().astype(int)
    )
    x, y, z = np.clip(voxels, 0, np.array(image.shape) - 1).T
    return np.asarray(image.dataobj)[x, y, z].astype(np.float64)


@CASES.add
def command_apply() -> Outputs:
    outputs = {}
    with workplace() as (folder, run):
        for how, image in (
            ("linear", "moving"),
            ("cubic", "moving"),
            ("nearest", "labels"),
            ("label", "labels"),
        ):
            extra = ["--interpolation", how, "--reference", "fixed.nii", "-o", "out.nii"]
            run("apply", "chain.safetensors", f"{image}.nii", *extra)
            kind = "share" if image == "moving" else "exact"
            outputs[f"{kind} {how}"] = volume(folder / "out.nii")
        to_moving = ["--reference", "coarse_moving.nii", "-o", "out.nii", "--inverse"]
        run("apply", "chain.safetensors", "fixed.nii", *to_moving)
        outputs["share inverse"] = volume(folder / "out.nii")
        run("apply", "chain.safetensors", "moving.nii", "--then", "affine.tfm", *to_moving[:4])
        outputs["share two transforms"] = volume(folder / "out.nii")
    return outputs


@CASES.add
def command_apply_points() -> Outputs:
    outputs = {}
    with workplace() as (folder, run):
        rows = "\n".join(",".join(f"{x:.6f}" for x in row) for row in brains.points_world(30))
        (folder / "points.csv").write_text(f"x,y,z\n{rows}\n")
        for name, more in (("forward", []), ("inverse", ["--inverse"]), ("lps", ["--frame", "lps"])):
            run("apply-points", "chain.safetensors", "points.csv", "-o", "out.csv", *more)
            outputs[f"mm {name}"] = np.loadtxt(folder / "out.csv", delimiter=",", skiprows=1)
    return outputs


@CASES.add
def command_compose_and_invert() -> Outputs:
    with workplace() as (folder, run):
        run("compose", "affine.tfm", "chain.safetensors", "-o", "out.safetensors")
        composed = mapped(load_transform(folder / "out.safetensors"))
        run("invert", "out.safetensors", "-o", "out.inverse.safetensors")
        exact = mapped(load_transform(folder / "out.inverse.safetensors"))
        pair = ["--reference", "coarse_fixed.nii", "--moving", "coarse_moving.nii"]
        run("invert", "chain.safetensors", "-o", "out.nii.gz", "--to", "fsl", *pair)
        swapped = in_nifti(folder / "out.nii.gz")
    return {"mm composed": composed, "mm inverse": exact, **swapped}


@CASES.add
def command_jacobian() -> Outputs:
    outputs = {}
    with workplace() as (folder, run):
        for name, more in (("forward", []), ("log", ["--log"]), ("central", ["--differences", "central"])):
            said = run("jacobian", "chain.safetensors", "--reference", "fixed.nii", "-o", "out.nii", *more)
            outputs[f"share {name}"] = volume(folder / "out.nii")
        outputs["share table"] = np.array([float(n) for n in re.findall(r"\d+\.\d{4}", said)])
    return outputs
