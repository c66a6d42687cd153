"""The file readers that `fuzz.py` runs: what writes a small whole file of each kind, and what reads it."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

TRIANGLE = "0 0 0\n1 0 0\n0 1 0\n"
PLY = (
    "ply\nformat {} 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
)
VTK = "# vtk DataFile Version 3.0\nx\n{}\nDATASET POLYDATA\nPOINTS 3 float\n"
FIELD = "POINT_DATA 3\nFIELD f 1\na 1 3 float\n1 2 3\n"
VTP = (
    '<VTKFile type="PolyData"><PolyData><Piece NumberOfPoints="1"><Points><DataArray type="Float32" '
    'NumberOfComponents="3" format="ascii">0 0 0</DataArray></Points></Piece></PolyData></VTKFile>'
)
CELLS = (
    "<CellCounter_Marker_File><Marker_Data><Marker_Type><Type>2</Type><Marker><MarkerX>1</MarkerX>"
    "<MarkerY>2</MarkerY><MarkerZ>3</MarkerZ></Marker></Marker_Type></Marker_Data></CellCounter_Marker_File>"
)
POINTS = {
    "x.ply": [
        (PLY.format("ascii") + TRIANGLE + "3 0 1 2\n").encode(),
        PLY.format("binary_little_endian").encode() + bytes(36) + b"\3" + bytes(12),
    ],
    "x.vtk": [
        (VTK.format("ASCII") + TRIANGLE + "POLYGONS 1 4\n3 0 1 2\n" + FIELD).encode(),
        VTK.format("BINARY").encode() + bytes(36) + b"\nPOLYGONS 1 4\n" + b"\0\0\0\3" + bytes(12),
    ],
    "x.vtp": [VTP.encode()],
    "x.mrk.json": [b'{"markups": [{"type": "Fiducial", "controlPoints": [{"position": [1, 2, 3]}]}]}'],
    "x.fcsv": [b"# CoordinateSystem = LPS\n# columns = id,x,y,z\na,1,2,3\n"],
    "x.csv": [b"x,y,z,t\n1,2,3,0\n"],
    "x.surface": [b"\xff\xff\xfex\n\n" + bytes(3) + b"\1" + bytes(3) + b"\1" + bytes(24)],
    "x.xml": [CELLS.encode()],
}
TRANSFORMS = {
    "itk": ("x.tfm", "x.mat", "x.h5"),
    "fsl": ("x.mat", "x.nii"),
    "afni": ("x.aff12.1D",),
    "freesurfer": ("x.lta", "x.mgz"),
    "greedy": ("x.mat",),
    "patchmorph": ("x.safetensors",),
    "x5": ("x.x5",),
    "ngff": ("x.zarr",),
}
IMAGES = ("x.nii", "x.mgz", "x.nrrd", "x.mha", "x.tif", "x.ome.zarr")
ZARR = "zarr.json"
NAMES_OF_REGIONS = {
    "x.csv": "id,acronym,name\n1,A,one\n",
    "x.json": '[{"id": 1, "acronym": "A", "name": "one", "structure_id_path": [1]}]',
    "x.txt": '1 Left-Thing 1 2 3 0\n2 1 2 3 1 1 1 "other"\n',
}
PAIRS = "name,fixed,moving,fixed_labels,moving_labels\na,f.nii,m.nii,f.nii,m.nii\n"
CONFIG = (
    "model:\n  patch_size: 16\n  spacings_mm: [12.0, 6.0]\n"
    "  dense: {name: unet, options: {encoder: [4, 8], decoder: [8, 4]}}\n"
    "data: {images: ['*.nii']}\noptimization: {steps: 8}\nrun: {output: out}\n"
)
MODEL = {
    "patch_size": 16,
    "spacings_mm": [12.0],
    "affine": {"name": "affine-encoder", "options": {"channels": [2, 4], "hidden": 2}},
    "dense": {"name": "unet", "options": {"encoder": [2, 4], "decoder": [4, 2]}},
}
ATLAS = '{"name": "a", "version": "1.2", "resolution": [25, 25, 25], "orientation": "asr", "symmetric": true}'
LOG = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        target: the file that is mutated, below a folder of work.
        seeds: whole contents of that file; what else it needs is written into the folder.
        read: reads the file or what it belongs to, below the folder.
        packed: whether ``target`` is compressed, so that what is mutated is its content.
    """

    target: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    packed: bool = False


def pair():
    import torch

    from patchmorph.io.grids import GridPair
    from patchmorph.spatial.grid import Grid

    grid = Grid((3, 4, 5), torch.diag(torch.tensor([2.0, 3, 4, 1], dtype=torch.float64))[None])
    return GridPair(grid, grid)


