"""Augmentation is a transform, so what it does to points is known exactly."""

import math
from dataclasses import fields, replace

import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny import CPU, SPACINGS, STILL, draw, still_draw

from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.augmentation.pair import View, augmented_pair
from patchmorph.training.config import Augmentation, Data
from patchmorph.training.data.cohort import Cohort, Selection

OFFSETS = torch.tensor(
    [[[0.0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [-11, 23, 37]]], dtype=torch.float64
)
"""Points about the centre of an image, mm."""
DOUBLE = math.log(2)
SIDES = ("fixed", "moving")


def with_affine(side: str, **numbers) -> Draw:
    """A draw of zeros but for some numbers of one image's affine map: ``_3=1.0`` is the fourth."""
    affine = torch.zeros(1, 2, 13)
    for place, number in numbers.items():
        affine[0, SIDES.index(side), int(place[1:])] = number
    return still_draw(affine=affine)


def moved_offsets(cohort, drawn, config) -> dict[str, torch.Tensor]:
    """Where the view of each image takes the points about its centre, about that centre."""
    pair = augmented_pair(cohort, drawn, config)
    found = {}
    for side, index in (("fixed", drawn.fixed_index), ("moving", drawn.moving_index)):
        center = cohort.centers_world[index][:, None]
        found[side] = getattr(pair, side).transform((center + OFFSETS).float()).double() - center
    return found


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("numbers", "config", "matrix"),
    [
        ({"_0": 1.0}, {"rotation_deg": 90.0}, [[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
        ({"_1": 1.0}, {"rotation_deg": 90.0}, [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
        ({"_2": -0.5}, {"rotation_deg": 180.0}, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        ({"_3": 1.0}, {"anisotropy": DOUBLE}, [[2, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ({"_4": -1.0}, {"anisotropy": DOUBLE}, [[1, 0, 0], [0, 0.5, 0], [0, 0, 1]]),
        ({"_5": 1.0}, {"anisotropy": DOUBLE}, [[1, 0, 0], [0, 1, 0], [0, 0, 2]]),
        ({"_6": -1.0}, {"scale": DOUBLE}, [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]),
        ({"_7": 0.5}, {"shear": 0.4}, [[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]),
        ({"_8": -0.5}, {"shear": 0.4}, [[1, 0, -0.2], [0, 1, 0], [0, 0, 1]]),
        ({"_9": 0.5}, {"shear": 0.4}, [[1, 0, 0], [0, 1, 0.2], [0, 0, 1]]),
        ({}, {"mirror": True}, [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_each_affine_change_is_its_own_matrix_about_the_centre(cohort, side, numbers, config, matrix):
    drawn = replace(with_affine(side, **numbers), mirror=-torch.ones(1))
    found = moved_offsets(cohort, drawn, STILL.model_copy(update=config))
    expected = OFFSETS @ torch.tensor(matrix, dtype=torch.float64).T
    torch.testing.assert_close(found[side], expected, atol=1e-3, rtol=0)
    # The other image stays, but for the mirror: a pair of which one is mirrored has no smooth map.
    other = expected if config == {"mirror": True} else OFFSETS
    torch.testing.assert_close(found[SIDES[side == "fixed"]], other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", SIDES)
def test_a_shift_is_along_the_axes_of_the_world_whatever_the_rotation(cohort, side):
    drawn = with_affine(side, _2=1.0, _10=1.0, _11=-0.5, _12=0.25)
    found = moved_offsets(cohort, drawn, STILL.model_copy(update={"shift_mm": 8.0, "rotation_deg": 90.0}))
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    shift = torch.tensor([8.0, -4.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(found[side], OFFSETS @ quarter.T + shift, atol=1e-3, rtol=0)


def test_an_affine_map_mirrors_then_shears_scales_rotates_and_shifts(cohort):
    config = Augmentation(coarse_mm=0, fine_mm=0)
    drawn = still_draw(affine=draw(batch=1, seed=5).affine, mirror=-torch.ones(1))
    n = drawn.affine[0, 0].double()
    rotation = torch.from_numpy(
        Rotation.from_rotvec(n[:3].numpy() * math.radians(config.rotation_deg)).as_matrix()
    )
    scale = torch.diag(torch.exp(config.anisotropy * n[3:6] + config.scale * n[6]))
    shear = torch.eye(3, dtype=torch.float64)
    shear[0, 1], shear[0, 2], shear[1, 2] = config.shear * n[7:10]
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    expected = OFFSETS @ (rotation @ scale @ shear @ mirror).T + config.shift_mm * n[10:13]
    found = moved_offsets(cohort, drawn, config)["fixed"]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_half_of_the_pairs_are_mirrored_and_none_where_it_is_off(cohort):
    drawn = draw(batch=200)
    assert sorted(set(drawn.mirror.tolist())) == [-1, 1]
    assert abs(drawn.mirror.mean()) < 0.3  # four standard deviations
    config = Augmentation(mirror=False)
    pair = augmented_pair(cohort, still_draw(mirror=-torch.ones(1)), config)
    assert torch.linalg.det(pair.moving.transform.matrix[0, :3, :3]) > 0


def test_the_displacement_is_the_sum_of_both_lattices_and_of_the_fixed_image_only(cohort):
    """Constant lattices displace by their amplitudes; one that grows along y grows along y over 256 mm."""
    config = STILL.model_copy(update={"coarse_mm": 8.0, "fine_mm": 2.0})
    amplitude = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1, 1, 1)
    vector = torch.tensor([1.0, -0.5, 0.25]).reshape(1, 3, 1, 1, 1)
    other = torch.tensor([0.0, 1.0, -1.0]).reshape(1, 3, 1, 1, 1)
    drawn = still_draw(
        amplitude=amplitude, coarse=vector.expand(1, 3, 7, 7, 7), fine=other.expand(1, 3, 15, 15, 15)
    )
    found = moved_offsets(cohort, drawn, config)
    expected = OFFSETS + torch.tensor([4.0, -2 + 2, 1 - 2], dtype=torch.float64)
    torch.testing.assert_close(found["fixed"], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found["moving"], OFFSETS, atol=1e-3, rtol=0)
    for name, count, reach in (("coarse", 7, 4.0), ("fine", 15, 2.0)):
        ramp = torch.zeros(1, 3, count, count, count)
        ramp[:, 2] = torch.linspace(-1, 1, count)[:, None]  # z-component, along y
        found = moved_offsets(cohort, replace(still_draw(amplitude=amplitude), **{name: ramp}), config)
        expected = OFFSETS.clone()
        expected[..., 2] += reach * OFFSETS[..., 1] / 128
        torch.testing.assert_close(found["fixed"], expected, atol=1e-3, rtol=0)


def test_the_displacement_comes_before_the_affine_map(cohort):
    """The view is ``image(affine(x + u(x)))``: a rotation turns the displacement as well."""
    config = STILL.model_copy(update={"coarse_mm": 6.0, "rotation_deg": 90.0})
    along_x = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 7, 7, 7)
    drawn = replace(with_affine("fixed", _2=1.0), coarse=along_x, amplitude=torch.ones(1, 2, 1, 1, 1, 1))
    found = moved_offsets(cohort, drawn, config)["fixed"][0, 0]
    torch.testing.assert_close(found, torch.tensor([0.0, 6, 0], dtype=torch.float64), atol=1e-3, rtol=0)


def test_tone_is_a_power_and_a_gain_of_each_image(cohort):
    config = STILL.model_copy(update={"gamma": DOUBLE, "gain": 0.2})
    tone = torch.tensor([[1.0, -0.5, -1.0, 1.0]])
    points = (cohort.centers_world[:1, None] + OFFSETS).float()
    plain, toned = (augmented_pair(cohort, still_draw(tone=numbers), config) for numbers in (0 * tone, tone))
    for side, gamma, gain in (("fixed", 2.0, 0.9), ("moving", 0.5, 1.2)):
        before, after = (getattr(pair, side).sample(points, 6.0) for pair in (plain, toned))
        assert before.max() > 0.3
        # 1e-4 is added to intensities, so that the gradient of the power is finite at zero.
        torch.testing.assert_close(after, gain * before**gamma, atol=1e-4, rtol=1e-4)


def test_the_truth_takes_the_moving_view_exactly_onto_the_fixed_view(cohort):
    """Two views of one person: moving(truth(x)) = fixed(x), interpolation included."""
    drawn = replace(draw(), mirror=torch.tensor([-1.0, 1.0, -1.0]))
    pair = augmented_pair(cohort, drawn, Augmentation(gamma=0, gain=0))
    points = Grid.centered((16, 16, 16), 8.0, pair.fixed_center).points_world()
    seen = pair.fixed.transform(points)
    fixed, moving = pair.fixed.sample(points, 6.0), pair.moving.sample(pair.truth(seen), 6.0)
    assert pair.has_truth.tolist() == [1, 1, 1]
    assert fixed.std() > 0.1
    # Both are the same voxels interpolated at points that differ by rounding.
    torch.testing.assert_close(moving, fixed, atol=1e-4, rtol=0)


def test_only_pairs_of_one_person_have_a_known_truth(cohort):
    drawn = replace(
        draw(batch=4), fixed_index=torch.tensor([0, 0, 1, 1]), moving_index=torch.tensor([0, 1, 0, 1])
    )
    assert augmented_pair(cohort, drawn, STILL).has_truth.tolist() == [1, 0, 0, 1]


def test_the_centres_of_a_pair_are_where_its_views_show_the_centres_of_its_images(cohort):
    drawn = draw(0.0)
    pair = augmented_pair(cohort, drawn, Augmentation(coarse_mm=0, fine_mm=0))
    for side, index in (("fixed", drawn.fixed_index), ("moving", drawn.moving_index)):
        center = getattr(pair, f"{side}_center").float()
        own = cohort.centers_world[index].float()
        torch.testing.assert_close(
            getattr(pair, side).transform(center[:, None])[:, 0], own, atol=1e-3, rtol=0
        )
        assert ((center - own).norm(dim=-1) > 0.5).all()


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
    names = cohort.vocabulary.landmarks
    assert cohort.landmarks[1, names.index("tip")].tolist() == [11, 20, -5]
    assert cohort.landmarks[0, names.index("base")].tolist() == [-30, 4, 12]
    back = pair.fixed.transform(pair.fixed_landmarks)
    known = ~back.isnan()
    original = cohort.landmarks[drawn.fixed_index]
    assert torch.equal(known, ~original.isnan())
    # The displacement is inverted by iteration; 0.01 mm is far below the error of placing a landmark.
    torch.testing.assert_close(back[known], original[known], atol=0.01, rtol=0)
    moved = pair.moving.transform(pair.moving_landmarks)
    torch.testing.assert_close(moved, cohort.landmarks[drawn.moving_index], atol=1e-3, rtol=0, equal_nan=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_pairs_of_one_person_is_the_one_asked_for(share):
    drawn = draw(share, batch=1000, images=50)
    same = (drawn.fixed_index == drawn.moving_index).float().mean().item()
    # Of the others one in fifty is the same by chance; 0.06 is four standard deviations.
    assert same == pytest.approx(share + (1 - share) / 50, abs=0.06 if 0 < share < 1 else 0.02)
    assert set(drawn.fixed_index.tolist()) == set(range(50))


def test_a_draw_is_a_function_of_its_seed_and_a_part_of_it_is_a_slice():
    first, again, other = draw(batch=4, seed=3), draw(batch=4, seed=3), draw(batch=4, seed=4)
    for field in fields(Draw):
        whole = getattr(first, field.name)
        assert torch.equal(whole, getattr(again, field.name))
        assert torch.equal(getattr(first.part(1, 2), field.name), whole[1:3])
    for name in ("affine", "amplitude", "coarse", "fine", "tone", "start", "root", "placement"):
        numbers = getattr(first, name)
        assert not torch.equal(numbers, getattr(other, name))
        assert numbers.abs().max() <= 1
        assert (numbers.min() < -0.2) == (name != "amplitude")


def test_selections_and_views_are_images_without_truncated_faces(cohort):
    """Each has an intensity at every point, zero outside, and no end of its field of view."""
    index = torch.tensor([0, 1, 0])
    drawn = draw(batch=3)
    pair = augmented_pair(cohort, drawn, Augmentation())
    still = augmented_pair(cohort, still_draw(batch=3, fixed_index=index, moving_index=index), STILL)
    images = {"selection": cohort.select(index), "fixed": pair.fixed, "moving": pair.moving}
    assert isinstance(images["selection"], Selection)
    assert isinstance(images["fixed"], View)
    points = (cohort.centers_world[index][:, None] + OFFSETS).float()
    for name, image in images.items():
        assert isinstance(image, AbstractImage), name
        for arranged in (points, points[:, None, :, None]):
            values = image.sample(arranged, 6.0)
            assert values.shape == (3, 1, *arranged.shape[1:-1])
            assert values.dtype == torch.float32
            assert values.max() > 0.2
        assert image.sample(points + 5000, 6.0).max() < 0.02  # 1e-4 to the power gamma
        assert image.in_field_of_view(points) is None
        assert image.truncation_normals() == []
    # A view that changes nothing shows what the selection shows (1e-4 is added to its intensities).
    expected = images["selection"].sample(points, 6.0)
    torch.testing.assert_close(still.fixed.sample(points, 6.0), expected, atol=2e-4, rtol=0)
