"""The table of pairs."""

import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import load_pairs


@pytest.fixture
def table(tmp_path):
    for name in ("a.nii", "b.nii", "c.nii"):
        (tmp_path / name).touch()

    def write(text):
        (tmp_path / "pairs.csv").write_text(text)
        return tmp_path / "pairs.csv"

    return write


def test_paths_are_relative_to_the_table(table, tmp_path):
    (pair,) = load_pairs(table("fixed, moving\na.nii,b.nii\n"))
    assert pair.fixed == tmp_path / "a.nii"
    assert pair.fixed_labels is None
    (pair,) = load_pairs(table("moving,fixed,fixed_labels,moving_labels\na.nii,b.nii,c.nii,c.nii\n"))
    assert pair.moving_labels == tmp_path / "c.nii"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixed\na.nii\n", "columns must be"),
        ("fixed,moving,extra\na.nii,b.nii,c\n", "columns must be"),
        ("fixed,moving\n", "must have rows"),
        ("fixed,moving\na.nii,\n", "moving must be given, got nothing in line 2"),
        ("fixed,moving\na.nii,z.nii\n", r"moving must be an existing file, got z\.nii in line 2"),
        ("fixed,moving,fixed_labels\na.nii,b.nii,c.nii\n", "both images or none, got one in line 2 of"),
        ("\nfixed,moving\n\na.nii,b.nii\n\n\na.nii,z.nii\n", "got z.nii in line 7 of"),
        ("fixed,moving,fixed_labels\n\n\na.nii,b.nii,c.nii\n", "both images or none, got one in line 4 of"),
    ],
)
def test_mistakes_in_a_table_are_named(table, text, message):
    with pytest.raises(PatchMorphError, match=message):
        load_pairs(table(text))
