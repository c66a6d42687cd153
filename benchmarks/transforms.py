"""Our transform files in other tools, points against images, inverses, sizes and seconds.

    python benchmarks/transforms.py [--tools ants surfa] [--runs N]

Three real pairs: LIA (t1-labelled), RAS (t1-tissue) and one whose fixed header is turned to an oblique one.
Each is registered with the packaged models; files are written and used as a user would. ANTs and surfa run
in environments of their own (see `tools.py`; surfa needs a C compiler). Seconds are the least of
``--runs`` in a machine that should do nothing else. Writes results/transforms.json.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import nibabel
import nitransforms.linear
import nitransforms.manip
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

from patchmorph import api
from patchmorph.evaluation.labels import load_labels
from patchmorph.images.volume import Image
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.spatial.affine import about_point, exponential, skew
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.inverse import round_trip_mm
from patchmorph.transforms.resample import resample

ROOT = Path(__file__).parents[1]
PAIRS = {
    "LIA": ("t1-labelled", "01", "02"),
    "RAS": ("t1-tissue", "01", "05"),
    "oblique": ("t1-labelled", "04", "05"),
}
TOOLS = {"ants": ("antspyx==0.6.3",), "surfa": ("numpy==2.2.6", "surfa==0.6.3")}
OBLIQUE = (0.2, -0.3, 0.15)
"""Radians about the world axes."""
POINTS = 2000
BLOBS = 60
BLOB_MM = 1.5
"""Standard deviation of a painted landmark."""
REACH = 10
"""Voxels around a landmark that are painted and looked at."""
FINE_SIDE, FINE_MM, FINE_BLOB_MM = 49, 0.05, 0.15
"""Of the small landmarks and their grids."""
SIDE = 256
FLIP = np.array([-1.0, -1.0, 1.0])


def turned(image: Image) -> Image:
    """The same numbers under an oblique header."""
    turn = exponential(skew(torch.tensor([OBLIQUE], dtype=torch.float64)))
    matrix = about_point(turn, image.grid.center_world) @ image.grid.voxel_to_world
    return Image(image.data, Grid(image.grid.shape, matrix), image.name)


def inside(image: Image, count: int) -> torch.Tensor:
    """Voxel centres in the brain, at random, RAS+ mm ``[1, count, 3]``."""
    points = image.grid.points_world()[0][image.data[0, 0] > 0]
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]
    return points[chosen][None]


def mm(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest distance."""
    return float(np.linalg.norm(np.asarray(found) - np.asarray(expected), axis=-1).max())


def python_of(tool: str) -> Path:
    folder = ROOT / ".peers" / TOOLS[tool][-1]
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *TOOLS[tool]], check=True)
    return folder / "bin" / "python"


def use(tool: str, folder: Path) -> None:
    script = ROOT / "benchmarks" / "peers" / f"use_{tool}.py"
    subprocess.run([python_of(tool), script, folder], check=True, capture_output=True)


