"""Surface distances and overlaps agree with brute force, MONAI and SimpleITK."""

import math

import numpy as np
import pytest
import torch
from synthetic import grid_around

from patchmorph.evaluation import metrics
from patchmorph.evaluation.surfaces import assd_mm, hd95_mm, surface, surface_distances_mm
from patchmorph.io.images import load_image

SHAPE = (26, 24, 22)
SHEARED = np.array([[1.0, 0.7, 0.2], [0, 1.5, -0.6], [0, 0, 3.0]])


def blobs(*centers, radius=5.0) -> torch.Tensor:
    """Touching balls, labelled by their order, cut off by none of the borders."""
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in SHAPE], indexing="ij"), -1).double()
    labels = torch.zeros(SHAPE, dtype=torch.long)
    for label, center in enumerate(centers, 1):
        labels[(index - torch.tensor(center)).norm(dim=-1) < radius] = label
    return labels


FIXED, WARPED = blobs((8.0, 9, 10), (14.0, 14, 11)), blobs((9.0, 9, 11), (16.0, 14, 10.5))


def by_hand(fixed, warped, grid, label) -> tuple[torch.Tensor, torch.Tensor]:
    points = [grid.points_world()[0][surface(side) & (side == label)].double() for side in (fixed, warped)]
    distance = (points[0][:, None] - points[1]).norm(dim=-1)
    return distance.amin(1), distance.amin(0)


@pytest.mark.parametrize(
    "linear", [np.eye(3), np.diag([-0.5, 1, 4]), SHEARED], ids=["1 mm", "uneven", "sheared"]
)
@pytest.mark.parametrize("warped", [WARPED, blobs((17.0, 16, 13), (8.0, 8, 8))], ids=["near", "disjoint"])
def test_distances_are_those_between_the_nearest_points_in_the_world(linear, warped):
    grid = grid_around(SHAPE, linear)
    found = surface_distances_mm(FIXED, warped, grid)
    assert found.keys() == {1, 2}
    for label, sides in found.items():
        for one, expected in zip(sides, by_hand(FIXED, warped, grid, label), strict=True):
            assert torch.allclose(one.sort().values, expected.sort().values, atol=1e-4)


def test_a_label_that_one_image_lacks_has_no_distances():
    grid = grid_around(SHAPE, np.eye(3))
    one, none = torch.where(WARPED == 1, 1, 0), torch.zeros_like(FIXED)
    assert surface_distances_mm(FIXED, one, grid).keys() == {1}
    assert surface_distances_mm(FIXED, none, grid) == surface_distances_mm(none, none, grid) == {}
    empty = torch.zeros(0)
    assert math.isnan(hd95_mm(empty, empty))
    assert math.isnan(hd95_mm(torch.ones(3), empty))
    assert math.isnan(assd_mm(empty, empty))


def test_the_surface_of_a_cube_is_its_outermost_layer():
    labels = torch.zeros(9, 9, 9, dtype=torch.long)
    labels[2:7, 2:7, 2:7] = 3
    assert int(surface(labels).sum()) == 5**3 - 3**3
    assert int(surface(torch.ones(5, 5, 5, dtype=torch.long)).sum()) == 5**3 - 3**3  # the border of the array
    labels[4:, 2:7, 2:7] = 4  # a label that touches has a surface there, too
    assert not (surface(labels) & (labels == 3))[2:4, 3:6, 3:6].logical_not().any()


def test_hd95_and_assd_have_the_values_of_their_formulas():
    there, back = torch.arange(21.0), torch.tensor([2.0, 4.0])
    assert hd95_mm(there, back) == hd95_mm(back, there) == pytest.approx(19)
    assert assd_mm(there, back) == pytest.approx((210 + 6) / 23)


def test_overlaps_count_voxels():
    fixed, warped = torch.tensor([1, 1, 2, 2, 0]), torch.tensor([1, 2, 2, 2, 3])
    jaccard = metrics.jaccard(fixed, warped, [1, 2, 3, 9])
    assert [jaccard[one] for one in (1, 2, 3)] == pytest.approx([1 / 2, 2 / 3, 0])
    target = metrics.target_overlap(fixed, warped, [1, 2, 3, 9])
    assert [target[one] for one in (1, 2)] == pytest.approx([1 / 2, 1])
    assert all(math.isnan(value) for value in (jaccard[9], target[3], target[9]))


