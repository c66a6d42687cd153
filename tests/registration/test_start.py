import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image

from patchmorph.registration.start import find_start
from patchmorph.spatial.image import Image
from patchmorph.transforms.resample import resample


def pair():
    fixed = smooth_image(grid_around((75, 90, 70), AFFINES["RAS"] * 2))
    return fixed, resample(fixed, rotation(10), grid_around((80, 92, 76), AFFINES["LPS"] * 2))


def test_the_start_finds_the_pose():
    fixed, moving = pair()
    start = find_start(fixed, moving)
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0.2][None]
    back = rotation(10).inverse()
    before, after = ((transform(points) - back(points)).norm(dim=-1).mean() for transform in start.history)
    assert after < 0.5 * before
    assert after < 4  # voxels are 2 mm; the search ends at steps of a degree and of a few mm


def test_contrasts_are_told_apart():
    fixed, moving = pair()
    assert find_start(fixed, moving).alike
    assert find_start(fixed, Image(moving.data**1.5, moving.grid)).alike
    shown = moving.data > 0.05
    for other in (1.1 - moving.data, (2 * moving.data - 1).abs() + 0.1):
        assert not find_start(fixed, Image(torch.where(shown, other, 0), moving.grid)).alike


def test_notes_are_kept_and_added_to():
    fixed, moving = pair()
    mask = Image((fixed.data > 0.1).float(), fixed.grid)
    start = find_start(fixed, moving, masks=(mask, None)).noted("more")
    assert len(start.notes) == 2
    assert start.notes[-1] == "more"


def test_what_has_no_counterpart_is_counted():
    fixed, moving = pair()
    start = find_start(fixed, moving)
    assert start.missing(start.history[-1]) == 0
    kept = moving.grid.shape[0] // 2
    half = Image(moving.data[:, :, :kept], moving.grid.crop((0, 0, 0), (kept, *moving.grid.shape[1:])))
    start = find_start(fixed, half)
    truth = rotation(10).inverse()
    assert start.moving_seen.image.cuts == ((0, 1),)
    # About half of the ellipsoid; a few hundredths for points that stand 4 mm apart.
    assert abs(start.missing(truth) - 0.5) < 0.1
