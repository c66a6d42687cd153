"""What a registration begins with: the two brains, their pose, and whether they look alike."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import foreground
from patchmorph.images.in_memory import Image
from patchmorph.objective.similarity import correlation_ratio
from patchmorph.registration.brain import Subject, prepared
from patchmorph.registration.stages.pose import PoseStage
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform

SIDE = 48
"""Points along each side of the fixed content's box in which contrasts are compared."""

ALIKE = 0.92
"""Least share of a rising straight line in the relation between images that may have one contrast: 0.93 to 1
for T1 of many scanners (docs/decisions/009)."""


class Relation(NamedTuple):
    """Between the intensities of two images.

    Attributes:
        line: share of the variance that a rising straight line explains; below zero for a falling one.
        any: share that any function of one or the other explains.
    """

    line: float
    any: float

    @classmethod
    def of(cls, first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> "Relation":
        """Of values from 0 to 1 at the same points."""
        slope = torch.corrcoef(torch.stack([first, second]))[0, 1]
        ratios = [correlation_ratio(a[None], b[None]) for a, b in ((first, second), (second, first))]
        return cls(float(slope * slope.abs()), float(torch.cat(ratios).max()))

    @property
    def straight(self) -> float:
        """Share of the line in what any function explains."""
        return self.line / max(self.any, 1e-6)


@dataclass(frozen=True)
class Start:
    """Two subjects and the map between their poses.

    Attributes:
        fixed: as given, on the device.
        moving: likewise.
        fixed_seen: what is registered of it.
        moving_seen: likewise.
        history: the shift between the centres of mass, and the best pose.
        alike: whether both may have one contrast.
        notes: what a user should know.
    """

    fixed: Image
    moving: Image
    fixed_seen: Subject
    moving_seen: Subject
    history: tuple[Transform, ...]
    alike: bool
    notes: tuple[str, ...] = ()

    def noted(self, note: str) -> "Start":
        """With one more note."""
        return replace(self, notes=(*self.notes, note))

    def relation(self, transform: Transform) -> Relation | None:
        """Between the intensities inside the fixed content; ``None``: too little lies on each other."""
        cube = _cube(self.fixed_seen)
        points, spacing_mm = cube.points_world(), float(cube.spacing_mm.max())
        seen = self.fixed_seen.image.sample(points, spacing_mm)
        warped = self.moving_seen.image.sample(transform(points), spacing_mm)
        both = foreground(seen) & foreground(warped)
        return Relation.of(seen[both], warped[both]) if int(both.sum()) >= SIDE else None

    def missing(self, transform: Transform) -> float:
        """Share of the fixed content that ``transform`` takes to where nobody knows the moving image."""
        cube = _cube(self.fixed_seen)
        points = cube.points_world()
        content = foreground(self.fixed_seen.image.sample(points, float(cube.spacing_mm.max())))
        known = self.moving_seen.image.known(transform(points))
        return 0.0 if known is None else float((~known)[content[:, 0]].float().mean())


@torch.no_grad()
def find_start(
    fixed: Image,
    moving: Image,
    brain: nn.Module | None = None,
    masks: tuple[Image | None, Image | None] = (None, None),
) -> Start:
    """Look at both images and find how one lies to the other.

    Args:
        fixed: one channel, any intensities.
        moving: likewise, on the same device.
        brain: network that finds the brain in images without a mask, on that device; ``None``: images show
            what is to be registered.
        masks: of the fixed and the moving image; what they leave out is not looked at.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels, or a mask leaves nothing.
    """
    for image in (fixed, moving):
        if image.data.shape[1] != 1:
            raise PatchMorphError(f"image must have one channel, got {image.data.shape[1]} in {image.name}")
    a, b = (prepared(image, mask, brain) for image, mask in zip((fixed, moving), masks, strict=True))
    shift = AffineTransform.translation(b.content.center_world - a.content.center_world)
    pose = PoseStage(a.content, b.content).refine(a.image, b.image, shift)
    notes = tuple(filter(None, (a.note, b.note)))
    start = Start(fixed, moving, a, b, (shift, pose), True, notes)
    found = start.relation(pose)
    return replace(start, alike=found is None or found.straight > ALIKE)


def _cube(subject: Subject) -> Grid:
    """`SIDE` points along each side of a cube around the content."""
    lower, upper = subject.content.box_world
    return Grid.centered((SIDE, SIDE, SIDE), float((upper - lower).max()) / SIDE, (lower + upper)[None] / 2)
