"""Brain images for label maps that have none: each structure in its usual brightness of T1, blurred.

    python recipes/map_images.py --maps FOLDER --output FOLDER

With them label maps can train a registration beside real images (`configs/brain-any-contrast.yaml`):
similarity is measured on these images, while the networks see the maps painted in random contrasts. Writes
``NAME_T1w.nii`` and ``NAME_labels.nii`` of the brain alone (ids as `label_images.py` tells them apart) and
``manifest.csv``.
"""

import argparse
import csv
from pathlib import Path

import nibabel as nib
import numpy as np
from label_images import CLASSES, CSF, OUTSIDE_FROM, SAME_CLASS, TONES
from scipy.ndimage import gaussian_filter

FLUID, WHITE = 0.15, 0.85
"""Brightness of the tones 0 and 2."""
BLUR = 0.6
"""Standard deviation, voxels."""
MARGIN = 4


def brain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a map inside the brain, cropped, and the affine of the crop."""
    image = nib.load(path)  # type: ignore[attr-defined]
    ids = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    ids = np.where(ids < OUTSIDE_FROM, ids, 0)
    inside = np.argwhere((ids > 0) & (ids != CSF))
    lower = np.maximum(0, inside.min(0) - MARGIN)
    crop = tuple(slice(a, b + MARGIN + 1) for a, b in zip(lower, inside.max(0), strict=True))
    affine = image.affine.copy()  # type: ignore[attr-defined]
    affine[:3, 3] += affine[:3, :3] @ lower
    return ids[crop], affine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tone = {label: FLUID + (WHITE - FLUID) * value / 2 for value, labels in TONES.items() for label in labels}
    rows = []
    for path in sorted(arguments.maps.glob("*.nii*")):
        ids, affine = brain(path)
        picture, labels = np.zeros(ids.shape, np.float32), np.zeros(ids.shape, np.uint8)
        for label in np.unique(ids[ids > 0]).tolist():
            known = SAME_CLASS.get(label, label)
            picture[ids == label] = tone.get(label, 0.0)
            labels[ids == label] = known if known in CLASSES else 0
        picture = (255 * gaussian_filter(picture, BLUR)).round().astype(np.uint8)
        name = path.name.partition("_")[0]
        row = [f"{name}_{kind}.nii" for kind in ("T1w", "labels")]
        for data, file in zip((picture, labels), row, strict=True):
            nib.save(nib.Nifti1Image(data, affine), arguments.output / file)  # type: ignore[attr-defined]
        rows.append(row)
    with (arguments.output / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels"), *rows])


if __name__ == "__main__":
    main()
