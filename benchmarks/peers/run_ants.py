"""ANTs (pip package antspyx) on one pair.

    python run_ants.py FIXED MOVING FOLDER TRANSFORM

TRANSFORM is a ``type_of_transform`` of ``ants.registration``, such as ``SyN`` (its default for brains),
``SyNCC``, or ``antsRegistrationSyN[s]`` and ``antsRegistrationSyNQuick[s]`` (the scripts of these names).
"""

import ants
import protocol

clock = protocol.Clock()
fixed, moving = ants.image_read(protocol.FIXED), ants.image_read(protocol.MOVING)
found = ants.registration(fixed, moving, type_of_transform=protocol.ARGUMENTS[0], random_seed=1)
clock.stop()
for names, reference, transforms in (
    (protocol.FORWARD, fixed, found["fwdtransforms"]),
    (protocol.BACKWARD, moving, found["invtransforms"]),
):
    affine_last = [path.endswith(".mat") and names is protocol.BACKWARD for path in transforms]
    for name in names:
        method = "nearestNeighbor" if name == "labels" else "linear"
        image = ants.image_read(protocol.source(name))
        warped = ants.apply_transforms(reference, image, transforms, method, whichtoinvert=affine_last)
        ants.image_write(warped, protocol.target(name))
