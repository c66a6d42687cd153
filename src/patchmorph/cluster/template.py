"""A template of a cohort: the mean of its images in its mean shape, by rounds of registration and averaging.

The rounds are those of Guimond et al. (Computer Vision and Image Understanding 2000) and Avants et al.
(NeuroImage 2010): register all images to the template, average the maps and the warped images, move the mean
image into the mean shape, sharpen it.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from patchmorph.cluster.averaging import Mapped, in_mean_shape, mean_image
from patchmorph.cluster.batch import Workers, register_cohort
from patchmorph.cluster.cohort import Task, checked, task_of
from patchmorph.cluster.ledger import Ledger, Outcome
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.atomic import check_folder, check_outputs
from patchmorph.io.bids import stem
from patchmorph.io.chunked import open_image
from patchmorph.io.formats.registry import is_image
from patchmorph.io.images import save_image
from patchmorph.io.stated import Stated
from patchmorph.io.templates import image_path
from patchmorph.jobs import RegistrationRequest
from patchmorph.progress import step
from patchmorph.registration.options import RIGID
from patchmorph.registration.verdict import LEVELS
from patchmorph.report.cohort import FAILED
from patchmorph.results.folder import TRANSFORM

TEMPLATE = "template.nii.gz"
PAIRS, ROUNDS = "pairs", "rounds"
"""Folders of cohorts in that of the template: the registrations to it, and those of each round."""
SAVED = ("transform",)
"""What is kept of the registrations of a round."""
RIGIDLY = {"transform": RIGID, "refine": None, "finest": None, "uncertainty": False}
"""The method of the first alignment, which takes none of what only deformable maps have."""


@dataclass(frozen=True)
class Building:
    """How a template is built.

    Attributes:
        rounds: of registration and averaging, one or more.
        start: the first template, whose grid the result has; ``None``: the mean of the images after rigid
            registration to the first of them, on its grid.
        sharpen: whether each mean is sharpened.
    """

    rounds: int = 4
    start: Path | None = None
    sharpen: bool = True


def build_template(
    images: list[Path], request: RegistrationRequest, building: Building, workers: Workers
) -> Iterator[tuple[str, Outcome]]:
    """Write the template of images, and the registration of each image to it.

    Finished registrations of an earlier run in the folder are kept (see `register_cohort`). Images whose
    registration has the verdict ``fail`` are left out of that round's mean, but for the first template.

    Args:
        images: of the cohort, two or more.
        request: how they are registered, what is saved of the final registrations, and the folder; its paths
            are replaced.
        building: how the template is built.
        workers: where registrations run.

    Yields:
        The folder of each registration that was run, and how it ended.

    Raises:
        PatchMorphError: an input that cannot be used or registered, or a folder that cannot be written.
    """
    method = replace(request.method, fixed_orientation=None, fixed_spacing=None)  # the template states them
    request = checked(replace(request, method=method))
    named = _named(images)
    output, start = request.output, building.start
    inputs = [*named.values(), *([] if start is None else [_existing(start)])]
    check_folder(output)
    check_outputs([output / TEMPLATE], inputs)
    stated = method.stated("moving")
    fixed = (yield from _aligned(named, request, workers)) if start is None else _existing(start)
    for count in range(1, building.rounds + 1):
        place = f"{ROUNDS}/{count}"
        tasks = _tasks(named, fixed, replace(request, output=output / place, save=SAVED))
        yield from _registered(tasks, place, workers)
        with step("average"):
            mapped = [_mapped(task, stated) for task in _usable(tasks, output / place)]
            template = in_mean_shape(open_image(fixed), mapped, building.sharpen)
        fixed = output / (TEMPLATE if count == building.rounds else f"{place}/{TEMPLATE}")
        save_image(template, fixed)
    tasks = _tasks(named, fixed, replace(request, output=output / PAIRS))
    yield from _registered(tasks, PAIRS, workers)


def _aligned(
    named: dict[str, Path], request: RegistrationRequest, workers: Workers
) -> Generator[tuple[str, Outcome], None, Path]:
    """The first template, written: the mean of the images after rigid registration to the first of them."""
    place, (name, fixed) = f"{ROUNDS}/0", next(iter(named.items()))
    method, folder = request.method, request.output / place
    stated = method.stated("moving")
    own = {"fixed_orientation": method.moving_orientation, "fixed_spacing": method.moving_spacing}
    request = replace(request, output=folder, save=SAVED, method=replace(method, **RIGIDLY, **own))
    tasks = _tasks({key: path for key, path in named.items() if key != name}, fixed, request)
    yield from _registered(tasks, place, workers)
    with step("average"):
        images = [Mapped(fixed, stated, None), *(_mapped(task, stated) for task in tasks)]
        mean = mean_image(((one.image(), one.map()) for one in images), open_image(fixed, stated).grid)
        save_image(mean, folder / TEMPLATE)
    return folder / TEMPLATE


def _tasks(named: dict[str, Path], fixed: Path, request: RegistrationRequest) -> list[Task]:
    request = checked(request)
    return [task_of(name, PairPaths(fixed, path), request) for name, path in named.items()]


def _registered(tasks: list[Task], place: str, workers: Workers) -> Iterator[tuple[str, Outcome]]:
    """Register the pairs that are not done.

    Raises:
        PatchMorphError: a pair that could not be registered.
    """
    folder = tasks[0].request.output.parents[1]
    yield from ((place, outcome) for outcome in register_cohort(tasks, folder, workers))
    for outcome in Ledger(folder).outcomes():
        if outcome.verdict == FAILED:
            got = f"{outcome.moving}: {outcome.reasons}"
            raise PatchMorphError(f"images must be registered to {outcome.fixed}, got {got}")


def _usable(tasks: list[Task], folder: Path) -> list[Task]:
    """The pairs whose registration has not the verdict fail.

    Raises:
        PatchMorphError: there is none.
    """
    good = {outcome.name for outcome in Ledger(folder).outcomes() if outcome.verdict != LEVELS[-1]}
    if not good:
        raise PatchMorphError(f"some registration must be better than {LEVELS[-1]}, got none in {folder}")
    return [task for task in tasks if task.name in good]


def _mapped(task: Task, stated: Stated) -> Mapped:
    return Mapped(task.request.paths.moving, stated, task.request.output / TRANSFORM)


def _named(images: list[Path]) -> dict[str, Path]:
    """Images by names: those of the files, with those of their folders where these are equal."""
    if len(images) < 2:
        raise PatchMorphError(f"images must be two or more, got {len(images)}")
    paths = [_existing(image) for image in images]
    names = [stem(path) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}_{stem(path)}" for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise PatchMorphError(f"images must have different names, got {name} twice")
    return dict(zip(names, paths, strict=True))


def _existing(image: Path) -> Path:
    path = image_path(image)
    if not is_image(path):
        raise PatchMorphError(f"image must be an existing one or a template, got {image}")
    return path
