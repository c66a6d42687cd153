"""Region volumes and cells of an atlas under a known map, in both directions, from the command line."""

import csv
import json

import numpy as np
import pytest
import torch
from synthetic import grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.region_names import RegionName
from patchmorph.io.transforms.formats import save_transform
from patchmorph.regions import Annotation, count_points, halves, measure_regions
from patchmorph.spatial.affine import about_point, apply_affine
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform

IDS = {7: (-30.0, -10.0), 12: (-6.0, 6.0), 614454277: (10.0, 30.0)}
"""Slabs along x, mm: on the left, through the middle, on the right; a large id is one of the Allen atlas."""
HALF = 20.0
"""Of the slabs along y and z."""
ATLAS = grid_around((70, 50, 50), np.diag([-1.0, 1.0, 1.0]))
SCAN = grid_around((45, 48, 90), np.array([[0, 0, 0.6], [0, -1.0, 0], [1.1, 0, 0]]))
SCALE = torch.tensor([1.25, 1.1, 0.9], dtype=torch.float64)
TO_ATLAS = AffineTransform(
    about_point(torch.diag(SCALE)[None], torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64))
)


def slabs(grid: Grid) -> Image:
    x, y, z = grid.points_world()[0].unbind(-1)
    labels = torch.zeros(grid.shape, dtype=torch.int32)
    for label, (low, high) in IDS.items():
        labels[(x > low) & (x < high) & (y.abs() < HALF) & (z.abs() < HALF)] = label
    return Image(labels[None, None], grid, "slabs")


def expected_mm3(label: int) -> float:
    low, high = IDS[label]
    return (high - low) * (2 * HALF) ** 2 / float(SCALE.prod())


def rows(path) -> dict[int, dict[str, str]]:
    return {int(row["id"]): row for row in csv.DictReader(path.read_text().splitlines())}


@pytest.fixture
def annotation() -> Annotation:
    return Annotation(slabs(ATLAS), halves(ATLAS), {12: RegionName("Middle, the", "MID")})


@pytest.fixture
def folder(tmp_path):
    save_image(slabs(ATLAS), tmp_path / "annotation.nii.gz")
    save_image(Image(torch.zeros(1, 1, *SCAN.shape), SCAN), tmp_path / "scan.nii.gz")
    save_transform(TO_ATLAS, tmp_path / "scan_to_atlas.tfm")
    save_transform(TO_ATLAS.inverse(), tmp_path / "atlas_to_scan.tfm")
    (tmp_path / "names.csv").write_text('id,acronym,name\n7,LFT,Left\n12,MID,"Middle, the"\n99,GONE,Gone\n')
    return tmp_path


def test_volumes_are_those_of_the_map(annotation):
    table = {row["id"]: row for row in measure_regions(annotation, TO_ATLAS, SCAN).rows()}
    assert list(table) == sorted(IDS)
    for label in IDS:
        assert table[label]["mm3"] == pytest.approx(expected_mm3(label), rel=0.06)  # a voxel at each face
        assert table[label]["mm3"] == pytest.approx(table[label]["voxels"] * 0.66)
    assert (table[7]["right_mm3"], table[614454277]["left_mm3"]) == (0, 0)
    assert table[12]["left_mm3"] == pytest.approx(table[12]["right_mm3"], rel=0.1)
    assert table[12]["left_mm3"] + table[12]["right_mm3"] == pytest.approx(table[12]["mm3"])
    assert (table[12]["name"], table[12]["acronym"], table[7]["name"]) == ("Middle, the", "MID", "")


def test_blocks_give_the_same(annotation, monkeypatch):
    whole = measure_regions(annotation, TO_ATLAS, SCAN).rows()
    monkeypatch.setattr("patchmorph.regions.BLOCK_SIDE", 17)
    assert measure_regions(annotation, TO_ATLAS, SCAN).rows() == whole


def test_a_region_that_the_image_lacks_has_a_row(annotation):
    table = measure_regions(annotation, TO_ATLAS, SCAN.crop((0, 0, 0), (45, 48, 20))).rows()
    assert [row["id"] for row in table if row["voxels"] == 0]
    assert len(table) == len(IDS)


