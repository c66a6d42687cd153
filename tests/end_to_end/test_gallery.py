"""The verdict and the page tell ten good registrations of real brains from ten spoiled ones."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from registered import registered

from patchmorph.api import register
from patchmorph.evaluation.benchmark import label_groups
from patchmorph.evaluation.labels import load_labels
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.registration.result import Registration
from patchmorph.report import figures
from patchmorph.report.layers import WARPED, Layers, PairView
from patchmorph.spatial.affine import about_point
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample

PEOPLE = (1, 2, 4, 5, 6)
"""Registered to sub-03 and from it: the development pairs."""
SHIFT_MM, SCALE = 10.0, 1.15


@dataclass
class Found:
    fixed: Image
    moving: Image
    transform: Transform
    dice: float

    def with_map(self, transform: Transform) -> Registration:
        return registered(self.fixed, self.moving, transform)


@pytest.fixture(scope="module")
def found(data) -> list[Found]:
    folder = data / "t1-labelled"
    images = {k: load_image(folder / f"sub-{k:02d}_T1w.nii.gz") for k in (3, *PEOPLE)}
    labels = {k: load_labels(folder / f"sub-{k:02d}_labels.nii.gz") for k in (3, *PEOPLE)}
    pairs = []
    for fixed, moving in [(3, k) for k in PEOPLE] + [(k, 3) for k in PEOPLE]:
        transform = register(images[fixed], images[moving], preset="fast", device="cpu").transform
        warped = resample(labels[moving], transform, labels[fixed].grid, "nearest")
        groups = label_groups(labels[fixed].data[0, 0].long(), warped.data[0, 0].long())
        pairs.append(Found(images[fixed], images[moving], transform, groups["dice_aseg"]))
    return pairs


def spoiled(found: list[Found]) -> list[Registration]:
    """Shifted, scaled, mirrored, and with the map of another person."""
    ruined = []
    kinds = itertools.cycle(("shift", "scale", "flip", "other"))
    for other, one, kind in zip([found[-1], *found], found, kinds, strict=False):
        center = one.fixed.grid.center_world
        if kind == "shift":
            change = AffineTransform.translation(torch.tensor([[0.0, SHIFT_MM, 0.0]], dtype=torch.float64))
        else:
            factors = [SCALE] * 3 if kind == "scale" else [-1.0, 1.0, 1.0]
            change = AffineTransform(about_point(torch.diag(torch.tensor(factors).double())[None], center))
        ruined.append(one.with_map(other.transform if kind == "other" else one.transform @ change))
    return ruined


def grey_part(registration: Registration) -> float:
    """The part of the last row of the page's first figure that is grey, among what is not dark."""
    warped = registration.warped()
    layers = Layers(PairView(registration.fixed, registration.moving, registration.transform, warped))
    assert WARPED in layers.images
    pixels = np.concatenate([panel.pixels.reshape(-1, 3) for panel in figures.comparison(layers)[-3:]])
    shown = pixels[pixels.max(1) > 60].astype(int)
    return float((np.ptp(shown, axis=1) < 40).mean())


@pytest.mark.slow
def test_good_and_spoiled_registrations_are_told_apart(found):
    good, bad = [one.with_map(one.transform) for one in found], spoiled(found)
    assert min(one.dice for one in found) > 0.8
    assert [one.verdict.level for one in good] == ["pass"] * 10
    assert "pass" not in [one.verdict.level for one in bad]
    parts = [[grey_part(one) for one in some] for some in (good, bad)]
    assert min(parts[0]) > max(parts[1]) + 0.1
