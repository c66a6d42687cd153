"""The pairs of a cohort as tasks: from a table or a BIDS folder, each with a name and a fingerprint."""

import functools
import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

from patchmorph.api import Method
from patchmorph.catalogue import AUTO, NO_MODEL, load_spec, packaged_models
from patchmorph.cluster.ledger import RESULTS
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths, load_named_pairs
from patchmorph.io.bids import derivative_names, find_images, stem
from patchmorph.io.formats.registry import is_image
from patchmorph.io.templates import image_path
from patchmorph.jobs import RegistrationRequest
from patchmorph.registration.options import RegistrationOptions
from patchmorph.results.folder import FORMATS, WARPED, image_name, saved
from patchmorph.version import VERSION

SUMMARY_NAME = "summary"
"""Of what is saved: it tells that a pair is done."""
BLOCK = 1 << 20


@dataclass(frozen=True)
class Task:
    """One pair of a cohort.

    Attributes:
        name: of the pair in the cohort, and of its results folder.
        request: the registration.
        fingerprint: of the contents of its files and of all options: equal where nothing has changed.
        links: further names of results, from the cohort's folder on, by their names in the results folder.
        source: path of the table, or pattern of the images of a BIDS folder, that the pair comes from.
    """

    name: str
    request: RegistrationRequest
    fingerprint: str
    links: dict[str, Path]
    source: str = ""


def tasks_of(
    source: Path, template: RegistrationRequest, fixed: str | None = None, suffix: str = "T1w"
) -> list[Task]:
    """The pairs of a cohort.

    Args:
        source: a table of pairs (see `load_named_pairs`), or a BIDS folder.
        template: how each pair is registered; its paths are replaced, and its output is the cohort's folder.
        fixed: image or template that the images of a BIDS folder are registered to.
        suffix: of these images.

    Raises:
        PatchMorphError: no such source, an invalid table or option, pairs of one name, or a ``fixed`` that is
            missing for a folder or given for a table.
    """
    template = checked(template)
    place = source.absolute()
    if source.is_dir():
        tasks, place = _bids_tasks(source, template, fixed, suffix), place / f"*_{suffix}"
    elif fixed is not None:
        raise PatchMorphError(f"--fixed must come with a BIDS folder, got the table {source}")
    else:
        tasks = [task_of(name, paths, template) for name, paths in load_named_pairs(source).items()]
    return [replace(task, source=str(place)) for task in tasks]


def checked(template: RegistrationRequest) -> RegistrationRequest:
    """The request as every pair has it: with a summary, and with absolute paths.

    Raises:
        PatchMorphError: an option that every pair would be rejected for.
    """
    template = replace(
        template,
        save=tuple(dict.fromkeys((*template.save, SUMMARY_NAME))),
        method=_anywhere(template.method),
    )
    _check_options(template)
    return template


def _check_options(template: RegistrationRequest) -> None:
    """Reject, once and before any work, what every pair would be rejected for."""
    saved(template.save)
    image_name(WARPED, template.image_format)
    if template.method.model not in (AUTO, NO_MODEL):
        load_spec(template.method.model, template.method.trust)
    chosen = vars(template.method)
    RegistrationOptions(**{field.name: chosen[field.name] for field in fields(RegistrationOptions)})


def _anywhere(method: Method) -> Method:
    """The method with absolute paths, for workers in other folders."""
    files = {"model": method.model, "initial_transform": method.initial_transform}
    found = {name: str(path.absolute()) for name, text in files.items() if (path := Path(text)).is_file()}
    return replace(method, **found)


def _bids_tasks(folder: Path, template: RegistrationRequest, fixed: str | None, suffix: str) -> list[Task]:
    if fixed is None:
        raise PatchMorphError(f"--fixed must name an image or a template, got nothing for {folder}")
    if not is_image(reference := image_path(fixed)):
        raise PatchMorphError(f"--fixed must be an existing image or a template, got {fixed}")
    if folder.resolve() == template.output.resolve():
        raise PatchMorphError(f"output must be another folder than the BIDS folder, got {folder}")
    space = "".join(letter for letter in stem(Path(fixed)) if letter.isalnum())
    tasks = []
    for image in find_images(folder, suffix):
        task = task_of(stem(image), PairPaths(reference, image), template)
        place = image.parent.relative_to(folder)
        names = {}  # of all formats: links of an earlier run in another one go
        for image_format in FORMATS:
            names |= derivative_names(image, space, image_format)
        tasks.append(replace(task, links={name: place / link for name, link in names.items()}))
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise PatchMorphError(f"images must have different names, got {name} twice in {folder}")
    return tasks


def task_of(name: str, paths: PairPaths, template: RegistrationRequest) -> Task:
    """One pair of a cohort in the folder ``template.output``, by a request that is `checked`."""
    output = template.output.absolute() / RESULTS / name
    request = replace(template, paths=paths.absolute(), output=output, overwrite=True)
    return Task(name, request, fingerprint(request), {})


def fingerprint(request: RegistrationRequest) -> str:
    """SHA-256 of the contents of files and packaged models, of the options and of the version.

    Where the files are does not matter.
    """
    digest = hashlib.sha256(_packaged_models())
    paths, method = request.paths, request.method
    files = [*paths.given().items(), *(("channel", path) for path in paths.inputs()[len(paths.given()) :])]
    chosen = {"model": Path(method.model), "initial_transform": Path(method.initial_transform)}
    files += chosen.items()
    for name, path in files:
        digest.update(name.encode())
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            _add(digest, file)
    by_contents = {name: "" for name, path in chosen.items() if path.is_file()}
    options = [VERSION, method.arguments() | by_contents, request.save, request.image_format]
    digest.update(json.dumps(options, sort_keys=True).encode())
    return digest.hexdigest()


@functools.lru_cache
def _packaged_models() -> bytes:
    """SHA-256 of the models that come with the package."""
    digest = hashlib.sha256()
    for path in packaged_models().values():
        _add(digest, path)
    return digest.digest()


def _add(digest: "hashlib._Hash", path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
