"""Pairs whose map another tool made: it is measured, nothing is registered."""

from pathlib import Path

from patchmorph.catalogue import load_brain_mask
from patchmorph.errors import PatchMorphError
from patchmorph.images.chunked import StoredImage
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.formats import load_transform
from patchmorph.networks.devices import choose_device
from patchmorph.registration.preparation import Selection, prepare_pair
from patchmorph.registration.result import Registration
from patchmorph.transforms.gaps import missing_voxels


def registered_by(
    transform: Path, tool: str | None, images: dict[str, StoredImage], device: str = "auto"
) -> Registration:
    """The pair as if it had been registered by a map from a file.

    Args:
        transform: file of a map from the fixed to the moving world, of any format that is read.
        tool: whose convention the file follows, where it does not say.
        images: ``fixed`` and ``moving``, and masks as `patchmorph.api.register` takes them.
        device: where the pair is measured.

    Raises:
        PatchMorphError: a file that is not such a map, a map that is not defined everywhere, or an image
            that cannot be used.
    """
    computing = choose_device(device)
    placed = {name: image.to(computing) for name, image in images.items()}
    fixed, moving = placed["fixed"], placed["moving"]
    found = load_transform(transform, tool, GridPair(fixed.grid, moving.grid, ("fixed", "moving")))
    if missing := missing_voxels(found):
        raise PatchMorphError(
            f"transform must map every point, got {missing} voxels without a value in {transform}"
        )
    selections = tuple(
        Selection(placed.get(f"{side}_mask"), placed.get(f"{side}_ignore")) for side in ("fixed", "moving")
    )
    pair = prepare_pair(fixed, moving, load_brain_mask(computing), (selections[0], selections[1]))
    return Registration(pair, (found.to(computing),))
