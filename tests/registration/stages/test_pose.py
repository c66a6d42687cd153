import pytest
import torch
from pairs import given_pair, normalized
from synthetic import AFFINES, grid_around, lopsided, smooth_image

from patchmorph.images.volume import Image, MappedImage
from patchmorph.registration.stages.pose import PoseStage, rotations
from patchmorph.spatial.affine import about_point, exponential, from_translation, skew
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform


def posed(image: Image, degrees: float, scale: float, seed: int) -> tuple[Image, AffineTransform]:
    """The image as a scanner would have it whose patient lies otherwise, and the map there."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.nn.functional.normalize(torch.randn(1, 3, generator=generator).double())
    linear = scale * exponential(skew(axis * torch.deg2rad(torch.tensor(degrees))))
    shift = 160 * torch.rand(1, 3, generator=generator).double() - 80
    pose = AffineTransform(from_translation(shift) @ about_point(linear, torch.zeros(1, 3).double()))
    return Image(image.data, Grid(image.grid.shape, pose.matrix @ image.grid.voxel_to_world)), pose


def search(fixed: Image, moving: Image) -> AffineTransform:
    pair = given_pair(normalized(fixed), normalized(moving))
    found = PoseStage().refine(pair, pair.center_shift())
    assert isinstance(found, AffineTransform)
    return found


@pytest.mark.parametrize(
    ("degrees", "scale", "seed"), [(0, 1.0, 0), (60, 0.8, 1), (120, 1.25, 2), (180, 1.0, 3)]
)
def test_any_pose_is_found(degrees, scale, seed):
    fixed = lopsided(grid_around((50, 56, 46), AFFINES["LPS"] * 3.5))
    moving, truth = posed(fixed, degrees, scale, seed)
    corners = fixed.grid.points_world()[fixed.data[:, 0] > 0.2][None]
    off = (search(fixed, moving)(corners) - truth(corners)).norm(dim=-1).mean()
    assert off < 3 * scale  # mm of 3.5 mm voxels: what the first affine pass at 4 mm corrects at once


def test_each_image_is_sampled_as_coarsely_as_its_own_size_asks(monkeypatch):
    """The moving object is twice as large: so are the distances between the points that sample it."""
    fixed = lopsided(grid_around((25, 28, 23), AFFINES["LPS"] * 7))
    moving, _ = posed(fixed, 0, 2.0, 0)
    pair = given_pair(normalized(fixed), normalized(moving))
    sample, spacings_mm = MappedImage.sample, {"fixed": set(), "moving": set()}

    def recorded(image, points_world, spacing_mm):
        spacings_mm["fixed" if image is pair.fixed.image else "moving"].add(round(spacing_mm, 6))
        return sample(image, points_world, spacing_mm)

    monkeypatch.setattr(MappedImage, "sample", recorded)
    PoseStage().refine(pair, pair.center_shift())
    for name, found in spacings_mm.items():
        side_mm = 2 * 1.75 * getattr(pair, name).content.radius_mm  # of the cube that is compared
        # Sixteen points along it, then 24; spacings were rounded to 1e-6 mm.
        assert sorted(found) == pytest.approx([side_mm / 24, side_mm / 16], abs=1e-5)
    assert max(spacings_mm["moving"]) == pytest.approx(2 * max(spacings_mm["fixed"]), rel=1e-3)


@pytest.mark.parametrize(("truncated", "axis", "side"), [("fixed", 0, 1), ("moving", 1, 0)])
def test_the_pose_is_found_where_half_an_image_is_missing(truncated, axis, side):
    """What is left lies off the middle of the other, towards the face that is not truncated."""
    whole = lopsided(grid_around((50, 56, 46), AFFINES["RAS"] * 3.5))
    kept = [slice(None)] * 3
    count = whole.grid.shape[axis] // 2
    kept[axis] = slice(0, count) if side else slice(whole.grid.shape[axis] - count, None)
    first = tuple(part.start or 0 for part in kept)
    data = whole.data[(..., *kept)]
    half = Image(data, whole.grid.crop(first, tuple(data.shape[2:])), truncated_faces=((axis, side),))
    if truncated == "fixed":
        fixed, (moving, truth) = half, posed(whole, 100, 1.0, 5)
    else:
        fixed, (moving, truth) = whole, posed(half, 100, 1.0, 5)
        moving = Image(moving.data, moving.grid, truncated_faces=half.truncated_faces)
    points = half.grid.points_world()[half.data[:, 0] > 0.2][None]
    assert (search(fixed, moving)(points) - truth(points)).norm(dim=-1).mean() < 10


@pytest.mark.parametrize("remap", [lambda v: 1 - v, lambda v: (1 - 2 * v).abs()])
def test_the_contrast_may_be_another(remap):
    fixed = lopsided(grid_around((50, 56, 46), AFFINES["RAS"] * 3.5))
    other = Image(torch.where(fixed.data > 0.05, 0.1 + remap(fixed.data), 0), fixed.grid)
    moving, truth = posed(other, 75, 1.1, 4)
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0.2][None]
    # The folds, most of what one contrast tells of the other, are finer than the search: a few degrees are
    # left, well within the 12 mm and 20 degrees that affine networks are trained for.
    assert (search(fixed, moving)(points) - truth(points)).norm(dim=-1).mean() < 8


def test_what_looks_alike_from_all_sides_is_not_turned():
    fixed = smooth_image(grid_around((50, 56, 46), AFFINES["RAS"] * 3.5))
    linear = search(fixed, fixed).matrix[0, :3, :3]
    assert (linear - torch.eye(3)).abs().max() < 0.02


def test_rotations_leave_no_gap():
    made = rotations(512)
    torch.testing.assert_close(made @ made.mT, torch.eye(3).double().expand(512, 3, 3))
    torch.testing.assert_close(torch.linalg.det(made), torch.ones(512).double())
    anywhere = exponential(skew(3 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double()))
    cosines = (torch.einsum("aij,bij->ab", anywhere, made) - 1) / 2
    assert torch.rad2deg(cosines.amax(1).clamp(-1, 1).acos()).max() < 27
