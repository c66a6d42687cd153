"""Cells of cellfinder: XML and tables, mapped and read."""

import numpy as np
import pytest
import torch
from synthetic import grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.points import Frame, map_points
from patchmorph.io.points.formats import read_points
from patchmorph.transforms.base import AffineTransform

XML = """<?xml version="1.0" encoding="UTF-8"?>
<CellCounter_Marker_File>
  <Image_Properties><Image_Filename>placeholder.tif</Image_Filename></Image_Properties>
  <Marker_Data>
    <Current_Type>1</Current_Type>
    <Marker_Type><Type>1</Type>
      <Marker><MarkerX>5</MarkerX><MarkerY>6</MarkerY><MarkerZ>7</MarkerZ></Marker>
    </Marker_Type>
    <Marker_Type><Type>{kind}</Type>
      <Marker><MarkerX>1</MarkerX><MarkerY>2</MarkerY><MarkerZ>3</MarkerZ></Marker>
      <Marker><MarkerX>{x}</MarkerX><MarkerY>3</MarkerY><MarkerZ>4</MarkerZ></Marker>
    </Marker_Type>
  </Marker_Data>
</CellCounter_Marker_File>
"""


@pytest.fixture
def frame(tmp_path) -> Frame:
    grid = grid_around((20, 20, 20), np.diag([-2.0, 2.0, 2.0]))
    save_image(Image(torch.zeros(1, 1, 20, 20, 20), grid), tmp_path / "scan.nii.gz")
    return Frame.named(str(tmp_path / "scan.nii.gz"))


def test_markers_are_voxels_and_cells_have_type_two(tmp_path):
    (tmp_path / "cells.xml").write_text(XML.format(kind=2, x=2))
    file = read_points(tmp_path / "cells.xml")
    assert file.points.tolist() == [[5, 6, 7], [1, 2, 3], [2, 3, 4]]
    assert file.is_cell is not None
    assert file.is_cell.tolist() == [False, True, True]
    with pytest.raises(PatchMorphError, match="--frame must name the image that the markers were found in"):
        file.frame()


def test_types_of_another_tool_are_all_cells(tmp_path):
    (tmp_path / "cells.xml").write_text(XML.format(kind=3, x=2))
    assert read_points(tmp_path / "cells.xml").is_cell is None


def test_mapped_markers_are_whole_voxels_and_all_else_stays(tmp_path, frame):
    (tmp_path / "cells.xml").write_text(XML.format(kind=2, x=2))
    shift = AffineTransform.translation(torch.tensor([[-4.0, 2, 0]]))  # two voxels and one
    map_points(tmp_path / "cells.xml", tmp_path / "out.xml", shift, frame)
    assert read_points(tmp_path / "out.xml").points.tolist() == [[7, 7, 7], [3, 3, 3], [4, 4, 4]]
    text = (tmp_path / "out.xml").read_text()
    assert text.replace("7</MarkerX>", "5</MarkerX>") != text
    assert "placeholder.tif" in text
    with pytest.raises(PatchMorphError, match="markers must be voxels of an image"):
        map_points(tmp_path / "cells.xml", tmp_path / "out.xml", shift, frame, Frame.named("ras"))


def test_tables_of_cellfinder_name_slices_first(tmp_path):
    raw = [f"coordinate_raw_axis_{axis}" for axis in range(3)]
    text = ",".join([*raw, "structure_name"]) + "\n3,2,1,Area\n"
    (tmp_path / "all_points.csv").write_text(text)
    file = read_points(tmp_path / "all_points.csv")
    assert file.points.tolist() == [[1, 2, 3]]
    with pytest.raises(PatchMorphError, match="--frame must name the image that the cells were found in"):
        file.frame()


def test_a_column_of_types_tells_cells(tmp_path):
    (tmp_path / "cells.csv").write_text("x,y,z,type\n1,2,3,1\n4,5,6,2\n")
    file = read_points(tmp_path / "cells.csv")
    assert file.is_cell is not None
    assert file.is_cell.tolist() == [False, True]
    (tmp_path / "cells.csv").write_text("x,y,z,type\n1,2,3,neuron\n4,5,6,2\n")
    assert read_points(tmp_path / "cells.csv").is_cell is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<a/>", "its outermost element must be CellCounter_Marker_File, got a"),
        ("no XML", "points must be markers of cellfinder or Cell Counter"),
        (XML.format(kind=2, x="nan"), "MarkerX of a marker must be a number, got 'nan'"),
        (XML.format(kind="two", x=2), "Type of a marker must be a number, got 'two'"),
        (XML.format(kind=2, x=2).replace("<MarkerZ>4</MarkerZ>", ""), "a marker must have MarkerX"),
        ("<CellCounter_Marker_File></CellCounter_Marker_File>", "points must have markers, got none"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it has a document type"),
    ],
)
def test_what_is_no_file_of_markers_is_one_line(tmp_path, text, message):
    (tmp_path / "cells.xml").write_text(text)
    with pytest.raises(PatchMorphError, match=message) as caught:
        read_points(tmp_path / "cells.xml")
    assert "\n" not in str(caught.value)
