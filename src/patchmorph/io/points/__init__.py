"""Point files: tables, markups and surfaces, a module a format."""

from patchmorph.io.points.base import Frame
from patchmorph.io.points.formats import map_points

__all__ = ["Frame", "map_points"]