def content(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [gzip.decompress(data) if path.name.endswith("gz") else data]


def gifti(folder: Path) -> list[bytes]:
    import numpy as np
    from nibabel.gifti.gifti import GiftiDataArray, GiftiImage

    points = GiftiDataArray(np.zeros((3, 3), np.float32), intent="NIFTI_INTENT_POINTSET")
    return [GiftiImage(darrays=[points]).to_bytes()]


def written_transform(tool: str, file: str, target: str, folder: Path) -> list[bytes]:
    import torch

    from patchmorph.io.transforms.formats import save_transform
    from patchmorph.transforms.base import AffineTransform
    from patchmorph.transforms.displacement import DisplacementField

    grid = pair().fixed
    assert grid is not None
    shift = AffineTransform.translation(torch.tensor([[1.0, 2, 3]]))
    field = DisplacementField.tabulate(shift, grid)
    dense = file.endswith((".h5", ".nii", ".mgz", ".safetensors", ".x5", ".zarr"))
    save_transform(field if dense else shift, folder / file, tool, pair())
    return content(folder / target)


def written_image(file: str, target: str, folder: Path) -> list[bytes]:
    import torch

    from patchmorph.images.volume import Image
    from patchmorph.io.images import save_image

    grid = pair().fixed
    assert grid is not None
    save_image(Image(torch.arange(60).reshape(1, 1, 3, 4, 5).float(), grid), folder / file)
    return content(folder / target)


def written_pairs(folder: Path) -> list[bytes]:
    for name in ("f.nii", "m.nii"):
        written_image(name, name, folder)
    return [PAIRS.encode()]


def written_model(folder: Path) -> list[bytes]:
    import torch

    from patchmorph.catalogue import save_model
    from patchmorph.networks.model import ModelSpec, PatchMorphModel

    torch.manual_seed(0)
    save_model(PatchMorphModel(ModelSpec.model_validate(MODEL)), folder / "x.safetensors", half=True)
    return content(folder / "x.safetensors")


def written_history(folder: Path) -> list[bytes]:
    from patchmorph.training.config import TrainingConfig

    config = TrainingConfig.model_validate(
        {"model": MODEL, "data": {"images": ["a"]}, "run": {"output": "o"}}
    )
    (folder / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    return [LOG.encode()]


def written_imaris(folder: Path) -> list[bytes]:
    """As Imaris writes it: each attribute is an array of characters."""
    import h5py
    import numpy as np

    def text(value: object) -> np.ndarray:
        return np.frombuffer(str(value).encode(), "S1")

    with h5py.File(folder / "x.ims", "w") as file:
        image = file.create_group("DataSetInfo/Image")
        image.attrs["Unit"] = text("um")
        channel = file.create_group("DataSet/ResolutionLevel 0/TimePoint 0/Channel 0")
        for axis, count in enumerate((3, 4, 5)):
            image.attrs[f"ExtMin{axis}"], image.attrs[f"ExtMax{axis}"] = text(0), text(20 * count)
            channel.attrs[f"ImageSize{'XYZ'[axis]}"] = text(count)
        channel.create_dataset("Data", data=np.arange(60, dtype="u2").reshape(5, 4, 3), chunks=(5, 4, 3))
    return content(folder / "x.ims")


def written_atlas(folder: Path) -> list[bytes]:
    import numpy as np
    import tifffile

    (folder / "a_v1.2").mkdir()
    tifffile.imwrite(folder / "a_v1.2" / "reference.tiff", np.zeros((3, 4, 5), np.uint16))
    (folder / "bg_config.conf").write_text(f"[default_dirs]\nbrainglobe_dir = {folder}\n")
    return [ATLAS.encode()]


def written_summary(folder: Path) -> list[bytes]:
    from patchmorph.results.summary import Summary

    summary = Summary(
        *("a", "b", "doubtful", ["too rough"], 0.2, 0.9, 0.01, 0.3, {"agreement": 0.9}, ["a note"], 0.0),
        *({"model": "auto"}, {"torch": "2"}, "cpu", None, {"load": 1.0}),
    )
    summary.save(folder)
    return content(folder / "summary.json")


def checkpoint():
    import torch

    from patchmorph.networks.model import ModelSpec, PatchMorphModel
    from patchmorph.training.checkpoint import TrainingState

    model = PatchMorphModel(ModelSpec.model_validate(MODEL))
    return TrainingState(model, torch.optim.AdamW(model.parameters()), torch.Generator())


def written_checkpoint(folder: Path) -> list[bytes]:
    one = checkpoint()
    for parameter in one.model.parameters():
        parameter.grad = parameter.detach().clone()
    one.optimizer.step()
    one.save(folder)
    return content(folder / "checkpoint.safetensors")


def read_transform(tool: str, file: str, folder: Path) -> object:
    from patchmorph.io.transforms.formats import load_transform

    return load_transform(folder / file, tool, pair())


def read_points(file: str, folder: Path) -> object:
    import numpy as np

    from patchmorph.io.points import map_points
    from patchmorph.io.points.base import RAS, Frame
    from patchmorph.transforms.base import AffineTransform

    frame = {"x.xml": Frame(np.eye(4), "voxels"), "x.surface": RAS}.get(file)
    return map_points(folder / file, folder / f"out{file[1:]}", AffineTransform.identity(), frame)


def read_image(file: str, folder: Path) -> object:
    from patchmorph.io.images import load_grid, load_image

    stated = "psl" if file.endswith((".tif", ".ims")) else None
    load_grid(folder / file, stated)
    return load_image(folder / file, stated)


def read_regions(file: str, folder: Path) -> object:
    from patchmorph.io.region_names import read_region_names

    return read_region_names(folder / file)


def read_pairs(folder: Path) -> object:
    from patchmorph.evaluation.pairs import load_named_pairs

    return load_named_pairs(folder / "x.csv")


def read_model(folder: Path) -> object:
    from patchmorph.catalogue import load_model

    return load_model(folder / "x.safetensors", "cpu")


def read_config(folder: Path) -> object:
    from patchmorph.training.config import load_config

    return load_config(folder / "x.yaml")


def read_log(folder: Path) -> object:
    from patchmorph.training.history import read_history

    return read_history(folder)


def read_atlas(folder: Path) -> object:
    import os

    from patchmorph.io.brainglobe import Atlas, atlas_image

    os.environ |= {"BRAINGLOBE_CONFIG_DIR": str(folder), "PATCHMORPH_CACHE": str(folder)}
    Atlas.find("a").is_symmetric()
    return atlas_image("a")


def read_summary(folder: Path) -> object:
    from patchmorph.results.summary import Summary

    return Summary.load(folder)


def read_checkpoint(folder: Path) -> object:
    return checkpoint().load(folder)


def readers() -> dict[str, Reader]:
    """All readers by name."""
    found = {
        f"points-{file}": Reader(file, lambda folder, seeds=seeds: seeds, partial(read_points, file))
        for file, seeds in POINTS.items()
    }
    found["points-x.gii"] = Reader("x.gii", gifti, partial(read_points, "x.gii"))
    for tool, files in TRANSFORMS.items():
        for file in files:
            target = f"{file}/{ZARR}" if file.endswith(".zarr") else file
            seeds, read = partial(written_transform, tool, file, target), partial(read_transform, tool, file)
            found[f"{tool}-{file}"] = Reader(target, seeds, read, file.endswith("gz"))
    for file in IMAGES:
        target = f"{file}/{ZARR}" if file.endswith(".zarr") else file
        seeds, read = partial(written_image, file, target), partial(read_image, file)
        found[f"image-{file}"] = Reader(target, seeds, read, file.endswith("gz"))
    array = "x.ome.zarr/0/zarr.json"
    found["image-array"] = Reader(
        array, partial(written_image, "x.ome.zarr", array), partial(read_image, "x.ome.zarr")
    )
    found["image-x.ims"] = Reader("x.ims", written_imaris, partial(read_image, "x.ims"))
    for file in ("x.nhdr", "x.mhd"):  # whose voxels are in another file
        found[f"image-{file}"] = Reader(file, partial(written_image, file, file), partial(read_image, file))
    found["atlas-metadata.json"] = Reader("a_v1.2/metadata.json", written_atlas, read_atlas)
    found["summary-summary.json"] = Reader("summary.json", written_summary, read_summary)
    found["checkpoint-x.safetensors"] = Reader("checkpoint.safetensors", written_checkpoint, read_checkpoint)
    for file, text in NAMES_OF_REGIONS.items():
        read = partial(read_regions, file)
        found[f"regions-{file}"] = Reader(file, lambda folder, text=text: [text.encode()], read)
    found["pairs-x.csv"] = Reader("x.csv", written_pairs, read_pairs)
    found["model-x.safetensors"] = Reader("x.safetensors", written_model, read_model)
    found["config-x.yaml"] = Reader("x.yaml", lambda folder: [CONFIG.encode()], read_config)
    found["log-log.jsonl"] = Reader("log.jsonl", written_history, read_log)
    return found
