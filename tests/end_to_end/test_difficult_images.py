"""Real brains with what scans have besides brains. Figures and more cases: benchmarks/difficult.py."""

import pytest
import torch
from torch import Tensor

from patchmorph import api
from patchmorph.evaluation.benchmark import label_groups
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.registration.result import Registration
from patchmorph.transforms.resample import resample

pytestmark = pytest.mark.slow
"""Phantoms, evidence and masks in tests/registration state the same of each stage in seconds."""

PLAIN = 0.841
"""Dice of this pair as it is."""
THALAMUS = 10
AS_IT_IS = 0.676
"""Dice in a shell around a lesion of the thalamus that nothing tells of."""


@pytest.fixture(scope="module")
def images(data) -> dict[str, Image]:
    """The fixed and the moving brain with their labels."""
    folder = data / "t1-labelled"
    names = {"fixed": "sub-01_T1w", "moving": "sub-02_T1w"}
    names |= {f"{side} labels": name.replace("T1w", "labels") for side, name in names.items()}
    return {key: load_image(folder / f"{name}.nii.gz") for key, name in names.items()}


def changed(image: Image, voxels: Tensor) -> Image:
    return Image(voxels.reshape(image.data.shape), image.grid, image.name)


def dice(found: Registration, images: dict[str, Image], where: Tensor | None = None) -> float:
    """Over the structures of aseg, in all voxels of the fixed labels or in some."""
    fixed = images["fixed labels"].data[0, 0].long()
    labels = resample(images["moving labels"], found.transform, images["fixed labels"].grid, "nearest")
    where = torch.ones_like(fixed, dtype=torch.bool) if where is None else where
    return label_groups(fixed * where, labels.data[0, 0].long() * where)["dice_aseg"]


def test_a_marker_implants_and_padding_change_little(images, model):
    """2 % of the voxels are bright or dark; the map is that of the clean images."""
    image = images["moving"]
    values = image.data[0, 0].float().clone()
    white = 1.2 * float(values[values > 0].median())
    places, generator = (values > values.max() / 3).nonzero(), torch.Generator().manual_seed(0)
    for k, place in enumerate(places[torch.randint(len(places), (120,), generator=generator)].tolist()):
        values[tuple(slice(start, start + 7) for start in place)] = -3024 if k % 3 == 0 else 4 * white
    values[3:25, 3:25, 3:25] = 24 * white
    values[-1] = -3024
    found = api.register(images["fixed"], changed(image, values), model, "cpu")
    assert dice(found, images) > PLAIN - 0.01
    assert found.verdict.level == "pass"
    assert any("far brighter than all others were filled" in note for note in found.notes)
    assert any("show nothing were filled" in note for note in found.notes)


def test_around_a_lesion_that_is_ignored_the_map_is_better_than_with_it(images, model):
    """A sphere of 10 mm of other intensities; the shell around it is 12 mm thick."""
    image = images["fixed"]
    points, labels = image.grid.points_world()[0], images["fixed labels"].data[0, 0]
    places = points[labels == THALAMUS]
    center = places[(places - places.mean(0)).norm(dim=-1).argmin()]
    away = (points - center).norm(dim=-1)
    inside = (away <= 10) & (image.data[0, 0] > 0)
    noise = 30 + 20 * torch.rand(inside.shape, generator=torch.Generator().manual_seed(1))
    lesion = changed(image, torch.where(inside, noise, image.data[0, 0].float()))
    ignored = changed(image, inside.float())
    found = api.register(lesion, images["moving"], model, "cpu", fixed_ignore=ignored)
    assert dice(found, images, (away > 10) & (away <= 22)) > AS_IT_IS + 0.01
    assert dice(found, images) > PLAIN - 0.005
    assert found.verdict.level == "pass"


def test_noise_is_not_registered_in_silence(images, model):
    noise = torch.rand(images["moving"].data.shape, generator=torch.Generator().manual_seed(0))
    found = api.register(images["fixed"], changed(images["moving"], 200 * noise), model, "cpu")
    assert found.verdict.level == "fail"
    assert any("correlation" in reason for reason in found.verdict.reasons)
