import pytest
import torch

from patchmorph.patches import blending
from patchmorph.patches.blending import MIN_WEIGHT, Blend, rim, smooth, window
from patchmorph.patches.lattice import PatchLattice
from patchmorph.spatial.grid import VoxelBox


def test_patches_that_agree_have_no_variance_and_others_that_of_their_answers():
    box = torch.tensor([[0.0, 0, 0], [12, 8, 8]], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 1.0, (8, 8, 8), overlap=0.5)
    assert len(lattice.starts) == 2
    agreeing, opposed = Blend(lattice, with_squares=True), Blend(lattice, with_squares=True)
    answer = torch.full((2, 3, 8, 8, 8), 2.0)
    agreeing.add(lattice.starts, answer)
    opposed.add(lattice.starts, answer * torch.tensor([1.0, -1.0])[:, None, None, None, None])
    torch.testing.assert_close(agreeing.variance(), torch.zeros(1, 1, 12, 8, 8), atol=1e-4, rtol=0)
    variance = opposed.variance()[0, 0]
    # Answers of ±2 along three axes with the shares p and 1 − p: 3 · 2² · 4 p (1 − p).
    profile = window((8, 8, 8), torch.device("cpu"))[:, 4, 4]
    share = profile[4:] / (profile[4:] + profile[:4])
    torch.testing.assert_close(variance[4:8, 4, 4], 48 * share * (1 - share), rtol=1e-3, atol=1e-3)
    assert variance[0].max() < 1e-3  # one patch stands alone there


def test_the_window_is_hanns():
    """By hand: sin² of k π / 9 for the voxels k = 1 … 8 along each axis, and the floor at the corners."""
    profile = torch.sin(torch.arange(1, 9) * torch.pi / 9) ** 2
    expected = profile[:, None, None] * profile[:, None] * profile
    torch.testing.assert_close(
        window((8, 8, 8), torch.device("cpu")), expected + MIN_WEIGHT, atol=1e-6, rtol=1e-5
    )


def test_the_rim_fades_as_a_squared_sine():
    """By hand, over four voxels: sin² of 0, 22.5°, 45°, 67.5° and 90°; both ends have no slope."""
    profile = rim((12, 9, 9), 4, torch.device("cpu"))[:, 4, 4]
    fading = torch.tensor([0.0, 0.146447, 0.5, 0.853553, 1.0, 1.0])
    torch.testing.assert_close(profile, torch.cat([fading, fading.flip(0)]), atol=1e-5, rtol=0)
    corner = rim((9, 9, 9), 4, torch.device("cpu"))[1, 2, 3]
    torch.testing.assert_close(corner, torch.tensor(0.146447 * 0.5 * 0.853553), atol=1e-5, rtol=0)


def test_the_rim_may_begin_further_inside():
    inside = rim((12, 9, 9), 4, torch.device("cpu"))[:, 4, 4]
    later = rim((16, 13, 13), 4, torch.device("cpu"), inset=2)[:, 6, 6]
    torch.testing.assert_close(later, torch.cat([torch.zeros(2), inside, torch.zeros(2)]))


def test_what_no_patch_covers_is_still():
    box = torch.tensor([[0.0, 0, 0], [14, 8, 8]], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 1.0, (8, 8, 8), overlap=0.5, inset=3)
    assert lattice.starts == [(3, 0, 0)]
    blend = Blend(lattice, with_squares=True)
    blend.add(lattice.starts, torch.ones(1, 3, 8, 8, 8))
    along = blend.velocity()[0, 0, :, 3, 5]
    torch.testing.assert_close(along, torch.tensor([0.0] * 3 + [1.0] * 8 + [0.0] * 3))
    assert blend.variance().abs().max() < 1e-5


def test_a_blend_is_the_mean_by_the_windows():
    """Two patches that disagree: by hand, from their windows, in each place and along each component."""
    box = torch.tensor([[0.0, 0, 0], [12, 8, 8]], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 1.0, (8, 8, 8), overlap=0.5)
    answers = torch.tensor([[1.0, -2.0, 4.0], [3.0, 6.0, 0.5]])
    blend = Blend(lattice)
    for start, answer in zip(lattice.starts, answers, strict=True):  # one after the other, as batches come
        blend.add([start], answer[None, :, None, None, None].expand(1, 3, 8, 8, 8))
    found = blend.velocity()[0]
    weights = window((8, 8, 8), torch.device("cpu"))
    for place, at in ((1, (answers[0])), (10, answers[1])):
        torch.testing.assert_close(found[:, place, 3, 5], at)
    for place in range(4, 8):
        first, second = weights[place, 3, 5], weights[place - 4, 3, 5]
        expected = (first * answers[0] + second * answers[1]) / (first + second)
        torch.testing.assert_close(found[:, place, 3, 5], expected)


def test_what_was_never_added_is_still_and_takes_its_share():
    box = torch.tensor([[0.0, 0, 0], [12, 8, 8]], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 1.0, (8, 8, 8), overlap=0.5)
    blend = Blend(lattice)
    blend.add(lattice.starts[:1], torch.ones(1, 3, 8, 8, 8))
    found = blend.velocity()[0, 0, :, 3, 5]
    weights = window((8, 8, 8), torch.device("cpu"))[:, 3, 5]
    torch.testing.assert_close(found[4:8], weights[4:] / (weights[4:] + weights[:4]))
    assert found[8:].abs().max() == 0


@pytest.mark.parametrize("planes", [1, 5, 64])
def test_planes_that_are_blended_one_after_the_other_make_the_whole(planes, monkeypatch):
    """Smoothed over their borders, and faded at the rim of the box only."""
    corners = torch.tensor([[0.0, 0, 0], [30, 12, 9]], dtype=torch.float64)
    lattice = PatchLattice.cover(
        corners, 1.0, (8, 8, 8), overlap=0.5, jitter=torch.Generator().manual_seed(2)
    )
    blend = Blend(lattice)
    blend.add(lattice.starts, torch.randn(len(lattice.starts), 3, 8, 8, 8))
    box = VoxelBox((3, 0, 1), (29, 11, 9))
    whole = smooth(blend.velocity(), 0.5)[(..., *box.slices)] * rim(box.shape, 3, torch.device("cpu"))
    monkeypatch.setattr(blending, "PLANES", planes)
    torch.testing.assert_close(blend.smoothed(0.5, box, 3), whole, atol=1e-5, rtol=1e-5)
