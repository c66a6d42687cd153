"""Pairs whose map another tool made: it is measured, nothing is registered."""

import functools
from collections.abc import Mapping
from pathlib import Path

import torch

from patchmorph.catalogue import load_brain_mask
from patchmorph.errors import PatchMorphError
from patchmorph.images.chunked import StoredImage
from patchmorph.io.chunked import open_image
from patchmorph.io.grids import GridPair
from patchmorph.io.stated import Stated
from patchmorph.io.transforms.formats import load_transform
from patchmorph.networks.devices import choose_device
from patchmorph.registration.pair import PreparedImage, PreparedPair
from patchmorph.registration.preparation import Selection, prepare_as_given
from patchmorph.registration.result import Registration
from patchmorph.transforms.gaps import missing_voxels
from patchmorph.workers import in_order

KEPT = 6
"""Images, and as many of their masks, that are not read and prepared again for the next pairs."""
SIDES = ("fixed", "moving")


def open_again(path: Path, stated: Stated | None = None, pyramid: bool = False) -> StoredImage:
    """`open_image`, for tables in which many pairs share an image: the last files that were read are kept.

    A file that has changed since is read again, and what is no file, such as a Zarr, is always opened.
    """
    if not path.is_file():
        return open_image(path, stated, pyramid=pyramid)
    state = path.stat()
    return _opened(path, stated, pyramid, (state.st_mtime_ns, state.st_size, state.st_ino))


@functools.lru_cache(maxsize=2 * KEPT)
def _opened(path: Path, stated: Stated | None, pyramid: bool, state: tuple[int, int, int]) -> StoredImage:
    """The image of a file in a certain state."""
    return open_image(path, stated, pyramid=pyramid)


def registered_by(
    transform: Path, tool: str | None, images: Mapping[str, StoredImage], device: str = "auto"
) -> Registration:
    """The pair as if it had been registered by a map from a file.

    Args:
        transform: file of a map from the fixed to the moving world, of any format that is read.
        tool: whose convention the file follows, where it does not say.
        images: ``fixed`` and ``moving``, and masks as `patchmorph.api.register` takes them. What is prepared
            of the last ones is kept.
        device: where the pair is measured.

    Raises:
        PatchMorphError: a file that is not such a map, a map that is not defined everywhere, or an image
            that cannot be used.
    """
    computing = choose_device(device)
    grids = GridPair(images["fixed"].grid, images["moving"].grid, SIDES)
    found = load_transform(transform, tool, grids)
    if missing := missing_voxels(found):
        raise PatchMorphError(
            f"transform must map every point, got {missing} voxels without a value in {transform}"
        )

    def prepared(side: str) -> PreparedImage:
        masks = (images.get(f"{side}_{name}") for name in ("mask", "ignore"))
        return _prepared(images[side], *masks, computing)

    fixed, moving = in_order(prepared, SIDES, computing)
    return Registration(PreparedPair(fixed, moving), (found.to(computing),))


@functools.lru_cache(maxsize=KEPT)
@torch.no_grad()
def _prepared(
    image: StoredImage, mask: StoredImage | None, ignored: StoredImage | None, device: torch.device
) -> PreparedImage:
    placed = [one and one.to(device) for one in (mask, ignored)]
    return prepare_as_given(image.to(device), Selection(*placed), brain_network=load_brain_mask(device))
