"""A volume for other libraries and for readers: arrays, nibabel, SimpleITK, a line of text, three planes."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.images.planes import (
    box_around,
    plane_grids,
    png,
    sampled_planes,
    side_by_side,
    stretched,
)
from patchmorph.spatial.grid import Grid

if TYPE_CHECKING:
    import nibabel


class Exportable(AbstractImage):
    """A volume that other libraries and notebooks can show.

    Attributes:
        name: see `patchmorph.images.volume.AbstractVolume`, as all others.
        grid: of batch size one.
        dtype: of the voxels.
    """

    name: str
    grid: Grid
    dtype: torch.dtype

    @abstractmethod
    def values(self) -> Num[Tensor, "1 c x y z"]:
        """All voxels at once."""

    def numpy(self) -> Num[np.ndarray, "x y z *c"]:
        """The voxels ``[X, Y, Z]``, or ``[X, Y, Z, C]`` of several channels; memory may be shared."""
        voxels = self.values()[0].detach().cpu()
        if voxels.dtype in (torch.float16, torch.bfloat16):  # which few libraries and formats have
            voxels = voxels.float()
        return (voxels[0] if len(voxels) == 1 else voxels.movedim(0, -1)).numpy()

    def to_nibabel(self) -> "nibabel.Nifti1Image":
        """The image as nibabel's, with its affine (RAS+ mm) as sform and qform."""
        from patchmorph.io.conversion import to_nibabel

        return to_nibabel(self)

    def to_simpleitk(self) -> Any:
        """The image as a ``SimpleITK.Image``, in the same place: SimpleITK's world is LPS+ mm."""
        from patchmorph.io.conversion import to_simpleitk

        return to_simpleitk(self)

    def __repr__(self) -> str:
        low, high = self._range()
        dtype = str(self.dtype).removeprefix("torch.")
        values = f"{dtype}, {low:.6g} to {high:.6g}"
        return f"{type(self).__name__}({self.name!r}, {self.grid.description}, {values})"

    def _repr_png_(self) -> bytes:
        grids = plane_grids(box_around(self.grid), device=self.grid.device)
        return png(side_by_side([stretched(sampled_planes(self, grids))]))

    def _range(self) -> tuple[float, float]:
        low, high = self.values().aminmax()
        return float(low), float(high)
