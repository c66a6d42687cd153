"""FreeSurfer's Python library (surfa; numpy below 2.3) uses our files: runs in its own environment.

    python use_surfa.py FOLDER

FOLDER holds affine.lta, warp.mgz and points.csv (x,y,z in RAS mm: voxel centres of the fixed image);
lta_surfa.csv (where the points go) and warp_surfa.csv (where every 997th voxel goes) are written there.
"""

import sys
from pathlib import Path

import numpy as np
import surfa

folder = Path(sys.argv[1])
points = np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1)
# FreeSurfer's matrices take moving to fixed points.
backwards = surfa.load_affine(str(folder / "affine.lta")).convert(space="world")
np.savetxt(folder / "lta_surfa.csv", backwards.inv().transform(points), delimiter=",")
warp = surfa.load_warp(str(folder / "warp.mgz")).convert(surfa.Warp.Format.abs_ras)
np.savetxt(folder / "warp_surfa.csv", np.asarray(warp.data).reshape(-1, 3)[::997], delimiter=",")
