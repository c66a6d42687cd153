"""PatchMorph: patchwise learned registration of 3D brain images."""

from patchmorph.api import load_model, register
from patchmorph.errors import PatchMorphError
from patchmorph.io.images import load_image, save_image
from patchmorph.registration.result import Registration
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.image import Image

__version__ = "0.1.0"

__all__ = [
    "Grid",
    "Image",
    "PatchMorphError",
    "Registration",
    "load_image",
    "load_model",
    "register",
    "save_image",
]
