"""Augmentation is a transform, so what it does to points is known exactly."""

from dataclasses import replace

import torch
from tiny import CPU, SPACINGS, draw

from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation import augmented_pair
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Augmentation, Data


def test_the_truth_takes_the_moving_view_exactly_onto_the_fixed_view(cohort):
    """Two views of one person: moving(truth(x)) = fixed(x), interpolation included."""
    pair = augmented_pair(cohort, draw(), Augmentation(gamma=0, gain=0))
    points = Grid.centered((16, 16, 16), 8.0, pair.fixed_center).points_world()
    seen = pair.fixed.transform(points)
    fixed, moving = pair.fixed.sample(points, 6.0), pair.moving.sample(pair.truth(seen), 6.0)
    assert pair.known.tolist() == [1, 1, 1]
    assert fixed.std() > 0.1
    # Both are the same voxels interpolated at points that differ by rounding.
    torch.testing.assert_close(moving, fixed, atol=1e-4, rtol=0)


def test_augmentation_moves_by_what_it_says(cohort):
    none = Augmentation(
        rotation_deg=0, scale=0, anisotropy=0, shear=0, shift_mm=0, coarse_mm=0, fine_mm=0, mirror=False
    )
    points = Grid.centered((8, 8, 8), 10.0, cohort.centers_world[draw().fixed_index]).points_world()
    still = augmented_pair(cohort, draw(), none)
    torch.testing.assert_close(still.truth(still.fixed.transform(points)), points, atol=1e-4, rtol=0)
    shifted = augmented_pair(cohort, draw(), none.model_copy(update={"shift_mm": 10.0}))
    moved = shifted.truth(shifted.fixed.transform(points)) - points
    torch.testing.assert_close(moved, moved[:, :1, :1, :1].expand_as(moved), atol=1e-4, rtol=0)
    assert 1 < moved.norm(dim=-1).max() < 2 * 10 * 3**0.5


def test_landmarks_move_with_their_image(subjects, tmp_path):
    """Each landmark lies where the view shows what it marks, and on its own image's truth."""
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"name,x,y,z\ntip,{10 + number},20,-5\nbase,-30,4,12\nonly{number},0,0,0\n")
        files.append(replace(subjects[number], landmarks=path))
    cohort = Cohort(files, SPACINGS, Data(images=["unused"]), CPU)
    drawn = draw(0.0)
    pair = augmented_pair(cohort, drawn, Augmentation())
    assert cohort.landmarks.shape == (2, 4, 3)
    back = pair.fixed.transform(pair.fixed_landmarks)
    known = ~back.isnan()
    original = cohort.landmarks[drawn.fixed_index]
    assert torch.equal(known, ~original.isnan())
    # The displacement is inverted by iteration; 0.01 mm is far below the error of placing a landmark.
    torch.testing.assert_close(back[known], original[known], atol=0.01, rtol=0)
    moved = pair.moving.transform(pair.moving_landmarks)
    torch.testing.assert_close(moved, cohort.landmarks[drawn.moving_index], atol=1e-3, rtol=0, equal_nan=True)
