from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.foreground import find_content, foreground
from patchmorph.images.volume import Image, MappedImage
from patchmorph.patches.blending import smooth
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pipeline import register_images
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.stages.affine_refinement import AffineDescent, AffineRefinementStage
from patchmorph.registration.stages.descent import half_cosine
from patchmorph.registration.stages.velocity_refinement import (
    MARGIN,
    REFINEMENT,
    VelocityDescent,
    VelocityRefinementStage,
    refinement_by,
)
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.jacobian import jacobian_determinant
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import FLOW_DEGREE, VelocityField

SPACING = 5.0
IDENTITY = AffineTransform.identity()


@pytest.fixture(scope="module")
def pair():
    """A fixed image, a moving one, and the map between them, which is known."""
    grid = grid_around((36, 40, 34), AFFINES["LPS"] * SPACING)
    moving = smooth_image(grid)
    truth = smooth_velocity(Grid.centered((12, 12, 12), 18.0, torch.zeros(1, 3)), 9.0, seed=3)
    return resample(moving, truth, grid), moving, truth


def stage(passes=12, seed=0, patch_size=32, similarity="lncc") -> VelocityRefinementStage:
    generator = torch.Generator().manual_seed(seed)
    objective = refinement_by(similarity)
    return VelocityRefinementStage(SPACING, passes, generator, objective, patch_size)


def refine(pair, start=IDENTITY, **options):
    fixed, moving, _ = pair
    return stage(**options).refine(prepare_pair(fixed, moving), start)


def error_mm(pair, transform) -> float:
    fixed, _, truth = pair
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0.1]
    return float((transform(points[None]) - truth(points[None])).norm(dim=-1).mean())


def test_a_known_warp_is_found_without_folds(pair):
    refined = refine(pair)
    before, after = (error_mm(pair, transform) for transform in (AffineTransform.identity(), refined))
    assert before > 2
    assert after < 0.5 * before
    assert (jacobian_determinant(refined, pair[0].grid) > 0).all()


@pytest.mark.parametrize("similarity", ["mind", "mi"])
def test_a_known_warp_is_found_between_two_contrasts(pair, similarity):
    fixed, moving, truth = pair
    other = Image(torch.where(moving.data > 0.05, 1.1 - moving.data, 0), moving.grid)
    refined = refine((fixed, other, truth), similarity=similarity)
    assert error_mm(pair, refined) < 0.75 * error_mm(pair, AffineTransform.identity())


