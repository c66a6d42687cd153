"""The Python interface: images and models by name or path, one call to register."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

from patchmorph.catalogue import (
    ANY_CONTRAST,
    AUTO,
    NO_MODEL,
    SAME_CONTRAST,
    cached_model,
    load_brain_mask,
    load_model,
)
from patchmorph.errors import PatchMorphError
from patchmorph.images.chunked import StoredImage
from patchmorph.io.chunked import as_stored
from patchmorph.io.conversion import AnyImage
from patchmorph.io.grids import GridPair
from patchmorph.io.stated import Stated, stated_of
from patchmorph.io.transforms.given import AnyTransform, as_transform
from patchmorph.memory import images_fit, limited
from patchmorph.networks.devices import choose_device
from patchmorph.networks.model import PatchMorphModel
from patchmorph.registration.channels import Channel
from patchmorph.registration.cross_contrast import Models, register_any_contrast
from patchmorph.registration.initial import INITIAL_MAPS, SEARCH, register_from
from patchmorph.registration.options import DEFORMABLE, NORMAL, RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.pipeline import History, register_pair
from patchmorph.registration.preparation import Selection, prepare_pair
from patchmorph.registration.result import Registration

SIDES = ("fixed", "moving")


@dataclass(frozen=True)
class Method:
    """How files are registered, as plain data: the arguments of `register` without images.

    Attributes:
        channel_weights: of the further channels, in their order; none: each has 1.
        assume_orientation: of files that state none: directions of the axes (see `Stated`).
        fixed_orientation: of the fixed image, its channels, masks and labels: sides of the first voxel (see
            `Stated`).
        fixed_spacing: of these, mm (see `Stated`).
        moving_orientation: likewise.
        moving_spacing: likewise.
        pyramid: whether levels that large images lack are kept beside them.
    """

    model: str = AUTO
    device: str = "auto"
    transform: str = DEFORMABLE
    preset: str = NORMAL
    finest: float | str | None = None
    memory_limit: float | None = None
    gpu_memory_limit: float | None = None
    initial_transform: str = SEARCH
    initial_from: str | None = None
    refine: int | None = None
    similarity: str = "lncc"
    uncertainty: bool = False
    seed: int = 0
    jitter: bool = False
    background: float | None = None
    trust: tuple[str, ...] = ()
    channel_weights: tuple[float, ...] = ()
    assume_orientation: str | None = None
    fixed_orientation: str | None = None
    fixed_spacing: tuple[float, ...] | None = None
    moving_orientation: str | None = None
    moving_spacing: tuple[float, ...] | None = None
    pyramid: bool = False

    def stated(self, side: str) -> Stated:
        """What is stated of the files of one side, ``fixed`` or ``moving``."""
        return stated_of(vars(self), side)

    def keywords(self) -> dict[str, Any]:
        """Arguments of `register`."""
        of_files = ("_orientation", "_spacing", "channel_weights", "pyramid")
        return {name: value for name, value in vars(self).items() if not name.endswith(of_files)}

    def arguments(self) -> dict[str, Any]:
        """The method as a summary records it."""
        return vars(self) | {name: list(getattr(self, name)) for name in ("trust", "channel_weights")}

    def loaded_model(self) -> str | PatchMorphModel:
        """The model, loaded where it is one, for several pairs.

        Raises:
            PatchMorphError: a file that is no model, or is not trusted.
        """
        named = self.model in (AUTO, NO_MODEL)
        return self.model if named else load_model(self.model, self.device, self.trust)


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
    transform: str = DEFORMABLE,
    initial_transform: AnyTransform = SEARCH,
    initial_from: str | None = None,
    preset: str = NORMAL,
    channels: Sequence[Channel] = (),
    finest: float | str | None = None,
    memory_limit: float | None = None,
    gpu_memory_limit: float | None = None,
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
            no more. By default 0 with a network, 40 without, 20 for two contrasts that
            cannot be brought into one.
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
        transform: ``rigid`` (rotation and shift), ``affine`` or ``deformable``. With the first two, the
            transform of the result is one matrix, unless ``initial_transform`` is deformable.
        initial_transform: map from the fixed to the moving world from which the registration starts and with
            which its result is composed: a transform, its file, or a 4×4 matrix (RAS+ mm). Or where to start:
            ``search`` (over all poses), ``centers`` (shift between the centres of mass), ``header`` or
            ``identity`` (both: as the images lie in the world that their headers state).
        initial_from: tool whose convention the file of ``initial_transform`` follows, where it does not say.
        preset: ``fast`` (no finest scale), ``default`` or ``best`` (refined; ``refine`` overrides).
        channels: further channels of both images, as `Channel`: the networks get the weighted mean of all,
            refinement adds up what they differ by. The result warps and measures ``moving`` only.
        finest: voxel size of the finest patches in mm, to the nearest of the model's scales and of their
            halves; ``native``: that of the coarser image. By default the model's scales.
        memory_limit: GiB of memory that is planned with: fields larger than an eighth of it lie in a scratch
            file, in the folder of temporary files. By default what the machine has.
        gpu_memory_limit: likewise of a GPU: patches at a time, and whether images larger than a quarter of it
            stay outside.

    Returns:
        The transform (fixed → moving world, RAS+ mm) with its inverse, the warped image and the Jacobian.

    Raises:
        PatchMorphError: an input that cannot be used.

    Example:
        >>> import patchmorph
        >>> result = patchmorph.register("fixed.nii.gz", "moving.nii.gz")  # doctest: +SKIP
        >>> result.warped()  # doctest: +SKIP
    """
    options = RegistrationOptions(refine, jitter, uncertainty, seed, similarity, transform, preset, finest)
    if not isinstance(model, PatchMorphModel):
        model = Method(os.fspath(model), device, trust=tuple(trust)).loaded_model()
    computing = model.device if isinstance(model, PatchMorphModel) else choose_device(device)
    with limited(memory_limit, gpu_memory_limit):
        read = as_stored(fixed, "fixed"), as_stored(moving, "moving")
        voxels = sum(math.prod(image.grid.shape) for image in read)
        where = computing if images_fit(voxels, computing) else torch.device("cpu")

        def placed(given: AnyImage, name: str) -> StoredImage:
            image = as_stored(given, name).to(where)
            return image if background is None else image.with_background(background)

        images = placed(read[0], "fixed"), placed(read[1], "moving")
        further = [
            replace(
                one, fixed=placed(one.fixed, "fixed channel"), moving=placed(one.moving, "moving channel")
            )
            for one in _checked(channels)
        ]
        selections = (
            Selection(_as_mask(fixed_mask, "fixed_mask"), _as_mask(fixed_ignore, "fixed_ignore")),
            Selection(_as_mask(moving_mask, "moving_mask"), _as_mask(moving_ignore, "moving_ignore")),
        )
        grids = GridPair(images[0].grid, images[1].grid, SIDES)
        initial = initial_transform
        if not (isinstance(initial, str) and initial in INITIAL_MAPS):
            initial = as_transform(initial, initial_from, grids, ", ".join(INITIAL_MAPS)).to(where)
        with ThreadPoolExecutor(1) as beside:
            method = _method(model, options, computing, beside)
            pair = prepare_pair(*images, load_brain_mask(computing), selections, further)
            return register_from(pair, initial, method)


