"""Write a small pair for the check of a release: ``python pair.py FOLDER``. Needs numpy and nibabel only."""

import sys
from pathlib import Path

import nibabel
import numpy as np


def brain(shift: float) -> nibabel.Nifti1Image:
    """An ellipsoid with folds and a ventricle, voxels of 5 mm, moved along x by ``shift`` mm."""
    x, y, z = np.meshgrid(*(5.0 * (np.arange(n) - n // 2) for n in (34, 40, 32)), indexing="ij")
    x = x - shift
    inside = (x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2 < 1
    values = 0.6 + 0.25 * np.sin(x / 7) * np.sin(y / 8) * np.sin(z / 6) + 0.1 * np.sin(x / 19 + y / 23)
    values[((x - 12) / 8) ** 2 + (y / 22) ** 2 + ((z - 8) / 9) ** 2 < 1] = 0.1
    return nibabel.Nifti1Image(np.where(inside, values, 0).astype(np.float32), np.diag([5.0, 5, 5, 1]))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(brain(0.0), folder / "fixed.nii")
    nibabel.save(brain(6.0), folder / "moving.nii")
