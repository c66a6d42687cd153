"""A network of `benchmarks/full_volume.py` on one pair: the affine stage of t1-brain, then one pass.

python run_full_volume.py FIXED MOVING FOLDER DEVICE MODEL
"""

import protocol
import torch
import with_patchmorph

from patchmorph import api
from patchmorph.networks.contract import VELOCITY_STRIDE
from patchmorph.patches.extraction import extract_pair
from patchmorph.registration.stages.network import patch_velocity
from patchmorph.spatial.grid import Grid, cube
from patchmorph.transforms.velocity import VelocityField

device, path = protocol.ARGUMENTS
clock = protocol.Clock()
aligned = api.register(protocol.FIXED, protocol.MOVING, "t1-brain", device, transform="affine")
model = api.load_model(path, device)
spec, fixed, moving = model.spec, aligned.pair.fixed, aligned.pair.moving
content = fixed.content
volume = Grid.centered(cube(spec.patch_size), spec.spacings_mm[0], content.center_world).to(content.device)
with torch.no_grad():
    images = extract_pair(fixed.image, moving.image, volume, spec.spacings_mm[0], aligned.transform)
    velocity = patch_velocity(model.dense[0], images, volume, spec.precision, spec.symmetric)
    field = VelocityField(velocity, volume.coarsen(VELOCITY_STRIDE), spec.integration_steps)
transform = aligned.transform @ field
if device == "cuda":
    torch.cuda.synchronize()
clock.stop()
with_patchmorph.warp(transform, transform.inverse(), aligned.fixed.grid, aligned.moving.grid)