def _method(
    model: str | PatchMorphModel, options: RegistrationOptions, device: torch.device, beside: Executor
) -> Callable[[PreparedPair, History], Registration]:
    """Registers a pair from a map on, by one model or by those that suit its contrasts.

    The one that most pairs need is loaded beside the preparation.
    """
    if model == AUTO:
        same = beside.submit(cached_model, SAME_CONTRAST, str(device))

        def loaded(name: str) -> PatchMorphModel:
            return same.result() if name == SAME_CONTRAST else cached_model(name, str(device))

        models = Models(loaded, SAME_CONTRAST, ANY_CONTRAST)
        return lambda pair, history: register_any_contrast(pair, history, models, options)
    network = model if isinstance(model, PatchMorphModel) else None
    return lambda pair, history: register_pair(pair, history, network, options)


def _checked(channels: Sequence[Channel]) -> Sequence[Channel]:
    """``channels``, whose type a user may have got wrong."""
    for one in channels if isinstance(channels, list | tuple) else [channels]:
        if not isinstance(one, Channel):
            raise PatchMorphError(f"channels must be a list of patchmorph.Channel, got {type(one).__name__}")
    return channels


def _as_mask(given: AnyImage | None, name: str) -> StoredImage | None:
    return None if given is None else as_stored(given, name)
