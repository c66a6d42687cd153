import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.foreground import find_content
from patchmorph.images.in_memory import Image
from patchmorph.registration.pipeline import Options, register
from patchmorph.registration.stages import velocity_refinement as refinement
from patchmorph.registration.stages.affine_refinement import AffineRefinementStage
from patchmorph.registration.stages.velocity_refinement import RefinementStage
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.jacobian import jacobian_determinant
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField

SPACING = 5.0


@pytest.fixture(scope="module")
def pair():
    """A fixed image, a moving one, and the map between them, which is known."""
    grid = grid_around((36, 40, 34), AFFINES["LPS"] * SPACING)
    moving = smooth_image(grid)
    truth = smooth_velocity(Grid.centered((12, 12, 12), 18.0, torch.zeros(1, 3)), 9.0, seed=3)
    return resample(moving, truth, grid), moving, truth


def stage(fixed: Image, passes=12, seed=0, patch_size=32, similarity="lncc") -> RefinementStage:
    generator = torch.Generator().manual_seed(seed)
    content = find_content(fixed.normalized())
    return RefinementStage(content, SPACING, passes, generator, similarity, patch_size)


def refine(pair, start=None, **options):
    fixed, moving, _ = pair
    start = AffineTransform.identity() if start is None else start
    return stage(fixed, **options).refine(fixed.normalized(), moving.normalized(), start)


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


def test_it_goes_on_with_the_last_velocity_of_its_resolution(pair):
    first = refine(pair, passes=3)
    second = refine(pair, first, passes=3)
    assert [type(part) for part in second.parts()] == [AffineTransform, VelocityField]
    assert error_mm(pair, second) < error_mm(pair, first)


def test_it_stops_when_it_no_longer_gains(pair, monkeypatch):
    passes = []
    run = refinement.Descent.run
    monkeypatch.setattr(refinement.Descent, "run", lambda self, rate: passes.append(rate) or run(self, rate))
    fixed = pair[0]
    same = stage(fixed, passes=30).refine(fixed.normalized(), fixed.normalized(), AffineTransform.identity())
    assert 2 < len(passes) < 10
    assert (
        error_mm((fixed, fixed, AffineTransform.identity()), same) < 0.06
    )  # nothing to gain: about a 100th of a voxel


def test_patches_cover_the_content_and_stay_inside_the_grid(pair):
    fixed, moving, _ = pair
    seen = stage(fixed, patch_size=24)
    descent = refinement.Descent(seen, fixed.normalized(), moving.normalized(), AffineTransform.identity())
    assert max(descent.width) <= 12
    covered = torch.zeros(descent.grid.shape, dtype=torch.bool)
    for starts in descent._batches():
        for start in starts:
            block = tuple(slice(a, a + n) for a, n in zip(start, descent.width, strict=True))
            assert covered[block].shape == descent.width
            covered[block] = True
    content = refinement.foreground(fixed.normalized().sample(descent.grid.points_world(), 2 * SPACING))[0, 0]
    assert covered[content].all()


def test_an_affine_map_is_found(pair):
    moving = pair[1]
    pose = rotation(12) @ AffineTransform.translation(torch.tensor([[4.0, -6, 3]]))
    fixed = resample(moving, pose, moving.grid)
    content = find_content(fixed.normalized())
    patch = Grid.centered((48, 48, 48), SPACING, content.center_world)
    seen = AffineRefinementStage(patch, SPACING)
    found = seen.refine(fixed.normalized(), moving.normalized(), AffineTransform.identity())
    assert error_mm((fixed, moving, pose), AffineTransform.identity()) > 8
    assert error_mm((fixed, moving, pose), found) < 0.5


def test_registration_without_a_model(pair):
    fixed, moving, _ = pair
    result = register(fixed, moving, None, Options(refine=1))
    assert len(result.history) == 1 + 1 + 1 + 3  # the start, its pose, the affine stage, a stage a scale
    errors = [error_mm(pair, transform) for transform in result.history]
    assert errors[-1] < 0.8 * errors[2]
    assert errors[2] < errors[0]
    spacings = [transform.parts()[-1].grid.spacing_mm[0, 0].item() for transform in result.history[3:]]
    radius = find_content(fixed.normalized()).radius_mm
    # The default schedule, 4, 2 and 1 mm for a radius of 60 mm; a velocity voxel is two of them.
    assert spacings == pytest.approx([mm * radius / 60 for mm in (8, 4, 2)])
