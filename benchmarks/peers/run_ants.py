"""ANTs (pip package antspyx) on one pair: runs in its own environment.

    python run_ants.py FIXED MOVING FOLDER TRANSFORM

TRANSFORM is a ``type_of_transform`` of ``ants.registration``, such as ``SyN`` (its default for brains) or
``antsRegistrationSyNQuick[s]`` (the script of that name). See `accuracy.py` for what lies in FOLDER.
"""

import json
import sys
import time
from pathlib import Path

import ants

fixed, moving, folder, transform = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
began = time.perf_counter()
reference, image = ants.image_read(fixed), ants.image_read(moving)
found = ants.registration(reference, image, type_of_transform=transform, random_seed=1)["fwdtransforms"]
seconds = time.perf_counter() - began
for method, name in (("nearestNeighbor", "labels"), ("linear", "x"), ("linear", "y"), ("linear", "z")):
    warped = ants.apply_transforms(reference, ants.image_read(f"{folder}/{name}.nii"), found, method)
    ants.image_write(warped, f"{folder}/{name}_warped.nii")
(folder / "seconds.json").write_text(json.dumps(seconds))
