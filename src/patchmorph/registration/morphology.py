"""Morphology of boolean volumes ``[1, 1, X, Y, Z]`` with balls, by distance transforms; radii in voxels."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

Volume = Bool[Tensor, "1 1 x y z"]


def fill_holes(mask: Volume) -> Volume:
    """``mask`` with what it encloses: all but the pieces around it that reach a face of the array."""
    from scipy import ndimage  # a quarter of a second that most commands can do without

    pieces, count = ndimage.label(~_array(mask))  # type: ignore[misc]
    is_outside = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        is_outside[np.unique(pieces.take((0, -1), axis))] = True
    is_outside[0] = False
    return _tensor(~is_outside[pieces], mask)


def largest_component(mask: Volume) -> Volume:
    """The largest connected component of ``mask``; nothing of an empty one."""
    from scipy import ndimage

    array = _array(mask)
    if not array.any():
        return mask
    (box,) = ndimage.find_objects(array.view(np.uint8))  # less to label
    pieces, _ = ndimage.label(array[box])  # type: ignore[misc]
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = np.zeros_like(array)
    largest[box] = pieces == sizes.argmax()
    return _tensor(largest, mask)


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