@pytest.mark.parametrize("side", [17, 128])
def test_points_are_counted_where_they_lie(annotation, monkeypatch, side):
    monkeypatch.setattr("patchmorph.regions.BLOCK_SIDE", side)
    middles = [(-20.0, 0, 0), (-20.0, 5, 5), (-4.0, 0, 0), (4.0, 0, 0), (4.0, -19, 19), (20.0, 1, 1)]
    places = torch.tensor([*middles, (0, 0, 30.0), (500.0, 0, 0), (float("nan"), 0, 0)])
    counts = count_points(annotation, places)
    assert [counts[key] for key in ((7, 1), (7, 2), (12, 1), (12, 2), (614454277, 2))] == [2, 0, 1, 2, 1]
    assert counts[0, 0] + counts[0, 1] + counts[0, 2] == 3


@pytest.mark.parametrize(
    "linear", [np.eye(3), np.diag([-1.0, 2, 1]), np.array([[0, 0, 1], [0, -1.0, 0], [1, 0, 0]])]
)
def test_halves_part_the_world_in_the_middle(linear):
    image = halves(grid_around((20, 21, 24), linear))
    points = torch.tensor([[[-3.0, 1, 2], [-0.2, 0, 0], [0.2, 0, 0], [5.0, -3, 1]]])
    values = annotation_sides(image, points)
    assert values == [1, 1, 2, 2]


def annotation_sides(image: Image, points: torch.Tensor) -> list[int]:
    from patchmorph.images.interpolation import interpolator

    return interpolator(image, "nearest")(points).flatten().int().tolist()


def test_the_command_gives_one_table_in_both_directions(run, folder):
    tables = []
    for transform, inverse in (("scan_to_atlas.tfm", ()), ("atlas_to_scan.tfm", ("--inverse",))):
        out = folder / f"{transform}.csv"
        options = ("--transform", folder / transform, *inverse, "--reference", folder / "scan.nii.gz")
        options += ("--names", folder / "names.csv", "--hemispheres", "middle")
        code, said, error = run("regions", folder / "annotation.nii.gz", "-o", out, *options)
        assert (code, error) == (0, ""), error
        assert f"wrote {out}: 3 regions" in said
        tables.append(rows(out))
    assert tables[0] == tables[1]
    assert tables[0][12] | {"voxels": "", "mm3": "", "left_mm3": "", "right_mm3": ""} == {
        "id": "12", "acronym": "MID", "name": "Middle, the", "voxels": "", "mm3": "", "left_mm3": "",
        "right_mm3": "",
    }  # fmt: skip
    for label in IDS:
        assert float(tables[0][label]["mm3"]) == pytest.approx(expected_mm3(label), rel=0.06)


def test_cells_of_cellfinder_are_voxels_of_the_reference(run, folder):
    in_atlas = torch.tensor([[-20.0, 0, 0], [-20.0, 9, 9], [3.0, 0, 0], [20.0, 0, 0], [0, 0, 40.0]])
    world = TO_ATLAS.inverse()(in_atlas[None])
    voxels = apply_affine(SCAN.world_to_voxel, world)[0].round().int().tolist()
    markers = "".join(
        f"<Marker><MarkerX>{x}</MarkerX><MarkerY>{y}</MarkerY><MarkerZ>{z}</MarkerZ></Marker>"
        for x, y, z in voxels
    )
    kinds = "".join(f"<Marker_Type><Type>{kind}</Type>{markers}</Marker_Type>" for kind in (1, 2))
    text = f"<CellCounter_Marker_File><Marker_Data>{kinds}</Marker_Data></CellCounter_Marker_File>"
    (folder / "cells.xml").write_text(text)
    out = folder / "regions.csv"
    options = ("--transform", folder / "scan_to_atlas.tfm", "--reference", folder / "scan.nii.gz")
    options += ("--cells", folder / "cells.xml")
    code, said, error = run("regions", folder / "annotation.nii.gz", "-o", out, *options)
    assert code == 0, error
    assert "5 of 10 points are cells, frame: voxels of the reference" in said
    assert "1 cells are in none" in said
    table = rows(out)
    assert [table[label]["cells"] for label in sorted(IDS)] == ["2", "1", "1"]
    assert float(table[7]["cells_per_mm3"]) == pytest.approx(2 / float(table[7]["mm3"]), abs=1e-6)
    assert "left_cells" not in table[7]


