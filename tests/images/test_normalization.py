"""The window of normalization, against whole arrays and by hand."""

import math

import pytest
import torch
from scans import GRIDS, WHITE, changed, outside_cylinder, scan, slab
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.images.field_of_view import FACES
from patchmorph.images.intensity import Window
from patchmorph.images.normalization import background_within, normalizing_window, voxel_statistics
from patchmorph.images.volume import Image


def window_of(parts, faces, name="x", background=None) -> Window:
    """The window of voxels in several parts, with one list of voxels for each face."""
    statistics = voxel_statistics(lambda: iter(parts), None, background)
    return normalizing_window(statistics, [torch.as_tensor(face) for face in faces], name, background)


def expected_window(data):
    """First percentile, 99.8th percentile of what is above, inverted on bright faces: on the whole array."""
    values = data.double().flatten().sort().values
    low = values[max(1, round(0.01 * len(values))) - 1]
    above = values[values > low]
    high = above[len(above) - max(1, round(0.002 * len(above)))]
    faces = torch.cat([data.double().select(axis, end).flatten() for axis in range(3) for end in (0, -1)])
    inverted = (faces.clamp(low, high) - low).median() / (high - low) > 0.5
    return low.item(), high.item(), bool(inverted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.uint8])
@pytest.mark.parametrize("faces", ["dark", "bright", "dark but for two"])
@pytest.mark.parametrize("shape", [(12, 13, 14), (3, 5, 70), (70, 20, 9)])
def test_the_window_is_the_formula_on_the_whole_array(dtype, faces, shape):
    generator = torch.Generator().manual_seed(sum(shape))
    data = torch.rand(shape, generator=generator) * 120 + 100
    for axis, side in FACES:
        bright = faces == "bright" or (faces != "dark" and axis == 0)
        noise = torch.rand(data.select(axis, -side).shape, generator=generator) * 10
        data.select(axis, -side)[:] = noise + (240 if bright else 3)
    if dtype != torch.uint8:
        data = data * 30 - 2000  # negative values
    data = data.to(dtype)
    low, high, inverted = expected_window(data)
    image = Image(data[None, None], grid_around(shape, torch.eye(3).numpy()))
    window = image.normalized().intensity_maps[0]
    assert (window.low, window.high, window.inverted) == (low, high, inverted)
    assert inverted is (faces == "bright")
    scaled = ((data.double() - low) / (high - low)).clamp(0, 1)
    expected = 1 - scaled if inverted else scaled
    torch.testing.assert_close(image.normalized().values()[0, 0].double(), expected, atol=1e-6, rtol=0)


def test_the_window_of_few_voxels_is_of_single_ones():
    """By hand: of 25 voxels, the least is mapped to 0 and the largest to 1."""
    assert window_of([torch.arange(25.0)], [[0.0]] * 6) == Window(0.0, 24.0, inverted=False)


def test_the_upper_end_of_the_window_is_a_percentile_of_what_is_above_the_lower_end():
    """By hand: 9000 voxels of background and 1 … 1000, of which two are 0.2 percent."""
    values = torch.cat([torch.full((9000,), -7.0), torch.arange(1.0, 1001)])
    window = window_of([values[:4321], values[4321:9500], values[9500:]], [[-7.0]] * 6)
    assert window == Window(-7.0, 999.0, inverted=False)


def test_what_is_not_finite_is_counted_in_all_blocks():
    first, second = torch.zeros(10), torch.ones(10)
    first[3], second[:2] = torch.nan, torch.tensor([torch.inf, -torch.inf])
    message = r"must be finite everywhere, got 3 NaN .* in sub-02\.nii \(--background nan: .*\)$"
    with pytest.raises(PatchMorphError, match=message):
        window_of([first, second], [[0.0]] * 6, "sub-02.nii")


@pytest.mark.parametrize("background", [None, 0.0, math.nan])
def test_images_of_one_value_have_no_content(background):
    with pytest.raises(PatchMorphError, match=r"must have content, got 4\.5 in every voxel of sub-02\.nii$"):
        window_of([torch.full((9,), 4.5)] * 2, [[4.5]] * 6, "sub-02.nii", background)


