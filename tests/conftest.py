"""What several rooms' tests share."""

import ctypes
import locale
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from synthetic import AFFINES

from patchmorph import cli
from patchmorph.cli import display

DATA = Path(os.environ.get("PATCHMORPH_DATA", Path(__file__).parents[2] / "shared" / "data"))

settings.register_profile("steady", deadline=None, max_examples=40, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=400)  # --hypothesis-profile thorough
settings.load_profile("steady")


@pytest.fixture(params=AFFINES)
def linear(request) -> np.ndarray:
    """The linear part of a voxel-to-world affine, in one of several orientations."""
    return AFFINES[request.param]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real brains, which is not part of the repository."""
    if not DATA.is_dir():
        pytest.skip(f"no test data in {DATA} (set PATCHMORPH_DATA)")
    return DATA


@pytest.fixture(autouse=True, scope="module")
def returned_memory():
    """Freed memory goes back to the system, of which glibc keeps a GiB after the largest networks."""
    yield
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


@pytest.fixture(autouse=True)
def own_locale():
    """GDCM, by which tests write DICOM files, leaves the locale of C."""
    chosen = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, chosen)


@pytest.fixture
def run(monkeypatch, capfd):
    """Run ``patchmorph ARGUMENTS``: exit status, standard output, standard error."""

    def command(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["patchmorph", *map(str, arguments)])
        monkeypatch.setattr(display, "TICK", 1e6)  # no lines of progress, which a slow machine would print
        with pytest.raises(SystemExit) as end:
            sys.exit(cli.main())
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command
