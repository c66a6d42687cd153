"""How far a reader goes to follow one registration: writes results/stops.json.

    python benchmarks/stops.py [--source CHECKOUT] [--list]

`patchmorph.register(a, b, model)` runs on two small synthetic brains with U-Nets, with every call traced. A
stop is a function of the package that is entered, each counted once; properties, comprehensions and special
methods but ``__call__`` are left out. A climb is a stop in a room above that of the stop before. Counted over
the rooms of the method (`METHOD`), and over all rooms. ``--source`` traces another checkout, to compare.
"""

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import machine

ROOMS = (
    "spatial",
    "images",
    "transforms",
    "objective",
    "networks",
    "patches",
    "io",
    "catalogue",
    "registration",
    "api",
    "evaluation",
    "results",
    "report",
)
"""Bottom to top."""

METHOD = ("api", "registration", "patches", "networks")

TRACED = r"""
import json, sys, torch
torch.set_num_threads(1)
import patchmorph

try:
    from patchmorph.networks.model import ModelSpec, PatchMorphModel
except ImportError:  # where it was before
    from patchmorph.registration.model import ModelSpec, PatchMorphModel

grid = patchmorph.Grid.centered((40, 44, 38), 4.0, torch.zeros(1, 3))
x, y, z = (grid.points_world()[0] / torch.tensor([70.0, 80.0, 65.0])).unbind(-1)
radius = (x**2 + y**2 + z**2).sqrt()
texture = torch.sin(6 * x) * torch.sin(5 * y) * torch.cos(4 * z)
values = torch.sigmoid((1 - radius) * 20) * (0.6 + 0.3 * texture)
image = patchmorph.Image(values[None, None], grid, "synthetic")
torch.manual_seed(0)
model = PatchMorphModel(ModelSpec()).eval()
package = patchmorph.__path__[0]
properties = {
    getter.__code__
    for name, module in sys.modules.items()
    if name.startswith("patchmorph")
    for kind in vars(module).values()
    if isinstance(kind, type)
    for member in vars(kind).values()
    for getter in (getattr(member, "fget", None), getattr(member, "func", None))
    if hasattr(getter, "__code__")
}
stops = {}


def trace(frame, event, arg):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package) and code not in properties:
        stops[code.co_filename[len(package) + 1:], code.co_qualname] = None


sys.setprofile(trace)
patchmorph.register(image, image, model, "cpu")
sys.setprofile(None)
print(json.dumps(list(stops)))
"""


def traced(source: Path | None) -> list[tuple[str, str]]:
    """File and name of every stop, in the order in which they are entered first."""
    environment = {"PYTHONPATH": str(source / "src")} if source else None
    process = subprocess.run(
        [sys.executable, "-c", TRACED], env=environment, capture_output=True, text=True, check=True
    )
    stops = json.loads(process.stdout.splitlines()[-1])
    special = [name.rpartition(".")[2].startswith("__") and "__call__" not in name for _, name in stops]
    return [
        (file, name)
        for (file, name), left_out in zip(stops, special, strict=True)
        if not left_out and "<" not in name
    ]


def room(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def counted(stops: list[tuple[str, str]]) -> dict[str, int]:
    """Stops, their files, and climbs."""
    heights = [ROOMS.index(room(file)) for file, _ in stops if room(file) in ROOMS]
    climbs = sum(after > before for before, after in pairwise(heights))
    return {"stops": len(stops), "files": len({file for file, _ in stops}), "climbs": climbs}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="a checkout that is traced besides this one")
    parser.add_argument("--list", action="store_true", help="print the stops in their order")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    figures = {}
    for name, source in {"here": None, "before": arguments.source}.items():
        if name == "here" or source:
            stops = traced(source)
            method = [stop for stop in stops if room(stop[0]) in METHOD]
            figures[name] = {"method": counted(method), "all": counted(stops)}
            if arguments.list:
                print(*(f"{file} {function}" for file, function in method), sep="\n")
    machine.write("stops", figures, arguments.output)


if __name__ == "__main__":
    main()
