"""Votes of label maps for T1 brains: each map is painted, registered to the brain, and votes where it fits.

    python recipes/vote_labels.py --maps FOLDER --images FOLDER --output FOLDER [--device auto]

A second opinion beside the networks of `label_images.py`, which reads it with ``--votes``: a painted map is
brought to each image by the packaged model t1-brain, and weighs by the fourth power of the local correlation
(docs/decisions/011). Maps are whole heads with SynthSeg's ids; images are brains without skull, 1 mm. Writes
``NAME_votes.npy``: the share of each class of `label_images.py`, 0 to 255, ``[classes + 1, X, Y, Z]`` in RAS
order. Wants a GPU.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from label_images import (
    CLASSES,
    OUTSIDE_FROM,
    SAME_CLASS,
    TONES,
    images_by_person,
    parser_of_folders,
    read_ras,
    vote_file,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from patchmorph import api
from patchmorph.io.conversion import as_image
from patchmorph.networks.model import PatchMorphModel

FLUID, STEP = 15.0, 85.0
"""Brightness of the tone 0, and of a whole tone."""
BLUR, NOISE = 0.6, 3.0
"""Standard deviations: voxels, and brightness."""
MARGIN = 3
WHITE = 200.0
"""Brightness of the brightest twentieth of an image, which is that of painted white matter about."""
WINDOW = 7
LEAST = 1e-3
"""Weight of a vote where nothing correlates."""

Painted = tuple[nib.Nifti1Image, nib.Nifti1Image]
"""A brain in T1's usual tones and its ids."""


def painted(path: Path, random: np.random.Generator) -> Painted:
    """The brain of a label map, cropped."""
    ids, affine = read_ras(path)
    image = np.zeros(ids.shape, np.float32)
    for tone, labels in TONES.items():
        image[np.isin(ids, labels)] = FLUID + STEP * tone
    image = gaussian_filter(image, BLUR)
    image += (image > 1) * random.normal(0, NOISE, image.shape)
    ids = np.where(ids < OUTSIDE_FROM, ids, 0)
    inside = np.argwhere(ids > 0)
    lower = np.maximum(inside.min(0) - MARGIN, 0)
    crop = tuple(slice(a, b + MARGIN + 1) for a, b in zip(lower, inside.max(0), strict=True))
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ lower
    for label, known in SAME_CLASS.items():
        ids[ids == label] = known
    ids[~np.isin(ids, CLASSES)] = 0  # background, as for the networks
    values = image[crop].clip(0).astype(np.float32), ids[crop].astype(np.int16)
    return nib.Nifti1Image(values[0], affine), nib.Nifti1Image(values[1], affine)


def means(image: Tensor) -> Tensor:
    """Means over `WINDOW`³ voxels of ``[1, 1, X, Y, Z]``."""
    return functional.avg_pool3d(functional.pad(image, [WINDOW // 2] * 6), WINDOW, 1)


def fit(first: Tensor, second: Tensor) -> Tensor:
    """Squared local correlation of two images, 0 where one of them is flat."""
    a, b = means(first), means(second)
    variances = [means(image.square()) - mean.square() for image, mean in ((first, a), (second, b))]
    squared = (means(first * second) - a * b).square() / (variances[0] * variances[1]).clamp(min=1e-3)
    return torch.where((variances[0] > 1) & (variances[1] > 1), squared, 0)


def votes(path: Path, maps: list[Painted], model: PatchMorphModel) -> Tensor:
    """Share of each class at each voxel of an image, background first: ``[classes + 1, X, Y, Z]``."""
    voxels, affine = read_ras(path)
    bright = voxels * (WHITE / np.percentile(voxels[voxels > 0], 95))
    image = torch.from_numpy(bright.astype(np.float32))[None, None].to(model.device)
    ids = torch.tensor([0, *CLASSES], device=model.device)[:, None, None, None]
    share = torch.zeros(len(ids), *image.shape[2:], device=model.device)
    fixed = nib.Nifti1Image(voxels, affine)
    for moving, labels in maps:
        found = api.register(fixed, moving, model=model, device=str(model.device))
        warped = found.warped().values().float()
        there = found.warped(as_image(labels), "nearest").values()[0, 0].long()
        share += (fit(image, warped).square() + LEAST)[0, 0] * (there[None] == ids)
    return share / share.sum(0)


def main() -> None:
    parser = parser_of_folders(__doc__)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    maps = [painted(path, random) for path in sorted(arguments.maps.glob("*.nii*"))]
    model = api.load_model("t1-brain", arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for person, path in images_by_person(arguments.images).items():
        share = (255 * votes(path, maps, model)).round().byte()
        np.save(vote_file(arguments.output, person), share.cpu().numpy())


if __name__ == "__main__":
    main()