def test_labels_in_the_image_need_no_map(run, folder):
    out = folder / "regions.csv"
    assert run("regions", folder / "annotation.nii.gz", "-o", out)[0] == 0
    for label, (low, high) in IDS.items():
        assert float(rows(out)[label]["mm3"]) == pytest.approx((high - low) * (2 * HALF) ** 2, rel=1e-3)


def atlas_of_brainglobe(folder, monkeypatch, symmetric: bool) -> None:
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setenv("BRAINGLOBE_CONFIG_DIR", str(folder / "config"))
    monkeypatch.setenv("PATCHMORPH_CACHE", str(folder / "cache"))
    (folder / "config").mkdir()
    (folder / "config" / "bg_config.conf").write_text(
        f"[default_dirs]\nbrainglobe_dir = {folder / 'atlases'}\n"
    )
    place = folder / "atlases" / "toy_1mm_v1.0"
    place.mkdir(parents=True)
    content = {"resolution": [1000.0] * 3, "orientation": "asr", "symmetric": symmetric}
    (place / "metadata.json").write_text(json.dumps(content))
    from_right = np.zeros((10, 8, 6), np.uint32)
    from_right[2:5, 2:5, 1], from_right[2:5, 2:5, 4] = 7, 614454277
    tifffile.imwrite(place / "reference.tiff", from_right.astype(np.uint16))
    tifffile.imwrite(place / "annotation.tiff", from_right)
    if not symmetric:
        sides = np.ones((10, 8, 6), np.uint8)
        sides[..., :2] = 2
        tifffile.imwrite(place / "hemispheres.tiff", sides)
    structures = [
        {"id": 7, "acronym": "A", "name": "Area"},
        {"id": 614454277, "acronym": "B", "name": "Body"},
    ]
    (place / "structures.json").write_text(json.dumps(structures))


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_atlas_of_brainglobe_brings_names_and_sides(run, tmp_path, monkeypatch, symmetric):
    atlas_of_brainglobe(tmp_path, monkeypatch, symmetric)
    out = tmp_path / "regions.csv"
    code, _, error = run("regions", "brainglobe:toy_1mm", "-o", out)
    assert code == 0, error
    table = rows(out)
    assert [(row["acronym"], row["name"]) for row in table.values()] == [("A", "Area"), ("B", "Body")]
    assert [(row["left_mm3"], row["right_mm3"]) for row in table.values()] == [("0.0", "9.0"), ("9.0", "0.0")]


def test_apply_takes_the_annotation_of_an_atlas_by_its_name(run, folder, monkeypatch):
    atlas_of_brainglobe(folder, monkeypatch, symmetric=True)
    out = folder / "regions.nii.gz"
    options = ("--reference", folder / "scan.nii.gz", "-o", out)
    code, said, error = run("apply", folder / "scan_to_atlas.tfm", "brainglobe:toy_1mm/annotation", *options)
    assert code == 0, error
    assert "label interpolation" in said
    assert set(load_image(out).data.unique().tolist()) == {0, 7, 614454277}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("annotation.nii.gz", "-o", "out.txt"), "table must end in .csv, got out.txt"),
        (("missing.nii.gz", "-o", "out.csv"), "missing.nii.gz"),
        (("scan.nii.gz", "-o", "out.csv"), "annotation must hold ids above 0, got none in"),
        (("annotation.nii.gz", "-o", "names.csv", "--names", "names.csv"), "names.csv"),
        (("annotation.nii.gz", "-o", "out.csv", "--cells", "names.csv"), "columns must be x,y,z, got id"),
        (("brainglobe:none", "-o", "out.csv"), "must be downloaded to"),
    ],
)
def test_what_cannot_be_used_is_one_line(run, folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BRAINGLOBE_CONFIG_DIR", str(folder))
    before = sorted(folder.rglob("*"))
    code, _, error = run("regions", *arguments)
    assert (code, error.count("\n")) == (2, 1), error
    assert message in error
    assert sorted(folder.rglob("*")) == before


def test_an_image_beside_the_atlas_is_an_error_and_no_table_of_zeros():
    away = AffineTransform.translation(torch.tensor([[500.0, 0, 0]], dtype=torch.float64))
    with pytest.raises(PatchMorphError, match="image must show regions of the annotation, got none of slabs"):
        measure_regions(Annotation(slabs(ATLAS)), away, ATLAS)
