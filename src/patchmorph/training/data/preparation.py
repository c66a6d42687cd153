"""Conversion of a subject's files to training data on the CPU: levels, labels, mask and landmarks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import find_content
from patchmorph.images.pyramid import level_shape
from patchmorph.images.volume import Image
from patchmorph.io.images import load_grid, load_image
from patchmorph.io.tables import read_rows
from patchmorph.spatial.grid import Shape
from patchmorph.training.data.subjects import Subject


@dataclass(frozen=True)
class Vocabulary:
    """Spacings, label ids and landmark names common to all subjects.

    Attributes:
        spacings_mm: of the levels stored for each image.
        label_ids: sorted ids; a label is stored as the index of its id plus one.
        landmarks: names, in the order in which every subject's points are stored.
    """

    spacings_mm: tuple[float, ...]
    label_ids: Int[Tensor, " l"]
    landmarks: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """One subject in memory.

    Attributes:
        levels: uint8 images, one per spacing, 0 to 255 for normalised intensities 0 to 1.
        labels: int16 label numbers, 0 for ids outside the vocabulary.
        mask: uint8, 0 or 255.
        landmarks: RAS+ mm, NaN for missing ones.
        center_world: float64, centre of mass, RAS+ mm.
        radius_mm: radius of the content (see `patchmorph.images.foreground.Content`).
    """

    levels: tuple[Image, ...]
    labels: Image | None
    mask: Image | None
    landmarks: Float[Tensor, "k 3"]
    center_world: Float[Tensor, " 3"]
    radius_mm: float


def prepare(subject: Subject, vocabulary: Vocabulary) -> Prepared:
    """Read all files of a subject.

    Raises:
        PatchMorphError: a file that cannot be used.
    """
    image = load_image(subject.image).normalized()
    levels = []
    for spacing in vocabulary.spacings_mm:
        level = image.level(spacing)
        levels.append(Image((level.values() * 255).round().to(torch.uint8), level.grid, image.name))
    content = find_content(image)
    mask = load_image(subject.mask) if subject.mask else None
    points = read_landmarks(subject) if subject.landmarks else {}
    missing = (math.nan,) * 3
    return Prepared(
        levels=tuple(levels),
        labels=_numbered(load_image(subject.labels), vocabulary.label_ids) if subject.labels else None,
        mask=mask and Image((mask.values() > 0).to(torch.uint8) * 255, mask.grid, mask.name),
        landmarks=torch.tensor([points.get(name, missing) for name in vocabulary.landmarks]).reshape(-1, 3),
        center_world=content.center_world[0],
        radius_mm=content.radius_mm,
    )


def shapes(subject: Subject, spacings_mm: Sequence[float]) -> list[Shape]:
    """Shape of each level of a subject's image, from its header alone."""
    grid = load_grid(subject.image)
    own = tuple(grid.spacing_mm[0].tolist())
    return [level_shape(grid.shape, own, spacing) for spacing in spacings_mm]


def label_ids(subject: Subject) -> set[int]:
    """The ids in a subject's label map, without zero."""
    if subject.labels is None:
        return set()
    return set(torch.unique(_whole_numbers(load_image(subject.labels))).tolist()) - {0}


def read_landmarks(subject: Subject) -> dict[str, tuple[float, float, float]]:
    """A subject's landmarks by name.

    Raises:
        PatchMorphError: not a table ``name,x,y,z`` of finite numbers, or two landmarks of one name.
    """
    assert subject.landmarks is not None
    points: dict[str, tuple[float, float, float]] = {}
    for row in read_rows(subject.landmarks, "table of landmarks", ("name", "x", "y", "z")):
        name = row.cells["name"]
        if name in points:
            raise PatchMorphError(f"landmarks must have different names, got {name!r} again in {row.where}")
        points[name] = (row.number("x"), row.number("y"), row.number("z"))
    return points


def _whole_numbers(labels: Image) -> Int[Tensor, "1 1 x y z"]:
    values = labels.values()
    if not values.is_floating_point():
        return values.long()
    if not torch.isfinite(values).all():
        raise PatchMorphError(f"labels must be whole numbers, got NaN or infinity in {labels.name}")
    return values.round().long()


def _numbered(labels: Image, ids: Int[Tensor, " l"]) -> Image:
    raw = _whole_numbers(labels)
    place = torch.searchsorted(ids, raw).clamp(max=len(ids) - 1)
    return Image(torch.where(ids[place] == raw, place + 1, 0).to(torch.int16), labels.grid, labels.name)
