"""Label maps are told from intensities by what their voxels are, not by their type alone."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from niftis import write_nifti
from scipy import ndimage
from scipy.spatial import cKDTree

from patchmorph.io.frames import Frames
from patchmorph.io.labels import choose_interpolation

SHAPE = (48, 56, 44)
PLAIN = Path("study/scan.nii.gz")


def noise(seed=0):
    return np.random.default_rng(seed).standard_normal(SHAPE)


def smooth(sigma, seed=0):
    """Smooth noise from 0 to 1."""
    values = ndimage.gaussian_filter(noise(seed), sigma)
    return (values - values.min()) / np.ptp(values)


def head():
    """Where the object is."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return sum(g**2 for g in grids) < 0.8


def parcels(count, seed=0):
    """The nearest of some points, inside the head: ids in no order."""
    generator = np.random.default_rng(seed)
    points = generator.random((count, 3)) * SHAPE
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    nearest = np.argmin([((voxels - point) ** 2).sum(-1) for point in points], axis=0)
    return (generator.permutation(count)[nearest] + 1) * head()


LABELS = {
    "mask": lambda: head().astype(np.uint8),
    "mask of floats": lambda: head().astype(np.float32),
    "boolean-like mask of 255": lambda: (head() * 255).astype(np.uint8),
    "three tissues": lambda: (np.digitize(smooth(4), (0.4, 0.6)) + 1) * head().astype(np.int16),
    "atlas of 100": lambda: parcels(100).astype(np.int16),
    "atlas of 300 small parcels": lambda: parcels(300).astype(np.int32),
    "atlas of large ids": lambda: (parcels(40).astype(np.int64) * 15_000_001).astype(np.uint32),
    "atlas of floats": lambda: parcels(80).astype(np.float64),
    "atlas with negative ids": lambda: (parcels(30) - 15).astype(np.int16),
    "left and right": lambda: parcels(20).astype(np.int16) + 1000 * (np.arange(SHAPE[0]) > 24)[:, None, None],
    "nothing": lambda: np.zeros(SHAPE, np.uint8),
}
IMAGES = {
    "T1 of 256 values": lambda: ((smooth(1.5) * 255 * head()) + 2 * noise()).clip(0, 255).astype(np.uint8),
    "T1 without noise": lambda: (smooth(2) * 255 * head()).astype(np.uint8),
    "CT with padding": lambda: np.where(head(), smooth(1.5) * 1500 - 300 + 20 * noise(), -1024).astype(
        np.int16
    ),
    "CT in a tube": lambda: np.where(head(), smooth(1.5) * 900 + 20 * noise(), -3024).astype(np.int32),
    "few grey levels with noise": lambda: ((smooth(2) * 20 + 2 * noise(1)).clip(0, 30) * head()).astype(
        np.uint8
    ),
    "counts": lambda: np.random.default_rng(0).poisson(6 * smooth(2) * head()).astype(np.int16),
    "clipped": lambda: (
        ((smooth(1.5) * 400 - 60).clip(0, 255) + 2 * noise() * head()).clip(0, 255).astype(np.uint8)
    ),
    "smooth field, rounded": lambda: (smooth(6) * 100).astype(np.int16),
    "whole numbers as floats": lambda: np.round(smooth(1.5) * 1000 + 10 * noise()).astype(np.float32),
    "fractions": lambda: smooth(3).astype(np.float32),
    "probability": lambda: (smooth(3) * head()).astype(np.float32),
    "infinite outside": lambda: np.where(head(), parcels(20), np.inf).astype(np.float32),
    "NaN outside": lambda: np.where(head(), parcels(20), np.nan).astype(np.float32),
    "most of it a uniform background of noise": lambda: np.where(
        head(), smooth(1.5) * 200 + 3 * noise(), np.abs(noise()) * 1.2
    ).astype(np.uint8),
}


@pytest.mark.parametrize("kind", LABELS)
def test_ids_are_labels(kind):
    choice = choose_interpolation(LABELS[kind](), PLAIN)
    assert choice.interpolation == "label", choice


@pytest.mark.parametrize("kind", IMAGES)
def test_intensities_are_linear(kind):
    choice = choose_interpolation(IMAGES[kind](), PLAIN)
    assert choice.interpolation == "linear", choice


@pytest.mark.parametrize(
    "name", ["atlas_T1w.nii.gz", "brainmask.mgz", "sub-01_desc-seg_bold.nii", "label-GM_probseg.nii"]
)
@pytest.mark.parametrize("kind", ["T1 of 256 values", "CT with padding", "probability"])
def test_a_name_makes_no_labels_of_intensities(name, kind):
    """FreeSurfer's brainmask.mgz is a T1 image, and many atlases come with one."""
    assert choose_interpolation(IMAGES[kind](), Path(name)).interpolation == "linear"


def small_parcels():
    """Parcels of seven voxels on average, with single voxels of other ids: hardly constant."""
    generator = np.random.default_rng(0)
    points = generator.random((7000, 3)) * SHAPE
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    values = generator.permutation(7000)[cKDTree(points).query(voxels)[1]]
    return np.where(generator.random(SHAPE) < 0.35, generator.integers(0, 7000, SHAPE), values).astype(
        np.int32
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("aparc+aseg.mgz", "label"),
        ("sub-01_space-T1w_dseg.nii.gz", "label"),
        ("Schaefer_parcellation.nii", "label"),
        ("my.Atlas.nii", "label"),
        ("scan.nii.gz", "linear"),
        ("unlabelled.nii.gz", "linear"),
        ("segments.nii", "linear"),
    ],
)
def test_a_name_decides_where_the_values_do_not(name, found):
    assert choose_interpolation(small_parcels(), Path("anywhere") / name).interpolation == found


def test_the_intent_of_labels_decides():
    assert choose_interpolation(IMAGES["T1 of 256 values"](), PLAIN, 1002) == (
        "label",
        "NIfTI intent of labels",
    )


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_is_enough(order, axis):
    """A slice of one voxel has neighbours along two axes."""
    for values, found in ((parcels(30), "label"), (IMAGES["T1 of 256 values"](), "linear")):
        thin = np.asarray(np.take(values, [24], axis), order=order)
        assert choose_interpolation(thin, PLAIN).interpolation == found


@pytest.mark.parametrize("frames", [(5,), (1, 5)])
def test_a_series_is_told_by_its_first_frame_with_content(tmp_path, frames):
    for values, found in ((parcels(30), "label"), (IMAGES["T1 of 256 values"](), "linear")):
        stack = np.stack([np.zeros(SHAPE), *[values] * 4], -1).reshape(*SHAPE, *frames).astype(np.int16)
        path = write_nifti(tmp_path / "series.nii.gz", stack, np.eye(4))
        assert Frames(path).choice().interpolation == found


def test_real_images_and_label_maps_are_told_apart(data):
    """Whatever their names: all sets of the data folder."""
    paths = sorted(data.glob("*/*.nii.gz"))
    assert len(paths) > 100
    for path in paths:
        values = np.asarray(nibabel.load(path).dataobj)
        expected = "label" if "label" in path.name or "mask" in path.name else "linear"
        assert choose_interpolation(values, PLAIN).interpolation == expected, path
