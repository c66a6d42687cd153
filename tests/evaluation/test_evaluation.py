import math

import numpy as np
import pytest
import torch
from synthetic import grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation import metrics
from patchmorph.evaluation.benchmark import ASEG, label_groups, measure
from patchmorph.evaluation.pairs import load_pairs
from patchmorph.registration.result import Registration
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform


def test_dice_counts_the_overlap():
    fixed, warped = torch.tensor([1, 1, 2, 2, 0]), torch.tensor([1, 2, 2, 2, 3])
    overlap = metrics.dice(fixed, warped, [1, 2, 3, 9])
    assert overlap[1] == pytest.approx(2 / 3)
    assert overlap[2] == pytest.approx(4 / 5)
    assert overlap[3] == 0
    assert math.isnan(overlap[9])


def test_folding_counts_inside_the_mask_only():
    determinant = torch.ones(2, 2, 2)
    determinant[0] = -1
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[:, 0] = True
    assert metrics.folding_fraction(determinant, mask) == 0.5
    assert metrics.folding_fraction(determinant, mask & (determinant > 0)) == 0


def test_sd_log_jacobian_of_constant_volume_change_is_zero():
    mask = torch.ones(3, 3, 3, dtype=torch.bool)
    assert metrics.sd_log_jacobian(torch.full((3, 3, 3), 1.7), mask) == pytest.approx(0, abs=1e-6)
    halves = torch.tensor([math.e, 1 / math.e]).repeat(4).reshape(2, 2, 2)
    assert metrics.sd_log_jacobian(halves, mask[:2, :2, :2]) == pytest.approx((8 / 7) ** 0.5)


def test_tre_is_a_distance():
    assert metrics.tre_mm(torch.tensor([[3.0, 4, 0]]), torch.zeros(1, 3)).tolist() == [5.0]


def test_correlation_ignores_gain_offset_and_the_outside():
    image = torch.rand(4, 5, 6)
    mask = torch.rand(4, 5, 6) > 0.3
    other = torch.where(mask, 3 * image + 1, torch.zeros(()))
    assert metrics.correlation(image, other, mask) == pytest.approx(1)
    assert metrics.correlation(image, torch.ones_like(image), mask) == 0


def test_label_groups_follow_the_protocol():
    fixed = torch.tensor([17, 17, 1001, 1002, 2001, 1000, 0])
    warped = torch.tensor([17, 0, 1002, 1001, 2001, 1000, 0])
    groups = label_groups(fixed, warped)
    # 17: 2·1/(2+1); left cortex merged: a perfect 3; right: a perfect 42; structures in neither are left out.
    assert groups["dice_aseg"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    # 1001 and 1002 are swapped, 2001 is right, 1000 ("unknown") does not count.
    assert groups["dice_cortex"] == pytest.approx(1 / 3)
    assert len(ASEG) == 27


def test_other_labels_have_only_their_mean():
    assert label_groups(torch.tensor([1, 2, 0]), torch.tensor([1, 0, 0])) == {"dice": 0.5}


def test_fixed_labels_are_compared_in_the_world_not_by_array_index():
    grid = grid_around((60, 66, 56), np.eye(3) * 3)
    image = smooth_image(grid)
    labels = Image((image.data * 8).to(torch.int16), grid)
    mirrored = grid_around(grid.shape, np.diag([-3.0, 3, 3]))
    stored_otherwise = Image(labels.data.flip(2), mirrored)
    identity = AffineTransform.identity()
    registration = Registration(image, image, identity, (identity,))
    for fixed_labels in (labels, stored_otherwise):
        assert measure(registration, image, (fixed_labels, labels), 0.0).dice == pytest.approx(1)


@pytest.fixture
def table(tmp_path):
    for name in ("a.nii", "b.nii", "c.nii"):
        (tmp_path / name).touch()

    def write(text):
        (tmp_path / "pairs.csv").write_text(text)
        return tmp_path / "pairs.csv"

    return write


def test_paths_are_relative_to_the_table(table, tmp_path):
    (pair,) = load_pairs(table("fixed, moving\na.nii,b.nii\n"))
    assert pair.fixed == tmp_path / "a.nii"
    assert pair.fixed_labels is None
    (pair,) = load_pairs(table("moving,fixed,fixed_labels,moving_labels\na.nii,b.nii,c.nii,c.nii\n"))
    assert pair.moving_labels == tmp_path / "c.nii"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed\na.nii\n", "columns must be"),
        ("fixed,moving,extra\na.nii,b.nii,c\n", "columns must be"),
        ("fixed,moving\n", "must have rows"),
        ("fixed,moving\na.nii,\n", "moving must be given, got nothing in line 2"),
        ("fixed,moving\na.nii,z.nii\n", r"moving must be an existing file, got z\.nii in line 2"),
        ("fixed,moving,fixed_labels\na.nii,b.nii,c.nii\n", "labels must be given for both"),
    ],
)
def test_mistakes_in_a_table_are_named(table, text, message):
    with pytest.raises(PatchMorphError, match=message):
        load_pairs(table(text))
