"""Images that many pairs share are read and prepared once, unless their files change."""

import pytest
import torch
from synthetic import AFFINES, grid_around, lopsided

from patchmorph.evaluation import made_elsewhere
from patchmorph.evaluation.made_elsewhere import open_again, registered_by
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.transforms.base import AffineTransform

GRID = grid_around((36, 40, 34), AFFINES["RAS"] * 4)


@pytest.fixture
def image(tmp_path):
    save_image(lopsided(GRID), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


def test_a_file_is_read_once_and_again_when_it_has_changed(image):
    first = open_again(image)
    assert open_again(image) is first
    save_image(Image(1 - lopsided(GRID).data, GRID), image)
    changed = open_again(image)
    assert changed is not first
    assert not torch.equal(changed.values(), first.values())


def test_images_are_prepared_once_on_either_side(image, tmp_path, monkeypatch):
    prepared, prepare = [], made_elsewhere.prepare_as_given
    monkeypatch.setattr(
        made_elsewhere,
        "prepare_as_given",
        lambda *given, **named: prepared.append(given) or prepare(*given, **named),
    )
    save_image(lopsided(grid_around((34, 36, 38), AFFINES["LPS"] * 4)), tmp_path / "b.nii.gz")
    save_transform(AffineTransform.identity(), tmp_path / "map.h5")
    one, other = open_again(image), open_again(tmp_path / "b.nii.gz")
    for fixed, moving in ((one, other), (other, one)):
        found = registered_by(tmp_path / "map.h5", None, {"fixed": fixed, "moving": moving}, "cpu")
        assert (found.fixed.name, found.moving.name) == (fixed.name, moving.name)
    assert len(prepared) == 2
    mask = Image(torch.ones(1, 1, *GRID.shape), GRID)
    registered_by(tmp_path / "map.h5", None, {"fixed": one, "moving": other, "fixed_mask": mask}, "cpu")
    assert len(prepared) == 3  # with another mask
