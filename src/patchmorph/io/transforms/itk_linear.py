"""ITK's linear transforms: from their parameters to matrices (LPS+ mm).

Each maps x to M (x − c) + c + t, with the centre c among the fixed parameters (ITK Software Guide, "Geometric
Transformations"; Doxygen pages of the classes). Versors are unit quaternions without their scalar part.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from patchmorph.errors import PatchMorphError

Parts = tuple[np.ndarray, np.ndarray]
"""Matrix ``[3, 3]`` and translation ``[3]``."""


class Linear(NamedTuple):
    """One of ITK's classes.

    Attributes:
        size: number of its parameters.
        parts: of its parameters and fixed parameters.
        centred: whether fixed parameters begin with a centre.
    """

    size: int
    parts: Callable[[np.ndarray, np.ndarray], Parts]
    centred: bool = True


def matrix_of(kind: str, parameters: np.ndarray, fixed: np.ndarray, path: object) -> np.ndarray:
    """The matrix ``[4, 4]`` (LPS+ mm) of a class in `LINEAR`; ``path`` names its file in messages.

    Raises:
        PatchMorphError: another number of parameters than the class has.
    """
    linear = LINEAR[kind]
    if len(parameters) != linear.size:
        got = f"{len(parameters)} in {path}"
        raise PatchMorphError(f"{kind} must have {linear.size} parameters, got {got}")
    if linear.centred and len(fixed) < 3:
        raise PatchMorphError(f"{kind} must have 3 fixed parameters, its centre, got {len(fixed)} in {path}")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear.parts(parameters, fixed)
    if linear.centred:
        matrix[:3, 3] += fixed[:3] - matrix[:3, :3] @ fixed[:3]
    return matrix


def _euler(parameters: np.ndarray, fixed: np.ndarray) -> Parts:
    """Angles about x, y and z in radians; y acts first, or x if the fourth fixed parameter is not zero."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(parameters[:3]), np.sin(parameters[:3])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    x_first = len(fixed) > 3 and fixed[3] != 0
    inner = about_y @ about_x if x_first else about_x @ about_y
    return about_z @ inner, parameters[3:6]


def _quaternion(x: float, y: float, z: float, w: float) -> np.ndarray:
    """The rotation of a quaternion with scalar part ``w``, as long as it is of length 1."""
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def _versor(parameters: np.ndarray) -> np.ndarray:
    """The rotation of a versor, the first three parameters; rounding may have left it longer than 1."""
    x, y, z = parameters[:3] / max(1.0, float(np.linalg.norm(parameters[:3])))
    return _quaternion(x, y, z, np.sqrt(max(0.0, 1 - x * x - y * y - z * z)))


def _scale_skew(parameters: np.ndarray, fixed: np.ndarray) -> Parts:
    """Scales and skews are added to the rotation; the skews fill the rows beside the diagonal."""
    skews = np.zeros((3, 3))
    skews[~np.eye(3, dtype=bool)] = parameters[9:15]
    return _versor(parameters) + np.diag(parameters[6:9] - 1) + skews, parameters[3:6]


def _composed(parameters: np.ndarray, fixed: np.ndarray) -> Parts:
    """Rotation, scales, and skews in the upper triangle; these act first."""
    skews = np.eye(3)
    skews[np.triu_indices(3, 1)] = parameters[9:12]
    return _versor(parameters) @ np.diag(parameters[6:9]) @ skews, parameters[3:6]


def _affine(parameters: np.ndarray, fixed: np.ndarray) -> Parts:
    return parameters[:9].reshape(3, 3), parameters[9:]


LINEAR = {
    "AffineTransform": Linear(12, _affine),
    "ComposeScaleSkewVersor3DTransform": Linear(12, _composed),
    "Euler3DTransform": Linear(6, _euler),
    "IdentityTransform": Linear(0, lambda p, fixed: (np.eye(3), np.zeros(3)), centred=False),
    "MatrixOffsetTransformBase": Linear(12, _affine),
    "QuaternionRigidTransform": Linear(7, lambda p, fixed: (_quaternion(*p[:4]), p[4:])),
    "ScaleLogarithmicTransform": Linear(3, lambda p, fixed: (np.diag(np.exp(p)), np.zeros(3))),
    "ScaleSkewVersor3DTransform": Linear(15, _scale_skew),
    "ScaleTransform": Linear(3, lambda p, fixed: (np.diag(p), np.zeros(3))),
    "ScaleVersor3DTransform": Linear(9, lambda p, fixed: (_versor(p) + np.diag(p[6:] - 1), p[3:6])),
    "Similarity3DTransform": Linear(7, lambda p, fixed: (_versor(p) * p[6], p[3:6])),
    "TranslationTransform": Linear(3, lambda p, fixed: (np.eye(3), p), centred=False),
    "VersorRigid3DTransform": Linear(6, lambda p, fixed: (_versor(p), p[3:])),
    "VersorTransform": Linear(3, lambda p, fixed: (_versor(p), np.zeros(3))),
}
