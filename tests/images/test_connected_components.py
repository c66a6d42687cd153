"""Connected components, against SciPy's, which numbers them in the same order."""

import numpy as np
import pytest
from scipy import ndimage

from patchmorph.images.components import connected_components, on_faces

SHAPE = (9, 12, 11)


def snake(size: int) -> np.ndarray:
    """One line that visits every other row of a volume: the longest way from end to end."""
    mask = np.zeros((size, size, size), dtype=bool)
    mask[::2, ::2] = True
    mask[::2, 1::4, 0] = mask[::2, 3::4, -1] = True
    mask[1::4, -1, -1] = mask[3::4, 0, 0] = True
    return mask


def scattered(fraction: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < fraction


MASKS = {
    "snake": snake(9),
    "empty": np.zeros(SHAPE, dtype=bool),
    "full": np.ones(SHAPE, dtype=bool),
    "flat": scattered(0.4, 1)[:1],
    "line": scattered(0.4, 2)[:, :1, :1],
    **{
        f"{fraction} {seed}": scattered(fraction, seed)
        for fraction in (0.1, 0.3, 0.6, 0.9)
        for seed in range(5)
    },
}


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_components_are_those_of_scipy(name, diagonal):
    pieces, count = connected_components(MASKS[name], diagonal)
    expected, expected_count = ndimage.label(MASKS[name], np.ones((3, 3, 3)) if diagonal else None)
    assert count == expected_count
    np.testing.assert_array_equal(pieces, expected)


def test_a_mask_keeps_its_values():
    mask = scattered(0.5, 0)
    before = mask.copy()
    connected_components(mask)
    np.testing.assert_array_equal(mask, before)


def test_components_on_each_face_of_the_array_are_found():
    mask = np.zeros((7, 8, 9), dtype=bool)
    mask[3, 3, 3] = True
    inside = connected_components(mask)
    assert on_faces(*inside).tolist() == [False, False]
    for place in ((0, 3, 5), (6, 3, 5), (3, 0, 5), (3, 7, 5), (3, 5, 0), (3, 5, 8)):
        both = mask.copy()
        both[place] = True
        pieces, count = connected_components(both)
        reach = on_faces(pieces, count)
        assert reach[pieces[place]]
        assert reach.sum() == 1
