"""What a registration begins with: the two brains, their pose, and whether they look alike."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from patchmorph.errors import PatchMorphError
from patchmorph.objective.similarity import correlation_ratio
from patchmorph.registration.brain import Subject, prepared
from patchmorph.registration.content import foreground
from patchmorph.registration.pose import PoseStage
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform

SIDE = 48
"""Points along each side of the fixed content's box in which contrasts are compared."""

ALIKE = 0.88
"""Least share of the relation between two images of one contrast that is a rising straight line: 0.96 to 1
for T1 of many scanners, mostly below 0.85 for other pairs (docs/decisions/009)."""


@dataclass(frozen=True)
class Start:
    """Two subjects and the map between their poses.

    Attributes:
        fixed: as given, on the device.
        moving: likewise.
        fixed_seen: what is registered of it.
        moving_seen: likewise.
        history: the shift between the centres of mass, and the best pose.
        alike: whether both have one contrast.
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
    return Start(fixed, moving, a, b, (shift, pose), _alike(a, b, pose), notes)


def _alike(fixed: Subject, moving: Subject, transform: Transform) -> bool:
    """Whether what one image tells of the other, inside the fixed content, is that bright is bright."""
    cube = _cube(fixed)
    points, spacing_mm = cube.points_world(), float(cube.spacing_mm.max())
    seen = fixed.image.sample(points, spacing_mm)
    warped = moving.image.sample(transform(points), spacing_mm)
    both = foreground(seen) & foreground(warped)
    pair = torch.stack([seen[both], warped[both]])
    if pair.shape[1] < SIDE:
        return True
    straight = torch.corrcoef(pair)[0, 1]
    return bool(straight > 0 and straight.square() > ALIKE * correlation_ratio(pair[:1], pair[1:])[0])


def _cube(subject: Subject) -> Grid:
    """`SIDE` points along each side of a cube around the content."""
    lower, upper = subject.content.box_world
    return Grid.centered((SIDE, SIDE, SIDE), float((upper - lower).max()) / SIDE, (lower + upper)[None] / 2)
