import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image

from patchmorph.images.intensity import Curve
from patchmorph.images.volume import Image
from patchmorph.registration.acceptance import CONTRAST, IntensityAgreement
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.pipeline import History, estimate_pose
from patchmorph.registration.preparation import Selection, prepare_pair
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

TURN = rotation(10)
IDENTITY = AffineTransform.identity()
FAR = AffineTransform.translation(torch.tensor([[900.0, 0, 0]]))


@pytest.fixture(scope="module")
def images() -> tuple[Image, Image]:
    fixed = smooth_image(grid_around((38, 45, 35), AFFINES["RAS"] * 4))
    return fixed, resample(fixed, TURN, grid_around((40, 46, 38), AFFINES["LPS"] * 4))


@pytest.fixture(scope="module")
def pair(images) -> PreparedPair:
    return prepare_pair(*images)


@pytest.fixture(scope="module")
def history(pair) -> History:
    return estimate_pose(pair)


def test_the_pose_is_found_from_the_centres_of_mass(images, pair, history):
    fixed, _ = images
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0.2][None]
    back = TURN.inverse()
    before, after = ((transform(points) - back(points)).norm(dim=-1).mean() for transform in history)
    assert after < 0.5 * before
    assert after < 4  # mm, as are voxels; the search ends at steps of a degree and of a few mm
    between = history[0](pair.fixed.content.center_world[None].float())[0]
    torch.testing.assert_close(between, pair.moving.content.center_world.float(), atol=1e-3, rtol=0)


def test_the_agreement_of_rising_and_falling_lines_and_of_curves():
    values = torch.linspace(0, 1, 2001)
    rising = IntensityAgreement.of(values, 0.1 + 0.8 * values)
    falling = IntensityAgreement.of(values, 1 - values)
    assert rising.linear_r2 == pytest.approx(1, abs=1e-5)
    assert falling.linear_r2 == pytest.approx(-1, abs=1e-5)
    # Linear weights in bins of 1/15 lose under a hundredth of the variance.
    assert falling.correlation_ratio == pytest.approx(1, abs=0.02)
    assert falling.linearity == pytest.approx(-1, abs=0.02)
    bowl = IntensityAgreement.of(values, (2 * values - 1).square())
    assert bowl.linear_r2 == pytest.approx(0, abs=1e-5)
    assert bowl.correlation_ratio == pytest.approx(1, abs=0.05)  # a parabola bends within bins
    exchanged = IntensityAgreement.of((2 * values - 1).square(), values)
    assert bowl == pytest.approx(exchanged)  # whichever is the function
    noise = torch.randn(2001, generator=torch.Generator().manual_seed(0))
    # Var(x) = 1/12: noise of the same variance leaves half of it to the line.
    assert IntensityAgreement.of(values, values + noise / 12**0.5).linear_r2 == pytest.approx(0.5, abs=0.04)


def bent(image: Image, fraction: float) -> Image:
    """A contrast that is partly a parabola, which rises and falls, of the other."""
    values = image.data
    other = (1 - fraction) * values + fraction * 2 * values * (1.1 - values)
    return Image(torch.where(values > 0.05, other, 0), image.grid, "bent")


@pytest.mark.parametrize(("fraction", "may_be_one"), [(0.0, True), (0.5, True), (0.7, False)])
def test_contrasts_may_be_one_up_to_a_bend(fraction, may_be_one):
    image = smooth_image(grid_around((75, 90, 70), AFFINES["RAS"] * 2))
    pair = prepare_pair(image, bent(image, fraction))
    linearity = pair.agreement(IDENTITY).linearity
    assert (linearity > 0.94) if may_be_one else (0.8 < linearity < 0.91)  # 0.01 or 0.02 from the threshold
    pose = estimate_pose(pair)[-1]
    assert CONTRAST.may_be_one(pair.agreement(pose)) is may_be_one


