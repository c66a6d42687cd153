"""Whole jobs on files, each one call with plain data in and out, so that a cluster can run them."""

import math
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from patchmorph.api import Method, register
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import LoadedPair
from patchmorph.evaluation.labels import PairLabels
from patchmorph.evaluation.made_elsewhere import open_again, registered_by
from patchmorph.evaluation.pairs import COLUMNS, REQUIRED, PairPaths
from patchmorph.evaluation.quality import Quality, warp_and_measure
from patchmorph.images.chunked import StoredImage
from patchmorph.images.volume import Image
from patchmorph.io.atomic import FOLDER_ENDING, check_file, check_folder, check_no_input, whole_folder
from patchmorph.io.chunked import open_image
from patchmorph.io.images import check_ending, save_image, space_code
from patchmorph.io.templates import image_path
from patchmorph.io.transforms.native import stored
from patchmorph.memory import limited
from patchmorph.networks.model import PatchMorphModel
from patchmorph.progress import LOG, step
from patchmorph.registration.channels import Channel
from patchmorph.registration.initial import INITIAL_MAPS
from patchmorph.registration.result import Registration
from patchmorph.results.folder import (
    DEFAULT,
    NIFTI,
    REPORT,
    RESULTS,
    UNCERTAINTY,
    WARPED,
    WARPED_LABELS,
    check_results,
    image_name,
    saved,
    write_images,
    write_transforms,
)
from patchmorph.results.log import recorded
from patchmorph.results.summary import Summary, device_name, peak_memory_gib, versions
from patchmorph.transforms.merging import with_merged_splines
from patchmorph.workers import beside


@dataclass(frozen=True)
class RegistrationRequest:
    """A registration of two files into a folder.

    Attributes:
        paths: of the images, and of what belongs to them.
        output: folder for the results; made if it is not there, and files of other names in it stay.
        method: how they are registered.
        save: what is written (see `patchmorph.results.folder.FILES`).
        image_format: of the images that are written (see `patchmorph.results.folder.FORMATS`).
        overwrite: whether results of an earlier run there are replaced.
    """

    paths: PairPaths
    output: Path
    method: Method = field(default_factory=Method)
    save: tuple[str, ...] = DEFAULT
    image_format: str = NIFTI
    overwrite: bool = False

    @property
    def saved(self) -> tuple[str, ...]:
        """What is saved, checked; the uncertainty where it was asked for."""
        return saved((*self.save, *((UNCERTAINTY,) if self.method.uncertainty else ())))

    def arguments(self) -> dict[str, Any]:
        """What the summary records of the request: all but the images and the folder."""
        names = [name for name in COLUMNS if name not in REQUIRED]
        files = {name: _plain(getattr(self.paths, name)) for name in names}
        method = self.method.arguments()
        initial = files.pop("initial_transform") or method["initial_transform"]
        return files | method | {"initial_transform": initial, "save": list(self.save)}


def register_files(request: RegistrationRequest) -> Summary:
    """Register two files and write the results folder, whole or not at all.

    The folder gets what ``request.save`` names (see `patchmorph.results.folder.FILES`).

    Raises:
        PatchMorphError: an input that cannot be used, or a folder that cannot be written.
    """
    sides = {side: image_path(getattr(request.paths, side)) for side in REQUIRED}
    request = replace(request, paths=replace(request.paths, **sides))
    _check_output(request)
    limits = limited(request.method.memory_limit, request.method.gpu_memory_limit)
    name = f"register {request.paths.moving.name} to {request.paths.fixed.name}"
    with limits, recorded() as log, step(name):
        LOG.debug("patchmorph %s, torch %s, Python %s", *versions().values())
        LOG.debug("fixed %s, moving %s, %s", request.paths.fixed, request.paths.moving, request.arguments())
        seconds, began = {}, time.perf_counter()
        with step("read"):
            pair = read_pair(request.paths, request.method, request.method.loaded_model())
        seconds["load"], began = time.perf_counter() - began, time.perf_counter()
        registration = pair.register()
        seconds["register"], began = time.perf_counter() - began, time.perf_counter()
        with step("write"), whole_folder(request.output, RESULTS) as folder:
            summary = _write(request, registration, pair.labels, seconds, folder)
            summary.seconds["write"] = time.perf_counter() - began
            if "summary" in request.saved:
                summary.save(folder)
            for note in (*summary.notes, *summary.reasons, f"verdict: {summary.verdict}"):
                LOG.debug("%s", note)
            if "log" in request.saved:
                log.save(folder)
    return summary


def read_pair(paths: PairPaths, method: Method, model: str | PatchMorphModel) -> LoadedPair:
    """Read the files of a pair.

    Args:
        paths: of the files.
        method: how they are to be registered.
        model: that of ``method``, loaded.

    Raises:
        PatchMorphError: a file that cannot be used.
    """
    stated = {side: method.stated(side) for side in REQUIRED}
    weights = channel_weights(paths, method)

    opened = open_image if paths.transform is None else open_again

    def loaded(name: str, path: Path) -> StoredImage:
        return opened(path, stated[name.partition("_")[0]], pyramid=method.pyramid)

    names = [name for name in paths.given() if not name.endswith(("labels", "transform"))]
    images = {name: loaded(name, getattr(paths, name)) for name in names}
    channels = tuple(
        Channel(loaded("fixed", fixed), loaded("moving", moving), weight)
        for fixed, moving, weight in zip(paths.fixed_channel, paths.moving_channel, weights, strict=True)
    )
    arguments: dict[str, Any] = method.keywords() | {"model": model, "channels": channels}
    labels = PairLabels.load(paths, stated)
    labels.check(images["fixed"].grid, images["moving"].grid)
    if (given := paths.transform) is not None:
        found = lambda: registered_by(given, method.initial_from, images, method.device)  # noqa: E731
        return LoadedPair(found, labels, timed=False)
    if paths.initial_transform is not None:
        arguments["initial_transform"] = paths.initial_transform
    return LoadedPair(lambda: register(**images, **arguments), labels)


