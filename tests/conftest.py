"""What several rooms' tests share."""

import ctypes
import locale
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from synthetic import AFFINES

DATA = Path(os.environ.get("PATCHMORPH_DATA", Path(__file__).parents[2] / "shared" / "data"))

for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)  # what they make of a command's output is not what the tests read
os.environ["TERM"] = "xterm"

# The same examples everywhere, however slow the machine. A search for others: --hypothesis-profile search
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", STEADY, max_examples=40)
settings.register_profile("thorough", STEADY, max_examples=400)
settings.register_profile("search", STEADY, max_examples=400, derandomize=False)
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Random numbers do not depend on the tests that ran before in the same process."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_threads():
    """A test that fails while it limits PyTorch's threads does not limit those of the next ones."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch, capfd):
    """Run ``patchmorph ARGUMENTS``: exit status, standard output, standard error."""
    from patchmorph import cli  # after what its library reads of the environment has been removed
    from patchmorph.cli import display

    def command(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["patchmorph", *map(str, arguments)])
        monkeypatch.setattr(display, "TICK", 1e6)  # no lines of progress, which a slow machine would print
        with pytest.raises(SystemExit) as end:
            sys.exit(cli.main())
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command