def test_the_same_seed_gives_the_same_result(pair):
    first, again, other = (
        refine(pair, passes=2, seed=seed, patch_size=24).parts()[-1].velocity for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_last_velocity_of_the_same_resolution_is_continued(pair):
    first = refine(pair, passes=3)
    second = refine(pair, first, passes=3)
    assert [type(part) for part in second.parts()] == [AffineTransform, VelocityField]
    assert error_mm(pair, second) < error_mm(pair, first)
    assert all(part.degree == FLOW_DEGREE for part in second.parts() if isinstance(part, VelocityField))


def test_refinement_ends_when_it_gains_nothing(pair, monkeypatch):
    passes = []
    step = VelocityDescent.step
    monkeypatch.setattr(VelocityDescent, "step", lambda self: passes.append(self.passes) or step(self))
    fixed = pair[0]
    same = refine((fixed, fixed, IDENTITY), passes=30)
    assert passes == list(range(len(passes)))
    assert 2 < len(passes) < 10
    assert error_mm((fixed, fixed, IDENTITY), same) < 0.075  # nothing to gain: a 67th of a voxel


def test_patches_cover_the_content_and_stay_inside_the_grid(pair):
    fixed, moving, _ = pair
    descent = VelocityDescent(stage(patch_size=24), prepare_pair(fixed, moving), IDENTITY)
    assert max(descent.width) <= 12
    covered = torch.zeros(descent.grid.shape, dtype=torch.bool)
    for starts in descent._batches():
        for start in starts:
            block = tuple(slice(a, a + n) for a, n in zip(start, descent.width, strict=True))
            assert covered[block].shape == descent.width
            covered[block] = True
    content = foreground(fixed.normalized().sample(descent.grid.points_world(), 2 * SPACING))[0, 0]
    assert covered[content].all()


def test_a_velocity_descent_gives_its_map_at_any_time_and_is_done_after_its_passes(pair):
    fixed, moving, _ = pair
    prepared = prepare_pair(fixed, moving)
    descent = VelocityDescent(stage(passes=3), prepared, IDENTITY)
    errors = [error_mm(pair, descent.transform)]
    assert errors[0] == pytest.approx(error_mm(pair, IDENTITY))  # no step: the map before
    while not descent.is_done:
        descent.step()
        errors.append(error_mm(pair, descent.transform))
        assert len(errors) <= 4
    assert len(errors) == 4
    assert errors == sorted(errors, reverse=True)
    assert descent.passes == 3
    refined = stage(passes=3).refine(prepared, IDENTITY)  # the same seed
    assert torch.equal(descent.transform.parts()[-1].velocity, refined.parts()[-1].velocity)


def test_a_velocity_descent_is_done_after_four_halvings_of_its_steps(pair):
    descent = VelocityDescent(stage(passes=30), prepare_pair(pair[0], pair[1]), IDENTITY)
    assert not descent.is_done
    for halvings, is_done in ((3, False), (4, True)):
        descent.halvings = halvings
        assert descent.is_done is is_done


def test_steps_are_halved_after_a_pass_that_gains_less_than_a_thousandth(pair, monkeypatch):
    """One patch covers the whole content, so its part of the energy is the energy of the pass."""
    energies, rates, halvings = [1.0, 0.998, 0.9975, 0.99, 0.9905], [], []

    def descend(self, starts, rate):
        rates.append(rate)
        return torch.tensor(energies[len(rates) - 1])

    monkeypatch.setattr(VelocityDescent, "_descend", descend)
    descent = VelocityDescent(stage(passes=5, patch_size=80), prepare_pair(pair[0], pair[1]), IDENTITY)
    while not descent.is_done:
        descent.step()
        halvings.append(descent.halvings)
    # Gains of two thousandths, of half a thousandth, of 7.5 thousandths, and a rise by half a thousandth.
    assert halvings == [0, 0, 1, 1, 2]
    falling = [0.15 * half_cosine((k + 0.5) / 5) for k in range(5)]
    assert [rate / full for rate, full in zip(rates, falling, strict=True)] == pytest.approx(
        [1, 1, 1, 0.5, 0.5]
    )


def test_a_patch_sees_the_flow_that_is_registered(pair, monkeypatch):
    """At its voxels, from the velocity of the patch and its margin: what the map of the descent does there.

    The spline that is read depends a little on velocities beyond the margin.
    """
    fixed, moving, _ = pair
    descent = VelocityDescent(stage(patch_size=24), prepare_pair(fixed, moving), IDENTITY)
    shape = descent.velocity.shape
    rough = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    descent.velocity = 0.5 * smooth(rough, 0.5)
    seen = []
    monkeypatch.setattr(
        type(descent.images),
        "dissimilarity",
        lambda self, block, moved, _: seen.append(moved) or moved.sum()[None],
    )
    start = (3, 2, 1)
    padded = torch.nn.functional.pad(descent.velocity, [MARGIN] * 6)
    inside = tuple(slice(a, a + n + 2 * MARGIN) for a, n in zip(start, descent.width, strict=True))
    descent._energy(padded[(..., *inside)], start)
    size = tuple(2 * n for n in descent.width)
    voxels = descent.grid.crop(start, descent.width).resampled(SPACING)
    assert voxels.shape == size
    points = voxels.points_world()
    origin = Grid.centered(tuple(2 * n for n in shape[2:]), SPACING, descent.grid.center_world)
    expected = origin.to_voxel(descent.transform(points))
    moves = (expected - origin.to_voxel(points)).norm(dim=-1)
    assert moves.mean() > 0.3
    errors = (seen[0] - expected).norm(dim=-1)
    assert errors.mean() < 0.02  # 0.05 for trilinear interpolation of the flow
    assert errors.max() < 0.1


def test_first_steps_are_as_long_as_the_stage_has_them(pair):
    prepared = prepare_pair(pair[0], pair[1])
    lengths = []
    for rate in (0.15, 0.05):
        descent = VelocityDescent(replace(stage(passes=9), rate=rate), prepared, IDENTITY)
        descent.step()
        lengths.append(float(descent.velocity.norm()))
    assert lengths[0] > 2 * lengths[1] > 0


@pytest.fixture(scope="module")
def posed(pair):
    """A fixed image, a moving one, and the affine map between them, which is known."""
    moving = pair[1]
    pose = rotation(12) @ AffineTransform.translation(torch.tensor([[4.0, -6, 3]]))
    return resample(moving, pose, moving.grid), moving, pose


def test_an_affine_map_is_found(posed):
    fixed, moving, _ = posed
    found = AffineRefinementStage(SPACING, 48, REFINEMENT).refine(prepare_pair(fixed, moving), IDENTITY)
    assert error_mm(posed, IDENTITY) > 8
    assert error_mm(posed, found) < 0.5


def test_an_affine_descent_gives_its_map_at_any_time_and_takes_forty_steps_a_level(posed, monkeypatch):
    fixed, moving, _ = posed
    shift = AffineTransform.translation(torch.tensor([[2.0, 0, 0]]))
    prepared = prepare_pair(fixed, moving)
    descent = AffineDescent(AffineRefinementStage(SPACING, 48, REFINEMENT), prepared, shift)
    torch.testing.assert_close(descent.transform.matrix, shift.matrix)  # no step: the map before
    sample = MappedImage.sample_grid
    spacings_mm, matrices = [], []

    def recorded(image, grid, spacing_mm):
        if image is prepared.fixed.image:
            spacings_mm.append(spacing_mm)
        return sample(image, grid, spacing_mm)

    monkeypatch.setattr(MappedImage, "sample_grid", recorded)
    while not descent.is_done:
        descent.step()
        matrices.append(descent.transform.matrix)
        assert not matrices[-1].requires_grad
    assert spacings_mm == [2 * SPACING] * 40 + [SPACING] * 40
    assert all(not torch.equal(*two) for two in pairwise(matrices))
    assert torch.equal(descent.run().matrix, matrices[-1])  # done: no further step


@pytest.mark.slow  # the frozen outputs and the schedules have a registration without a model, too
def test_registration_without_a_model(pair):
    fixed, moving, _ = pair
    result = register_images(fixed, moving, None, RegistrationOptions(refine=1))
    assert len(result.history) == 1 + 1 + 1 + 3  # the shift, the pose, the affine stage, a stage a scale
    errors = [error_mm(pair, transform) for transform in result.history]
    assert errors[-1] < 0.8 * errors[2]
    assert errors[2] < errors[0]
    spacings = [transform.parts()[-1].grid.spacing_mm[0, 0].item() for transform in result.history[3:]]
    radius = find_content(fixed.normalized()).radius_mm
    # The default schedule, 4, 2 and 1 mm for a radius of 60 mm; a velocity voxel is two of them.
    assert spacings == pytest.approx([mm * radius / 60 for mm in (8, 4, 2)])
