"""The table of pairs."""

import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import by_each_tool, load_evaluated_pairs, load_pairs


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


MAPS = "fixed,moving,transform,tool,seconds\n"


def test_maps_have_tools_and_seconds_and_other_pairs_one_row_a_model(table):
    rows = "a.nii,b.nii,c.nii,ANTs SyN,12.5\na.nii,b.nii,c.nii,,\na.nii,b.nii,,,\n"
    pairs = load_evaluated_pairs(table(MAPS + rows))
    found = [(pair.tool, pair.seconds) for pair in by_each_tool(pairs, ["one", "two"])]
    assert [tool for tool, _ in found] == ["ANTs SyN", "elsewhere", "one", "two"]
    assert found[0][1] == 12.5
    assert [seconds for _, seconds in found[1:]] == [None] * 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.nii,b.nii,,ants,", "tool and seconds must come with transform, got none in line 2"),
        ("a.nii,b.nii,,,3", "tool and seconds must come with transform, got none in line 2"),
        ("a.nii,b.nii,c.nii,../ants,", r"tool must be letters, .*, got '\.\./ants' in line 2"),
        ("a.nii,b.nii,c.nii,ants,long", "seconds must be a number, got 'long' in line 2"),
        (
            "a.nii,b.nii,c.nii,,\na.nii,b.nii,a.nii,,",
            "different tools .*, got elsewhere twice, again in",
        ),
    ],
    ids=["no map", "no map, seconds", "path", "text", "twice"],
)
def test_mistakes_in_the_columns_of_maps_are_named(table, row, message):
    with pytest.raises(PatchMorphError, match=message):
        load_evaluated_pairs(table(f"{MAPS}{row}\n"))


def test_a_tool_has_another_name_than_the_models(table):
    pairs = load_evaluated_pairs(table(f"{MAPS}a.nii,b.nii,c.nii,one,\na.nii,b.nii,,,\n"))
    with pytest.raises(PatchMorphError, match="tool must have another name than the models, got one"):
        by_each_tool(pairs, ["one", "two"])


def test_a_table_of_pairs_that_are_registered_has_no_maps(table):
    with pytest.raises(PatchMorphError, match="columns must be"):
        load_pairs(table(f"{MAPS}a.nii,b.nii,c.nii,ants,\n"))
