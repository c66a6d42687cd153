"""Pairs are registered, measured where the fixed image says so, and averaged."""

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from registered import registered
from synthetic import grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import LoadedPair, PairResult, evaluate, loading, measure, summarize
from patchmorph.evaluation.labels import PairLabels, load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.evaluation.quality import measure_quality
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField

SPACING = 4.0
GRID = grid_around((21, 21, 21), np.eye(3) * SPACING)  # centres at −40, −36, … 40 mm


def block(center, half_mm, grid=GRID, value=1.0) -> torch.Tensor:
    """``value`` within a box, zero outside."""
    distance = (grid.points_world()[0] - torch.tensor(center)).abs()
    return value * (distance <= torch.tensor(half_mm)).all(-1).float()[None, None]


def right_half_folds() -> DisplacementField:
    """φ is the identity left of x = 0 and turns round beyond: its determinant is 1, then −0.5."""
    points = GRID.points_world()
    displacement = torch.zeros_like(points)
    displacement[..., 0] = -1.5 * points[..., 0].clamp(min=0)
    return DisplacementField(displacement.movedim(-1, 1), GRID)


@pytest.fixture
def cube() -> Image:
    """A cube with some texture: 11³ voxels from −20 to 20 mm, five of the layers left of x = 0."""
    texture = 1 - 0.001 * GRID.points_voxel().sum(-1)
    return Image(block((0.0, 0, 0), (20.0, 20, 20)) * texture, GRID, "cube")


def registration_by(transform, fixed: Image, moving: Image | None = None) -> Registration:
    return registered(fixed, fixed if moving is None else moving, transform)


@pytest.mark.parametrize(
    ("center", "half", "folding", "spread"),
    [
        ((-10.0, 0, 0), (8.0, 8, 8), 0.0, 0.0),
        ((10.0, 0, 0), (6.0, 8, 8), 100.0, 0.0),
        # Two of five layers of labels fold: x = 0 and 4.
        ((-4.0, 0, 0), (8.0, 8, 8), 40.0, None),
        (None, None, 100 * 6 / 11, None),  # all of the content, where there are no labels
    ],
    ids=["left", "right", "across", "no labels"],
)
def test_folding_is_measured_inside_the_labels_or_else_the_content(cube, center, half, folding, spread):
    labels = PairLabels(*([] if center is None else [Image(block(center, half).to(torch.int16), GRID)] * 2))
    result = measure(registration_by(right_half_folds(), cube), labels, 0.0)[1]
    assert result.folding_percent == pytest.approx(folding, abs=1e-3)
    if spread is None:  # log determinants are log 1 and log 1e-9, in these shares
        share, count = folding / 100, 11**3 if center is None else 5**3
        spread = math.log(1e9) * math.sqrt(share * (1 - share) * count / (count - 1))
    assert result.sd_log_jacobian == pytest.approx(spread, rel=1e-3, abs=1e-3)


def test_similarity_is_that_of_the_fixed_content_before_and_after():
    brain = smooth_image(grid_around((40, 44, 38), np.eye(3) * 4))
    shift = AffineTransform.translation(torch.tensor([[8.0, 0, 0]], dtype=torch.float64))
    # The moving brain lies 8 mm to the right of the fixed one: φ(x) = x + 8 brings it back.
    moved = Image(brain.data, grid_around((40, 44, 38), np.eye(3) * 4, (8.0, 0, 0)), "moved")
    registration = registration_by(shift, brain, moved)
    result = measure(registration, PairLabels(), 2.5)[1]
    # Two whole voxels: nothing but rounding is left.
    assert result.ncc_after == pytest.approx(1, abs=1e-4)
    assert result.ncc_before < 0.8
    assert (result.fixed, result.moving, result.seconds) == ("synthetic", "moved", 2.5)
    # What the warped image shows outside the fixed content does not count.
    framed = brain.data.clone()
    framed[..., 0] = 1
    framed = measure_quality(registration, Image(framed, brain.grid))
    assert framed.similarity_after == pytest.approx(1, abs=1e-4)


def test_dice_is_measured_after_the_moving_labels_are_warped(cube):
    """φ(x) = x + 8: moving labels 8 mm to the right are the fixed ones, those in place are two voxels off."""
    shift = AffineTransform.translation(torch.tensor([[8.0, 0, 0]], dtype=torch.float64))
    fixed = Image(block((0.0, 0, 0), (8.0, 8, 8)).to(torch.int16), GRID)
    right = Image(block((8.0, 0, 0), (8.0, 8, 8)).to(torch.int16), GRID)
    registration = registration_by(shift, cube)
    assert measure(registration, PairLabels(fixed, right), 0.0)[1].dice == pytest.approx(1)
    # Of five layers each, three lie over each other.
    assert measure(registration, PairLabels(fixed, fixed), 0.0)[1].dice == pytest.approx(3 / 5)


def test_ids_are_never_mixed_when_labels_are_warped(cube):
    """A quarter of a voxel off, each nearest voxel is the same one; between 8 and 0 there is no 6."""
    quarter = AffineTransform.translation(torch.tensor([[SPACING / 4, 0, 0]], dtype=torch.float64))
    labels = Image(block((0.0, 0, 0), (8.0, 8, 8), value=8.0).to(torch.int16), GRID)
    assert measure(registration_by(quarter, cube), PairLabels(labels, labels), 0.0)[1].dice == 1


