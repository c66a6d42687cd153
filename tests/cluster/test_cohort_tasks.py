"""Pairs of a cohort: their names, what their fingerprints depend on, and the names of BIDS derivatives."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from patchmorph.api import Method
from patchmorph.catalogue import save_model
from patchmorph.cluster.cohort import Task, tasks_of
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths, load_named_pairs
from patchmorph.jobs import RegistrationRequest
from patchmorph.networks.model import ModelSpec, PatchMorphModel


def request(output: Path, **options) -> RegistrationRequest:
    return RegistrationRequest(PairPaths(Path(), Path()), output, Method(**options))


def table(folder: Path, **options) -> dict[str, Task]:
    tasks = tasks_of(folder / "pairs.csv", request(folder / "out", **options))
    return {task.name: task for task in tasks}


def test_pairs_of_a_table_are_named_by_their_files_and_have_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    tasks = tasks_of(Path("pairs.csv"), request(Path("out")))
    assert [task.name for task in tasks] == [f"moving{k}_to_fixed" for k in range(3)]
    asked = tasks[1].request
    assert asked.output == folder / "out" / "results" / "moving1_to_fixed"
    assert asked.paths.moving_mask == folder / "moving1_mask.nii.gz"
    assert (asked.overwrite, "summary" in asked.save) == (True, True)


def test_a_column_names_pairs(folder):
    (folder / "pairs.csv").write_text("name,fixed,moving\nanna,fixed.nii.gz,moving0.nii.gz\n")
    assert list(load_named_pairs(folder / "pairs.csv")) == ["anna"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "name,fixed,moving\n../x,fixed.nii.gz,moving0.nii.gz",
            "name must be letters, .*, got '../x' in line 2",
        ),
        ("name,fixed,moving\n.,fixed.nii.gz,moving0.nii.gz", "name must be letters"),
        (
            "fixed,moving\n" + "fixed.nii.gz,moving0.nii.gz\n" * 2,
            "different names .*got moving0_to_fixed",
        ),
    ],
)
def test_names_that_are_none_of_a_folder_are_refused(folder, rows, message):
    (folder / "pairs.csv").write_text(rows)
    with pytest.raises(PatchMorphError, match=message):
        table(folder)


def test_a_fingerprint_changes_with_contents_and_options_alone(folder, tmp_path_factory):
    before = table(folder)
    assert len({task.fingerprint for task in before.values()}) == 3
    assert table(folder) == before
    moved = tmp_path_factory.mktemp("elsewhere") / "data"
    shutil.copytree(folder, moved)
    assert [task.fingerprint for task in table(moved).values()] == [
        task.fingerprint for task in before.values()
    ]
    for options in ({"seed": 1}, {"transform": "rigid"}, {"model": "none"}):
        assert not {t.fingerprint for t in table(folder, **options).values()} & {
            t.fingerprint for t in before.values()
        }
    with (folder / "moving1_mask.nii.gz").open("ab") as file:
        file.write(b" ")
    after = table(folder)
    assert [name for name in after if after[name] != before[name]] == ["moving1_to_fixed"]


def test_a_fingerprint_changes_with_the_model_file_and_not_with_its_place(folder):
    model = folder / "model.safetensors"
    save_model(PatchMorphModel(ModelSpec(spacings_mm=[4.0])), model)
    before = table(folder, model=str(model))
    moved = table(folder, model=str(shutil.copy(model, folder / "other.safetensors")))
    assert [moved[name].fingerprint for name in before] == [before[name].fingerprint for name in before]
    save_model(PatchMorphModel(ModelSpec(spacings_mm=[5.0])), model)
    after = table(folder, model=str(model))
    assert all(after[name].fingerprint != before[name].fingerprint for name in before)


def test_images_of_a_bids_folder_are_registered_to_one_image(bids):
    tasks = tasks_of(bids, request(bids.parent / "out"), str(bids.parent / "atlas_1mm.nii.gz"))
    assert [task.name for task in tasks] == ["sub-01_T1w", "sub-02_ses-a_T1w", "sub-02_ses-b_T1w"]
    assert {task.request.paths.fixed for task in tasks} == {bids.parent / "atlas_1mm.nii.gz"}
    place = Path("sub-02/ses-a/anat")
    links = tasks[1].links
    assert links.pop("warped.mgz") == place / "sub-02_ses-a_space-atlas1mm_T1w.mgz"
    assert {name: link for name, link in links.items() if name.endswith((".nii.gz", ".h5"))} == {
        "warped.nii.gz": place / "sub-02_ses-a_space-atlas1mm_T1w.nii.gz",
        "transform.h5": place / "sub-02_ses-a_from-T1w_to-atlas1mm_mode-image_xfm.h5",
        "inverse_transform.h5": place / "sub-02_ses-a_from-atlas1mm_to-T1w_mode-image_xfm.h5",
    }
    others = tasks_of(bids, request(bids.parent / "out"), str(bids.parent / "atlas_1mm.nii.gz"), "T2w")
    assert next(task.name for task in others) == "sub-01_T2w"


def test_a_folder_needs_a_fixed_image_and_a_table_has_its_own(folder, bids):
    with pytest.raises(PatchMorphError, match="--fixed must name an image or a template, got nothing"):
        tasks_of(bids, request(folder / "out"))
    with pytest.raises(PatchMorphError, match="--fixed must come with a BIDS folder, got the table"):
        tasks_of(folder / "pairs.csv", request(folder / "out"), "mni152")
    with pytest.raises(PatchMorphError, match="--fixed must be an existing image or a template"):
        tasks_of(bids, request(folder / "out"), "none.nii")
    with pytest.raises(PatchMorphError, match="output must be another folder than the BIDS folder"):
        tasks_of(bids, request(bids), str(bids.parent / "atlas_1mm.nii.gz"))
    with pytest.raises(PatchMorphError, match=r"must hold sub-\*_PET.nii\[.gz\], got none"):
        tasks_of(bids, request(folder / "out"), str(bids.parent / "atlas_1mm.nii.gz"), "PET")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": Method(transform="banana")}, "transform must be one of"),
        ({"save": ("picture",)}, "picture"),
        ({"image_format": "jpg"}, "jpg"),
    ],
)
def test_what_every_pair_would_be_refused_for_is_refused_at_once(folder, change, message):
    with pytest.raises(PatchMorphError, match=message):
        tasks_of(folder / "pairs.csv", replace(request(folder / "out"), **change))


def test_a_fingerprint_depends_on_the_contents_of_channels_and_not_on_their_paths(folder, tmp_path_factory):
    def only(where: Path, channels: str) -> Task:
        columns = "fixed,moving,fixed_channel,moving_channel"
        (where / "pairs.csv").write_text(f"{columns}\nfixed.nii.gz,moving0.nii.gz,{channels}\n")
        (task,) = table(where).values()
        return task

    first = only(folder, "fixed.nii.gz,moving1.nii.gz")
    assert first.request.paths.moving_channel == (folder / "moving1.nii.gz",)
    moved = tmp_path_factory.mktemp("channels") / "moved"
    shutil.copytree(folder, moved)
    assert only(moved, "fixed.nii.gz,moving1.nii.gz").fingerprint == first.fingerprint
    others = {only(folder, channels).fingerprint for channels in ("fixed.nii.gz,moving2.nii.gz", ",")}
    assert len({first.fingerprint, *others}) == 3