# MONAI 1.6 calls itself with an argument that it has deprecated.
OWN_WARNING = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
SPACINGS = pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.25, 3.0)], ids=["1 mm", "uneven"])


def real_labels(data) -> list[torch.Tensor]:
    """Five structures of two people, cropped to them, not aligned."""
    sides = [load_image(data / "t1-labelled" / f"sub-0{one}_labels.nii.gz").values()[0, 0] for one in (1, 3)]
    ids = [10, 11, 12, 17, 49]
    kept = [torch.where(torch.isin(side.long(), torch.tensor(ids)), side.long(), 0) for side in sides]
    box = [(int(low), int(high)) for low, high in zip(*_bounds(kept), strict=True)]
    return [side[tuple(slice(max(low - 2, 0), high + 3) for low, high in box)] for side in kept]


def _bounds(sides):
    index = torch.cat([side.nonzero() for side in sides])
    return index.amin(0), index.amax(0)


def agree_with_monai(fixed, warped, spacing):
    monai = pytest.importorskip("monai.metrics", exc_type=ImportError)
    found = surface_distances_mm(fixed, warped, grid_around(fixed.shape, np.diag(spacing)))
    assert len(found) > 1
    overlap = metrics.dice(fixed, warped, list(found))
    for label, sides in found.items():
        pair = [(warped == label)[None, None].float(), (fixed == label)[None, None].float()]
        assert overlap[label] == pytest.approx(float(monai.compute_dice(*pair)), abs=1e-6)
        of_monai = float(monai.compute_hausdorff_distance(*pair, percentile=95, spacing=spacing))
        assert hd95_mm(*sides) == pytest.approx(of_monai, abs=0.01)
        of_monai = float(monai.compute_average_surface_distance(*pair, symmetric=True, spacing=spacing))
        assert assd_mm(*sides) == pytest.approx(of_monai, abs=0.01)


def agree_with_simpleitk(fixed, warped, spacing):
    sitk = pytest.importorskip("SimpleITK")
    found = surface_distances_mm(fixed, warped, grid_around(fixed.shape, np.diag(spacing)))
    overlaps = metrics.dice(fixed, warped, list(found)), metrics.jaccard(fixed, warped, list(found))
    for label, sides in found.items():
        images = [_itk(sitk, side == label, spacing) for side in (warped, fixed)]
        measured = sitk.LabelOverlapMeasuresImageFilter()
        measured.Execute(*images)
        assert overlaps[0][label] == pytest.approx(measured.GetDiceCoefficient(1), abs=1e-6)
        assert overlaps[1][label] == pytest.approx(measured.GetJaccardCoefficient(1), abs=1e-6)
        contours = [sitk.LabelContour(image) for image in images]
        maps = [
            sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True) for c in contours
        ]
        arrays = [
            (sitk.GetArrayFromImage(c) > 0, abs(sitk.GetArrayFromImage(m)))
            for c, m in zip(contours, maps, strict=True)
        ]
        (one, to_one), (other, to_other) = arrays
        distances = to_other[one], to_one[other]
        assert hd95_mm(*sides) == pytest.approx(max(np.percentile(d, 95) for d in distances), abs=0.01)
        assert assd_mm(*sides) == pytest.approx(np.concatenate(distances).mean(), abs=0.01)


def _itk(sitk, mask, spacing):
    image = sitk.GetImageFromArray(mask.numpy().astype(np.uint8).T)
    image.SetSpacing(spacing)
    return image


@OWN_WARNING
@SPACINGS
@pytest.mark.parametrize("agree", [agree_with_monai, agree_with_simpleitk])
def test_other_tools_find_the_same_on_synthetic_labels(agree, spacing):
    agree(FIXED, WARPED, spacing)


@OWN_WARNING
@pytest.mark.parametrize("agree", [agree_with_monai, agree_with_simpleitk])
def test_other_tools_find_the_same_on_real_labels(agree, data):
    agree(*real_labels(data), (1.0, 1.0, 1.0))
