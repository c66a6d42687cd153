"""The step that our own runners share: the warping of the images by a transform of ours."""

import protocol

from patchmorph.evaluation.labels import load_labels
from patchmorph.io.images import load_image, save_image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.resample import resample


def warp(transform: Transform, inverse: Transform, fixed: Grid, moving: Grid) -> None:
    """Pull labels and coordinates to the fixed grid, and those of the fixed grid to the moving grid."""
    for names, pulled, grid in ((protocol.FORWARD, transform, fixed), (protocol.BACKWARD, inverse, moving)):
        for name in names:
            read = load_labels if name == "labels" else load_image
            method = "nearest" if name == "labels" else "linear"
            image = read(protocol.source(name)).to(grid.device)
            save_image(resample(image, pulled, grid, method), protocol.target(name))
