import pytest
from tiny import config

from patchmorph.errors import PatchMorphError
from patchmorph.training.data.subjects import find_subjects


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_patterns_find_images_once_and_in_order(tmp_path):
    touch(tmp_path, "b.nii", "a.nii", "sub/c.nii.gz")
    found = find_subjects(config(tmp_path, data={"images": ["*.nii", "a.nii", "sub/*"]}))
    assert [subject.image.name for subject in found] == ["a.nii", "b.nii", "c.nii.gz"]


def test_a_manifest_names_what_belongs_together(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "b_labels.nii", "b_points.csv")
    (tmp_path / "list.csv").write_text(
        "image, labels, landmarks\nb.nii, b_labels.nii, b_points.csv\na.nii,,\n"
    )
    first, second = find_subjects(config(tmp_path, data={"manifest": "list.csv"}))
    assert first.image == tmp_path / "a.nii"
    assert first.labels is None
    assert (second.labels, second.mask) == (tmp_path / "b_labels.nii", None)
    assert second.landmarks == tmp_path / "b_points.csv"


def test_a_bids_folder_is_read_as_it_is(tmp_path):
    touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_dseg.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/anat/sub-01_space-MNI_dseg.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
        "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii",
        "sub-02/ses-2/anat/sub-02_ses-2_desc-aseg_dseg.nii.gz",
        "derivatives/other/sub-01_T1w.nii.gz",
    )
    one, two, three = find_subjects(config(tmp_path, data={"bids": "."}))
    assert one.labels.name == "sub-01_dseg.nii.gz"
    assert one.mask.name == "sub-01_desc-brain_mask.nii.gz"
    assert (two.image.name, two.labels) == ("sub-02_ses-1_T1w.nii", None)
    assert three.labels.name == "sub-02_ses-2_desc-aseg_dseg.nii.gz"
    (t2,) = find_subjects(config(tmp_path, data={"bids": ".", "suffix": "T2w"}))
    assert t2.image.name == "sub-01_T2w.nii.gz"


@pytest.mark.parametrize("entity", ["ses", "acq", "run", "space", "res"])
def test_labels_and_masks_belong_to_the_image_of_their_entities(tmp_path, entity):
    names = [f"sub-01_{entity}-{value}.nii" for value in ("1_T1w", "2_T1w", "2_dseg", "1_desc-brain_mask")]
    touch(tmp_path, *(f"sub-01/anat/{name}" for name in names))
    one, two = find_subjects(config(tmp_path, data={"bids": "."}))
    assert [subject.image.name for subject in (one, two)] == names[:2]
    assert (one.labels, two.mask) == (None, None)
    assert (two.labels.name, one.mask.name) == (names[2], names[3])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"images": ["nowhere/*.nii"]}, "must exist, got nothing for nowhere"),
        ({"manifest": "missing.csv"}, "manifest must be an existing file"),
        ({"manifest": "columns.csv"}, "columns must be image.*, got scan"),
        ({"manifest": "empty.csv"}, "manifest must have rows, got none"),
        ({"manifest": "absent.csv"}, "labels must be an existing file, got b.nii in line 2"),
        ({"manifest": "blank.csv"}, "image must be given, got nothing in line 3"),
        ({"bids": "empty"}, r"must hold sub-\*_T1w.nii\[.gz\], got none"),
        (
            {"bids": "twice"},
            "dseg of sub-01_T1w.nii must be one file, got sub-01_a_dseg.nii, sub-01_b_dseg.nii",
        ),
    ],
)
def test_sources_that_cannot_be_used_are_named(tmp_path, data, message):
    touch(tmp_path, "a.nii", *(f"twice/sub-01/sub-01_{name}.nii" for name in ("T1w", "a_dseg", "b_dseg")))
    (tmp_path / "empty").mkdir()
    for name, text in (
        ("columns", "scan\na.nii\n"),
        ("empty", "image\n"),
        ("absent", "image,labels\na.nii,b.nii\n"),
        ("blank", "image,labels\na.nii,\n,a.nii\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(PatchMorphError, match=message):
        find_subjects(config(tmp_path, data=data))
