"""Label maps of a pair are read, checked before any work, warped and compared in the world."""

import numpy as np
import pytest
import torch
from registered import registered
from synthetic import grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.labels import PairLabels, load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.transforms.base import AffineTransform

GRID = grid_around((12, 12, 12), np.eye(3) * 2)
FINE = grid_around((40, 40, 40), np.diag([-0.5, 0.5, 0.5]))
"""Another grid in the same world, mirrored in storage."""


def ball(grid, radius_mm: float, value: int = 1, center=(0.0, 0.0, 0.0)) -> torch.Tensor:
    distance = (grid.points_world() - torch.tensor(center)).norm(dim=-1)
    return value * (distance < radius_mm).to(torch.int16)[:, None]


def load(folder, fixed=None, moving=None) -> PairLabels:
    """The labels of two images on `GRID`, through files."""
    paths = {"fixed": folder / "f.nii", "moving": folder / "m.nii"}
    for name, labels in (("fixed_labels", fixed), ("moving_labels", moving)):
        if labels is not None:
            paths[name] = folder / f"{name}.nii.gz"
            save_image(labels, paths[name])
    pair = PairLabels.load(PairPaths(**paths))
    pair.check(GRID, GRID)
    return pair


def test_labels_on_other_grids_are_warped_and_compared_in_the_world(tmp_path):
    """φ(x) = x + 3 mm along x: moving labels 3 mm to the right are the fixed ones."""
    shift = AffineTransform.translation(torch.tensor([[3.0, 0, 0]], dtype=torch.float64))
    moving = ball(FINE, 6, 7, (3, 0, 0)) + ball(FINE, 1, 5, (3, 0, 0))
    labels = load(tmp_path, Image(ball(GRID, 6, 7), GRID), Image(moving, FINE))
    image = Image(ball(GRID, 9).float() + 0.01 * GRID.points_voxel()[..., 0][:, None], GRID)
    warped = labels.warped(registered(image, image, shift))
    assert warped.grid.equals(GRID)
    assert set(warped.data.unique().tolist()) <= {0, 7, 12}
    dice = labels.dice(warped)
    assert set(dice) == {7}  # 12 is on the moving side only
    assert dice[7] > 0.9
    in_place = labels.dice(labels.warped(registered(image, image, AffineTransform.identity())))
    assert in_place[7] < 0.7


def test_dice_is_zero_for_a_label_that_the_moving_image_lacks(tmp_path):
    fixed = ball(GRID, 6, 7)
    fixed[..., :4] = 2
    labels = load(tmp_path, Image(fixed, GRID), Image(ball(GRID, 6, 7), GRID))
    assert labels.dice(labels.moving)[2] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (ball(GRID, 6).float() * 2.5, r"labels must be whole numbers, got 2.5 in .*moving_labels"),
        (ball(GRID, 6).float() * torch.nan, r"labels must be whole numbers, got nan in .*moving_labels"),
        (ball(GRID, 0), r"labels must hold ids above 0, got none in .*moving_labels"),
        (-ball(GRID, 6), r"labels must hold ids above 0, got none in .*moving_labels"),
    ],
    ids=["fractions", "NaN", "empty", "negative"],
)
def test_values_that_are_no_labels_are_refused(tmp_path, values, message):
    with pytest.raises(PatchMorphError, match=message):
        load(tmp_path, moving=Image(values, GRID))


def test_floats_that_are_nearly_whole_are_ids(tmp_path):
    save_image(Image(ball(GRID, 6).float() * 16.9999, GRID), tmp_path / "labels.nii.gz")
    assert load_labels(tmp_path / "labels.nii.gz").data.unique().tolist() == [0, 17]


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_labels_that_lie_elsewhere_are_refused(tmp_path, side):
    far = grid_around((12, 12, 12), np.eye(3) * 2, (500.0, 0, 0))
    labels = {"fixed": Image(ball(GRID, 6), GRID), "moving": Image(ball(GRID, 6), GRID)}
    labels[side] = Image(ball(far, 6, 1, (500, 0, 0)), far)
    with pytest.raises(PatchMorphError, match=f"lie inside their image, got none there in .*{side}_labels"):
        load(tmp_path, **labels)


def test_a_grid_that_reaches_the_image_with_its_background_alone_is_no_overlap(tmp_path):
    wide = grid_around((40, 12, 12), np.eye(3) * 2)
    with pytest.raises(PatchMorphError, match="labels must lie inside their image"):
        load(tmp_path, moving=Image(ball(wide, 6, 1, (30, 0, 0)), wide))


def test_labels_without_a_common_id_are_refused(tmp_path):
    message = r"labels must share an id, got none in both .*fixed_labels.* and .*moving_labels"
    with pytest.raises(PatchMorphError, match=message):
        load(tmp_path, Image(ball(GRID, 6, 2), GRID), Image(ball(GRID, 6, 3), GRID))


def test_fixed_labels_alone_are_refused(tmp_path):
    with pytest.raises(PatchMorphError, match=r"given for the moving image, too, got .*fixed_labels"):
        load(tmp_path, Image(ball(GRID, 6), GRID))
    assert load(tmp_path).moving is None
