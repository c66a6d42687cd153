"""ConvexAdam (Siebert et al.; pip package convexadam) on one pair.

    python run_convexadam.py FIXED MOVING FOLDER DEVICE

It needs two images of one grid, so the moving image is brought onto the fixed grid by SimpleITK's affine map
first. MIND features and the package's own values.
"""

import numpy as np
import protocol
import SimpleITK as sitk  # noqa: N813
import torch
import with_sitk
from convexAdam.convex_adam_MIND import convex_adam_pt

clock = protocol.Clock()
fixed, moving = with_sitk.read(protocol.FIXED), with_sitk.read(protocol.MOVING)
affine = with_sitk.affine(fixed, moving)
arrays = [sitk.GetArrayFromImage(image) for image in (fixed, sitk.Resample(moving, fixed, affine))]
voxels = convex_adam_pt(*arrays, device=torch.device(protocol.ARGUMENTS[0]))[..., ::-1]
clock.stop()
voxel_to_world = np.reshape(fixed.GetDirection(), (3, 3)) * fixed.GetSpacing()
field = sitk.GetImageFromArray(np.ascontiguousarray(voxels @ voxel_to_world.T), isVector=True)
field.CopyInformation(fixed)
deformable = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
with_sitk.warp(sitk.CompositeTransform([affine, deformable]))
