"""PatchMorph on one pair, in the environment of the benchmark.

python run_patchmorph.py FIXED MOVING FOLDER DEVICE PASSES [MODEL]
"""

import protocol
import torch
import with_patchmorph

from patchmorph import api

device, passes, *model = protocol.ARGUMENTS
clock = protocol.Clock()
found = api.register(protocol.FIXED, protocol.MOVING, *model, device=device, refine=int(passes))
if device == "cuda":
    torch.cuda.synchronize()
clock.stop()
with_patchmorph.warp(found.transform, found.inverse, found.fixed.grid, found.moving.grid)
