import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from patchmorph.objective.objective import Objective
from patchmorph.objective.regularity import diffusion_energy, folding_penalty, volume_energy
from patchmorph.objective.similarity import (
    NOISE,
    STRUCTURE,
    _BoxMean,
    correlation_map,
    correlation_ratio,
    lncc,
    mind,
    mse,
    mutual_information,
    self_similarity,
    structure,
)
from patchmorph.objective.supervision import point_error, soft_dice_loss


def textured(seed=0, shape=(1, 1, 12, 13, 14)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_lncc_agrees_with_the_definition():
    a, b = textured(0), textured(1)
    x, y = a[0, 0].double().numpy(), b[0, 0].double().numpy()
    inner = (slice(3, -3),) * 3

    def mean(values):
        return uniform_filter(values, 7)[inner]  # inside, where no box leaves the array

    def share(covariance, variance_x, variance_y):
        """A voxel's squared correlation times its weight, and its weight."""
        squared = (covariance + NOISE) ** 2 / ((variance_x + NOISE) * (variance_y + NOISE))
        weight = variance_x / (variance_x + STRUCTURE)
        return np.array([np.sum(squared * weight), np.sum(weight)])

    variances = (mean(v * v) - mean(v) ** 2 for v in (x, y))
    total = share(mean(x * y) - mean(x) * mean(y), *variances)
    whole = lncc(a, b)
    ones = torch.ones(a.shape[2:], dtype=torch.bool)
    ones[inner] = False
    # The border voxels' boxes are cropped; compute their share by hand.
    for index in ones.nonzero().tolist():
        box = tuple(slice(max(0, k - 3), k + 4) for k in index)
        p, q = x[box] - x[box].mean(), y[box] - y[box].mean()
        total += share((p * q).mean(), (p * p).mean(), (q * q).mean())
    np.testing.assert_allclose(whole.item(), 1 - total[0] / total[1], rtol=1e-4)


def test_noise_in_uniform_tissue_neither_costs_nor_moves():
    """Flat images with independent noise count as alike, and equal images are where the loss is least."""
    flat = [0.5 + 0.005 * textured(seed) for seed in (0, 1)]
    assert lncc(*flat).item() < 0.05
    a = textured()
    moving = a.clone().requires_grad_()
    lncc(a, moving).sum().backward()
    assert moving.grad.abs().max() < 1e-6


def test_lncc_is_zero_for_a_linear_change_of_intensities():
    a = textured()
    assert lncc(a, 0.5 * a + 0.2).item() < 5e-3  # zero but for the share of NOISE in the variance
    assert lncc(a, 1 - a).item() < 2e-2
    assert lncc(a, textured(1)).item() > 0.9


def blobs(seed=0, side=24):
    """A smooth image in a background of zeros."""
    coarse = torch.nn.functional.interpolate(textured(seed, (1, 1, 6, 6, 6)), (side,) * 3, mode="trilinear")
    ball = torch.linspace(-1, 1, side).square()
    inside = ball[:, None, None] + ball[:, None] + ball < 0.9
    return (0.2 + 0.8 * coarse) * inside


@pytest.mark.parametrize("similarity", [mind, mutual_information])
def test_two_contrasts_of_one_image_are_more_alike_than_two_images(similarity):
    image, other = blobs(), blobs(1)
    for remapped in (1.2 - image, torch.sin(3 * image)):
        shown = torch.where(image > 0, remapped, 0)
        moved = shown.roll((2, 0, 0), (2, 3, 4))
        assert similarity(image, shown) < 0.85 * similarity(image, moved)
        assert similarity(image, shown) < similarity(image, other)
    assert similarity(image, image) < similarity(image, torch.where(image > 0, 1.2 - image, 0)) + 1e-4


@pytest.mark.parametrize("similarity", [mind, mutual_information])
def test_gradients_flow_to_the_moving_image_where_the_mask_lets_them(similarity):
    fixed, moving = blobs().requires_grad_(), blobs(1).requires_grad_()
    mask = torch.zeros_like(fixed)
    mask[:, :, :12] = 1
    similarity(fixed, moving, mask).sum().backward()
    assert fixed.grad is None
    assert torch.isfinite(moving.grad).all()
    assert moving.grad[:, :, :10].abs().max() > 0
    assert moving.grad[:, :, 15:].abs().max() == 0  # three voxels that a mask's edge may see
    two = torch.cat([blobs(), blobs(2)])
    values = similarity(two, two.roll(1, 2))
    assert values.shape == (2,)
    torch.testing.assert_close(values[1:], similarity(two[1:], two[1:].roll(1, 2)))


def test_mutual_information_is_that_of_the_smoothed_joint_histogram():
    bins, generator = 24, np.random.default_rng(0)
    first = generator.integers(1, bins - 3, 4000)
    second = np.clip(first // 2 + generator.integers(0, 3, 4000), 0, bins - 4)
    counts = np.zeros((bins, bins))
    np.add.at(counts, (first + 1, second + 1), 1)  # the middle of value k is that of bin k + 1
    for axis in (0, 1):  # a cubic spline at its middle and one bin to either side
        counts = sum(np.roll(counts, k, axis) * w for k, w in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)))

    def entropy(share):
        share = share[share > 0] / share.sum()
        return -(share * np.log(share)).sum()

    both = entropy(counts.sum(0)) + entropy(counts.sum(1))
    expected = 1 - 2 * (both - entropy(counts)) / both
    images = (torch.from_numpy(v / (bins - 3)).float().reshape(1, 1, 16, 25, 10) for v in (first, second))
    assert mutual_information(*images, bins=bins).item() == pytest.approx(expected, abs=1e-3)


