"""Which files a training learns from: patterns, a CSV manifest or a BIDS folder."""

import csv
from dataclasses import dataclass
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.training.config import TrainingConfig

COLUMNS = ("image", "labels", "mask", "landmarks")


@dataclass(frozen=True)
class Subject:
    """The files of one person or animal.

    Attributes:
        image: intensities.
        labels: ids of structures, in the image's world.
        mask: where the image may be trusted, in its world.
        landmarks: CSV of named points ``name,x,y,z``, RAS+ mm.
    """

    image: Path
    labels: Path | None = None
    mask: Path | None = None
    landmarks: Path | None = None


def find_subjects(config: TrainingConfig) -> list[Subject]:
    """All subjects that a configuration names, sorted by image.

    Raises:
        PatchMorphError: a source that is not there, is empty, or names files that do not exist.
    """
    data, folder = config.data, config.folder
    if data.manifest:
        subjects = _from_manifest(folder / data.manifest)
    elif data.bids:
        subjects = _from_bids(folder / data.bids, data.suffix)
    else:
        subjects = [Subject(path) for path in _from_patterns(data.images, folder)]
    return sorted(subjects, key=lambda subject: subject.image)


def _from_patterns(patterns: list[str], folder: Path) -> list[Path]:
    paths: set[Path] = set()
    for pattern in patterns:
        absolute = Path(pattern).is_absolute()
        base = Path(pattern).anchor if absolute else folder
        try:
            found = list(Path(base).glob(str(Path(pattern).relative_to(base)) if absolute else pattern))
        except (ValueError, IndexError) as error:
            raise PatchMorphError(
                f"training images must be paths or patterns, got '{pattern}': {error}"
            ) from None
        if not found:
            raise PatchMorphError(f"training images must exist, got nothing for {pattern} in {folder}")
        paths.update(found)
    return sorted(paths)


def _from_manifest(path: Path) -> list[Subject]:
    if not path.is_file():
        raise PatchMorphError(f"manifest must be an existing file, got {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PatchMorphError(f"manifest must be CSV, got {path}: {error}") from None
    if not rows:
        raise PatchMorphError(f"manifest must have rows, got none in {path}")
    columns = [column.strip() for column in rows[0] if column]
    if "image" not in columns or not set(columns) <= set(COLUMNS):
        raise PatchMorphError(
            f"columns must be image[,labels,mask,landmarks], got {','.join(columns)} in {path}"
        )
    subjects = []
    for line, row in enumerate(rows, start=2):
        files = {}
        for column in columns:
            value = (row[column] or "").strip()
            if value:
                files[column] = path.parent / value
                if not files[column].is_file():
                    raise PatchMorphError(
                        f"{column} must be an existing file, got {value} in line {line} of {path}"
                    )
        if "image" not in files:
            raise PatchMorphError(f"image must be given, got nothing in line {line} of {path}")
        subjects.append(Subject(**files))
    return subjects


def _from_bids(folder: Path, suffix: str) -> list[Subject]:
    """Images by their suffix; ``sub-01_ses-1_..._dseg`` and ``..._mask`` beside them belong to them."""
    images = [
        path for ending in (".nii", ".nii.gz") for path in folder.glob(f"sub-*/**/sub-*_{suffix}{ending}")
    ]
    if not images:
        raise PatchMorphError(f"BIDS folder must hold sub-*_{suffix}.nii[.gz], got none in {folder}")
    return [Subject(image, _companion(image, "dseg"), _companion(image, "mask")) for image in images]


def _companion(image: Path, kind: str) -> Path | None:
    entities = [part for part in image.name.split("_") if part.startswith(("sub-", "ses-"))]
    stem = "_".join(entities)
    found = [*image.parent.glob(f"{stem}_*{kind}.nii*"), *image.parent.glob(f"{stem}_{kind}.nii*")]
    unique = sorted(set(found))
    if len(unique) > 1:
        names = ", ".join(path.name for path in unique)
        raise PatchMorphError(f"{kind} of {image.name} must be one file, got {names}; a manifest says which")
    return unique[0] if unique else None
