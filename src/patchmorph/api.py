"""The Python interface: images and models by name or path, one call to register."""

import os
from collections.abc import Sequence

from patchmorph.catalogue import (
    ANY_CONTRAST,
    AUTO,
    NO_MODEL,
    SAME_CONTRAST,
    cached_model,
    load_brain_mask,
    load_model,
)
from patchmorph.images.volume import Image
from patchmorph.io.conversion import AnyImage, as_image
from patchmorph.networks.devices import choose_device
from patchmorph.networks.model import PatchMorphModel
from patchmorph.registration.cross_contrast import Models, register_any_contrast
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pipeline import estimate_pose, register_pair
from patchmorph.registration.preparation import Selection, prepare_pair
from patchmorph.registration.result import Registration


def register(
    fixed: AnyImage,
    moving: AnyImage,
    model: str | os.PathLike | PatchMorphModel = AUTO,
    device: str = "auto",
    refine: int | None = None,
    uncertainty: bool = False,
    seed: int = 0,
    fixed_mask: AnyImage | None = None,
    moving_mask: AnyImage | None = None,
    jitter: bool = False,
    similarity: str = "lncc",
    fixed_ignore: AnyImage | None = None,
    moving_ignore: AnyImage | None = None,
    background: float | None = None,
    trust: Sequence[str] = (),
) -> Registration:
    """Register ``moving`` to ``fixed``.

    Args:
        fixed: a path, or an image (see `patchmorph.io.conversion.as_image`): the space of the result.
        moving: likewise; shape, spacing, orientation and pose may differ, and each may show a
            whole head: the brain in it is found.
        model: name of a packaged model, path of a model file, or a loaded model, which stays on its device.
            ``auto``: the packaged model for the two contrasts, the same or different ones; ``.notes`` of the
            result say which. ``none``: no network; affine and dense registration by refinement alone.
        device: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.
        refine: passes of refinement over every part of the pair, at most; it ends by itself where it gains
            no more. By default 0 with a network, 40 without, 20 for two contrasts.
        uncertainty: keep what ``.uncertainty()`` of the result needs; takes more patches and some memory.
        seed: of every random draw.
        fixed_mask: what of the fixed image counts, not zero inside, in its world; else its brain is found.
        moving_mask: likewise.
        jitter: shift the networks' patches at random instead of a regular lattice.
        similarity: of refinement: ``lncc``, ``mse``, or for two contrasts ``mind`` or ``mi``.
        fixed_ignore: what of the fixed image is left out of the comparison (a lesion); not zero inside.
        moving_ignore: likewise.
        background: intensity of voxels of both images that show nothing, as those that are not finite do;
            NaN: only these.
        trust: classes, as ``MODULE:CLASS``, that a model file may name beside the networks on our list; their
            code is run.

    Returns:
        The transform (fixed → moving world, RAS+ mm) with its inverse, the warped image and the Jacobian.

    Raises:
        PatchMorphError: an input that cannot be used.

    Example:
        >>> import patchmorph
        >>> result = patchmorph.register("fixed.nii.gz", "moving.nii.gz")  # doctest: +SKIP
        >>> result.warped()  # doctest: +SKIP
    """
    options = RegistrationOptions(refine, jitter, uncertainty, seed, similarity)
    chosen = model
    if not isinstance(model, PatchMorphModel) and model not in (AUTO, NO_MODEL):
        chosen = load_model(model, device, trust)
    where = chosen.device if isinstance(chosen, PatchMorphModel) else choose_device(device)
    images = as_image(fixed, "fixed").to(where), as_image(moving, "moving").to(where)
    if background is not None:
        images = images[0].with_background(background), images[1].with_background(background)
    selections = (
        Selection(_as_mask(fixed_mask, "fixed_mask"), _as_mask(fixed_ignore, "fixed_ignore")),
        Selection(_as_mask(moving_mask, "moving_mask"), _as_mask(moving_ignore, "moving_ignore")),
    )
    pair = prepare_pair(*images, load_brain_mask(where), selections)
    history = estimate_pose(pair)
    if chosen == AUTO:
        same, other = (cached_model(name, str(where)) for name in (SAME_CONTRAST, ANY_CONTRAST))
        return register_any_contrast(pair, history, Models(same, other, SAME_CONTRAST, ANY_CONTRAST), options)
    network = chosen if isinstance(chosen, PatchMorphModel) else None
    return register_pair(pair, history, network, options)


def _as_mask(given: AnyImage | None, name: str) -> Image | None:
    return None if given is None else as_image(given, name)
