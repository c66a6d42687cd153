"""Prepared pairs whose pose is known, so that no test waits for the search over poses."""

from patchmorph.images.in_memory import Image
from patchmorph.registration.brain import prepared
from patchmorph.registration.pair import Start
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform


def start_at(fixed: Image, moving: Image, pose: Transform | None = None, alike: bool = True) -> Start:
    """The start of a registration at ``pose``, by default the identity."""
    pose = AffineTransform.identity() if pose is None else pose
    return Start(
        fixed, moving, prepared(fixed, None, None), prepared(moving, None, None), (pose, pose), alike
    )
