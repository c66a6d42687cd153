"""PatchMorph: patchwise learned registration of 3D brain images."""

from patchmorph.api import load_model, register
from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.grids import GridPair
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.registration.result import Registration
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.jacobian import folding, jacobian_determinant
from patchmorph.transforms.resample import resample
from patchmorph.version import VERSION

__version__ = VERSION

__all__ = [
    "Grid",
    "GridPair",
    "Image",
    "PatchMorphError",
    "Registration",
    "folding",
    "jacobian_determinant",
    "load_image",
    "load_model",
    "load_transform",
    "register",
    "resample",
    "save_image",
    "save_transform",
]
