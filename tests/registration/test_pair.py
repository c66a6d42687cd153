import pytest
import torch
from starts import start_at
from synthetic import AFFINES, grid_around, rotation, smooth_image

from patchmorph.images.in_memory import Image
from patchmorph.registration.pair import Relation, Start, find_start
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.resample import resample

TURN = rotation(10)


@pytest.fixture(scope="module")
def pair() -> tuple[Image, Image]:
    fixed = smooth_image(grid_around((38, 45, 35), AFFINES["RAS"] * 4))
    return fixed, resample(fixed, TURN, grid_around((40, 46, 38), AFFINES["LPS"] * 4))


@pytest.fixture(scope="module")
def start(pair) -> Start:
    return find_start(*pair)


def test_the_start_finds_the_pose(pair, start):
    fixed, _ = pair
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0.2][None]
    back = TURN.inverse()
    before, after = ((transform(points) - back(points)).norm(dim=-1).mean() for transform in start.history)
    assert after < 0.5 * before
    assert after < 4  # mm, as are voxels; the search ends at steps of a degree and of a few mm


def test_a_relation_tells_rising_from_falling_lines_and_from_curves():
    values = torch.linspace(0, 1, 2001)
    rising, falling = Relation.of(values, 0.1 + 0.8 * values), Relation.of(values, 1 - values)
    assert rising.line == pytest.approx(1, abs=1e-5)
    assert falling.line == pytest.approx(-1, abs=1e-5)
    # Linear shares in bins of 1/15 lose under a hundredth of the variance.
    assert falling.any == pytest.approx(1, abs=0.02)
    assert falling.straight == pytest.approx(-1, abs=0.02)
    bowl = Relation.of(values, (2 * values - 1).square())
    assert bowl.line == pytest.approx(0, abs=1e-5)
    assert bowl.any == pytest.approx(1, abs=0.05)  # a parabola bends within bins
    assert bowl == pytest.approx(Relation.of((2 * values - 1).square(), values))  # whichever is the function
    noise = torch.randn(2001, generator=torch.Generator().manual_seed(0))
    # Var(x) = 1/12: noise of the same variance leaves half of it to the line.
    assert Relation.of(values, values + noise / 12**0.5).line == pytest.approx(0.5, abs=0.04)


def bent(image: Image, share: float) -> Image:
    """A contrast that is partly a parabola, which rises and falls, of the other."""
    values = image.data
    other = (1 - share) * values + share * 2 * values * (1.1 - values)
    return Image(torch.where(values > 0.05, other, 0), image.grid, "bent")


@pytest.mark.parametrize(("share", "alike"), [(0.0, True), (0.5, True), (0.7, False)])
def test_contrasts_are_alike_up_to_a_bend_of_their_relation(share, alike):
    image = smooth_image(grid_around((75, 90, 70), AFFINES["RAS"] * 2))
    start = find_start(image, bent(image, share))
    straight = start.relation(AffineTransform.identity()).straight
    assert (straight > 0.94) if alike else (0.8 < straight < 0.91)  # a hundredth or two from the threshold
    assert start.alike is alike


@pytest.mark.parametrize("other", [lambda v: 1.1 - v, lambda v: (2 * v - 1).abs() + 0.1])
def test_inverted_and_folded_contrasts_differ(pair, other):
    fixed, moving = pair
    start = find_start(fixed, Image(torch.where(moving.data > 0.05, other(moving.data), 0), moving.grid))
    assert start.alike is False
    assert start.relation(start.history[-1]).line < 0.1


def test_images_that_do_not_meet_have_no_relation(start):
    away = AffineTransform.translation(torch.tensor([[900.0, 0, 0]]))
    assert start.relation(away) is None


def test_notes_are_kept_and_added_to(pair):
    fixed, moving = pair
    mask = Image((fixed.data > 0.1).float(), fixed.grid)
    start = find_start(Image(fixed.data, fixed.grid, "left.nii"), moving, masks=(mask, None)).noted("more")
    assert start.notes[0] == "left.nii: outside of its mask left out"
    assert len(start.notes) == 2
    assert start.notes[-1] == "more"


def test_what_has_no_counterpart_is_counted(pair, start):
    fixed, moving = pair
    assert start.missing(start.history[-1]) == 0
    kept = moving.grid.shape[0] // 2
    half = Image(moving.data[:, :, :kept], moving.grid.crop((0, 0, 0), (kept, *moving.grid.shape[1:])))
    truth = TURN.inverse()
    start = start_at(fixed, half, truth)
    assert start.moving_seen.image.cuts == ((0, 1),)
    # About half of the ellipsoid; a few hundredths for points that stand 4 mm apart.
    assert abs(start.missing(truth) - 0.5) < 0.1
    assert start.missing(AffineTransform.translation(torch.tensor([[900.0, 0, 0]])) @ truth) in (0.0, 1.0)
