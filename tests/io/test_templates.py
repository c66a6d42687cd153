"""Templates by name: from packages and caches of the computer, never by a download."""

import json
import os
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph import cli, jobs
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io import templates
from patchmorph.io.brainglobe import Atlas
from patchmorph.io.conversion import as_image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.templates import image_path
from patchmorph.io.transforms.formats import save_transform
from patchmorph.transforms.base import AffineTransform

ATLAS = {"resolution": [40.0, 30.0, 20.0], "orientation": "asr", "shape": [5, 6, 7]}
VOXELS = np.arange(210, dtype=np.uint16).reshape(5, 6, 7)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Empty caches, and an empty working folder."""
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    monkeypatch.setenv("BRAINGLOBE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("PATCHMORPH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config").mkdir()
    text = f"[default_dirs]\nbrainglobe_dir = {tmp_path / 'brainglobe'}\n"
    (tmp_path / "config" / "bg_config.conf").write_text(text)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def a_brain(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(smooth_image(grid_around((5, 6, 7), AFFINES["RAS"])), path)
    return path


def test_mni152_is_the_brain_that_nilearn_brings():
    image = load_image(image_path("mni152"))
    assert image.grid.shape == (197, 233, 189)
    assert image.spacing_mm == (1, 1, 1)
    datasets = pytest.importorskip("nilearn.datasets")
    expected = np.asarray(datasets.load_mni152_template(resolution=1).dataobj)
    assert np.corrcoef(image.data.ravel(), expected.ravel())[0, 1] > 0.9999


def test_mni152_without_nilearn_is_one_line(monkeypatch):
    monkeypatch.setattr(templates.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PatchMorphError, match=r"pip install 'patchmorph\[report\]'\), got none"):
        image_path("mni152")


def test_python_takes_names_too():
    assert as_image("mni152").grid.shape == (197, 233, 189)


def test_paths_stay_what_they_are():
    assert str(image_path("no/such/file.nii.gz")) == os.path.join("no", "such", "file.nii.gz")


def test_a_file_of_that_name_comes_first(tmp_path):
    (tmp_path / "work" / "mni152").write_bytes(b"")
    assert str(image_path("mni152")) == "mni152"


@pytest.fixture
def flow(tmp_path):
    """A template as TemplateFlow keeps it: two resolutions, a brain, a mask, a file not downloaded."""
    folder = tmp_path / "templateflow" / "tpl-Toy"
    for name in ("res-01_T1w", "res-02_T1w", "res-01_desc-brain_T1w", "res-01_desc-brain_mask", "res-01_T2w"):
        a_brain(folder / f"tpl-Toy_{name}.nii.gz")
    (folder / "cohort-1").mkdir()
    (folder / "cohort-1" / "tpl-Toy_cohort-1_res-01_PD.nii.gz").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Toy", "res-01_T1w"),
        ("Toy_res-02", "res-02_T1w"),
        ("Toy_T2w", "res-01_T2w"),
        ("Toy_desc-brain", "res-01_desc-brain_T1w"),
        ("Toy_res-01_desc-brain_mask", "res-01_desc-brain_mask"),
    ],
)
def test_templateflow_names_are_parts_of_file_names(flow, name, file):
    assert image_path(f"templateflow:{name}") == flow / f"tpl-Toy_{file}.nii.gz"


@pytest.mark.parametrize(
    ("name", "got"),
    [
        (
            "Toy_res-03",
            "must name one file in .*, got none, but files such as .*tpl-Toy_res-01_T1w.nii.gz, .*; to",
        ),
        ("Other", "must name one file in .*, got none; to download: python -c .*get\\('Other'"),
        ("Toy_PD", "must be downloaded before, got an empty tpl-Toy_cohort-1_res-01_PD.nii.gz"),
    ],
)
def test_a_template_that_is_not_there_is_one_line(flow, name, got):
    with pytest.raises(PatchMorphError, match=got) as caught:
        image_path(f"templateflow:{name}")
    assert "\n" not in str(caught.value)


def test_templateflow_itself_is_not_asked(flow, monkeypatch):
    """Its package downloads when it is imported."""
    monkeypatch.setitem(sys.modules, "templateflow", None)
    assert image_path("templateflow:Toy").exists()


def pyramid(folder, chunks=True):
    """An atlas as BrainGlobe keeps it since version 3: a manifest, and an OME-Zarr pyramid elsewhere."""
    zarr = pytest.importorskip("zarr")
    root = folder / "brainglobe-atlasapi"
    manifest = root / "atlases" / "toy_20um" / "1_10" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    content = ATLAS | {"annotation_set": {"template": {"location": "/templates/toy/1_0"}}}
    manifest.write_text(json.dumps(content))
    store = root / "templates" / "toy" / "1_0" / "template.ome.zarr"
    levels = [("0", [0.02, 0.015, 0.01], VOXELS.repeat(2, 0)), ("1", [0.04, 0.03, 0.02], VOXELS)]
    datasets = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for path, scale, _ in levels
    ]
    group = zarr.open_group(store, mode="w", zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": datasets}]}
    for path, _, values in levels if chunks else []:
        zarr.save_array(store / path, values, zarr_format=3)


def tiff(folder, version="1.2"):
    """An atlas of version 1 or 2."""
    tifffile = pytest.importorskip("tifffile")
    atlas = folder / f"toy_20um_v{version}"
    atlas.mkdir(parents=True)
    tifffile.imwrite(atlas / "reference.tiff", VOXELS)
    (atlas / "metadata.json").write_text(json.dumps(ATLAS))


@pytest.mark.parametrize("write", [tiff, pyramid])
def test_brainglobe_images_have_their_resolution_and_orientation(tmp_path, write):
    write(tmp_path / "brainglobe")
    path = image_path("brainglobe:toy_20um")
    image = load_image(path)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("P", "I", "L")  # from anterior, superior, right
    assert image.spacing_mm == pytest.approx((0.04, 0.03, 0.02))
    np.testing.assert_array_equal(image.data[0, 0], VOXELS)
    torch.testing.assert_close(image.grid.center_world, torch.zeros(1, 3, dtype=torch.float64))
    assert (
        path == tmp_path / "cache" / "brainglobe" / f"toy_20um_v{'1.2' if write is tiff else '1.10'}.nii.gz"
    )


def test_an_image_that_an_atlas_has_not_is_one_line(tmp_path):
    tiff(tmp_path / "brainglobe")
    with pytest.raises(PatchMorphError, match="must be among reference, annotation, hemispheres, got 'mesh'"):
        image_path("brainglobe:toy_20um/mesh")
    with pytest.raises(
        PatchMorphError, match=r"atlas must be whole, got .*metadata\.json: .*annotation\.tiff"
    ):
        image_path("brainglobe:toy_20um/annotation")


def test_labels_of_an_atlas_since_version_three_keep_large_ids(tmp_path):
    """The annotation is a pyramid beside others, and names are a table of their own."""
    pyramid(tmp_path / "brainglobe")
    (manifest,) = (tmp_path / "brainglobe").rglob("manifest.json")
    content = json.loads(manifest.read_text())
    content["annotation_set"]["location"] = "/templates/toy/1_0"
    manifest.write_text(json.dumps(content | {"terminology": {"location": "/terminologies/toy/1_0"}}))
    (folder,) = (tmp_path / "brainglobe").rglob("template.ome.zarr")
    ignore = shutil.ignore_patterns("1")
    shutil.copytree(folder, folder.with_name("annotations_compressed.ome.zarr"), ignore=ignore)
    zarr = pytest.importorskip("zarr")
    labels = np.full(VOXELS.shape, 614454277, np.uint32)
    zarr.save_array(folder.with_name("annotations_compressed.ome.zarr") / "1", labels, zarr_format=3)
    assert load_image(image_path("brainglobe:toy_20um/annotation")).data.unique().tolist() == [614454277]
    expected = tmp_path / "brainglobe" / "brainglobe-atlasapi" / "terminologies" / "toy" / "1_0"
    assert Atlas.find("toy_20um").names() == expected / "terminology.csv"


def test_the_latest_version_of_an_atlas_is_taken(tmp_path):
    for version in ("1.2", "1.10", "1.9"):
        tiff(tmp_path / "brainglobe", version)
    assert image_path("brainglobe:toy_20um").name == "toy_20um_v1.10.nii.gz"


def test_an_atlas_that_changed_is_copied_again(tmp_path):
    pyramid(tmp_path / "brainglobe")
    path = image_path("brainglobe:toy_20um")
    written = path.stat().st_mtime_ns
    assert image_path("brainglobe:toy_20um").stat().st_mtime_ns == written
    os.utime(path, (1, 1))
    assert image_path("brainglobe:toy_20um").stat().st_mtime_ns > 10**9


def test_an_atlas_that_is_not_there_is_one_line():
    with pytest.raises(
        PatchMorphError, match=r"must be downloaded to .*brainglobe before, got none; to download"
    ):
        image_path("brainglobe:toy_20um")


@pytest.mark.parametrize("kind", ["templateflow", "brainglobe"])
@pytest.mark.parametrize("name", ["", "../toy", "*", "a\nb"])
def test_a_name_that_is_none_is_one_line(kind, name):
    with pytest.raises(PatchMorphError, match=f"{kind}: must be followed by") as caught:
        image_path(f"{kind}:{name}")
    assert "\n" not in str(caught.value)


def test_an_atlas_whose_image_is_not_downloaded_is_one_line(tmp_path):
    pyramid(tmp_path / "brainglobe", chunks=False)
    with pytest.raises(PatchMorphError, match=r"atlas must be whole, got .*manifest\.json: its reference at"):
        image_path("brainglobe:toy_20um")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"resolution": [1, 2]}', '{"resolution": ["x", 1, 2]}', 2000 * "["]
)
def test_a_broken_atlas_is_one_line(tmp_path, text):
    pyramid(tmp_path / "brainglobe")
    (manifest,) = (tmp_path / "brainglobe").rglob("manifest.json")
    manifest.write_text(text)
    with pytest.raises(PatchMorphError, match="atlas must be whole"):
        image_path("brainglobe:toy_20um")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("resolution", [40.0, 30.0, 0.0], "resolution must be numbers above 0"),
        ("resolution", [40.0, 30.0, float("nan")], "resolution must be numbers above 0"),
        ("resolution", [40.0, 30.0, 10**400], "int too large"),
        ("orientation", "ass", "orientation must name three axes, got ass"),
        ("orientation", ["a", {}, "r"], "unhashable"),
    ],
)
def test_an_atlas_with_impossible_geometry_is_one_line(tmp_path, key, value, message):
    tiff(tmp_path / "brainglobe")
    (manifest,) = (tmp_path / "brainglobe").rglob("metadata.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), key: value}))
    with pytest.raises(PatchMorphError, match=f"atlas must be whole, got .*{message}"):
        image_path("brainglobe:toy_20um")


def test_parts_of_an_atlas_lie_in_its_folder(tmp_path):
    pyramid(tmp_path / "brainglobe")
    (manifest,) = (tmp_path / "brainglobe").rglob("manifest.json")
    content = json.loads(manifest.read_text())
    content["annotation_set"]["template"]["location"] = "/../../elsewhere"
    manifest.write_text(json.dumps(content))
    with pytest.raises(PatchMorphError, match=r"its parts must lie in .*, got \.\./\.\./elsewhere"):
        image_path("brainglobe:toy_20um")


@pytest.mark.parametrize(
    "text", [b"brainglobe_dir = /x", b"[default_dirs]\nbrainglobe_dir = %(x", b"\xff\xfe"]
)
def test_a_broken_configuration_of_brainglobe_is_one_line(tmp_path, text):
    (tmp_path / "config" / "bg_config.conf").write_bytes(text)
    with pytest.raises(
        PatchMorphError, match=r"BrainGlobe's configuration must be readable, got .*bg_config"
    ):
        image_path("brainglobe:toy_20um")


def test_commands_take_names(tmp_path, monkeypatch, capsys):
    """``register`` for either image, ``apply`` for the reference."""
    a_brain(tmp_path / "work" / "brain.nii.gz")
    requests = []

    def stop(request):
        requests.append(request)
        raise PatchMorphError("seen")

    monkeypatch.setattr(jobs, "_check_output", stop)
    for fixed, moving in (("mni152", "brain.nii.gz"), ("brain.nii.gz", "mni152")):
        with pytest.raises(PatchMorphError, match="seen"):
            jobs.register_files(jobs.RegistrationRequest(PairPaths(Path(fixed), Path(moving)), Path("out")))
    assert requests[0].paths.fixed == requests[1].paths.moving == image_path("mni152")
    save_transform(AffineTransform.translation(torch.tensor([[1.0, 0, 0]])), "shift.tfm")
    words = ["apply", "shift.tfm", "brain.nii.gz", "--reference", "mni152", "-o", "out.nii.gz"]
    cli.app(words, standalone_mode=False)
    assert load_image("out.nii.gz").grid.shape == (197, 233, 189)