def test_fixed_labels_are_compared_in_the_world_not_by_array_index():
    grid = grid_around((60, 66, 56), np.eye(3) * 3)
    image = smooth_image(grid)
    labels = Image((image.data * 8).to(torch.int16), grid)
    mirrored = grid_around(grid.shape, np.diag([-3.0, 3, 3]))
    stored_otherwise = Image(labels.data.flip(2), mirrored)
    identity = AffineTransform.identity()
    registration = registered(image, image, identity)
    for fixed_labels in (labels, stored_otherwise):
        assert measure(registration, PairLabels(fixed_labels, labels), 0.0)[1].dice == pytest.approx(1)


def test_labels_outside_of_their_image_are_refused(cube):
    far = grid_around((5, 5, 5), np.eye(3) * SPACING, (500.0, 0, 0))
    labels = Image(torch.ones(1, 1, 5, 5, 5, dtype=torch.int16), far, "far.nii")
    identity = AffineTransform.identity()
    with pytest.raises(PatchMorphError, match=r"labels must lie inside their image, got none there in far"):
        measure(registration_by(identity, cube), PairLabels(labels, labels), 0.0)


def test_a_table_is_registered_pair_by_pair_with_the_labels_of_each_side(tmp_path):
    """The fixed image, the moving image and their labels keep their places."""
    save_image(Image(block((0.0, 0, 0), (20.0, 20, 20)), GRID), tmp_path / "a.nii")
    save_image(Image(block((0.0, 0, 0), (16.0, 16, 16)), GRID), tmp_path / "b.nii")
    # Two layers of three, and one more label that only one side has.
    small, large = block((0.0, 0, 0), (4.0, 8, 8)), block((4.0, 0, 0), (8.0, 8, 8))
    save_image(Image(small.to(torch.int16), GRID), tmp_path / "a_labels.nii")
    large[..., :2] = 7
    save_image(Image(large.to(torch.int16), GRID), tmp_path / "b_labels.nii")
    names = [tmp_path / f"{name}.nii" for name in ("a", "b", "a_labels", "b_labels")]
    identity = AffineTransform.identity()
    asked = []

    def register(fixed, moving):
        asked.append((fixed.name, moving.name))
        return registration_by(identity, fixed, moving)

    with_labels, without = evaluate([PairPaths(*names), PairPaths(names[1], names[0])], loading(register))
    assert asked == [(str(names[0]), str(names[1])), (str(names[1]), str(names[0]))]
    assert (with_labels.fixed, with_labels.moving) == asked[0]
    # 3 layers and 5 layers, all 3 in common; label 7 of the moving side alone does not count.
    assert with_labels.dice == pytest.approx(2 * 3 / (3 + 5))
    assert math.isnan(without.dice)
    assert with_labels.seconds >= 0


@pytest.mark.parametrize(("maps", "at_once"), [(3, True), (1, False), (0, False)])
def test_pairs_with_maps_are_measured_at_once_where_they_are_enough_and_stay_in_order(cube, maps, at_once):
    pairs = [PairPaths(Path("f"), Path(str(k)), transform=Path("t") if k < maps else None) for k in range(3)]
    places, threads, before = [], [], torch.get_num_threads()

    def load(paths: PairPaths) -> LoadedPair:
        threads.append(threading.get_ident() != threading.main_thread().ident)
        if paths.moving.name == "1":
            raise PatchMorphError("image must be there")
        moved = Image(cube.data, GRID, paths.moving.name)
        return LoadedPair(lambda: registration_by(AffineTransform.identity(), cube, moved), PairLabels())

    torch.set_num_threads(2)
    try:
        results = list(evaluate(pairs, load, lambda number, *_: places.append(number)))
    finally:
        torch.set_num_threads(before)
    assert [result.moving for result in results] == ["0", "1", "2"]
    assert [result.error for result in results] == ["", "image must be there", ""]
    assert sorted(places) == [1, 3]
    assert all(threads) if at_once else not any(threads)


def test_labels_that_were_stored_as_floats_are_rounded(tmp_path):
    values = torch.tensor([0.0, 1.9999, 2.0001, 16.9999, 1001.0, 3.0, 2.0, 0.0]).reshape(1, 1, 2, 2, 2)
    grid = grid_around((2, 2, 2), np.eye(3))
    save_image(Image(values, grid), tmp_path / "labels.nii")
    assert load_labels(tmp_path / "labels.nii").data.flatten().tolist() == [0, 2, 2, 17, 1001, 3, 2, 0]
    save_image(Image(values.to(torch.int16), grid), tmp_path / "whole.nii")
    whole = load_labels(tmp_path / "whole.nii")
    assert whole.data.dtype == torch.int16
    assert whole.data.flatten().tolist() == [0, 1, 2, 16, 1001, 3, 2, 0]


def result(**figures) -> PairResult:
    values = {"seconds": 1.0, "ncc_before": 0.5, "ncc_after": 0.9, "folding_percent": 0.0}
    return PairResult("a", "b", **{**values, "sd_log_jacobian": 0.1, **figures})


def test_a_mean_leaves_out_the_pairs_that_lack_the_figure():
    means = summarize([result(dice=0.8, seconds=2.0), result(), result(dice=0.6, seconds=6.0)])
    expected = {"seconds": 3.0, "ncc_before": 0.5, "ncc_after": 0.9, "folding_percent": 0.0}
    # No pair has the figures of FreeSurfer's labels: they are not there, rather than NaN.
    assert means == pytest.approx({**expected, "sd_log_jacobian": 0.1, "dice": 0.7})
    assert next(iter(means)) == "seconds"
