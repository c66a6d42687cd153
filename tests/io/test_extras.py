"""Optional libraries: registration needs none of them, and one that is missing is one line."""

import subprocess
import sys

import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.extras import extra

OPTIONAL = ("accelerate", "tensorboard", "nilearn", "nitransforms", "zarr", "monai", "resource", "vtkmodules")


def test_a_missing_library_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(
        PatchMorphError, match=r"zarr must be installed \(pip install 'patchmorph\[formats\]'\)"
    ):
        extra("zarr")


def test_registration_and_commands_need_no_optional_library():
    """As on a fresh ``pip install .``, and on Windows, which has no module ``resource``."""
    code = f"""
import sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None
import patchmorph.api, patchmorph.jobs, patchmorph.report.page
import patchmorph.cli.app, patchmorph.cli.registration, patchmorph.cli.transforms, patchmorph.cli.training
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
