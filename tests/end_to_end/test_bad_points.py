"""Point files that are none, or not what they state: refused in one line, whoever's library reads them."""

import base64
import json
import struct
import zlib

import nibabel
import numpy as np
import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.points import map_points
from patchmorph.transforms.base import AffineTransform

PLY = """ply
format {form} 1.0
element vertex {vertices}
property float x
property float y
property float z
element face {faces}
property list uchar int vertex_indices
end_header
"""
TRIANGLE = "0 0 0\n1 0 0\n0 1 0\n"


def ply(vertices: object = 3, faces: object = 1, form: str = "ascii", body: str | bytes = "") -> bytes:
    body = body or f"{TRIANGLE}3 0 1 2\n"
    head = PLY.format(form=form, vertices=vertices, faces=faces)
    return head.encode() + (body.encode() if isinstance(body, str) else body)


def vtk(points: object = 3, rest: str = "", binary: bool = False) -> bytes:
    form = "BINARY" if binary else "ASCII"
    head = f"# vtk DataFile Version 3.0\nx\n{form}\nDATASET POLYDATA\nPOINTS {points} float\n"
    return head.encode() + (bytes(36) if binary else b"0 0 0 1 0 0 0 1 0\n") + rest.encode()


def vtp(array: str, count: object = 1, more: str = "", compressor: str = "") -> bytes:
    kind = f'type="PolyData" header_type="UInt64" compressor="{compressor}"'
    piece = f'<Piece NumberOfPoints="{count}"><Points><DataArray type="Float32" {array}</DataArray></Points>'
    return f"<VTKFile {kind}><PolyData>{piece}</Piece></PolyData>{more}</VTKFile>".encode()


def packed(*sizes: int) -> str:
    return base64.b64encode(struct.pack(f"<{len(sizes)}Q", *sizes)).decode()


def gifti(old: str = "", new: str = "") -> bytes:
    """A surface with some of its text changed."""
    arrays = (
        (np.zeros((3, 3), np.float32), "NIFTI_INTENT_POINTSET"),
        (np.array([[0, 1, 2]], np.int32), "NIFTI_INTENT_TRIANGLE"),
    )
    image = nibabel.gifti.GiftiImage(
        darrays=[nibabel.gifti.GiftiDataArray(values, intent=intent) for values, intent in arrays]
    )
    text = image.to_bytes().decode()
    assert old in text
    return text.replace(old, new).encode()


def surface(vertices: int, faces: int, body: bytes = bytes(12)) -> bytes:
    return b"\xff\xff\xfex\n\n" + struct.pack(">2i", vertices, faces) + body


def markups(position: str = "[1, 2, 3]", **more: object) -> str:
    point = {"position": "HERE", **more}
    text = json.dumps({"markups": [{"type": "Fiducial", "controlPoints": [point]}]})
    return text.replace('"HERE"', position)


