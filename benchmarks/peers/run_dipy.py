"""dipy's symmetric normalisation on one pair.

    python run_dipy.py FIXED MOVING FOLDER

Centres of mass, translation, rigid and affine maps by mutual information, then SyN by local correlation, as
its tutorials on affine and on symmetric diffeomorphic registration in 3D do.
"""

import nibabel as nib
import numpy as np
import protocol
from dipy.align import affine_registration
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric

clock = protocol.Clock()
fixed, moving = nib.load(protocol.FIXED), nib.load(protocol.MOVING)
images = [np.asarray(image.dataobj, dtype=np.float32) for image in (moving, fixed)]
affines = {"moving_affine": moving.affine, "static_affine": fixed.affine}
_, affine = affine_registration(
    *images, **affines, nbins=32, metric="MI", pipeline=["center_of_mass", "translation", "rigid", "affine"],
    level_iters=[10000, 1000, 100], sigmas=[3.0, 1.0, 0.0], factors=[4, 2, 1],
)  # fmt: skip
syn = SymmetricDiffeomorphicRegistration(CCMetric(3), level_iters=[100, 100, 25])
mapping = syn.optimize(
    images[1], images[0], static_grid2world=fixed.affine, moving_grid2world=moving.affine, prealign=affine
)
clock.stop()
for names, pull, grid in (
    (protocol.FORWARD, mapping.transform, fixed.affine),
    (protocol.BACKWARD, mapping.transform_inverse, moving.affine),
):
    for name in names:
        image = nib.load(protocol.source(name))
        method = "nearest" if name == "labels" else "linear"
        values = np.asarray(image.dataobj, dtype=np.float32)
        warped = pull(values, interpolation=method, image_world2grid=np.linalg.inv(image.affine))
        nib.save(nib.Nifti1Image(np.asarray(warped, np.float32), grid), protocol.target(name))
