"""Without type checks, as users run it: a wrong type is a PatchMorphError, whatever the function."""

import json
import subprocess
import sys

CALLS = """
import json, sys
import numpy as np, torch
import patchmorph
from patchmorph import Grid, Image, Stated

grid = Grid((3, 4, 5), torch.eye(4, dtype=torch.float64)[None])
image = Image(torch.zeros(1, 1, 3, 4, 5), grid)
calls = {
    "load_image": lambda: patchmorph.load_image(None),
    "load_image of bytes": lambda: patchmorph.load_image(b"x"),
    "save_image": lambda: patchmorph.save_image(np.zeros((3, 3, 3)), "/tmp/x.nii"),
    "save_image path": lambda: patchmorph.save_image(image, None),
    "load_transform": lambda: patchmorph.load_transform(3),
    "save_transform": lambda: patchmorph.save_transform(np.eye(4), "/tmp/x.h5"),
    "save_transform path": lambda: patchmorph.save_transform(patchmorph.load_transform, None),
    "load_model": lambda: patchmorph.load_model(3),
    "register": lambda: patchmorph.register(None, image),
    "register arrays": lambda: patchmorph.register(np.zeros((3, 3, 3)), np.zeros((3, 3, 3))),
    "register empty": lambda: patchmorph.register((), ()),
    "register channel": lambda: patchmorph.register(image, image, channels=image),
    "register channels": lambda: patchmorph.register(image, image, channels=[(image, image)]),
    "Channel": lambda: patchmorph.Channel(image, image, "1"),
    "Channel of truth": lambda: patchmorph.Channel(image, image, True),
    "Channel of none": lambda: patchmorph.Channel(image, image, None),
    "apply": lambda: patchmorph.apply(None, image, image),
    "apply image": lambda: patchmorph.apply("/absent.h5", 7, image),
    "points": lambda: patchmorph.apply_points(None, None),
    "Image": lambda: Image(torch.zeros(1, 1, 3, 4, 6), grid),
    "Stated": lambda: Stated(origin=3),
    "Stated sizes": lambda: Stated(spacing_mm="a"),
    "Stated list": lambda: Stated(spacing_mm=[1, None, 2]),
}
seen = {}
for name, call in calls.items():
    try:
        call()
        seen[name] = "nothing"
    except Exception as error:
        seen[name] = type(error).__name__ if "\\n" not in str(error) else "several lines"
json.dump(seen, sys.stdout)
"""


def test_wrong_types_are_patchmorph_errors():
    found = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=True)
    assert {name: kind for name, kind in json.loads(found.stdout).items() if kind != "PatchMorphError"} == {}
