"""Morphology of boolean volumes ``[1, 1, X, Y, Z]`` with balls, by distance transforms; radii in voxels."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

Volume = Bool[Tensor, "1 1 x y z"]


def fill_holes(mask: Volume) -> Volume:
    """``mask`` with what it encloses: all but the pieces around it that reach a face of the array."""
    pieces, count = _pieces(~_array(mask))
    is_outside = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        is_outside[np.unique(pieces.take((0, -1), axis))] = True
    is_outside[0] = False
    return _tensor(~is_outside[pieces], mask)


def largest_component(mask: Volume) -> Volume:
    """The largest connected component of ``mask``; nothing of an empty one."""
    array = _array(mask)
    if not array.any():
        return mask
    places = [np.flatnonzero(array.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(place[0], place[-1] + 1) for place in places)
    pieces, _ = _pieces(array[box])  # of no more than the mask's box, which takes a while
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = np.zeros_like(array)
    largest[box] = pieces == sizes.argmax()
    return _tensor(largest, mask)


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The number of each voxel's connected component, 0 outside ``mask``, and how many there are."""
    from scipy import ndimage  # a quarter of a second that most commands can do without

    pieces, count = ndimage.label(mask)  # type: ignore[misc]
    return np.asarray(pieces), int(count)


def grown(mask: Volume, radius: float) -> Volume:
    """The dilation of ``mask``."""
    return _tensor(_distance(_array(mask)) <= radius, mask)


def closed(mask: Volume, radius: float) -> Volume:
    """The closing of ``mask``, as if it were empty beyond the volume."""
    margin = int(radius) + 2
    inner = (slice(margin, -margin),) * 3
    padded = np.pad(_array(mask), margin)
    outside = ~(_distance(padded) <= radius)
    return _tensor((_distance(outside) > radius)[inner], mask)


def opened(mask: Volume, radius: float) -> Volume:
    """The opening of ``mask``: its parts that are wider than twice the radius."""
    core = _distance(~_array(mask)) > radius
    return _tensor(_distance(core) <= radius, mask)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance from each voxel to the nearest one in ``mask``; infinite if it is empty."""
    from scipy import ndimage

    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~mask))


def _array(mask: Volume) -> np.ndarray:
    return mask[0, 0].cpu().numpy()


def _tensor(array: np.ndarray, like: Volume) -> Volume:
    return torch.from_numpy(np.ascontiguousarray(array))[None, None].to(like.device)
