"""How far a reader goes to follow one registration: the functions on its way. Writes results/stops.json.

    python benchmarks/stops.py [--source CHECKOUT] [--list]

`patchmorph.register(a, b, model)` runs on two small synthetic brains, with every call traced. A stop is a function
of the package that is entered (each counted once; properties, comprehensions and special methods but
``__call__`` left out), a file is where such functions stand, and a climb is a call into a room above that of
the caller. Counted from the API to the first dense network and back, and for the whole registration.
``--source`` traces another checkout, to compare.
"""

import argparse
import json
import subprocess
import sys
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

TRACED = r"""
import json, sys, torch
torch.set_num_threads(1)
import patchmorph
from patchmorph import api

grid = patchmorph.Grid.centered((40, 44, 38), 4.0, torch.zeros(1, 3))
x, y, z = (grid.points_world()[0] / torch.tensor([70.0, 80.0, 65.0])).unbind(-1)
radius = (x**2 + y**2 + z**2).sqrt()
values = torch.sigmoid((1 - radius) * 20) * (0.6 + 0.3 * torch.sin(6 * x) * torch.sin(5 * y) * torch.cos(4 * z))
image = patchmorph.Image(values[None, None], grid, "synthetic")
model = api.load_model("t1-brain", "cpu")
package = patchmorph.__path__[0]
calls, done = [], []


def trace(frame, event, arg):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(package):
        return
    caller = frame.f_back
    while caller is not None and not caller.f_code.co_filename.startswith(package):
        caller = caller.f_back
    name = code.co_qualname.replace(".<locals>", "")
    calls.append((code.co_filename[len(package) + 1:], name, caller and caller.f_code.co_filename[len(package) + 1:]))


sys.setprofile(trace)
patchmorph.register(image, image, model, "cpu")
sys.setprofile(None)
print(json.dumps(calls))
"""


def traced(source: Path | None) -> list[tuple[str, str, str | None]]:
    """File, function and calling file of every call."""
    environment = {"PYTHONPATH": str(source / "src")} if source else None
    process = subprocess.run(
        [sys.executable, "-c", TRACED], env=environment, capture_output=True, text=True, check=True
    )
    return [tuple(call) for call in json.loads(process.stdout.splitlines()[-1])]


def room(file: str | None) -> int:
    name = (file or "api").split("/")[0].removesuffix(".py")
    return ROOMS.index(name) if name in ROOMS else -1


def counted(calls: list[tuple[str, str, str | None]]) -> dict[str, int]:
    """Stops, their files, and calls into rooms above, each counted once."""
    kept = [
        call
        for call in calls
        if "<" not in call[1] and (not call[1].rpartition(".")[2].startswith("__") or "__call__" in call[1])
    ]
    stops = {(file, name) for file, name, _ in kept}
    climbs = {call for call in kept if call[2] and -1 < room(call[2]) < room(call[0])}
    return {"stops": len(stops), "files": len({file for file, _ in stops}), "climbs": len(climbs)}


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
            calls = traced(source)
            network = next(k for k, call in enumerate(calls) if call[0].endswith("unet.py"))
            figures[name] = {"to_the_network": counted(calls[: network + 1]), "whole": counted(calls)}
            if arguments.list:
                print(*dict.fromkeys(f"{file} {function}" for file, function, _ in calls), sep="\n")
    machine.write("stops", figures, arguments.output)


if __name__ == "__main__":
    main()