def channel_weights(paths: PairPaths, method: Method) -> tuple[float, ...]:
    """A weight for each further channel.

    Raises:
        PatchMorphError: another number of weights than of channels.
    """
    count, weights = len(paths.fixed_channel), method.channel_weights
    if weights and len(weights) != count:
        raise PatchMorphError(
            f"--channel-weight must be given once for each further channel, got {len(weights)} for {count}"
        )
    return weights or (1.0,) * count


def _plain(paths: Path | tuple[Path, ...] | None) -> str | list[str] | None:
    """Paths as a summary records them."""
    if isinstance(paths, tuple):
        return [str(path) for path in paths]
    return None if paths is None else str(paths)


def _write(
    request: RegistrationRequest,
    registration: Registration,
    labels: PairLabels,
    seconds: dict[str, float],
    folder: Path,
) -> Summary:
    """Write the files but for the summary, which is returned, and the log."""
    transform = stored(registration.transform)  # which all files hold alike
    dense = with_merged_splines(transform, math.prod(registration.fixed.grid.shape))
    registration = replace(registration, history=(*registration.history[:-1], dense))
    code = space_code(request.paths.fixed)
    with beside(3) as others:
        transforms = others.submit(write_transforms, transform, folder, request.saved)
        others.submit(lambda: registration.evidence)  # which the registration keeps
        if "report" in request.saved:
            others.submit(_load_page)
        with step("warp and measure"):
            warped, quality = warp_and_measure(registration)
        summary, report = _summary(request, registration, quality, seconds), None
        on_fixed = PairLabels(labels.fixed)
        if labels.moving is not None:
            with step("labels"):
                warped_labels = labels.warped(registration)
                save_image(warped_labels, folder / image_name(WARPED_LABELS, request.image_format), code)
                summary.dice = _dice(labels, warped_labels)
                on_fixed = PairLabels(labels.fixed, warped_labels)
        if "report" in request.saved:
            report = others.submit(_write_report, registration, warped, on_fixed, summary, folder)
        with step("images and transforms"):
            write_images(registration, warped, folder, request.saved, request.image_format, code)
            transforms.result()
        if report is not None:
            with step("report"):
                report.result()
    return summary


def _load_page() -> None:
    """Load what draws and holds pages."""
    from patchmorph.report.page import load_page

    load_page()


def _write_report(
    registration: Registration, warped: Image, labels: PairLabels, summary: Summary, folder: Path
) -> None:
    """Write the page; what draws it is loaded beside other work.

    Args:
        registration: what was found.
        warped: its warped image.
        labels: of the fixed image, and the warped ones of the moving image.
        summary: with the Dice of the labels.
        folder: there already.
    """
    from patchmorph.report.layers import PairView
    from patchmorph.report.page import write_page

    write_page(folder / REPORT, PairView.of(registration, warped, labels), summary)


def _dice(labels: PairLabels, warped: Image) -> dict[str, float]:
    """Dice by id where the fixed image has labels, too."""
    return {} if labels.fixed is None else {str(label): dice for label, dice in labels.dice(warped).items()}


def _check_output(request: RegistrationRequest) -> None:
    """Reject what cannot be written, an output that is an input, and options that would have no effect."""
    check_folder(request.output)
    check_ending(request.output / image_name(WARPED, request.image_format))
    saved(request.save)
    method = request.method
    by_name = request.paths.initial_transform is None and method.initial_transform in INITIAL_MAPS
    if method.initial_from is not None and by_name:
        raise PatchMorphError(
            f"--initial-from must come with a file as initial transform, got {method.initial_transform}"
        )
    inputs = (*request.paths.inputs(), Path(method.model), Path(method.initial_transform))
    results = [request.output / name for name in RESULTS]
    check_no_input(results, inputs)
    check_results(request.output, request.overwrite)
    for result in results:  # a folder of results is replaced with the Zarr in it
        if result.suffix != FOLDER_ENDING:
            check_file(result)


def _summary(
    request: RegistrationRequest, registration: Registration, quality: Quality, seconds: dict[str, float]
) -> Summary:
    device = registration.fixed.grid.device
    return Summary(
        fixed=str(request.paths.fixed),
        moving=str(request.paths.moving),
        verdict=registration.verdict.level,
        reasons=list(registration.verdict.reasons),
        **asdict(quality),
        evidence=asdict(registration.evidence),
        notes=list(registration.notes),
        without_counterpart_percent=100 * registration.fraction_without_counterpart,
        arguments=request.arguments(),
        versions=versions(),
        device=device_name(device),
        peak_memory_gib=peak_memory_gib(device),
        seconds=seconds,
        files={side: os.path.relpath(path, request.output) for side, path in request.paths.given().items()},
    )
