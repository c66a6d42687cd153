"""Several processes train as one with a larger batch; here two on the CPU, started by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

BIN = Path(sys.executable).parent


def train(config_file, processes, *options):
    launcher = [BIN / "torchrun", "--standalone", f"--nproc-per-node={processes}", "--no-python"]
    command = [*(launcher if processes > 1 else []), BIN / "patchmorph", "train", config_file]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [*command, "--device", "cpu", *options], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_processes_of_batch_one_are_one_process_of_batch_two(change, tmp_path):
    run = {"log_every": 1, "checkpoint_every": 3}
    train(change(optimization={"batch": 2}, run={"output": "one", **run}), 1)
    train(change(optimization={"batch": 1}, run={"output": "two", **run}), 2)
    # The mean of two means is the mean; float32 sums in another order drift apart by rounding.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:  # stored as float16
        torch.testing.assert_close(two[name], one[name], atol=2e-3, rtol=0)
    # Only one of them writes: each step is in the log once.
    assert len(losses(tmp_path / "two")) == 6


def test_a_training_goes_on_with_another_number_of_processes(change, tmp_path):
    whole = change(optimization={"batch": 2}, run={"output": "whole", "log_every": 1})
    train(whole, 1)
    # Stops when the first line of the log is due.
    train(change(optimization={"batch": 1}, run={"output": "moved", "log_every": 3, "minutes": 1e-9}), 2)
    assert len(losses(tmp_path / "moved")) == 1
    resumed = change(optimization={"batch": 2}, run={"output": "moved", "log_every": 1, "minutes": 60})
    train(resumed, 1, "--resume")
    assert losses(tmp_path / "moved")[-3:] == pytest.approx(losses(tmp_path / "whole")[-3:], rel=1e-4)
