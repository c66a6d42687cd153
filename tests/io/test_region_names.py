"""Names of regions from the tables of several tools."""

import json

import pytest

from patchmorph.errors import PatchMorphError
from patchmorph.io.region_names import RegionName, read_region_names

WITH_ACRONYM = {7: RegionName("Left, the", "LFT"), 997: RegionName("root", "root")}
STRUCTURES = [{"id": label, "name": one.name, "acronym": one.acronym} for label, one in WITH_ACRONYM.items()]
FREESURFER = """# comments are left out
#No. Label Name:                            R   G   B   A

0   Unknown                                 0   0   0   0
17  Left-Hippocampus                        220 216 20  0
"""
ITK_SNAP = """################################################
# ITK-SnAP Label Description File
    0     0    0    0        0  0  0    "Clear Label"
   17   220  216   20        1  1  1    "Left Hippocampus"
"""
HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("structures.csv", 'acronym,id,name\nLFT,7,"Left, the"\nroot,997,root\n', None),
        ("terminology.csv", 'identifier,name,abbreviation\n7,"Left, the",LFT\n997,root,root\n', None),
        ("dseg.tsv", "index\tname\tabbreviation\n7\tLeft, the\tLFT\n997\troot\troot\n", None),
        ("structures.json", json.dumps(STRUCTURES), None),
        ("LUT.txt", FREESURFER, {0: RegionName("Unknown"), 17: RegionName("Left-Hippocampus")}),
        ("labels.label", ITK_SNAP, {0: RegionName("Clear Label"), 17: RegionName("Left Hippocampus")}),
    ],
)
def test_a_table_gives_names_by_id(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_region_names(tmp_path / name) == (expected or WITH_ACRONYM)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,title\n1,x\n", r"columns must be name, got id,title in .*a\.csv"),
        ("a.csv", "id,name\n1.5,x\n", r"id of a region must be a whole number, got '1\.5' in line 2 of"),
        ("a.csv", f"id,name\n{HUGE},x\n", "id of a region must be a whole number, got '999"),
        ("a.json", f'[{{"id": "{HUGE}", "name": "x"}}]', "id of a region must be a whole number, got '999"),
        ("a.txt", f"{HUGE} x 1 2 3 0\n", "id of a region must be a whole number, got '999"),
        ("a.csv", "name\nx\n", "id of a region must be a whole number, got ''"),
        ("a.csv", "id,name\n1,x\n1,y\n", "names of regions must be one for each id, got two for 1"),
        ("a.json", "{", r"names of regions must be JSON, got .*a\.json"),
        ("a.json", '{"id": 1}', "names of regions must be a list of objects with a name"),
        ("a.json", "[1]", "names of regions must be a list of objects with a name"),
        ("a.txt", "nothing here\n", "names of regions must be a table with columns id and name"),
        ("a.json", "[" * 100_000, "names of regions must be JSON"),
    ],
)
def test_what_is_no_table_of_names_is_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(PatchMorphError, match=message) as caught:
        read_region_names(tmp_path / name)
    assert "\n" not in str(caught.value)
