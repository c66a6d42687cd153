"""Whether a patch shows anything that a patch of twice its voxels would not."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

MIN_DETAIL = 0.02
"""Normalised intensity below which detail counts as none: 0.03 to 0.11 at the voxel size of T1, mouse MRI and
two-photon images, 0.03 to 0.05 at half of it, 0.01 to 0.03 at a quarter (docs/decisions/019)."""

PART = 16
"""Voxels along each side of the parts of a patch in which detail is measured, at most: a patch counts by the
part with most of it."""


def detail(patches: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c"]:
    """Root mean square of what half the resolution leaves out, in the part of each patch with most of it.

    Half the resolution are means over blocks of two voxels a side, interpolated linearly.
    """
    coarse = functional.avg_pool3d(patches, 2)
    smooth = functional.interpolate(coarse, scale_factor=2, mode="trilinear", align_corners=False)
    squares = functional.avg_pool3d((patches - smooth).square(), min(PART, patches.shape[-1]))
    return squares.amax((2, 3, 4)).sqrt()
