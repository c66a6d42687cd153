"""Morphology of boolean volumes ``[1, 1, X, Y, Z]`` with balls; radii in voxels."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from patchmorph.images.components import connected_components, on_faces

Volume = Bool[Tensor, "1 1 x y z"]


def fill_holes(mask: Volume) -> Volume:
    """``mask`` with what it encloses: all but the pieces around it that reach a face of the array."""
    pieces, count = connected_components(~_array(mask))
    is_outside = on_faces(pieces, count)
    return _tensor(~is_outside[pieces], mask)


def largest_component(mask: Volume) -> Volume:
    """The largest connected component of ``mask``; nothing of an empty one."""
    array = _array(mask)
    if not array.any():
        return mask
    places = [np.flatnonzero(array.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(place[0], place[-1] + 1) for place in places)
    pieces, _ = connected_components(array[box])  # of no more than the mask's box, which takes a while
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = np.zeros_like(array)
    largest[box] = pieces == sizes.argmax()
    return _tensor(largest, mask)


def grown(mask: Volume, radius: float) -> Volume:
    """The dilation of ``mask``: all voxels within ``radius`` of it.

    Squared distances are the least sums of squares along the axes, so one axis follows the other (Saito and
    Toriwaki, Pattern Recognition 27, 1994), each as far as the radius.
    """
    reach = int(radius)
    squared = torch.where(mask, 0, 4 * (reach + 1) ** 2).to(torch.int32)
    for axis in (2, 3, 4):
        nearest, size = squared.clone(), squared.shape[axis]
        for step in range(1, min(reach, size - 1) + 1):
            for to, source in ((0, step), (step, 0)):
                target = nearest.narrow(axis, to, size - step)
                torch.minimum(target, squared.narrow(axis, source, size - step) + step**2, out=target)
        squared = nearest
    return squared <= radius**2


def closed(mask: Volume, radius: float) -> Volume:
    """The closing of ``mask``, as if it were empty beyond the volume."""
    margin = int(radius) + 2
    dilated = grown(functional.pad(mask, (margin,) * 6), radius)
    return ~grown(~dilated, radius)[(..., *(slice(margin, -margin),) * 3)]


def opened(mask: Volume, radius: float) -> Volume:
    """The opening of ``mask``: its parts that are wider than twice the radius."""
    return grown(~grown(~mask, radius), radius)


def _array(mask: Volume) -> np.ndarray:
    return mask[0, 0].cpu().numpy()


def _tensor(array: np.ndarray, like: Volume) -> Volume:
    return torch.from_numpy(np.ascontiguousarray(array))[None, None].to(like.device)