def test_self_similarity_does_not_depend_on_the_line_that_intensities_go_through():
    image = blobs()
    inner = (slice(None), slice(None), *(slice(8, 16),) * 3)
    lines = [self_similarity(image), self_similarity(1 - image)]
    torch.testing.assert_close(lines[0][inner], lines[1][inner], atol=1e-4, rtol=1e-4)
    assert lines[0].shape == (1, 12, 24, 24, 24)
    assert 0 < lines[0].min() <= lines[0].max() <= 1


def test_structure_is_the_weight_of_the_local_correlation():
    image = blobs()
    torch.testing.assert_close(structure(image), correlation_map(image, blobs(1), 3)[1])


def test_background_neither_counts_nor_breaks():
    a, b = torch.zeros(1, 1, 24, 24, 24), torch.zeros(1, 1, 24, 24, 24)
    a[..., 4:16, 4:16, 4:16] = textured(0, (12, 12, 12))
    b[..., 4:16, 4:16, 4:16] = textured(1, (12, 12, 12))
    far = lncc(torch.nn.functional.pad(a, (0, 20) * 3), torch.nn.functional.pad(b, (0, 20) * 3))
    torch.testing.assert_close(far, lncc(a, b))
    empty = torch.zeros(1, 1, 8, 8, 8, requires_grad=True)
    lncc(torch.zeros(1, 1, 8, 8, 8), empty).sum().backward()
    assert torch.isfinite(empty.grad).all()


def test_the_gradient_of_the_box_mean_is_right():
    values = torch.rand(1, 2, 5, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: _BoxMean.apply(v, 2), (values,))


def test_mse_is_one_value_a_patch():
    a = torch.zeros(2, 1, 3, 3, 3)
    b = a.clone()
    b[1] = 2
    assert mse(a, b).tolist() == [0, 4]


def test_diffusion_energy_of_a_linear_displacement_is_its_squared_gradient():
    x = torch.arange(6.0).reshape(1, 1, 6, 1, 1).expand(1, 1, 6, 6, 6)
    displacement = torch.cat([0.3 * x, -0.2 * x, 0 * x], 1) * 2.0
    # |∂u/∂x|² = 0.09 + 0.04 over three components, at 2 mm a voxel
    torch.testing.assert_close(diffusion_energy(displacement, 2.0), torch.tensor([0.13 / 3]))


def test_only_folding_is_penalised():
    x = torch.arange(6.0).reshape(1, 1, 6, 1, 1).expand(1, 1, 6, 6, 6)
    for factor, expected in ((0.5, 0.0), (-0.5, 0.0), (-1.5, 0.8)):
        displacement = torch.cat([factor * x, 0 * x, 0 * x], 1)
        torch.testing.assert_close(folding_penalty(displacement), torch.tensor([expected]))


def test_folds_show_in_any_octant():
    """Forward differences do not see a fold that lies before a point."""
    displacement = torch.zeros(1, 3, 5, 5, 5)
    displacement[:, 0, 1] = 2.5  # overtakes the next plane, which stays
    assert folding_penalty(displacement) > 0
    mirrored = -displacement.flip(2)
    torch.testing.assert_close(folding_penalty(mirrored), folding_penalty(displacement))


