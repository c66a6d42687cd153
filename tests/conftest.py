"""What several rooms' tests share."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from synthetic import AFFINES

DATA = Path(os.environ.get("PATCHMORPH_DATA", Path(__file__).parents[2] / "shared" / "data"))

settings.register_profile("steady", deadline=None, max_examples=40, derandomize=True)
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
