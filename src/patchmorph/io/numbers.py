"""Number types of voxels."""

import numpy as np


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floating point values as another number type; whole numbers are rounded, and clipped to its range."""
    if dtype.kind == "f":
        return values.astype(dtype)
    if dtype.kind == "b":
        return values > 0.5
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def typed(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in a source's number type, which torch may lack; values out of its range are clipped."""
    if dtype.kind in "iu" and array.dtype.kind in "iu":
        own, limits = np.iinfo(array.dtype.name), np.iinfo(dtype.name)
        array = array.clip(max(own.min, limits.min), min(own.max, limits.max))
    return array.astype(dtype)
