"""A cohort of small synthetic brains: a table of pairs and a BIDS folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.results.summary import Summary

COUNT = 3
PAIRS = "fixed,moving,fixed_mask,moving_mask\n" + "".join(
    f"fixed.nii.gz,moving{k}.nii.gz,fixed_mask.nii.gz,moving{k}_mask.nii.gz\n" for k in range(COUNT)
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images, their masks, and ``pairs.csv``."""
    names = ["fixed", *(f"moving{k}" for k in range(COUNT))]
    for k, (name, orientation) in enumerate(zip(names, ("RAS", "LPS", "LIA", "LAS"), strict=True)):
        brain = smooth_image(grid_around((30, 34, 28), AFFINES[orientation] * 5, (2 * k, 0, 0)))
        save_image(brain, tmp_path / f"{name}.nii.gz")
        save_image(Image((brain.data > 0.1).to(torch.uint8), brain.grid), tmp_path / f"{name}_mask.nii.gz")
    (tmp_path / "pairs.csv").write_text(PAIRS)
    return tmp_path


@pytest.fixture
def summary() -> Callable[[str], Summary]:
    """Makes a summary with a verdict."""

    def made(verdict: str) -> Summary:
        return Summary(
            fixed="a",
            moving="b",
            verdict=verdict,
            reasons=["too rough, by far"] if verdict != "pass" else [],
            similarity_before=0.2,
            similarity_after=0.9,
            folding_percent=0.01,
            sd_log_jacobian=0.3,
            evidence={},
            notes=[],
            without_counterpart_percent=0.0,
            arguments={},
            versions={},
            device="cpu",
            peak_memory_gib=None,
            seconds={"load": 1.0, "register": 2.0},
        )

    return made


@pytest.fixture
def bids(tmp_path) -> Path:
    """Two people, one of them scanned twice; files of other suffixes."""
    root = tmp_path / "bids"
    for name in ("sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a", "sub-02/ses-b/anat/sub-02_ses-b"):
        for suffix in ("T1w", "T2w"):
            path = root / f"{name}_{suffix}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}))
    (tmp_path / "atlas_1mm.nii.gz").write_text("atlas")
    return root


@pytest.fixture(scope="package")
def scheduler():
    """Address of a scheduler with two workers in this process, which therefore see what a test patches."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address
