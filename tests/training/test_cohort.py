import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image
from tiny import CPU, SPACINGS

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.training.config import Data
from patchmorph.training.data.cohort import GIB, Cohort
from patchmorph.training.data.subjects import Subject


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Six small subjects, told apart by where they lie."""
    folder = tmp_path_factory.mktemp("crowd")
    for number in range(6):
        shape, linear = (24, 28, 22), AFFINES["RAS"] * 6
        brain = smooth_image(grid_around(shape, linear))
        save_image(
            Image(brain.data, grid_around(shape, linear, (10.0 * number, 0, 0))), folder / f"{number}.nii"
        )
    return [Subject(folder / f"{number}.nii") for number in range(6)]


def small(slots: float, every: int = 2) -> Data:
    voxels = 12 * 14 * 11 + 24 * 28 * 22  # the levels of one subject of the crowd
    return Data(images=["unused"], cache_gib=slots * voxels / GIB, refresh_every=every)


def inside(cohort):
    return [cohort.subject(slot).image.name for slot in range(len(cohort))]


def test_a_cohort_shows_what_its_images_show(images, cohort):
    points = torch.rand(2, 100, 3) * 80 - 40
    batch = cohort.select(torch.tensor([1, 0])).sample(points, 6.0)
    for row, index in enumerate((1, 0)):
        direct = images[index].normalized().sample(points[row : row + 1], 6.0)
        # Stored as uint8: half a grey level of 255.
        torch.testing.assert_close(batch[row], direct[0], atol=0.003, rtol=0)


def test_all_subjects_stay_where_they_fit(crowd):
    cohort = Cohort(crowd, SPACINGS, small(6.5), CPU)
    assert inside(cohort) == [f"{number}.nii" for number in range(6)]
    before = cohort.levels[6.0].buffer.clone()
    cohort.advance(1000)
    assert torch.equal(cohort.levels[6.0].buffer, before)
    assert cohort.where().startswith("6 of 6 subjects in memory: 12 mm 0.00 GiB in host memory")


def test_a_small_cache_shows_everybody_in_turn_and_always_the_same_way(crowd):
    cohort = Cohort(crowd, SPACINGS, small(3.5), CPU, seed=4)
    assert len(cohort) == 3
    seen, history = set(inside(cohort)), []
    for step in range(14):
        cohort.advance(step)
        names = inside(cohort)
        assert len(set(names)) == 3
        seen |= set(names)
        history.append(names)
        # What the memory holds is who is said to be there.
        for slot, name in enumerate(names):
            assert cohort.centers_world[slot, 0].item() == pytest.approx(10.0 * int(name[0]), abs=2)
    assert len(seen) == 6
    assert history[0] == history[1] != history[2]
    again = Cohort(crowd, SPACINGS, small(3.5), CPU, seed=4)
    again.advance(13)  # as after a resume
    assert inside(again) == history[13]
    assert torch.equal(again.levels[6.0].buffer, cohort.levels[6.0].buffer)


def test_the_seed_decides_on_the_order_in_which_a_small_cache_shows_subjects(crowd):
    def order(seed):
        cohort = Cohort(crowd, SPACINGS, small(2.5, every=1), CPU, seed=seed)
        names = inside(cohort)
        for step in (2, 4):
            cohort.advance(step)
            names += inside(cohort)
        assert sorted(names) == [f"{number}.nii" for number in range(6)]  # each once before any comes again
        return names

    orders = [order(seed) for seed in (0, 1, 2)]
    assert orders[0] != orders[1] != orders[2]
    assert order(0) == orders[0]


def test_one_subject_makes_room_every_so_many_steps(crowd):
    cohort = Cohort(crowd, SPACINGS, small(2.5, every=3), CPU)
    changes, before = [], inside(cohort)
    for step in range(10):
        cohort.advance(step)
        if inside(cohort) != before:
            changes.append((step, [a == b for a, b in zip(before, inside(cohort), strict=True)]))
        before = inside(cohort)
    # The slots take turns, from the first.
    assert changes == [(3, [False, True]), (6, [True, False]), (9, [False, True])]


def test_a_cache_too_small_for_a_pair_is_refused(crowd):
    with pytest.raises(PatchMorphError, match=r"data.cache_gib must hold 2 subjects of .* GiB, got"):
        Cohort(crowd, SPACINGS, small(1.5), CPU)


def test_labels_and_masks_are_looked_up_where_the_image_is(images, tmp_path):
    subjects = []
    for number, image in enumerate(images):
        ids = torch.where(image.data > 0.5, 2000, 0).to(torch.int32) + torch.where(image.data > 0.7, 35, 0)
        paths = {"image": image, "labels": Image(ids, image.grid)}
        if number == 0:
            paths["mask"] = Image((image.data > 0.3).to(torch.uint8), image.grid)
        for kind, content in paths.items():
            save_image(content, tmp_path / f"{number}_{kind}.nii")
        subjects.append(Subject(**{kind: tmp_path / f"{number}_{kind}.nii" for kind in paths}))
    cohort = Cohort(subjects, SPACINGS, Data(images=["unused"]), CPU)
    assert cohort.vocabulary.label_ids.tolist() == [2000, 2035]
    assert cohort.has_labels.tolist() == [1, 1]
    assert cohort.has_mask.tolist() == [1, 0]
    both = cohort.select(torch.tensor([0, 1]))
    points = torch.cat([image.grid.crop((10, 10, 10), (40, 50, 40)).points_world() for image in images])
    for row, image in enumerate(images):
        data = image.data[0, 0, 10:50, 10:60, 10:50]
        expected = (data > 0.5).int() + (data > 0.7).int()
        assert torch.equal(both.labels(points)[row, 0].int(), expected)
    mask = both.mask(points)
    assert torch.equal(mask[0, 0], (images[0].data[0, 0, 10:50, 10:60, 10:50] > 0.3).float())
    assert mask[1].min() == 1  # who has no mask is trusted everywhere
    only = Cohort(subjects, SPACINGS, Data(images=["unused"], label_ids=[2035]), CPU)
    assert only.select(torch.tensor([0, 1])).labels(points).unique().tolist() == [0, 1]


def test_labels_that_were_stored_as_floats_are_rounded(images, tmp_path):
    """Ids up to a thousandth below a whole number, as a file with a slope gives them."""
    image = images[0]
    ids = torch.where(image.data > 0.5, 2.999, 0.0) + torch.where(image.data > 0.7, 37.0005, 0.0)
    save_image(image, tmp_path / "image.nii")
    save_image(Image(ids, image.grid), tmp_path / "labels.nii")
    cohort = Cohort(
        [Subject(tmp_path / "image.nii", tmp_path / "labels.nii")], SPACINGS, Data(images=["unused"]), CPU
    )
    assert cohort.vocabulary.label_ids.tolist() == [3, 40]
    found = cohort.select(torch.tensor([0])).labels(image.grid.points_world())
    assert torch.equal(found.int(), (image.data > 0.5).int() + (image.data > 0.7).int())


def test_who_lacks_labels_and_mask_is_outside_of_both(images, tmp_path):
    """Also when its empty slot is the last of the buffer."""
    for number, image in enumerate(images):
        save_image(image, tmp_path / f"{number}.nii")
    for kind in ("labels", "mask"):
        save_image(Image((images[0].data > 0.3).to(torch.uint8), images[0].grid), tmp_path / f"{kind}.nii")
    whole = Subject(tmp_path / "0.nii", tmp_path / "labels.nii", tmp_path / "mask.nii")
    cohort = Cohort([whole, Subject(tmp_path / "1.nii")], SPACINGS, Data(images=["unused"]), CPU)
    near_origin = torch.rand(1, 50, 3) - 0.5
    lacking = cohort.select(torch.tensor([1]))
    assert lacking.labels(near_origin).max() == 0
    corners, _ = lacking.label_corners(near_origin)
    assert corners.max() == 0
    assert lacking.mask(near_origin).min() == 1


@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        (torch.zeros, None, "label maps must have 1 to 32767 ids that count, got 0"),
        (torch.ones, [], "label maps must have 1 to 32767 ids that count, got 0"),
        (lambda *shape: torch.full(shape, torch.nan), None, "labels must be whole numbers, got NaN"),
    ],
)
def test_label_maps_that_teach_nothing_are_refused(images, tmp_path, labels, ids, message):
    save_image(images[0], tmp_path / "a.nii")
    save_image(Image(labels(*images[0].data.shape), images[0].grid), tmp_path / "labels.nii")
    subjects = [Subject(tmp_path / "a.nii", tmp_path / "labels.nii")]
    with pytest.raises(PatchMorphError, match=message):
        Cohort(subjects, SPACINGS, Data(images=["unused"], label_ids=ids), CPU)


def test_an_image_that_cannot_be_read_stops_the_others(crowd, tmp_path):
    (tmp_path / "broken.nii").write_bytes(crowd[0].image.read_bytes()[:2000])
    with pytest.raises(PatchMorphError, match=r"image must be .*broken.nii"):
        Cohort([Subject(tmp_path / "broken.nii"), *crowd], SPACINGS, Data(images=["unused"]), CPU)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z\n1,2,3\n", "columns must be name,x,y,z, got x,y,z"),
        ("name,x,y,z\ntip,1,two,3\n", "y must be a number, got 'two' in line 2"),
        ("name,x,y,z\ntip,1,nan,3\n", "y must be a number, got 'nan' in line 2"),
        ("name,x,y,z\ntip,1,2,3\ntip,4,5,6\n", "must have different names, got 'tip' again in line 3"),
    ],
)
def test_landmarks_that_are_none_are_refused(crowd, tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(PatchMorphError, match=message):
        Cohort(
            [Subject(crowd[0].image, landmarks=tmp_path / "points.csv")], SPACINGS, Data(images=["a"]), CPU
        )
