"""Images in a BIDS folder, raw or derivatives, and names of derivatives (https://bids.neuroimaging.io)."""

import json
import re
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.version import VERSION

DESCRIPTION, VERSION_OF_BIDS = "dataset_description.json", "1.10.0"
IMAGES = (".nii", ".nii.gz")
ENTITIES = ("sub", "ses", "acq", "run", "space", "res")
"""Parts of a name that tell which image a mask or label map belongs to."""


def find_images(folder: Path, suffix: str) -> list[Path]:
    """The images ``sub-*_<suffix>.nii[.gz]`` of all subjects and sessions, sorted.

    Raises:
        PatchMorphError: there are none, or a suffix that is more than letters and digits.
    """
    if not re.fullmatch("[A-Za-z0-9]+", suffix):
        raise PatchMorphError(f"BIDS suffix must be letters and digits, such as T1w, got {suffix!r}")
    found = [path for ending in IMAGES for path in folder.glob(f"sub-*/**/sub-*_{suffix}{ending}")]
    if not found:
        raise PatchMorphError(f"BIDS folder must hold sub-*_{suffix}.nii[.gz], got none in {folder}")
    return sorted(found)


def companion(image: Path, kind: str) -> Path | None:
    """The file of a kind, such as ``dseg`` or ``mask``, in the folder of an image and with its `ENTITIES`.

    Raises:
        PatchMorphError: there are several.
    """
    candidates = sorted(image.parent.glob(f"sub-*_{kind}.nii*"))
    found = [path for path in candidates if _entities(path) == _entities(image)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise PatchMorphError(f"{kind} of {image.name} must be one file, got {names}; use a manifest")
    return found[0] if found else None


def stem(path: Path) -> str:
    """The name of an image without its ending."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def derivative_names(image: Path, space: str, image_format: str = "nii.gz") -> dict[str, str]:
    """Names of the files that a registration of ``image`` to the template or image ``space`` leaves.

    A transform "from T1w to MNI152" in BIDS takes the image to that space, so it maps its points to those of
    the image.
    """
    *parts, suffix = stem(image).split("_")
    entities = "_".join(part for part in parts if not part.startswith("space-"))
    return {
        f"warped.{image_format}": f"{entities}_space-{space}_{suffix}.{image_format}",
        "transform.h5": f"{entities}_from-{suffix}_to-{space}_mode-image_xfm.h5",
        "inverse_transform.h5": f"{entities}_from-{space}_to-{suffix}_mode-image_xfm.h5",
    }


def describe_derivatives(folder: Path) -> None:
    """Write what BIDS asks of a folder of derivatives, unless it is there."""
    if (folder / DESCRIPTION).exists():
        return
    content = {
        "Name": "Registrations by PatchMorph",
        "BIDSVersion": VERSION_OF_BIDS,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "PatchMorph", "Version": VERSION}],
    }
    with whole_file(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _entities(path: Path) -> set[str]:
    return {part for part in path.name.split("_") if part.partition("-")[0] in ENTITIES}
