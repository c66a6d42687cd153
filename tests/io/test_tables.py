import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.tables import read_files, read_rows


def test_names_and_cells_are_stripped(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffname , x\n a, 1.5 \nb,\n", encoding="utf-8")
    rows = read_rows(tmp_path / "t.csv", "table", ("name", "x"))
    assert [row.cells for row in rows] == [{"name": "a", "x": "1.5"}, {"name": "b", "x": ""}]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(tmp_path, separator, encoding, newline):
    lines = ['"name";"x"', "é;1.5", "", '"b;c";""', " ", ""]
    text = newline.join(lines).replace(";", separator)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    rows = read_rows(tmp_path / "t.csv", "table", ("name",), ("x",))
    assert [row.cells for row in rows] == [{"name": "é", "x": "1.5"}, {"name": f"b{separator}c", "x": ""}]
    assert [row.where for row in rows] == [f"line {number} of {tmp_path / 't.csv'}" for number in (2, 4)]


def test_files_are_found_beside_the_table(tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "t.csv").write_text("image,labels\na.nii,\n")
    assert read_files(tmp_path / "t.csv", "table", ("image",), ("labels",)) == [{"image": tmp_path / "a.nii"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,colour\n", r"columns must be image\[,labels\], got image,colour"),
        ("labels\n", r"columns must be image\[,labels\], got labels"),
        ("image\n", "table must have rows, got none"),
        ("image\nb.nii\n", "image must be an existing file, got b.nii in line 2"),
        ("image,labels\n,\n", "image must be given, got nothing in line 2"),
        ("image,labels\na.nii\n", "rows must be as long as the head, got fewer in line 2"),
        ("image,labels\n\na.nii,,\n", "rows must be as long as the head, got more in line 3"),
        ("image,image\na.nii,\n", "columns must have different names, got image,image"),
        ('image,labels\n"a.nii,\n', "table must be CSV, got .*: unexpected end of data"),
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(PatchMorphError, match=message):
        read_files(tmp_path / "t.csv", "table", ("image",), ("labels",))
    with pytest.raises(PatchMorphError, match="table must be an existing file"):
        read_rows(tmp_path / "none.csv", "table", ())


@pytest.mark.parametrize("raw", [b"image\n\xff\xfe\xfa", b"\x89PNG\r\n\x1a\n", b"image\na\xe9.nii\n"])
def test_files_that_are_no_text_are_one_line(tmp_path, raw):
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(PatchMorphError, match="table must be text in UTF-8, got"):
        read_rows(tmp_path / "t.csv", "table", ("image",))


@pytest.mark.parametrize(("text", "value"), [("1.5", 1.5), ("-1e3", -1000.0), (" 7 ", 7.0)])
def test_numbers_are_read(tmp_path, text, value):
    (tmp_path / "t.csv").write_text(f"x\n{text}\n")
    assert read_rows(tmp_path / "t.csv", "table", ("x",))[0].number("x") == value


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "1_000", "1;5", "far", '""'])
def test_what_is_no_finite_number_is_named_with_its_line(tmp_path, text):
    (tmp_path / "t.csv").write_text(f"x,y\n1,2\n\n1,{text}\n")
    row = read_rows(tmp_path / "t.csv", "table", ("x",))[1]
    with pytest.raises(PatchMorphError, match=r"y must be a number, got '.*' in line 4 of .*t\.csv"):
        row.number("y")
