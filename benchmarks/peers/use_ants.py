"""ANTs (pip package antspyx) uses our files: runs in its own environment.

    python use_ants.py FOLDER

FOLDER holds fixed.nii.gz, labels.nii.gz, transform.h5, inverse_transform.h5 and points.csv (x,y,z in LPS
mm); labels_ants.nii.gz and points_ants.csv are written there.
"""

import sys
from pathlib import Path

import ants
import pandas

folder = Path(sys.argv[1])
reference = ants.image_read(str(folder / "fixed.nii.gz"))
labels = ants.image_read(str(folder / "labels.nii.gz"))
transform = str(folder / "transform.h5")
warped = ants.apply_transforms(reference, labels, [transform], "nearestNeighbor")
ants.image_write(warped, str(folder / "labels_ants.nii.gz"))
points = pandas.read_csv(folder / "points.csv")
ants.apply_transforms_to_points(3, points, [transform]).to_csv(folder / "points_ants.csv", index=False)
