"""Coverage-guided fuzzing of the file readers by atheris, libFuzzer for Python (``pip install atheris``).

    python benchmarks/fuzz.py --seconds 600 --corpus corpus

Each reader runs in a process of its own, on mutations of small whole files. A reader may raise a
`PatchMorphError`. Any other error, a run of more than ten seconds and more than 2.5 GB are failures; their
input is left beside the corpus as ``…-crash-…``, ``…-timeout-…`` or ``…-oom-…``.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import warnings
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
POINTS = {
    "x.ply": [
        (PLY.format("ascii") + TRIANGLE + "3 0 1 2\n").encode(),
        PLY.format("binary_little_endian").encode() + bytes(36) + b"\3" + bytes(12),
    ],
    "x.vtk": [
        (
            VTK.format("ASCII")
            + TRIANGLE
            + "POLYGONS 1 4\n3 0 1 2\nPOINT_DATA 3\nFIELD f 1\na 1 3 float\n1 2 3\n"
        ).encode(),
        VTK.format("BINARY").encode() + bytes(36) + b"\nPOLYGONS 1 4\n" + bytes(16),
    ],
    "x.vtp": [VTP.encode()],
    "x.mrk.json": [b'{"markups": [{"type": "Fiducial", "controlPoints": [{"position": [1, 2, 3]}]}]}'],
    "x.fcsv": [b"# CoordinateSystem = LPS\n# columns = id,x,y,z\na,1,2,3\n"],
    "x.csv": [b"x,y,z,t\n1,2,3,0\n"],
    "x.surface": [b"\xff\xff\xfex\n\n" + bytes(3) + b"\1" + bytes(3) + b"\1" + bytes(24)],
}
TRANSFORMS = {
    "itk": ("x.tfm", "x.mat", "x.h5"),
    "fsl": ("x.mat", "x.nii.gz"),
    "afni": ("x.aff12.1D",),
    "freesurfer": ("x.lta", "x.mgz"),
    "greedy": ("x.mat",),
    "patchmorph": ("x.safetensors",),
    "x5": ("x.x5",),
}
NAMES = (*POINTS, "x.gii", *(f"{tool}:{name}" for tool, names in TRANSFORMS.items() for name in names))
LIMITS = ("-timeout=10", "-rss_limit_mb=2500", "-max_len=4096", "-print_final_stats=1")


def pair():
    import torch

    from patchmorph.io.grids import GridPair
    from patchmorph.spatial.grid import Grid

    grid = Grid((3, 4, 5), torch.diag(torch.tensor([2.0, 3, 4, 1], dtype=torch.float64))[None])
    return GridPair(grid, grid)


def seeds(name: str, folder: Path) -> None:
    """Small whole files of a kind."""
    import torch

    from patchmorph.io.transforms.formats import save_transform
    from patchmorph.transforms.base import AffineTransform
    from patchmorph.transforms.displacement import DisplacementField

    tool, _, file = name.rpartition(":")
    for number, data in enumerate(POINTS.get(file, [])):
        (folder / f"seed{number}").write_bytes(data)
    if file == "x.gii":
        import numpy as np
        from nibabel.gifti.gifti import GiftiDataArray, GiftiImage

        points = GiftiDataArray(np.zeros((3, 3), np.float32), intent="NIFTI_INTENT_POINTSET")
        (folder / "seed").write_bytes(GiftiImage(darrays=[points]).to_bytes())
    if tool:
        grid = pair().fixed
        assert grid is not None
        shift = AffineTransform.translation(torch.tensor([[1.0, 2, 3]]))
        field = DisplacementField.tabulate(shift, grid)
        dense = file.endswith((".h5", ".nii.gz", ".mgz", ".safetensors", ".x5"))
        save_transform(field if dense else shift, folder / file, tool, pair())


def fuzz(name: str, options: list[str]) -> None:
    """Run one reader; does not return."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["patchmorph.io"]):
        from patchmorph.io.points import map_points
        from patchmorph.io.transforms.formats import load_transform
    from patchmorph.errors import PatchMorphError
    from patchmorph.transforms.base import AffineTransform

    tool, _, file = name.rpartition(":")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    path, grids, identity = folder / file, pair(), AffineTransform.identity()
    warnings.simplefilter("ignore")

    def once(data: bytes) -> None:
        path.write_bytes(data)
        try:
            if tool:
                load_transform(path, tool, grids)
            else:
                map_points(path, folder / f"out{file[1:]}", identity)
        except PatchMorphError as error:
            if len(str(error).splitlines()) > 1:
                raise RuntimeError("a message must be one line") from error

    atheris.Setup([sys.argv[0], *options], once)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    for name in [chosen.reader] if chosen.reader else chosen.only:
        folder = chosen.corpus.absolute() / name.replace(":", "-")
        folder.mkdir(parents=True, exist_ok=True)
        options = [*LIMITS, f"-max_total_time={chosen.seconds}", f"-artifact_prefix={folder}-", str(folder)]
        if chosen.reader:
            fuzz(name, options)
        seeds(name, folder)
        arguments = [sys.executable, __file__, "--reader", name, "--seconds", str(chosen.seconds)]
        command = [*arguments, "--corpus", str(chosen.corpus)]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stderr.splitlines()
        runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
        print(f"{name:<24} {runs:>9} runs, exit status {done.returncode}", flush=True)
        if done.returncode:
            print("\n".join([*done.stdout.splitlines()[-25:], *lines[-12:]]))


if __name__ == "__main__":
    main()