@pytest.mark.parametrize("other", [lambda v: 1.1 - v, lambda v: (2 * v - 1).abs() + 0.1])
def test_inverted_and_folded_contrasts_differ(images, other):
    fixed, moving = images
    pair = prepare_pair(fixed, Image(torch.where(moving.data > 0.05, other(moving.data), 0), moving.grid))
    agreement = pair.agreement(estimate_pose(pair)[-1])
    assert CONTRAST.may_be_one(agreement) is False
    assert agreement.linear_r2 < 0.1


def test_images_that_do_not_overlap_have_no_agreement(pair):
    assert pair.agreement(FAR) is None
    assert CONTRAST.may_be_one(None)  # the networks may still find that it is
    assert not CONTRAST.is_one(None)
    assert not CONTRAST.is_linear(None)


def test_notes_are_those_of_the_images_and_of_the_registration(images):
    fixed, moving = images
    mask = Image((fixed.data > 0.1).float(), fixed.grid)
    selections = Selection(mask), Selection()
    pair = prepare_pair(Image(fixed.data, fixed.grid, "left.nii"), moving, selections=selections)
    assert pair.notes == ("left.nii: outside of its mask left out",)
    found = Registration(pair, (FAR, IDENTITY), ("more",))
    assert found.notes == (*pair.notes, "more")
    assert found.transform is IDENTITY
    assert (found.fixed, found.moving) == (pair.fixed.original, pair.moving.original)
    assert found.moving is moving


def test_a_mask_is_that_of_its_image(images):
    """The lower half of the fixed image, the front half of the moving one."""
    masks = []
    for image, axis in zip(images, (2, 1), strict=True):
        half = image.grid.points_world()[..., axis] < 0
        masks.append(Image(half[:, None].float(), image.grid))
    pair = prepare_pair(*images, selections=(Selection(masks[0]), Selection(masks[1])))
    assert pair.fixed.content.box_world[1, 2] < 10 < pair.fixed.content.box_world[1, 1]
    assert pair.moving.content.box_world[1, 1] < 10 < pair.moving.content.box_world[1, 2]
    assert len(pair.notes) == 2


def test_content_without_a_counterpart_is_counted(images, pair, history):
    fixed, moving = images
    assert pair.fraction_without_counterpart(history[-1]) == 0
    kept = moving.grid.shape[0] // 2
    half = Image(moving.data[:, :, :kept], moving.grid.crop((0, 0, 0), (kept, *moving.grid.shape[1:])))
    truth = TURN.inverse()
    truncated = prepare_pair(fixed, half)
    assert truncated.moving.image.truncated_faces == ((0, 0),)  # of the array as it is compared, in RAS+
    assert truncated.is_truncated
    assert not pair.is_truncated
    # About half of the ellipsoid; a few hundredths for points that stand 4 mm apart.
    assert abs(truncated.fraction_without_counterpart(truth) - 0.5) < 0.1
    # The array runs from right to left (LPS), so 900 mm to the right lie on the inner side of its face.
    assert truncated.fraction_without_counterpart(FAR @ truth) == 0.0
    assert truncated.fraction_without_counterpart(FAR.inverse() @ truth) == 1.0
    assert Registration(truncated, (truth,)).fraction_without_counterpart == pytest.approx(
        truncated.fraction_without_counterpart(truth)
    )


def test_another_contrast_leaves_the_content_as_measured(pair):
    knots = torch.tensor([1.0, 0.5, 0.2])
    inverted = pair.moving.with_contrast(Curve(knots, 0.02))
    values = pair.moving.image.values()
    expected = torch.where(values < 0.5, 1 - values, 0.8 - 0.6 * values)
    torch.testing.assert_close(inverted.image.values(), torch.where(values > 0.02, expected, 0))
    assert inverted.content is pair.moving.content
    assert inverted.original is pair.moving.original
    assert inverted.notes == pair.moving.notes
