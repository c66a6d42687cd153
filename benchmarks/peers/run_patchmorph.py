"""PatchMorph on one pair, in the environment of the benchmark.

python run_patchmorph.py FIXED MOVING FOLDER DEVICE PASSES
"""

import protocol
import torch

from patchmorph import api
from patchmorph.evaluation.labels import load_labels
from patchmorph.io.images import load_image, save_image
from patchmorph.transforms.resample import resample

device, passes = protocol.ARGUMENTS[0], int(protocol.ARGUMENTS[1])
clock = protocol.Clock()
found = api.register(protocol.FIXED, protocol.MOVING, device=device, refine=passes)
if device == "cuda":
    torch.cuda.synchronize()
clock.stop()
for names, transform, grid in (
    (protocol.FORWARD, found.transform, found.fixed.grid),
    (protocol.BACKWARD, found.inverse, found.moving.grid),
):
    for name in names:
        read = load_labels if name == "labels" else load_image
        method = "nearest" if name == "labels" else "linear"
        image = read(protocol.source(name)).to(grid.device)
        save_image(resample(image, transform, grid, method), protocol.target(name))
