"""Several processes train as one with a larger batch; here two on the CPU, started by torchrun.

Starting processes takes most of the time, so one start serves two trainings: a whole one, and one that stops.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import CPU

from patchmorph.training.config import load_config
from patchmorph.training.loop import train

TORCHRUN = Path(sys.executable).parent / "torchrun"
TRAIN = """
import sys
from patchmorph.cli import app
for config in sys.argv[1:]:
    app(["train", config, "--device", "cpu"], standalone_mode=False)
"""


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory) -> Path:
    """Trainings of the same six steps: by one process, by two, and begun by two and gone on with by one."""
    folder = tmp_path_factory.mktemp("processes")

    def write(output, batch, **run):
        sections = {"optimization": {"batch": batch}, "run": {"output": output, "log_every": 1, **run}}
        changed = {name: {**content[name], **values} for name, values in sections.items()}
        path = folder / f"{output}-{batch}.yaml"
        path.write_text(yaml.safe_dump({**content, **changed}))
        return path

    train(load_config(write("one", 2)), CPU)
    files = [write("two", 1), write("moved", 1, minutes=1e-9)]  # the second stops after its first step
    (folder / "train.py").write_text(TRAIN)
    done = subprocess.run(
        [TORCHRUN, "--standalone", "--nproc-per-node=2", folder / "train.py", *files],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
    )
    assert done.returncode == 0, done.stderr
    assert len(logged(folder / "moved", "loss")) == 1
    train(load_config(write("moved", 2)), CPU, resume=True)
    return folder


def logged(folder, name) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_processes_of_batch_one_are_one_process_of_batch_two(folder):
    # The mean of two means is the mean; float32 sums in another order drift apart by rounding.
    assert logged(folder / "two", "loss") == pytest.approx(logged(folder / "one", "loss"), rel=1e-4)
    norms = [logged(folder / name, "gradient_norm") for name in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    one, two = (load_file(folder / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:  # stored as float16
        torch.testing.assert_close(two[name], one[name], atol=2e-3, rtol=0)
    # Only one of them writes: each step is in the log once.
    assert logged(folder / "two", "step") == [1, 2, 3, 4, 5, 6]


def test_a_training_goes_on_with_another_number_of_processes(folder):
    assert logged(folder / "moved", "step") == [1, 2, 3, 4, 5, 6]
    assert logged(folder / "moved", "loss") == pytest.approx(logged(folder / "one", "loss"), rel=1e-4)
