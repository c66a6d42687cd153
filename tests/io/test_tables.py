import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.tables import read_files, read_rows


def test_names_and_cells_are_stripped(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffname , x\n a, 1.5 \nb,\n", encoding="utf-8")
    rows = read_rows(tmp_path / "t.csv", "table", ("name", "x"))
    assert rows == [{"name": "a", "x": "1.5"}, {"name": "b", "x": ""}]


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
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(PatchMorphError, match=message):
        read_files(tmp_path / "t.csv", "table", ("image",), ("labels",))
    with pytest.raises(PatchMorphError, match="table must be an existing file"):
        read_rows(tmp_path / "none.csv", "table", ())
