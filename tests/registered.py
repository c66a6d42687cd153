"""Registrations whose map is given."""

from patchmorph.images.volume import Image
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import Transform


def registered(
    fixed: Image, moving: Image, *history: Transform, remarks: tuple[str, ...] = ()
) -> Registration:
    """The registration of two images whose maps were ``history``."""
    return Registration(prepare_pair(fixed, moving), history, remarks)
