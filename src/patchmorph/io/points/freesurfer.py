"""Surface coordinates of FreeSurfer, and its binary surfaces (``lh.white``).

Surfaces are in surface RAS ("tkr"): RAS+ mm of the volume if its axes pointed left, inferior and anterior and
its middle were the origin. With the volume's direction cosines in the columns of M, those of LIA in L and its
centre c (scanner RAS), ``scanner = M Lᵀ surface + c``: ``vox2ras @ inv(vox2ras_tkr)`` of FreeSurfer, in which
sizes cancel. Binary layout: FreeSurfer's ``mrisurf``, as nibabel reads it.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from patchmorph.errors import PatchMorphError
from patchmorph.io.points.base import RAS, Frame, PointFile
from patchmorph.io.points.surfaces import BrokenSurfaceError, check_corners

TRIANGLES, QUADRANGLES = b"\xff\xff\xfe", (b"\xff\xff\xff", b"\xff\xff\xfd")
"""First three bytes of a surface."""
LIA = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
REAL_RAS = struct.pack(">2i", 2, 1)
"""The tag of surfaces in scanner RAS, and its value."""
NEUTRAL = {"xras": LIA[:, 0], "yras": LIA[:, 1], "zras": LIA[:, 2], "cras": np.zeros(3)}
"""Geometry of a volume whose surface RAS is scanner RAS."""
GEOMETRY = re.compile(rb"(valid|filename|[xyzc]ras)(\s*=\s*)([^\n]*)")


def surface_to_scanner(
    axes: Float[np.ndarray, "3 3"], center: Float[np.ndarray, " 3"], path: Path
) -> Float[np.ndarray, "4 4"]:
    """Surface RAS to scanner RAS of a volume with these direction cosines (columns) and centre.

    Raises:
        PatchMorphError: the directions are not orthogonal unit vectors, or the centre is not finite.
    """
    if not np.isfinite(center).all() or not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        got = f"{axes.T.round(4).tolist()} and {center.tolist()} in {path}"
        raise PatchMorphError(f"volume geometry must be orthogonal directions and a centre, got {got}")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes @ LIA.T, center
    return matrix


def is_surface(path: Path) -> bool:
    """Whether a file begins as a binary surface of FreeSurfer."""
    with path.open("rb") as file:
        return file.read(3) in (TRIANGLES, *QUADRANGLES)


def read_surface(path: Path) -> PointFile:
    """The vertices of a binary surface; mapped ones are stored in scanner RAS, with a geometry that states
    so.

    Raises:
        PatchMorphError: a surface of quadrangles, a truncated or empty one, or an impossible volume geometry.
    """
    raw = path.read_bytes()
    if not raw.startswith(TRIANGLES):
        raise PatchMorphError(f"surface must be of triangles (mris_convert writes such a one), got {path}")
    try:
        start = raw.index(b"\n", raw.index(b"\n") + 1) + 9  # two lines of text, and two counts
        vertices, faces = np.frombuffer(raw, ">i4", 2, start - 8).tolist()
        if min(vertices, faces) < 0:
            raise BrokenSurfaceError(f"it has {vertices} vertices and {faces} faces")
        points = np.frombuffer(raw, ">f4", 3 * vertices, start).reshape(-1, 3).astype(float)
        check_corners(np.frombuffer(raw, ">i4", 3 * faces, start + 12 * vertices), vertices)
    except ValueError as error:
        raise PatchMorphError(f"surface must be whole, got {path}: {error}") from None
    if not vertices:
        raise PatchMorphError(f"surface must have points, got none in {path}")
    surface = _Surface(path, raw, start, start + 12 * (vertices + faces))
    return PointFile(points, surface.frame, surface.save, RAS, is_surface=True)


@dataclass(frozen=True)
class _Surface:
    """A file's bytes: vertices from ``start``, then faces, and from ``tail`` on tags and the volume
    geometry."""

    path: Path
    raw: bytes
    start: int
    tail: int

    def frame(self) -> Frame:
        tags = self.raw[self.tail :]
        if tags.startswith(REAL_RAS):
            return RAS.because("by its tag of scanner coordinates")
        found = {name: value.partition(b"#")[0].split() for name, _, value in GEOMETRY.findall(tags)}
        try:
            vectors = [np.array(found[name.encode()], dtype=float).reshape(3) for name in NEUTRAL]
        except (KeyError, ValueError):
            vectors = []
        if not vectors or found.get(b"valid") != [b"1"]:
            raise PatchMorphError(
                f"surface must have the geometry of its volume (else --frame), got none in {self.path}"
            )
        matrix = surface_to_scanner(np.stack(vectors[:3], axis=1), vectors[3], self.path)
        return Frame(matrix, "FreeSurfer's surface RAS", reason="by its volume geometry")

    def save(self, path: Path, points: Float[np.ndarray, "n 3"], source: Frame, target: Frame) -> None:
        if target.space != "RAS":
            raise PatchMorphError(
                f"points in {path.name} must be ras (--output-frame ras), got {target.name}"
            )
        faces = self.raw[self.start + 12 * len(points) : self.tail]
        tags = GEOMETRY.sub(_neutral, self.raw[self.tail :])
        path.write_bytes(self.raw[: self.start] + points.astype(">f4").tobytes() + faces + tags)


def _neutral(line: re.Match[bytes]) -> bytes:
    """A line of a volume geometry that no longer turns or shifts points, nor names a volume."""
    name = line[1].decode()
    if name == "filename":
        return line[1] + line[2] + b"unknown"
    if name not in NEUTRAL:
        return line[0]
    return line[1] + line[2] + " ".join(f"{value:.15e}" for value in NEUTRAL[name]).encode()
