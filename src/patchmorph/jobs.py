"""Whole jobs on files, each one call with plain data in and out, so that a cluster can run them."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from patchmorph.api import register
from patchmorph.catalogue import AUTO, NO_MODEL, load_model
from patchmorph.evaluation.quality import Quality, warp_and_measure
from patchmorph.images.volume import Image
from patchmorph.io.atomic import check_folder, check_outputs, whole_folder
from patchmorph.io.images import load_image, space_code
from patchmorph.io.stated import Stated, stated_of
from patchmorph.io.templates import image_path
from patchmorph.io.transforms.native import stored
from patchmorph.networks.devices import choose_device
from patchmorph.progress import LOG, step
from patchmorph.registration.result import Registration
from patchmorph.report.figures import PairView
from patchmorph.report.page import render_pictures, render_report
from patchmorph.results.folder import DEFAULT, REPORT, RESULTS, check_results, saved, write_results
from patchmorph.results.log import recorded
from patchmorph.results.summary import Summary, device_name, peak_memory_gib, versions


@dataclass(frozen=True)
class RegistrationRequest:
    """A registration of two files into a folder; see `patchmorph.api.register` for the options.

    Attributes:
        fixed: image whose space the result is in.
        moving: image to bring there.
        output: folder for the results; made if it is not there, and files of other names in it stay.
        overwrite: whether results of an earlier run there are replaced.
        assume_orientation: of images and masks whose files state none: directions of the axes (see `Stated`).
        fixed_orientation: of the fixed image and its masks: sides of the first voxel (see `Stated`).
        fixed_spacing: of the fixed image and its masks, mm (see `Stated`).
        moving_orientation: likewise.
        moving_spacing: likewise.
        save: what is written (see `patchmorph.results.folder.FILES`).
    """

    fixed: Path
    moving: Path
    output: Path
    model: str = AUTO
    device: str = "auto"
    refine: int | None = None
    similarity: str = "lncc"
    uncertainty: bool = False
    seed: int = 0
    jitter: bool = False
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_ignore: Path | None = None
    moving_ignore: Path | None = None
    background: float | None = None
    trust: tuple[str, ...] = ()
    overwrite: bool = False
    assume_orientation: str | None = None
    fixed_orientation: str | None = None
    fixed_spacing: tuple[float, ...] | None = None
    moving_orientation: str | None = None
    moving_spacing: tuple[float, ...] | None = None
    save: tuple[str, ...] = DEFAULT

    @property
    def saved(self) -> tuple[str, ...]:
        """What is saved, checked; the uncertainty where it was asked for."""
        return saved((*self.save, *(("uncertainty",) if self.uncertainty else ())))

    @property
    def masks(self) -> tuple[Path | None, ...]:
        """Both masks of what counts and both of what is ignored."""
        return self.fixed_mask, self.moving_mask, self.fixed_ignore, self.moving_ignore

    def arguments(self) -> dict[str, Any]:
        """What the summary records of the request: all but the images and the folder."""
        others = ("fixed", "moving", "output", "overwrite")
        said = {key: value for key, value in asdict(self).items() if key not in others}
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in said.items()}
        return plain | {"trust": list(self.trust), "save": list(self.save)}


def register_files(request: RegistrationRequest) -> Summary:
    """Register two files and write the results folder, whole or not at all.

    The folder gets what ``request.save`` names (see `patchmorph.results.folder.FILES`).

    Raises:
        PatchMorphError: an input that cannot be used, or a folder that cannot be written.
    """
    request = replace(request, fixed=image_path(request.fixed), moving=image_path(request.moving))
    _check_output(request)
    with recorded() as log, step(f"register {request.moving.name} to {request.fixed.name}"):
        LOG.debug("patchmorph %s, torch %s, Python %s", *versions().values())
        LOG.debug("fixed %s, moving %s, %s", request.fixed, request.moving, request.arguments())
        seconds, began = {}, time.perf_counter()
        with step("read"):
            registration_of = _loaded(request)
        seconds["load"], began = time.perf_counter() - began, time.perf_counter()
        registration = registration_of()
        seconds["register"], began = time.perf_counter() - began, time.perf_counter()
        with step("write"), whole_folder(request.output, RESULTS) as folder:
            summary = _write(request, registration, seconds, folder)
            summary.seconds["write"] = time.perf_counter() - began
            if "summary" in request.saved:
                summary.save(folder)
            for note in (*summary.notes, *summary.reasons, f"verdict: {summary.verdict}"):
                LOG.debug("%s", note)
            if "log" in request.saved:
                log.save(folder)
    return summary


def _loaded(request: RegistrationRequest) -> Callable[[], Registration]:
    """Read the files of a request; the result registers them."""
    named = request.model in (AUTO, NO_MODEL)
    model = request.model if named else load_model(request.model, request.device, request.trust)
    device = choose_device(request.device)
    sides = [stated_of(vars(request), side) for side in ("fixed", "moving")]
    paths = zip((request.fixed, request.moving), sides, strict=True)
    fixed, moving = (load_image(path, stated).to(device) for path, stated in paths)
    masks = zip(request.masks, sides * 2, strict=True)
    fixed_mask, moving_mask, fixed_ignore, moving_ignore = (_mask(path, stated) for path, stated in masks)
    return lambda: register(
        fixed,
        moving,
        model,
        request.device,
        request.refine,
        request.uncertainty,
        request.seed,
        fixed_mask,
        moving_mask,
        request.jitter,
        request.similarity,
        fixed_ignore,
        moving_ignore,
        request.background,
        request.trust,
    )


def _write(
    request: RegistrationRequest, registration: Registration, seconds: dict[str, float], folder: Path
) -> Summary:
    """Write the files but for the summary, which is returned, and the log."""
    transform = stored(registration.transform)  # which all files hold alike
    view = PairView(registration.fixed, registration.moving, transform)
    with ThreadPoolExecutor(1) as beside:  # matplotlib takes one core while the map is evaluated
        pictures = beside.submit(render_pictures, view) if "report" in request.saved else None
        with step("warp and measure"):
            warped, quality = warp_and_measure(registration)
        with step("images and transforms"):
            write_results(registration, warped, transform, folder, request.saved, space_code(request.fixed))
        summary = _summary(request, registration, quality, seconds)
        if pictures is not None:
            with step("report"):
                page = render_report(pictures.result(), summary)
                (folder / REPORT).write_text(page, encoding="utf-8")
    return summary


def _check_output(request: RegistrationRequest) -> None:
    """Reject an output that is an input, and a folder with results unless they may be replaced."""
    check_folder(request.output)
    assert request.saved
    inputs = (request.fixed, request.moving, Path(request.model), *request.masks)
    check_outputs([request.output / name for name in RESULTS], inputs)
    check_results(request.output, request.overwrite)


def _mask(path: Path | None, stated: Stated) -> Image | None:
    return None if path is None else load_image(path, stated)


def _summary(
    request: RegistrationRequest, registration: Registration, quality: Quality, seconds: dict[str, float]
) -> Summary:
    device = registration.fixed.grid.device
    paths = {"fixed": request.fixed, "moving": request.moving}
    return Summary(
        fixed=str(request.fixed),
        moving=str(request.moving),
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
        files={side: os.path.relpath(path, request.output) for side, path in paths.items()},
    )
