from .api import load_model, register
from .applying import ants_transforms, apply, apply_points, to_simpleitk_transform
from .errors import PatchMorphError
from .images.volume import Image
from .io.grids import GridPair
from .io.images import load_image, save_image
from .io.stated import Stated
from .io.transforms.formats import load_transform, save_transform
from .registration.channels import Channel
from .registration.result import Registration
from .spatial.grid import Grid
from .transforms.jacobian import folding, jacobian_determinant
from .transforms.resample import resample

__version__: str

__all__ = [
    "Channel",
    "Grid",
    "GridPair",
    "Image",
    "PatchMorphError",
    "Registration",
    "Stated",
    "ants_transforms",
    "apply",
    "apply_points",
    "folding",
    "jacobian_determinant",
    "load_image",
    "load_model",
    "load_transform",
    "register",
    "resample",
    "save_image",
    "save_transform",
    "to_simpleitk_transform",
]
