"""Templates by their names, where an image file is expected: from packages and caches of this computer.

Nothing is downloaded. A file of the same name comes first.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.brainglobe import atlas_image

MNI152 = "mni152"
NILEARN_FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
"""The brain of MNI152 (2009a, nonlinear, symmetric) at 1 mm, in nilearn's wheel."""
TEMPLATEFLOW, BRAINGLOBE = "templateflow:", "brainglobe:"
OPTIONAL_ENTITIES = ("desc", "label", "seg", "atlas", "hemi", "den", "space")
"""Parts of TemplateFlow's file names that only files have which are asked for by them."""
MAX_LISTED = 6


def image_path(name: str | Path) -> Path:
    """The file of an image that is given by its path or by the name of a template.

    Args:
        name: a path; ``mni152``, the brain at 1 mm that nilearn brings; ``templateflow:NAME``, a T1-weighted
            image in TemplateFlow's folder, where ``NAME`` is a template, and parts of a file name may follow
            (``templateflow:MNI152NLin2009cAsym_res-02_desc-brain_T1w``); ``brainglobe:ATLAS``, the reference
            image of an atlas in BrainGlobe's folder, or ``brainglobe:ATLAS/annotation``, its labels.

    Raises:
        PatchMorphError: a template that this computer does not have; the message says how to get it.
    """
    text = os.fspath(name)
    if Path(text).exists():
        return Path(text)
    if text == MNI152:
        return _mni152()
    if text.startswith(TEMPLATEFLOW):
        return _templateflow(text.removeprefix(TEMPLATEFLOW))
    if text.startswith(BRAINGLOBE):
        return atlas_image(text.removeprefix(BRAINGLOBE))
    return Path(text)


def _mni152() -> Path:
    spec = importlib.util.find_spec("nilearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / NILEARN_FILE).is_file():
            return path
    got = "another version" if spec else "none"
    raise PatchMorphError(
        f"{MNI152} must be brought by nilearn (pip install 'patchmorph[report]'), got {got}"
    )


def templateflow_folder() -> Path:
    """Where TemplateFlow keeps its files."""
    caches = {"darwin": Path.home() / "Library" / "Caches", "win32": Path.home() / "AppData" / "Local"}
    cache = caches.get(sys.platform, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"))
    return Path(os.environ.get("TEMPLATEFLOW_HOME") or cache / "templateflow")


def _templateflow(name: str) -> Path:
    """The one file of a template whose name has all the given parts.

    TemplateFlow's package is not asked, since it downloads what is missing. In its folder, files that were
    not downloaded are empty.
    """
    if not re.fullmatch(r"[\w+-]+", name):
        raise PatchMorphError(f"{TEMPLATEFLOW} must be followed by a template's name, got {one_line(name)!r}")
    template, *parts = name.split("_")
    wanted = {*parts, *([] if parts and "-" not in parts[-1] else ["T1w"])}
    files = sorted((templateflow_folder() / f"tpl-{template}").rglob(f"tpl-{template}_*.nii.gz"))
    found = [path for path in files if _matches(path, wanted)]
    if len(found) > 1 and not any(part.startswith("res-") for part in parts):
        found = [path for path in found if {"res-1", "res-01"} & _parts(path)] or found
    if len(found) != 1:
        raise PatchMorphError(
            f"{TEMPLATEFLOW}{name} must name one file in {templateflow_folder()}, got "
            f"{_listed(found, files)}; "
            f"""to download: python -c "from templateflow.api import get; get('{template}', suffix='T1w')\""""
        )
    if not found[0].stat().st_size:
        raise PatchMorphError(
            f"{TEMPLATEFLOW}{name} must be downloaded before, got an empty {found[0].name}; to download: "
            f"""python -c "from templateflow.api import get; get('{template}', suffix='T1w')\""""
        )
    return found[0]


def _listed(found: list[Path], files: list[Path]) -> str:
    """The files that a name matches, or else some of the template's others."""
    names = ", ".join(path.name for path in (found or files)[:MAX_LISTED])
    return names if found else f"none, but files such as {names}" if files else "none"


def _parts(path: Path) -> set[str]:
    return {*path.name.removesuffix(".nii.gz").split("_")}


def _matches(path: Path, wanted: set[str]) -> bool:
    """Whether a file has the wanted parts, and no others of those that a template may have beside them."""
    extra = _parts(path) - wanted
    return wanted <= _parts(path) and not any(part.startswith(OPTIONAL_ENTITIES) for part in extra)