@pytest.mark.parametrize(("value", "background"), [(7.0, 7.0), (math.nan, math.nan), (-math.inf, math.nan)])
def test_images_of_background_have_no_content(value, background):
    with pytest.raises(PatchMorphError, match=r"must have content, got background in every voxel of x$"):
        window_of([torch.full((9,), value)] * 2, [[value]] * 6, "x", background)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_with_nan_as_background_what_is_not_finite_shows_nothing(value):
    """By hand: the window is that of the 1000 other voxels."""
    values = torch.cat([torch.full((500,), value), torch.arange(1000.0)])
    window = window_of([values[:700], values[700:]], [[value, 0.0]] * 6, background=math.nan)
    assert (window.low, window.high, window.inverted) == (9.0, 998.0, False)
    assert math.isnan(window.background)


def test_beside_a_value_as_background_what_is_not_finite_shows_nothing():
    values = torch.tensor([math.nan, 0.0, 1, 2, 3, math.inf])
    window = window_of([values], [[0.0]] * 6, background=0.0)
    assert (window.low, window.high, window.background) == (1, 3, 0)


# A bright background


def with_background(value: float, spread: float, share: float = 1.0) -> Window:
    """The window of tissue from 0 to 100 whose faces are ``value`` ± ``spread``, but for others of 5."""
    voxels = torch.cat([torch.linspace(0, 100, 3000), torch.full((6,), 100.0)])
    bright = round(100 * share)
    ramp = value + torch.linspace(-spread, spread, bright)
    return window_of([voxels], [torch.cat([ramp, torch.full((100 - bright,), 5.0)])] * 6)


@pytest.mark.parametrize(("value", "inverted"), [(49.0, False), (52.0, True), (75.0, True), (99.0, True)])
def test_a_background_is_bright_above_the_middle_of_the_window(value, inverted):
    assert with_background(value, 1.0).inverted is inverted


@pytest.mark.parametrize(
    ("spread", "inverted"), [(0.0, True), (5.0, True), (7.0, True), (9.0, False), (20, False)]
)
def test_a_bright_background_is_uniform(spread, inverted):
    """Three quarters of it within 6 % of the window: with a spread of 7.8 to both sides, 6 / 7.8 are."""
    assert with_background(85.0, spread).inverted is inverted


@pytest.mark.parametrize(("share", "inverted"), [(1.0, True), (0.8, True), (0.7, False), (0.3, False)])
def test_a_bright_background_covers_three_quarters_of_the_faces(share, inverted):
    assert with_background(95.0, 1.0, share).inverted is inverted


def test_beyond_the_window_a_background_is_uniform_whatever_its_noise():
    """Voxels above the window are as bright as its end."""
    assert with_background(200.0, 90.0).inverted


@pytest.mark.parametrize("kind", ["brain", "head"])
@pytest.mark.parametrize("linear", GRIDS)
def test_inverted_images_become_what_they_were(kind, linear):
    """As histology and negatives: dark tissue in a bright background."""
    plain = scan(kind, linear)
    negative = changed(plain, 240 - plain.data)
    assert negative.window().inverted
    # A hundredth of all voxels, a twentieth of the content, is beyond the darker end of a window.
    torch.testing.assert_close(negative.normalized().values(), plain.normalized().values(), atol=0.2, rtol=0)


@pytest.mark.parametrize("value", [-3024.0, 32767.0, 0.0, math.nan])
def test_the_background_that_is_named_does_not_hide_a_bright_background(value):
    """What is named covers most of the faces; the rest of them is bright."""
    plain = scan("brain")
    outside = outside_cylinder(plain)
    negative = changed(plain, torch.where(outside, value, 240 - plain.data)).with_background(value)
    assert negative.window().inverted
    values = negative.normalized().values()
    assert values[outside].max() == 0  # neither bright nor dark: it shows nothing
    assert values[~outside & (plain.data == 0)].max() < 0.01


@pytest.mark.parametrize("value", [-3024.0, -9999.0])
@pytest.mark.parametrize("linear", GRIDS)
def test_a_dark_slab_does_not_hide_a_bright_background(value, linear):
    plain = scan("brain", linear)
    where = slab(plain, 1, 1)
    negative = changed(plain, torch.where(where, value, 240 - plain.data))
    window = negative.window()
    assert window.inverted
    assert value < window.empty_below <= 240 - plain.data.max() + 1
    values = negative.mapped(window).values()
    assert values[where].max() == 0
    torch.testing.assert_close(
        values[~where], changed(plain, 240 - plain.data).normalized().values()[~where], atol=0.02, rtol=0
    )


