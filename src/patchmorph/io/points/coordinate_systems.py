"""Coordinate systems of GIFTI point sets, and the volume geometry that FreeSurfer adds to them.

A point set states its data space, and matrices to other spaces. FreeSurfer stores surface RAS with the
geometry of the volume (see `freesurfer`), since version 7.4 also the matrix to scanner RAS; what
``mris_convert --to-scanner`` writes has the data space scanner, although it keeps the geometry. Format: GIFTI
1.0; for FreeSurfer's part its ``gifti.cpp``.
"""

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from jaxtyping import Float

from patchmorph.errors import PatchMorphError
from patchmorph.io.points.base import RAS, Frame, apply_matrix
from patchmorph.io.points.freesurfer import LIA, NEUTRAL, surface_to_scanner

SCANNER, UNKNOWN = "NIFTI_XFORM_SCANNER_ANAT", "NIFTI_XFORM_UNKNOWN"
SYSTEM = "CoordinateSystemTransformMatrix"
GEOMETRY = {
    f"VolGeom{vector[0].upper()}_{axis}": f"{value:.6f}"
    for vector, values in NEUTRAL.items()
    for axis, value in zip("RAS", values, strict=True)
}
"""FreeSurfer's keys of direction cosines and centre, with the values for which surface RAS is scanner RAS."""
VOLUME = "VolGeomFname"
MAX_DISAGREEMENT_MM = 0.1
"""Largest distance over a head between two statements of one frame, which are text with six decimals."""
HEAD = np.array([[x, y, z] for x in (-100.0, 100) for y in (-100.0, 100) for z in (-100.0, 100)])


def stated_frame(element: Element, path: Path) -> Frame:
    """The frame of a point set.

    Scanner RAS if that is the data space; else surface RAS of the volume geometry; else that of the matrix to
    scanner RAS; else RAS by convention.

    Raises:
        PatchMorphError: an impossible geometry or matrix, or two that contradict each other.
    """
    systems = element.findall(SYSTEM)
    spaces = [text_of(system, "DataSpace") for system in systems]
    if SCANNER in spaces:
        return RAS.because("by its data space, scanner")
    matrices = [_matrix(system, path) for system in systems if text_of(system, "TransformedSpace") == SCANNER]
    if has_geometry(element):
        geometry = _geometry(_metadata(element), path)
        if any(distance_mm(matrix, geometry) > MAX_DISAGREEMENT_MM for matrix in matrices):
            raise PatchMorphError(
                f"VolGeom and the matrix to scanner RAS must agree (else --frame), got two maps in {path}"
            )
        return Frame(geometry, "FreeSurfer's surface RAS", reason="by its VolGeom")
    if matrices:
        return Frame(matrices[0], "its own", reason="by its matrix to scanner RAS")
    stated = next((space for space in spaces if space not in ("", UNKNOWN)), None)
    return RAS.because(f"by its data space, {stated}" if stated else "by convention; --frame changes it")


def states(element: Element, frame: Frame, path: Path) -> bool:
    """Whether a point set states ``frame``."""
    try:
        return distance_mm(stated_frame(element, path).to_world, frame.to_world) < MAX_DISAGREEMENT_MM
    except PatchMorphError:
        return False


def restate(element: Element, source: Frame, target: Frame, path: Path) -> None:
    """Replace the statements of a point set, true in ``source``, by ones that are true in ``target``.

    A geometry becomes one that changes nothing if points are in scanner RAS, else it is removed. Matrices to
    other spaces than scanner RAS lead from a place in the world to where they led before.

    Raises:
        PatchMorphError: a matrix that is none.
    """
    is_scanner = distance_mm(target.to_world, np.eye(4)) < MAX_DISAGREEMENT_MM
    space = SCANNER if is_scanner else UNKNOWN
    restated = {SCANNER, UNKNOWN} if has_geometry(element) else {SCANNER}
    _restate_geometry(element, is_scanner)
    change = np.linalg.inv(source.to_world) @ target.to_world
    systems = [_system(space, SCANNER, target.to_world)]
    for system in element.findall(SYSTEM):
        to = text_of(system, "TransformedSpace")
        if to not in restated:
            systems.append(_system(space, to, _matrix(system, path) @ change))
        element.remove(system)
    place = [child.tag for child in element].index("Data")
    element[place:place] = systems


def distance_mm(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"]) -> float:
    """Largest distance between two affine maps of a head's corners, along an axis."""
    return float(np.abs(apply_matrix(one, HEAD) - apply_matrix(other, HEAD)).max())


def text_of(element: Element, tag: str) -> str:
    """The text of a child; empty if there is none."""
    return (element.findtext(tag) or "").strip()


def has_geometry(element: Element) -> bool:
    """Whether FreeSurfer's directions or centre are among the metadata of a point set."""
    return not GEOMETRY.keys().isdisjoint(_metadata(element))


def _metadata(element: Element) -> dict[str, str]:
    return {text_of(item, "Name"): text_of(item, "Value") for item in element.iter("MD")}


def _geometry(metadata: dict[str, str], path: Path) -> Float[np.ndarray, "4 4"]:
    """Surface to scanner RAS of a volume geometry; without directions, those of LIA."""
    keys = list(GEOMETRY)
    directions = keys[:9] if metadata.keys() & set(keys[:9]) else []
    try:
        axes = [float(metadata[key]) for key in directions] or LIA.T.tolist()
        center = [float(metadata[key]) for key in keys[9:]]
    except (KeyError, ValueError) as error:
        raise PatchMorphError(f"VolGeom must be twelve numbers, got {error} in {path}") from None
    return surface_to_scanner(np.reshape(axes, (3, 3)).T, np.array(center), path)


def _restate_geometry(element: Element, keep: bool) -> None:
    values = {**GEOMETRY, VOLUME: "unknown"}
    for parent in element.iter("MetaData"):
        for item in parent.findall("MD"):
            name, value = text_of(item, "Name"), item.find("Value")
            if name.startswith("VolGeom") and not keep:
                parent.remove(item)
            elif name in values and value is not None:
                value.text = values[name]


def _matrix(system: Element, path: Path) -> Float[np.ndarray, "4 4"]:
    try:
        matrix = np.array(text_of(system, "MatrixData").split(), dtype=float).reshape(4, 4)
    except ValueError as error:
        raise PatchMorphError(
            f"coordinate system must have a matrix of 4 by 4, got {error} in {path}"
        ) from None
    if not np.isfinite(matrix).all() or not np.linalg.det(matrix) or (matrix[3] != [0, 0, 0, 1]).any():
        raise PatchMorphError(
            f"coordinate system must be affine and invertible, got {matrix.tolist()} in {path}"
        )
    return matrix


def _system(space: str, to: str, matrix: Float[np.ndarray, "4 4"]) -> Element:
    system = Element(SYSTEM)
    rows = "\n".join(" ".join(f"{value:.10g}" for value in row) for row in matrix)
    for tag, text in (("DataSpace", space), ("TransformedSpace", to), ("MatrixData", rows)):
        SubElement(system, tag).text = text
    return system
