"""The page of a folder, told by what it holds."""

from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.report.page import write_report
from patchmorph.report.training import write_training_report
from patchmorph.results.summary import SUMMARY
from patchmorph.training.record import LOG


def write_report_of(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a registration or of a training.

    Raises:
        PatchMorphError: another folder, or one whose files cannot be used.
    """
    if (folder / SUMMARY).is_file():
        return write_report(folder)
    if (folder / LOG).is_file():
        return write_training_report(folder)
    raise PatchMorphError(
        f"folder must hold {SUMMARY} of a registration or {LOG} of a training, got neither in {folder}"
    )
