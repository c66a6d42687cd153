"""Overlap is counted alike whatever the ids are."""

import pytest
import torch

from patchmorph.evaluation.overlap import Overlap, ids_of


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Two label maps with ids 0 to 4; 3 is in the first alone, 4 in the second."""
    generator = torch.Generator().manual_seed(0)
    fixed, warped = torch.randint(0, 4, (2, 9, 8, 7), generator=generator)
    return fixed, torch.where(warped == 3, 4, warped)


@pytest.mark.parametrize(
    "ids",
    [(0, 1, 2, 3, 4), (0, 7, 1001, 2035, 12), (0, 614454277, 5, 997, 312782546), (-4, -1, 3, 9, 2**40)],
    ids=["few", "FreeSurfer", "Allen", "negative"],
)
def test_overlaps_are_those_of_masks(ids):
    fixed, warped = (torch.tensor(ids)[one] for one in maps())
    overlap = Overlap.of(fixed, warped)
    assert int(overlap.voxels.sum()) == fixed.numel()
    labels = [*ids, 77]
    found = [of(labels) for of in (overlap.dice, overlap.jaccard, overlap.target_overlap)]
    for label in ids:
        a, b = fixed == label, warped == label
        both, either = int((a & b).sum()), int((a | b).sum())
        expected = 2 * both / int(a.sum() + b.sum()), both / either, both / int(a.sum()) if a.any() else None
        for one, value in zip(found, expected, strict=True):
            assert one[label] == value if value is not None else one[label] != one[label]
    assert all(one[77] != one[77] for one in found)  # NaN: neither has it
    assert ids_of(fixed) == sorted(label for label in ids[:4] if label > 0)
    assert ids_of(warped) == sorted(label for label in (*ids[:3], ids[4]) if label > 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_ids_are_those_of_any_whole_type(dtype):
    assert ids_of(torch.tensor([[0, 5], [3, 3]], dtype=dtype)) == [3, 5]
    assert ids_of(torch.zeros(0, dtype=dtype)) == []
