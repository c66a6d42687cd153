"""Sharpening of mean images by their Laplacian."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

AMOUNT = 0.25
"""Of the Laplacian: the share that ANTsPy's ``build_template`` gives to its sharpened image."""


def sharpened(
    values: Float[Tensor, "1 c x y z"], spacing_mm: tuple[float, ...]
) -> Float[Tensor, "1 c x y z"]:
    """``v − a h² ∇²v`` with the smallest voxel size h, within the range of ``values``.

    The second differences are zero across the faces of the array.

    Args:
        values: of the image.
        spacing_mm: voxel size along each array axis.
    """
    smallest = min(spacing_mm)
    laplacian = torch.zeros_like(values)
    for axis, spacing in enumerate(spacing_mm):
        widths = [0, 0] * 3
        widths[2 * (2 - axis) : 2 * (2 - axis) + 2] = [1, 1]
        second = pad(values, widths, mode="replicate").diff(n=2, dim=2 + axis)
        laplacian += second * (smallest / spacing) ** 2
    return (values - AMOUNT * laplacian).clamp(values.min(), values.max())