def test_volume_energy_is_the_squared_logarithm_of_the_determinant():
    """Scaled by e^0.1 along each axis: log det = 0.3. As many times smaller costs as much, shear nothing."""
    index = torch.arange(5.0)
    points = torch.stack(torch.meshgrid(index, index, index, indexing="ij"))[None]
    for sign in (1, -1):
        displacement = (math.exp(0.1 * sign) - 1) * points
        torch.testing.assert_close(volume_energy(2.0 * displacement, 2.0), torch.tensor([0.09]))
    sheared = torch.zeros_like(points)
    sheared[:, 0] = 0.7 * points[:, 2]
    assert volume_energy(sheared).item() == pytest.approx(0, abs=1e-10)  # rounding


def test_volume_energy_is_finite_where_a_map_folds():
    displacement = torch.zeros(1, 3, 5, 5, 5)
    displacement[:, 0, 1] = 2.5
    displacement.requires_grad_()
    volume_energy(displacement).sum().backward()
    assert displacement.grad is not None
    assert displacement.grad.isfinite().all()


def test_point_error_is_quadratic_near_and_linear_far():
    truth = torch.zeros(1, 2, 3)
    mapped = torch.tensor([[[1.0, 0, 0], [0, 6.0, 8.0]]])
    for index, expected in ((0, 0.25), (1, 9.0)):
        mask = torch.zeros(1, 2, dtype=torch.bool)
        mask[0, index] = True
        torch.testing.assert_close(
            point_error(mapped, truth, mask), torch.tensor([expected]), atol=1e-5, rtol=0
        )
    gradient = torch.zeros(1, 2, 3, requires_grad=True)
    point_error(gradient, truth, torch.ones(1, 2, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(gradient.grad).all()


def test_masked_similarity_does_not_see_outside_the_mask():
    a, b = textured(0), textured(1)
    mask = torch.zeros_like(a)
    mask[..., :5, :, :] = 1
    changed = b.clone()
    changed[..., 9:, :, :] = 0.5  # beyond the boxes of every voxel in the mask
    for similarity in (lncc, mse):
        torch.testing.assert_close(similarity(a, changed, mask), similarity(a, b, mask))
        assert not torch.allclose(similarity(a, changed), similarity(a, b))
        assert torch.isfinite(similarity(a, b, 0 * mask)).all()


def test_soft_dice_is_that_of_one_hot_patches():
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randint(0, 5, (2, 300), generator=generator, dtype=torch.int16)
    corners = torch.randint(0, 5, (2, 8, 300), generator=generator, dtype=torch.int16)
    weights = torch.rand(2, 8, 300, generator=generator, requires_grad=True)
    fixed[1][fixed[1] == 4] = 0  # a label that this patch lacks does not count
    loss = soft_dice_loss(fixed, corners, weights, 4)
    for entry, labels in ((0, (1, 2, 3, 4)), (1, (1, 2, 3))):
        overlaps = []
        for label in labels:
            hard = (fixed[entry] == label).float()
            soft = (weights[entry] * (corners[entry] == label)).sum(0)
            overlaps.append(2 * (hard * soft).sum() / (hard.sum() + soft.sum()))
        torch.testing.assert_close(loss[entry], 1 - torch.stack(overlaps).mean())
    loss.sum().backward()
    assert weights.grad.abs().max() > 0


def test_soft_dice_of_equal_labels_is_zero_and_of_none_finite():
    fixed = torch.tensor([[1, 2, 2, 0]])
    corners = fixed[:, None].expand(1, 8, 4)
    weights = torch.full((1, 8, 4), 1 / 8)
    assert soft_dice_loss(fixed, corners, weights, 2).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(0 * fixed, corners, weights, 2).item() == 0


def test_the_correlation_ratio_asks_for_any_relation_and_only_for_one():
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(1, 4000, generator=generator)
    related = torch.stack([1 - fixed[0], (1 - 2 * fixed[0]).abs(), torch.sin(5 * fixed[0]) ** 2])
    # Sixteen bins follow a curve but for some hundredths of its variance.
    assert (correlation_ratio(fixed, related) > 0.9).all()
    unrelated = torch.rand(1, 4000, generator=generator)
    assert correlation_ratio(fixed, unrelated) < 0.02
    half = (fixed + torch.rand(1, 4000, generator=generator)) / 2  # half of the variance
    assert abs(float(correlation_ratio(fixed, half)) - 0.5) < 0.05
    assert correlation_ratio(fixed, torch.full((1, 4000), 0.3)) < 1e-3  # rounding


TERMS = ("diffusion", "folding", "supervision", "overlap", "landmarks")
"""Of a dense stage, besides the similarity."""


def test_every_term_counts_by_its_own_weight():
    """By hand, with another weight and another value for each; the similarity counts one."""
    weights = dict(zip(TERMS, (2.0, 3.0, 5.0, 7.0, 11.0), strict=True))
    values = {
        "similarity": torch.tensor([0.5, 100.0]),
        **{name: torch.tensor([10.0**-k, 0.0]) for k, name in enumerate(TERMS)},
    }
    expected = 0.5 + 2 + 0.3 + 0.05 + 0.007 + 0.0011
    torch.testing.assert_close(Objective(**weights).weighted(values), torch.tensor([expected, 100.0]))
    only = {"similarity": values["similarity"], "folding": values["folding"]}  # no labels, no landmarks
    torch.testing.assert_close(Objective(**weights).weighted(only), torch.tensor([0.8, 100.0]))


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_moves_its_term_only(term):
    values = {name: torch.tensor([float(k)]) for k, name in enumerate(("similarity", *TERMS), start=1)}
    none = Objective(**dict.fromkeys(TERMS, 0.0))
    more = none.model_copy(update={term: 0.25})
    gained = more.weighted(values) - none.weighted(values)
    torch.testing.assert_close(gained, 0.25 * values[term])
    torch.testing.assert_close(none.weighted(values), values["similarity"])


def test_the_weights_that_were_chosen_are_the_defaults():
    """A configuration without weights is trained with these."""
    values = {name: torch.ones(1) for name in ("similarity", *TERMS)}
    torch.testing.assert_close(Objective().weighted(values), torch.tensor([1 + 0.6 + 20 + 0.1]))
    assert Objective().affine_weight == 0.5
    assert Objective().similarity == "lncc"


@pytest.mark.parametrize(
    ("name", "options", "function"),
    [
        ("lncc", {"radius": 1}, lncc),
        ("mse", {}, mse),
        ("mind", {"radius": 2}, mind),
        ("mi", {"bins": 12}, mutual_information),
    ],
)
def test_the_dissimilarity_is_the_function_of_that_name_with_its_options_and_mask(name, options, function):
    a, b, mask = blobs(), blobs(1), (blobs(2) > 0.5).float()
    objective = Objective(similarity=name, similarity_options=options)
    torch.testing.assert_close(objective.dissimilarity(a, b, mask), function(a, b, mask, **options))
    torch.testing.assert_close(objective.dissimilarity(a, b), function(a, b, **options))
    plain = Objective(similarity=name).dissimilarity(a, b, mask)
    torch.testing.assert_close(plain, function(a, b, mask))
    if options:
        assert abs(plain - objective.dissimilarity(a, b, mask)) > 1e-4
    if name in ("lncc", "mind"):  # the structure is that of the fixed image
        assert abs(objective.dissimilarity(b, a, mask) - objective.dissimilarity(a, b, mask)) > 1e-5


@pytest.mark.parametrize("penalty", [diffusion_energy, folding_penalty])
def test_a_penalty_has_no_unit(penalty):
    """The same deformation, with all lengths five times as large, costs the same."""
    displacement = 1.5 * torch.randn(2, 3, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    one = penalty(displacement)
    assert (one > 0.1).all()
    torch.testing.assert_close(penalty(5 * displacement, 5.0), one)
    assert (penalty(displacement, 5.0) < 0.5 * one).all()  # less steep: less of either


@pytest.mark.parametrize("penalty", [diffusion_energy, folding_penalty])
def test_no_axis_counts_more_than_another(penalty):
    displacement = 1.5 * torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    turned = displacement.permute(0, 1, 3, 4, 2)[:, [1, 2, 0]]
    torch.testing.assert_close(penalty(turned), penalty(displacement))


def test_the_folding_penalty_sees_shear_between_all_axes():
    """det(I + ∇u) by hand: u = (a y, b x, 0) has 1 − a b, whatever the order of the axes."""
    index = torch.arange(5.0)
    grids = torch.meshgrid(index, index, index, indexing="ij")
    for first, second in ((0, 1), (1, 2), (0, 2)):
        displacement = torch.zeros(1, 3, 5, 5, 5)
        displacement[:, first] = 2.0 * grids[second]
        displacement[:, second] = 0.9 * grids[first]
        # The determinant is 1 − 1.8 = −0.8: by 1.1 below the 0.3 from which it counts.
        torch.testing.assert_close(folding_penalty(displacement), torch.tensor([1.1]))
        displacement[:, second] *= -1  # 1 + 1.8
        assert folding_penalty(displacement).item() == 0


def test_points_of_no_weight_do_not_count_in_the_correlation_ratio():
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(1, 3000, generator=generator)
    moving = (1 - fixed).repeat(2, 1)
    moving[:, 1000:] = torch.rand(2, 2000, generator=generator)  # unrelated
    weight = torch.zeros(2, 3000)
    weight[0, :1000] = 1
    weight[1, :1000], weight[1, 1000:] = 2.0, 0.5
    found = correlation_ratio(fixed, moving, weight)
    alone = correlation_ratio(fixed[:, :1000], moving[:1, :1000])
    torch.testing.assert_close(found[:1], alone, atol=1e-4, rtol=0)
    assert alone > 0.98
    # A point of the weight two counts as two points.
    twice = torch.cat([torch.arange(1000).repeat(4), torch.arange(1000, 3000)])
    torch.testing.assert_close(
        found[1:], correlation_ratio(fixed[:, twice], moving[1:, twice]), atol=1e-4, rtol=0
    )


def test_mutual_information_leaves_the_fixed_background_out():
    fixed, moving = blobs(), blobs(1)
    noisy = torch.where(fixed > 0, moving, textured(3, (1, 1, 24, 24, 24)))
    torch.testing.assert_close(mutual_information(fixed, noisy), mutual_information(fixed, moving))
    changed = torch.where(fixed > 0, textured(3, (1, 1, 24, 24, 24)), moving)
    assert abs(mutual_information(fixed, changed) - mutual_information(fixed, moving)) > 1e-3


@pytest.mark.parametrize("radius", [1, 2])
def test_self_similarity_agrees_with_the_definition(radius):
    """Heinrich et al. 2013: twelve pairs of neighbours, boxes around each, over the mean of all twelve."""
    image = textured(0, (1, 1, 11, 12, 13))
    x = image[0, 0].double().numpy()
    steps = [np.eye(3, dtype=int)[axis] * sign for axis in range(3) for sign in (-1, 1)]
    shifted = [np.roll(x, tuple(-step), (0, 1, 2)) for step in steps]
    pairs = [(a, b) for a in range(6) for b in range(a) if (steps[a] + steps[b]).any()]
    assert len(pairs) == 12
    distances = np.stack([uniform_filter((shifted[a] - shifted[b]) ** 2, 2 * radius + 1) for a, b in pairs])
    distances -= distances.min(0)
    expected = np.exp(-distances / (distances.mean(0) + NOISE / 3))
    inner = (slice(None), *(slice(1 + radius, -1 - radius),) * 3)
    found = self_similarity(image, radius)[0].double().numpy()
    # In no given order of the pairs.
    np.testing.assert_allclose(np.sort(found, 0)[inner], np.sort(expected, 0)[inner], atol=1e-4)


def test_the_mask_weighs_each_similarity_by_voxels():
    """Two halves apart from one another: the whole is the mean of both, by what counts in each."""
    halves = [blobs(k, 20) for k in range(4)]
    gap = torch.zeros(1, 1, 20, 20, 20)
    fixed, moving = (torch.cat([halves[k], gap, halves[k + 1]], 2) for k in (0, 2))
    left, right = torch.zeros_like(fixed), torch.zeros_like(fixed)
    left[:, :, :30], right[:, :, 30:] = 1, 1
    for similarity, weight in ((mse, torch.ones_like), (lncc, structure), (mind, structure)):
        shares = torch.stack([(weight(fixed) * mask).sum() for mask in (left, right)])
        parts = torch.stack([similarity(fixed, moving, mask)[0] for mask in (left, right)])
        assert abs(parts[0] - parts[1]) > 1e-4
        whole = (parts * shares).sum() / shares.sum()
        torch.testing.assert_close(similarity(fixed, moving)[0], whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "ncc"}, "must be one of lncc, mse, mind, mi, got ncc"),
        ({"similarity_options": {"bins": 3}}, "options of lncc must be among radius, got bins"),
        ({"similarity": "mse", "similarity_options": {"radius": 3}}, "must be among none, got radius"),
        ({"smoothness": 1.0}, "smoothness"),
        *(({name: -0.1}, name) for name in (*TERMS, "affine_weight")),
    ],
)
def test_objectives_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)
