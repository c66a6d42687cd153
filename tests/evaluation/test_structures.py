"""Structures are compared one by one; what one image lacks is said."""

import math

import numpy as np
import pytest
import torch
from synthetic import grid_around

from patchmorph.evaluation.structures import (
    StructureResult,
    compare_structures,
    mean_figures,
    summarize_structures,
)

GRID = grid_around((12, 10, 10), np.diag([2.0, 1, 1]))


def slabs(**layers: tuple[int, int]) -> torch.Tensor:
    """Layers along x from one voxel to another, inside a margin of two voxels, labelled as ``_7``."""
    labels = torch.zeros(GRID.shape, dtype=torch.long)
    for name, (first, last) in layers.items():
        labels[first : last + 1, 2:-2, 2:-2] = int(name[1:])
    return labels


def test_a_shift_of_one_voxel_has_the_figures_of_its_geometry():
    """Slabs of three layers of 2 mm, one layer apart: two of three are common."""
    (one,) = compare_structures(slabs(_7=(3, 5)), slabs(_7=(4, 6)), GRID, [7])
    assert (one.label, one.note) == (7, "")
    assert (one.dice, one.jaccard, one.target_overlap) == pytest.approx((2 / 3, 1 / 2, 2 / 3))
    assert one.hd95_mm == pytest.approx(2)
    assert 0 < one.assd_mm < 2


def test_what_one_image_lacks_is_said_and_has_no_distance():
    fixed, warped = slabs(_1=(2, 3), _2=(4, 5), _5=(8, 9)), slabs(_1=(2, 3), _3=(4, 5), _5=(6, 6))
    found = {one.label: one for one in compare_structures(fixed, warped, GRID, [1, 3, 4, 5])}
    assert {label: one.note for label, one in found.items()} == {
        1: "",
        2: "not in the moving labels",
        3: "not in the fixed labels",
        4: "not in the fixed labels, not in the warped labels",
        5: "disjoint",
    }
    assert [found[label].dice for label in (1, 2, 3, 5)] == [1, 0, 0, 0]
    assert all(math.isnan(found[label].hd95_mm) and math.isnan(found[label].assd_mm) for label in (2, 3, 4))
    assert math.isnan(found[3].target_overlap)
    assert found[5].hd95_mm == pytest.approx(6)
    assert (found[1].hd95_mm, found[1].assd_mm) == (0, 0)


def test_maps_without_any_label_have_no_structures():
    nothing = slabs()
    assert compare_structures(nothing, nothing, GRID) == ()
    (lost,) = compare_structures(slabs(_1=(2, 3)), nothing, GRID, [1])
    assert lost.note == "not in the warped labels"


def test_means_leave_out_what_is_not_known_and_count_the_pairs():
    known, lacking = (
        StructureResult(4, 0.8, 0.7, 0.9, 2.0, 1.0),
        StructureResult(4, 0.0, 0.0, 0.0, math.nan, math.nan),
    )
    means = mean_figures([known, lacking])
    assert means == pytest.approx(
        {"dice": 0.4, "jaccard": 0.35, "target_overlap": 0.45, "hd95_mm": 2, "assd_mm": 1}
    )
    assert mean_figures([lacking]).keys() == {"dice", "jaccard", "target_overlap"}
    by_label = summarize_structures([(known, StructureResult(12, *[1.0] * 5)), (lacking,)])
    assert list(by_label) == ["4", "12"]
    assert by_label["4"] == {"pairs": 2, **means}
