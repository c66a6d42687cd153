"""Prepared pairs with known content and known pose, so that no test waits for the search over poses."""

from patchmorph.images.foreground import Content, find_content
from patchmorph.images.volume import Image
from patchmorph.registration.pair import PreparedImage, PreparedPair
from patchmorph.registration.pipeline import History
from patchmorph.transforms.base import AffineTransform, Transform


def given_pair(fixed: Image, moving: Image, content: Content | None = None) -> PreparedPair:
    """Two normalised images as they are, with their truncated faces; ``content`` is that of the fixed one."""
    return PreparedPair(given_image(fixed, content), given_image(moving))


def given_image(image: Image, content: Content | None = None) -> PreparedImage:
    """A normalised image as it is, with ``content``, which is measured by default."""
    return PreparedImage(image, image.mapped(), find_content(image) if content is None else content)


def normalized(image: Image) -> Image:
    """The normalised voxels in memory, with the truncated faces."""
    return Image(image.normalized().values(), image.grid, image.name, image.truncated_faces)


def history_at(pose: Transform | None = None) -> History:
    """The maps of a registration that begins at ``pose``, by default the identity."""
    pose = AffineTransform.identity() if pose is None else pose
    return (pose, pose)