def page(tool: str, folder: Path) -> None:
    """Run in a peer's environment the lines that docs/transforms.md has for it."""
    text = (ROOT / "docs" / "transforms.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"```python {tool}\n(.*?)```", text, flags=re.DOTALL)
    subprocess.run([python_of(tool), "-c", code], cwd=folder, check=True, capture_output=True)


def write_points(path: Path, points: np.ndarray) -> None:
    np.savetxt(path, points, delimiter=",", header="x,y,z", comments="", fmt="%.9g")


def same_labels(folder: Path, ours: torch.Tensor, tools: list[str]) -> dict[str, float]:
    """Share of voxels with our label, in all and in those that are labelled, as ANTs and SimpleITK see it."""
    theirs = sitk.Resample(
        sitk.ReadImage(str(folder / "labels.nii.gz")),
        sitk.ReadImage(str(folder / "fixed.nii.gz")),
        sitk.ReadTransform(str(folder / "transform.h5")),
        sitk.sitkNearestNeighbor,
    )
    found = {"simpleitk": torch.from_numpy(sitk.GetArrayFromImage(theirs).transpose(2, 1, 0).copy())}
    if "ants" in tools:
        found["ants"] = load_image(folder / "labels_ants.nii.gz").data[0, 0].long()
    labelled = ours > 0
    return {
        f"labels_same_{name}": float((labels == ours).double().mean()) for name, labels in found.items()
    } | {
        f"labelled_same_{name}": float((labels == ours)[labelled].double().mean())
        for name, labels in found.items()
    }


def points_elsewhere(folder: Path, chain: Transform, fixed: Image, tools: list[str]) -> dict[str, float]:
    """Largest distance (mm) of where other tools take points of the brain."""
    points = inside(fixed, POINTS)
    expected = chain(points)[0].double().numpy()
    figures = {}
    save_transform(chain, folder / "dense.x5", pair=GridPair(fixed.grid))
    save_transform(chain, folder / "chain.x5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # chains have no reference
        for name in ("dense", "chain"):
            read: Any = nitransforms.manip.TransformChain.from_filename(folder / f"{name}.x5", fmt="X5")
            figures[f"points_nitransforms_{name}_mm"] = mm(read.map(points[0].double().numpy()), expected)
    theirs = sitk.ReadTransform(str(folder / "transform.h5"))
    mapped = [theirs.TransformPoint(point) for point in (points[0].double().numpy() * FLIP).tolist()]
    figures["points_simpleitk_mm"] = mm(np.array(mapped) * FLIP, expected)
    if "ants" in tools:
        ants = np.loadtxt(folder / "points_ants.csv", delimiter=",", skiprows=1)[:, :3]
        figures["points_ants_mm"] = mm(ants * FLIP, expected)
    return figures


def affines_elsewhere(folder: Path, affine: AffineTransform, pair: GridPair) -> dict[str, float]:
    """Largest distance (mm) at the corners of the fixed image, by nitransforms."""
    assert pair.fixed
    assert pair.moving
    corners = pair.fixed.corners_world()
    expected = affine(corners)[0].numpy()
    images = [
        nibabel.Nifti1Image(np.zeros(g.shape, np.uint8), matrix_of(g)) for g in (pair.fixed, pair.moving)
    ]
    figures = {}
    for tool, name in (("fsl", "affine.mat"), ("freesurfer", "affine.lta")):
        save_transform(affine, folder / name, tool, pair)
        kind = "fs" if tool == "freesurfer" else tool
        read: Any = nitransforms.linear.load(folder / name, fmt=kind, reference=images[0], moving=images[1])
        figures[f"affine_{tool}_mm"] = mm(read.map(corners[0].numpy()), expected)
    return figures


def blobs(chain: Transform, fixed: Image, moving: Image) -> dict[str, float]:
    """A landmark painted into the moving image and warped: its centroid against the mapped point, in voxels.

    Once as large as landmarks are painted, on the images' own grids, and once small, on fine grids: where a
    map is not linear over a blob its centroid moves, though every voxel of it is in its place.
    """
    landmarks = inside(moving, BLOBS)[0]
    voxel_mm = float(fixed.grid.spacing_mm.max())
    figures: dict[str, list[float]] = {"own_grid": [], "fine_grid": []}
    for landmark, point in zip(landmarks, chain.inverse()(landmarks[None])[0], strict=True):
        fine = [
            Grid.centered((FINE_SIDE, FINE_SIDE, FINE_SIDE), FINE_MM, place[None])
            for place in (landmark, point)
        ]
        own = [box_at(image.grid, place) for image, place in ((moving, landmark), (fixed, point))]
        for name, (there, here), blob_mm in (("own_grid", own, BLOB_MM), ("fine_grid", fine, FINE_BLOB_MM)):
            distance = (there.points_world()[0] - landmark).norm(dim=-1)
            painted = Image(torch.exp(-((distance / blob_mm) ** 2) / 2)[None, None], there)
            seen = resample(painted, chain, here).data[0, 0]
            centroid = (here.points_world()[0] * seen[..., None]).sum((0, 1, 2)) / seen.sum()
            figures[name].append(float((centroid - point).norm()) / voxel_mm)
    means = {f"blob_{name}_mean_voxel": float(np.mean(off)) for name, off in figures.items()}
    return means | {f"blob_{name}_largest_voxel": float(np.max(off)) for name, off in figures.items()}


def box_at(grid: Grid, point: torch.Tensor) -> Grid:
    """The voxels of ``grid`` around a point."""
    x, y, z = (round(float(value)) - REACH for value in grid.to_voxel(point[None, None])[0, 0])
    return grid.crop((x, y, z), (2 * REACH + 1, 2 * REACH + 1, 2 * REACH + 1))


def inverses(folder: Path, chain: Transform, pair: GridPair, fixed: Image) -> dict[str, float]:
    """Inverting a file twice against the file, in the brain (mm), and where inverses miss."""
    assert pair.moving
    points = inside(fixed, 100_000)
    expected = chain(points)
    figures = {}
    for ending in (".safetensors", ".h5"):
        for source, target in (("transform", "once"), ("once", "twice")):
            save_transform(
                load_transform(folder / f"{source}{ending}").inverse(), folder / f"{target}{ending}"
            )
        off = (load_transform(folder / f"twice{ending}")(points) - expected).norm(dim=-1)
        figures[f"twice{ending}_mean_mm"] = float(off.mean())
        figures[f"twice{ending}_largest_mm"] = float(off.max())
    imported = load_transform(folder / "transform.h5")
    missed = round_trip_mm(imported, imported.inverse(), pair.moving)
    figures["imported_inverse_missing_0.01_mm_share"] = float((missed > 0.01).double().mean())
    return figures


def least(function: Callable[[], object], runs: int) -> float:
    def once() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return min(once() for _ in range(runs))


def seconds(folder: Path, image: Image, runs: int) -> dict[str, float]:
    """Applying the first pair's file to one volume of 256³ at 1 mm, by us and by SimpleITK."""
    grid = Grid.centered((SIDE, SIDE, SIDE), 1.0, image.grid.center_world)
    volume = resample(image, AffineTransform.identity(), grid)
    save_image(volume, folder / "volume.nii.gz")
    chain, theirs = load_transform(folder / "transform.h5"), sitk.ReadTransform(str(folder / "transform.h5"))
    read = sitk.ReadImage(str(folder / "volume.nii.gz"))
    command = [str(Path(sys.executable).parent / "patchmorph"), "apply", str(folder / "transform.h5")]
    files = [str(folder / "volume.nii.gz"), "--reference", str(folder / "volume.nii.gz")]

    def run(*arguments: str) -> None:
        subprocess.run(arguments, check=True, capture_output=True)

    return {
        "resampling": least(lambda: resample(volume, chain, grid), runs),
        "resampling_simpleitk": least(lambda: sitk.Resample(read, read, theirs, sitk.sitkLinear), runs),
        "command": least(lambda: run(*command, *files, "-o", str(folder / "out.nii.gz")), runs),
        "start_up": least(lambda: run(sys.executable, "-c", "import patchmorph.cli"), runs),
        "start_up_torch": least(lambda: run(sys.executable, "-c", "import torch"), runs),
    }


def measure(name: str, folder: Path, tools: list[str]) -> dict[str, Any]:
    """All figures of one pair."""
    kind, a, b = PAIRS[name]
    paths = {
        (person, what): next((machine.DATA / kind).glob(f"sub-{person}_{what}.nii*"))
        for person in (a, b)
        for what in ("T1w", "labels")
    }
    fixed, moving = load_image(paths[a, "T1w"]), load_image(paths[b, "T1w"])
    fixed = turned(fixed) if name == "oblique" else fixed
    labels = load_labels(paths[b, "labels"])
    pair = GridPair(fixed.grid, moving.grid)
    found = api.register(fixed, moving, device="cpu")
    save_transform(found.transform, folder / "transform.safetensors")
    chain = load_transform(folder / "transform.safetensors")
    save_transform(chain, folder / "transform.h5")
    save_transform(chain, folder / "warp.nii.gz", pair=pair)
    save_transform(chain, folder / "warp.mgz", pair=pair)
    save_image(fixed, folder / "fixed.nii.gz")
    save_image(labels, folder / "labels.nii.gz")
    affine = next(part for part in chain.parts() if isinstance(part, AffineTransform))
    figures = affines_elsewhere(folder, affine, pair)
    points = inside(fixed, POINTS)
    write_points(folder / "points.csv", points[0].double().numpy() * FLIP)
    if "ants" in tools:
        use("ants", folder)
    ours = resample(labels, chain, fixed.grid, "nearest").data[0, 0].long()
    figures |= same_labels(folder, ours, tools) | points_elsewhere(folder, chain, fixed, tools)
    if "surfa" in tools:
        write_points(folder / "points.csv", points[0].double().numpy())
        use("surfa", folder)
        lta, warp = (np.loadtxt(folder / f"{what}_surfa.csv", delimiter=",") for what in ("lta", "warp"))
        figures["lta_surfa_mm"] = mm(lta, affine(points.double())[0].numpy())
        every = fixed.grid.points_world().reshape(1, -1, 3)[:, ::997]
        figures["warp_surfa_mm"] = mm(warp, chain(every)[0].numpy())
    save_image(moving, folder / "moving.nii.gz")
    (folder / "results").mkdir()
    (folder / "results" / "transform.h5").symlink_to(folder / "transform.h5")
    for tool in tools:
        page(tool, folder)
    if "ants" in tools:
        shown = load_image(folder / "by_ants.nii.gz").data[0, 0].long()
        figures["page_ants_labels_same"] = float((shown == ours).double().mean())
    if "surfa" in tools:
        shown = load_image(folder / "by_surfa.nii.gz").data.float()
        off = (shown - resample(moving, chain, fixed.grid).data.float()).abs()
        figures["page_surfa_mean_difference_of_255"] = float(off.mean())
    files = ("transform.safetensors", "transform.h5", "warp.nii.gz", "warp.mgz")
    megabytes = {file: round((folder / file).stat().st_size / 1e6, 1) for file in files}
    return (
        figures
        | blobs(chain, fixed, moving)
        | inverses(folder, chain, pair, fixed)
        | {"megabytes": megabytes}
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"pairs": {}}
    for name in PAIRS:
        with tempfile.TemporaryDirectory() as work:
            figures["pairs"][name] = measure(name, Path(work), arguments.tools)
            if name == "LIA":
                image = load_image(machine.DATA / "t1-labelled" / "sub-02_T1w.nii.gz")
                figures["seconds"] = seconds(Path(work), image, arguments.runs)
    machine.write("transforms", figures)


if __name__ == "__main__":
    main()