ASCII = 'NumberOfComponents="3" format="ascii">0 0 0'
BOMB = zlib.compress(bytes(10**7))
BOMB_TEXT = base64.b64encode(BOMB).decode()
ZLIB = "vtkZLibDataCompressor"
RGB = base64.b64encode(zlib.compress(np.zeros((3, 3), np.float32).tobytes())).decode()
CASES = {
    "count.ply": (ply(10**12), "must be a whole .ply file"),
    "negative.ply": (ply(-3), "count must be a whole number, got '-3'"),
    "digits.ply": (ply("9" * 5000), "must be a whole .ply file"),
    "faces.ply": (ply(faces=10**12), "must be a whole .ply file"),
    "corner.ply": (ply(body=f"{TRIANGLE}3 0 1 7\n"), "its cells must use points 0 to 2, got 7"),
    "corner_negative.ply": (ply(body=f"{TRIANGLE}3 0 1 -1\n"), "its cells must use points 0 to 2, got -1"),
    "list.ply": (ply(body=f"{TRIANGLE}99999999999 0 1 2\n"), "must be a whole .ply file"),
    "binary.ply": (ply(10**12, form="binary_little_endian", body=bytes(50)), "do not fit in it"),
    "binary_faces.ply": (ply(3, 10**15, "binary_little_endian", bytes(60)), "do not fit in it"),
    "binary_list.ply": (ply(3, 2, "binary_little_endian", bytes(36) + b"\xff" * 20), "does not fit in it"),
    "text.ply": (ply(body="a b c\n" * 3 + "3 0 1 2\n"), "must be a whole .ply file"),
    "blank.ply": (ply().replace(b"float z", b"float\xa0z"), "its head has the line"),
    "count.vtk": (vtk(10**13), "do not fit in it"),
    "negative.vtk": (vtk(-1), "count must be a whole number, got '-1'"),
    "binary.vtk": (vtk(10**13, binary=True), "do not fit in it"),
    "corner.vtk": (vtk(rest="POLYGONS 1 4\n3 0 1 9\n"), "its cells must use points 0 to 2, got 9"),
    "cells.vtk": (vtk(rest="POLYGONS 1000000000 4\n3 0 1 2\n"), "must be a whole .vtk file"),
    "fields.vtk": (vtk(rest="\nFIELD f 99999999999\n", binary=True), "must be a whole .vtk file"),
    "count.vtp": (vtp(f"{ASCII}", 10**15), "a piece must have"),
    "size.vtp": (vtp(f'format="binary">{packed(2**60)}'), "does not fit in it"),
    "offset.vtp": (vtp('format="appended" offset="99999999999">'), "must be a whole .vtp file"),
    "bomb.vtp": (
        vtp(f'format="binary">{packed(1, 10**7, 0, len(BOMB))}{BOMB_TEXT}', 833333, compressor=ZLIB),
        "announces 10000000 bytes in",
    ),
    "blocks.vtp": (vtp(f'format="binary">{packed(2**40, 2**40, 0)}', compressor=ZLIB), "do not fit in it"),
    "entity.vtp": (b'<!DOCTYPE a [<!ENTITY b "c">]><VTKFile type="PolyData"/>', "it has a document type"),
    "deep.vtp": (b"<a>" * 10**5, "nested 50 deep at most"),
    "dimension.gii": (gifti('Dim0="3"', 'Dim0="-3"'), "an array has the shape [-3, 3]"),
    "sizes.gii": (gifti('Dim0="3"', 'Dim0="1000000000000"'), "has another number of values"),
    "axes.gii": (gifti('Dimensionality="2"', 'Dimensionality="99"'), "an array has 99 dimensions"),
    "axes_many.gii": (gifti('Dimensionality="2"', f'Dimensionality="{10**99}"'), "an array has 1000"),
    "no_data.gii": (
        b'<GIFTI><DataArray Intent="NIFTI_INTENT_POINTSET" DataType="NIFTI_TYPE_FLOAT32"/></GIFTI>',
        "must have points, got none",
    ),
    "columns.gii": (gifti('Dim1="3"', 'Dim1="2"'), "has another number of values"),
    "type.gii": (gifti("NIFTI_TYPE_FLOAT32", "NIFTI_TYPE_EVIL"), "must be a GIFTI file"),
    "encoding.gii": (gifti("GZipBase64Binary", "Evil"), "must be a GIFTI file"),
    "order.gii": (gifti('Endian="LittleEndian"', 'Endian="Middle"'), "must be a GIFTI file"),
    "text.gii": (gifti('encoding="UTF-8"', 'encoding="UTF-7"'), "must be a GIFTI file"),
    "no_text.gii": (gifti('encoding="UTF-8"', 'encoding="UT-F8"'), "must be a GIFTI file"),
    "count.gii": (gifti('NumberOfDataArrays="2"', 'NumberOfDataArrays="999999"'), "must be a GIFTI file"),
    "intent.gii": (gifti("NIFTI_INTENT_POINTSET", "NIFTI_INTENT_NONE"), "must have points, got none"),
    "bomb.gii": (gifti(RGB, BOMB_TEXT), "has another number of values"),
    "external.gii": (
        b'<!DOCTYPE G [<!ENTITY a SYSTEM "file:///etc/passwd">]><GIFTI>&a;</GIFTI>',
        "must be a GIFTI file",
    ),
    "lh.negative": (surface(-1, 0), "it has -1 vertices"),
    "lh.faces": (surface(1, -1), "it has 1 vertices and -1 faces"),
    "lh.huge": (surface(10**9, 10**9), "must be whole"),
    "lh.none": (surface(0, 0), "must have points, got none"),
    "lh.corner": (surface(1, 1, bytes(12) + struct.pack(">3i", 5, 6, 7)), "must use points 0 to 0, got 7"),
    "lh.nan": (surface(1, 0, struct.pack(">3f", np.nan, 0, 0)), "must be finite, got 1 that are not"),
    "deep.json": ("[" * 10**5, "points must be JSON"),
    "digits.json": (markups(f"[{'9' * 5000}, 2, 3]"), "points must be JSON"),
    "nan.json": (markups("[NaN, 2, 3]"), "position"),
    "axes.json": (markups(orientation="a"), "orientation"),
    "utf16.json": (b"\xff\xfe\x00", "must be text in UTF-8"),
    "infinite.csv": ("x,y,z\n1,2,1e999\n", "z must be a number, got '1e999' in line 2 of"),
    "quotes.csv": ('x,y,z\n"1,2,3\n', "must be CSV"),
    "bytes.csv": (b"x,y,z\n\xff\xff\n", "must be text in UTF-8"),
    "cell.csv": ("x,y,z\n" + "a" * 200_000 + ",1,2\n", "must be CSV"),
    "nul.csv": ("x,y,z\n1\0,2,3\n", "x must be a number"),
    "twice.csv": ("x,x,y,z\n1,1,1,1\n", "columns must have different names"),
    "space.fcsv": ("# CoordinateSystem = XYZ\na,2,3,4\n", "fiducials must be RAS or LPS"),
    "newline.fcsv": ("a,1,2\r,3\n", "points must be CSV"),
    "short.fcsv": ("1,2\n", "must have three coordinates, got 2 cells"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_points(refused, tmp_path, name):
    data, message = CASES[name]
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    output = f"out.{name.partition('.')[2]}" if name[:3] != "lh." else "out.surface"
    frame = ("--frame", "ras") if name[:3] == "lh." else ()
    refused(message, "apply-points", "shift.tfm", name, "-o", output, *frame)


def test_messages_are_one_line_in_python_too(tmp_path):
    (tmp_path / "x.csv").write_text('x,"y\n\033",z\n1,2,3\n')
    with pytest.raises(PatchMorphError) as error:
        map_points(tmp_path / "x.csv", tmp_path / "y.csv", AffineTransform.identity())
    assert "got x,y ?,z in" in str(error.value)


def test_a_surface_that_ends_within_its_tags_has_no_geometry(refused, tmp_path):
    (tmp_path / "lh.white").write_bytes(surface(1, 0, bytes(12 + 3)))
    refused("must have the geometry of its volume", "apply-points", "shift.tfm", "lh.white", "-o", "lh.out")


@pytest.mark.parametrize("lengths", [[0, 3], [3, 4, 2]], ids=["empty", "mixed"])
def test_lists_of_many_lengths_are_read_in_time(run, tmp_path, lengths):
    """One row after another: a mesh of triangles and quadrangles has no two neighbours alike."""
    rows = [struct.pack(f"<B{n}i", n, *range(n)) for n in lengths]
    count = 20_000 // len(lengths)
    body = np.zeros((4, 3), "<f4").tobytes() + b"".join(rows) * count
    data = ply(4, count * len(lengths), "binary_little_endian", body)
    (tmp_path / "x.ply").write_bytes(data)
    (tmp_path / "shift.tfm").write_text(
        "Transform: TranslationTransform_double_3_3\nParameters: 1 2 3\nFixedParameters:\n"
    )
    assert run("apply-points", tmp_path / "shift.tfm", tmp_path / "x.ply", "-o", tmp_path / "y.ply")[0] == 0
    written = (tmp_path / "y.ply").read_bytes()
    assert written.endswith(b"".join(rows) * count)
