"""Random kills of commands, and what the next run makes of it: three of each of benchmarks/kills.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["batch", "workers", "apply", "train"])
def test_kills_lose_nothing(tmp_path, case):
    script = REPOSITORY / "benchmarks" / "kills.py"
    command = [sys.executable, script, "--cases", case, "--kills", "3", "--seed", "1", "--output", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())[case]
    assert (found["kills"], found["lost"]) == (3, [])
    assert found["files_compared"] >= 2  # which is all that a training leaves