def test_dark_padding_on_the_faces_of_a_dark_background_is_not_bright():
    plain = scan("head")
    for value in (-3024.0, 32767.0):
        assert not changed(plain, torch.where(outside_cylinder(plain), value, plain.data)).window().inverted


@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize("side", [10, 16, 24, 30])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_blocks_of_tissue_are_not_inverted(linear, side, offset):
    """All faces cut through tissue, which is brighter than the middle of the window for the most part."""
    fine = grid_around((side, side, side), AFFINES[linear] * 2, (-8.0, 0, -4))
    for data in (smooth_image(fine).data, 1.2 - smooth_image(fine).data):
        window = Image(WHITE * data + offset, fine).window()
        assert not window.inverted


@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_of_tissue_are_not_inverted(linear, axis):
    shape = [60, 60, 60]
    shape[axis] = 8
    grid = grid_around(tuple(shape), AFFINES[linear] * 3)
    image = smooth_image(grid)
    assert not image.window().inverted
    # Tissue covers more than a quarter of the faces: content touches them, so nothing is inverted.
    assert not changed(image, 1.5 - image.data).window().inverted


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_dark_padding_on_the_faces_is_left_out_of_their_brightness(share):
    """By hand: 2 % of the voxels are padding, and they cover a share of the faces."""
    tissue = torch.cat([torch.linspace(100, 200, 3000), torch.full((6800,), 240.0)])
    faces = torch.full((1000,), 240.0)
    faces[: round(1000 * share)] = -3024
    window = window_of([tissue, torch.full((200,), -3024.0)], faces.split(100))
    assert window.inverted
    assert -3024 < window.empty_below <= 100


# A background among the intensities of the tissue


def scored(plain: Image, zero: float = 0.0) -> Image:
    """Standard scores of the tissue, and one intensity around it."""
    tissue = plain.data > 0.06 * WHITE
    values = (plain.data - plain.data[tissue].mean()) / plain.data[tissue].std()
    return changed(plain, torch.where(tissue, values, zero))


@pytest.mark.parametrize("kind", ["brain", "head"])
@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize("zero", [0.0, 0.5, -0.5])
def test_zeros_around_standard_scores_show_nothing(kind, linear, zero):
    """So does any other intensity among those of the tissue."""
    plain = scan(kind, linear)
    image = scored(plain, zero)
    window = image.window()
    assert window.background == zero
    assert not window.inverted
    values, tissue = image.mapped(window).values(), plain.data > 0.06 * WHITE
    assert not values[~tissue].any()
    assert torch.corrcoef(torch.stack([values[tissue], plain.data[tissue]]))[0, 1] > 0.98
    assert (values[tissue] > 0.06).float().mean() > 0.9  # the darkest tissue is as dark as background


def test_a_background_among_the_tissue_is_one_intensity_on_the_faces():
    """Three quarters of the faces have it, and no noise; else the image is left as it is."""
    window = Window(0.0, 100.0)
    for share, found in ((1.0, 40.0), (0.8, 40.0), (0.7, None)):
        faces = torch.full((1000,), 40.0)
        faces[: round(1000 * (1 - share))] = 55.0
        assert background_within(window, list(faces.split(100))) == found
    noisy = 40 + torch.linspace(-1, 1, 1000)
    assert background_within(window, [noisy]) is None


@pytest.mark.parametrize("value", [0.0, 9.0, 11.0, 74.0, 76.0, 100.0])
def test_a_background_among_the_tissue_is_neither_dark_nor_bright(value):
    found = background_within(Window(0.0, 100.0), [torch.full((10,), value)] * 6)
    assert found == (value if value in (11, 74) else None)


def test_a_background_that_is_named_is_not_looked_for():
    image = scored(scan("brain"))
    assert math.isnan(image.with_background(math.nan).window().background)
    assert image.with_background(-1.5).window().background == -1.5
