"""The files of the training subjects: from patterns, a CSV manifest or a BIDS folder."""

from dataclasses import dataclass
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.bids import companion, find_images
from patchmorph.io.tables import read_files
from patchmorph.training.config import TrainingConfig

COMPANIONS = ("labels", "mask", "landmarks")


@dataclass(frozen=True)
class Subject:
    """The files of one person or animal.

    Attributes:
        image: intensities.
        labels: ids of structures, in the image's world.
        mask: region in which the image is used, in its world.
        landmarks: CSV of named points ``name,x,y,z``, RAS+ mm.
    """

    image: Path
    labels: Path | None = None
    mask: Path | None = None
    landmarks: Path | None = None


def find_subjects(config: TrainingConfig) -> list[Subject]:
    """All subjects of a configuration, sorted by image.

    Raises:
        PatchMorphError: a source that does not exist, is empty, or names files that do not exist.
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
    return [Subject(**files) for files in read_files(path, "manifest", ("image",), COMPANIONS)]


def _from_bids(folder: Path, suffix: str) -> list[Subject]:
    """Images by suffix, each with the ``_dseg`` and ``_mask`` in its folder that have the same entities."""
    images = find_images(folder, suffix)
    return [Subject(image, companion(image, "dseg"), companion(image, "mask")) for image in images]
