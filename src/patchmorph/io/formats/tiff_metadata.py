"""Voxel sizes in the metadata of TIFF files: ImageJ's and OME's, where they are complete.

ImageJ writes the distance of slices and a unit into the description, and pixels per unit into the resolution
tags. OME-TIFF has an attribute for each axis, in micrometres unless it names another unit. Other resolution
tags are those of a print and state nothing of slices.
"""

from typing import Any
from xml.etree import ElementTree

from patchmorph.io.stated import unit_mm

Spacing = tuple[float, float, float]
"""Of columns, rows and slices, mm: the order of our array axes."""


def stated_spacing(file: Any) -> tuple[Spacing | None, str]:
    """Voxel sizes that an open `tifffile.TiffFile` states, or why it states none."""
    if file.is_ome:
        return _ome_spacing(file.ome_metadata)
    if file.is_imagej:
        return _imagej_spacing(file.imagej_metadata, file.pages[0].tags)
    return None, "the file has no metadata of ImageJ or OME"


def _imagej_spacing(metadata: dict[str, Any], tags: Any) -> tuple[Spacing | None, str]:
    unit, slices = metadata.get("unit"), metadata.get("spacing")
    mm = unit_mm(str(unit))
    resolutions = [_pixels_per_unit(tags, name) for name in ("XResolution", "YResolution")]
    if mm is None or slices is None or not all(resolutions):
        return None, f"ImageJ's metadata is incomplete (unit {unit}, spacing {slices})"
    x, y = (mm / resolution for resolution in resolutions)
    return _positive((x, y, mm * abs(float(slices))), "ImageJ's metadata")


def _pixels_per_unit(tags: Any, name: str) -> float:
    if name not in tags:
        return 0.0
    numerator, denominator = tags[name].value
    return numerator / denominator if denominator else 0.0


def _ome_spacing(xml: str) -> tuple[Spacing | None, str]:
    pixels = next((node for node in ElementTree.fromstring(xml).iter() if node.tag.endswith("}Pixels")), None)
    sizes = []
    for axis in "XYZ":
        attributes = {} if pixels is None else pixels.attrib
        size = attributes.get(f"PhysicalSize{axis}")
        mm = unit_mm(attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is None or mm is None:
            return None, f"OME's metadata has no PhysicalSize{axis} in a unit of length"
        sizes.append(mm * float(size))
    return _positive((sizes[0], sizes[1], sizes[2]), "OME's metadata")


def _positive(sizes: Spacing, whose: str) -> tuple[Spacing | None, str]:
    good = all(0 < size < float("inf") for size in sizes)
    return (sizes, "") if good else (None, f"{whose} holds sizes that are not above 0")
