"""Options of ``register`` and of `patchmorph.register` reach their targets."""

import inspect
import json
import pickle
from pathlib import Path

import pytest
import torch
from estimators import NO_SEARCH, TRUST, estimating_model

import patchmorph
from patchmorph import api, catalogue, demo, jobs
from patchmorph.api import Method
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.networks.model import PatchMorphModel
from patchmorph.results.summary import Summary


class ReachedError(Exception):
    """Ends a command where its registration would begin."""


@pytest.fixture
def arguments_of(monkeypatch, run, files, tmp_path):
    """Arguments with which ``register FIXED MOVING OPTIONS`` calls the Python interface, by name."""
    signature = inspect.signature(api.register)

    def command(*options) -> dict:
        caught = {}

        def register(*given, **named):
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            caught.update(bound.arguments)
            raise ReachedError

        with monkeypatch.context() as patch:
            patch.setattr(jobs, "register", register)
            with pytest.raises(ReachedError):
                run("register", files.fixed, files.moving, "-o", tmp_path / "out", *options)
        return caught

    return command


def test_the_command_and_the_python_interface_have_the_same_defaults(arguments_of, files):
    given = arguments_of()
    assert (given["fixed"].name, given["moving"].name) == (str(files.fixed), str(files.moving))
    for name, parameter in inspect.signature(api.register).parameters.items():
        if name not in ("fixed", "moving"):
            assert given[name] == parameter.default, name


def test_every_option_of_the_command_reaches_its_argument(arguments_of, files):
    options = {
        "--model": ("none", "model", "none"),
        "--device": ("cpu", "device", "cpu"),
        "--refine": (7, "refine", 7),
        "--save-uncertainty": (None, "uncertainty", True),
        "--seed": (11, "seed", 11),
        "--jitter": (None, "jitter", True),
        "--similarity": ("mind", "similarity", "mind"),
        "--fixed-mask": (files.fixed_mask, "fixed_mask", "fixed_mask.nii.gz"),
        "--moving-mask": (files.moving_mask, "moving_mask", "moving_mask.nii.gz"),
        "--fixed-ignore": (files.fixed_mask, "fixed_ignore", "fixed_mask.nii.gz"),
        "--moving-ignore": (files.moving_mask, "moving_ignore", "moving_mask.nii.gz"),
        "--background": (-3, "background", -3.0),
        "--trust": ("other:Net", "trust", ("other:Net",)),
        "--transform": ("rigid", "transform", "rigid"),
        "--initial-transform": ("centers", "initial_transform", "centers"),
        "--fast": (None, "preset", "fast"),
        "--best": (None, "preset", "best"),
        "--finest": ("250um", "finest", 0.25),
        "--memory-limit": (3, "memory_limit", 3.0),
        "--gpu-memory-limit": (1.5, "gpu_memory_limit", 1.5),
    }
    default = arguments_of()
    alone = {name for _, name, _ in options.values()}
    assert alone | {"initial_from", "channels"} == set(default) - {"fixed", "moving"}
    for flag, (value, name, expected) in options.items():
        given = arguments_of(flag, *([] if value is None else [value]))
        region = flag.endswith(("mask", "ignore"))
        assert (Path(given[name].name).name if region else given[name]) == expected
        others = [key for key in default if key not in (name, "fixed", "moving")]
        assert {key: given[key] for key in others} == {key: default[key] for key in others}, flag
    assert isinstance(arguments_of("--model", files.model)["model"], PatchMorphModel)


@pytest.mark.parametrize("wrong", ["fine", "0.1,0.2,0.3", "10 parsecs", ""])
def test_a_finest_scale_that_is_no_size_ends_the_command(run, files, tmp_path, wrong):
    code, _, error = run("register", files.fixed, files.moving, "-o", tmp_path / "out", "--finest", wrong)
    assert code == 2
    assert f"finest must be native or one size, such as 0.3 or 300um, got {wrong}".strip() in error


def test_an_initial_file_and_its_tool_reach_their_arguments(arguments_of):
    given = arguments_of("--initial-transform", "start.mat", "--initial-from", "fsl")
    assert (Path(given["initial_transform"]), given["initial_from"]) == (Path("start.mat"), "fsl")


def test_the_log_names_each_stage_and_what_it_consists_of(run, files, tmp_path):
    command = ("register", files.fixed, files.moving, "--model", files.model, "--refine", 2, "--save", "log")
    assert run(*command, "-o", tmp_path)[0] == 0
    lines = (tmp_path / "patchmorph.log").read_text().splitlines()
    names = [line[24:].rpartition(":")[0].strip() for line in lines if line.endswith(" s")]
    wanted = ["read", "prepare both images", "search of the pose"]
    assert names[:3] == wanted
    kinds = ("affine network", "network on", "refinement at")
    stages = [name for name in names[3:] if name.startswith(kinds)]
    assert stages[0] == "affine network"
    assert stages[-1].startswith("refinement at ")
    assert any(name.startswith("network on patches of ") for name in stages)
    assert names.index("patches") < names.index("steps") < names.index("warp and measure")


def test_a_known_map_is_found_and_the_summary_records_the_arguments(run, files, tmp_path):
    options = ("--model", files.model, "--seed", 3, "--refine", 1, "--similarity", "mse", "--jitter")
    masks = ("--fixed-mask", files.fixed_mask, "--moving-mask", files.moving_mask)
    code, _, _ = run("register", files.fixed, files.moving, "-o", tmp_path, *options, "--save-uncertainty")
    assert code == 0
    error = (load_transform(tmp_path / "transform.h5")(files.points) - files.truth(files.points)).norm(dim=-1)
    assert error.mean() < 0.1  # mm; voxels are 0.33 mm
    assert load_image(tmp_path / "uncertainty.nii.gz").data.max() > 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arguments"] == {
        "model": str(files.model),
        "device": "auto",
        "refine": 1,
        "similarity": "mse",
        "uncertainty": True,
        "seed": 3,
        "jitter": True,
        "pyramid": False,
        "finest": None,
        "memory_limit": None,
        "gpu_memory_limit": None,
        "fixed_mask": None,
        "moving_mask": None,
        "fixed_ignore": None,
        "moving_ignore": None,
        "background": None,
        "assume_orientation": None,
        "fixed_orientation": None,
        "fixed_spacing": None,
        "moving_orientation": None,
        "moving_spacing": None,
        "preset": "default",
        "trust": [],
        "save": ["warped", "transform", "itk", "report", "summary", "log"],
        "transform": "deformable",
        "initial_transform": "search",
        "initial_from": None,
        "fixed_labels": None,
        "moving_labels": None,
        "fixed_channel": [],
        "moving_channel": [],
        "channel_weights": [],
    }
    assert summary["similarity_after"] > 0.97 > summary["similarity_before"]
    assert (summary["fixed"], summary["moving"]) == (str(files.fixed), str(files.moving))
    assert summary["notes"] == []
    again = ("register", files.fixed, files.moving, "-o", tmp_path, "--model", files.model, *masks)
    assert run(*again)[0] == 2
    assert run(*again, "--overwrite", *NO_SEARCH)[0] == 0
    assert not (tmp_path / "uncertainty.nii.gz").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arguments"]["fixed_mask"] == str(files.fixed_mask)
    assert summary["arguments"]["moving_mask"] == str(files.moving_mask)
    notes = zip(summary["notes"], (files.fixed, files.moving), strict=True)
    assert all(note.startswith(f"{path}: outside of its mask left out") for note, path in notes)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_mask_is_that_of_its_image(files, side):
    """The other image is as it was, so the note names one image; the masks have the grids of both."""
    masks = {f"{side}_mask": files.folder / f"{side}_mask.nii.gz"}
    found = api.register(files.fixed, files.moving, files.model, initial_transform="centers", **masks)
    path = files.folder / f"{side}.nii.gz"
    (note,) = [note for note in found.notes if "mask" in note]
    assert note.startswith(f"{path}: outside of its mask left out")


def test_a_path_and_an_image_are_the_same_and_a_brain_on_itself_stays(files):
    model = catalogue.load_model(files.model, "cpu")
    image = load_image(files.fixed)
    found = patchmorph.register(str(files.fixed), image, model, initial_transform="centers")
    assert (found.transform(files.points) - files.points).norm(dim=-1).mean() < 0.03  # a tenth of a voxel
    torch.testing.assert_close(found.fixed.data, found.moving.data)


def test_options_of_the_python_interface_change_the_map(files):
    model = catalogue.load_model(files.model, "cpu")

    def mapped(**options):
        return patchmorph.register(files.fixed, files.moving, model, initial_transform="centers", **options)

    plain = mapped()
    assert not plain.has_uncertainty
    seeds = [mapped(jitter=True, seed=seed).transform(files.points) for seed in (1, 1, 2)]
    assert torch.equal(seeds[0], seeds[1])
    refined = [mapped(refine=1, similarity=name).transform(files.points) for name in ("lncc", "mse")]
    for one, other in (
        (seeds[0], seeds[2]),
        (refined[0], refined[1]),
        (refined[0], plain.transform(files.points)),
    ):
        assert (one - other).norm(dim=-1).max() > 1e-4  # mm, of voxels of 0.33 mm
    assert mapped(uncertainty=True).has_uncertainty
    with pytest.raises(PatchMorphError, match="refine must be 0 or more, got -1"):
        mapped(refine=-1)


def test_classes_of_a_model_file_run_only_if_each_is_trusted(run, files, tmp_path, monkeypatch):
    monkeypatch.delenv("PATCHMORPH_TRUST")
    named = ("-o", tmp_path / "out", "--model", files.model, "--transform", "rigid", *NO_SEARCH)
    arguments = ("register", files.fixed, files.moving, *named)
    for trusted, refused in (((), TRUST[0]), (TRUST[:1], TRUST[1]), (TRUST[1:], TRUST[0])):
        code, _, error = run(*arguments, *(word for name in trusted for word in ("--trust", name)))
        assert (code, error.count("\n")) == (2, 1)
        assert f"must name networks on our list, got {refused} in {files.model}" in error
        assert f"--trust {refused}" in error
    assert not (tmp_path / "out").exists()
    assert run(*arguments, *(word for name in TRUST for word in ("--trust", name)))[0] == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["arguments"]["trust"] == [*TRUST]
    options = {"trust": TRUST, "transform": "rigid", "initial_transform": "centers"}
    assert patchmorph.register(files.fixed, files.moving, files.model, **options).fixed is not None


@pytest.mark.parametrize("command", ["demo", "evaluate", "train"])
def test_other_commands_that_load_models_take_trust_too(run, files, tmp_path, monkeypatch, command):
    monkeypatch.delenv("PATCHMORPH_TRUST")
    image = load_image(files.fixed)
    monkeypatch.setattr(demo, "demo_pair", lambda: demo.DemoPair(image, image, "an image and itself", None))
    (tmp_path / "pairs.csv").write_text(f"fixed,moving\n{files.fixed},{files.moving}\n")
    content = {"data": {"images": [str(files.fixed)]}, "run": {"output": "out", "weights": str(files.model)}}
    (tmp_path / "train.yaml").write_text(json.dumps(content))
    model = ("-o", tmp_path / "out", "--model", files.model)
    arguments = {
        "demo": model,
        "evaluate": (tmp_path / "pairs.csv", *model),
        "train": (tmp_path / "train.yaml",),
    }[command]
    code, _, error = run(command, *arguments)
    assert code == 2
    assert "(if you trust its code: --trust estimators:AffineFlow)" in error
    code, _, error = run(command, *arguments, "--trust", "estimators:AffineFlow")
    assert code == 2
    assert "(if you trust its code: --trust estimators:DenseFlow)" in error
    code, _, error = run(command, *arguments, "--trust", "monai")
    assert code == 2
    assert "trust (--trust, PATCHMORPH_TRUST) must name MODULE:CLASS, got monai" in error


def test_a_model_of_half_precision_is_the_same_model(files, tmp_path):
    model = catalogue.load_model(files.model, "cpu")
    catalogue.save_model(model, tmp_path / "half.safetensors", half=True)
    half = catalogue.load_model(tmp_path / "half.safetensors", "cpu")
    assert half.spec == model.spec
    for name, value in half.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=0)


def test_both_packaged_models_are_used_by_default(files, monkeypatch):
    loaded = {"t1-brain": estimating_model(), "brain-any-contrast": estimating_model()}
    caught = []

    def register_any_contrast(pair, history, models, options):
        caught.extend([models, options])
        raise ReachedError

    monkeypatch.setattr(api, "cached_model", lambda name, device: loaded[name] if device == "cpu" else None)
    monkeypatch.setattr(api, "register_any_contrast", register_any_contrast)
    with pytest.raises(ReachedError):
        api.register(files.fixed, files.moving, device="cpu", refine=2, seed=9)
    models, options = caught
    assert [models.same_name, models.any_name] == [*loaded]
    assert [models.same_contrast, models.any_contrast] == [*loaded.values()]
    assert (options.refine, options.seed) == (2, 9)


def test_a_cached_model_is_loaded_once(monkeypatch):
    loaded = []

    def load_model(*given) -> PatchMorphModel:
        loaded.append(given)
        return estimating_model()

    monkeypatch.setattr(catalogue, "load_model", load_model)
    catalogue.cached_model.cache_clear()
    try:
        one, again, other = (catalogue.cached_model(name, "cpu") for name in ("a", "a", "b"))
    finally:
        catalogue.cached_model.cache_clear()
    assert one is again
    assert one is not other
    assert loaded == [("a", "cpu"), ("b", "cpu")]


def test_a_request_and_its_summary_travel_to_another_process(files, tmp_path):
    """As a cluster sends them: pickled, with plain data in and out."""
    method = Method(str(files.model), "cpu", jitter=True, seed=2, initial_transform="centers")
    request = RegistrationRequest(PairPaths(files.fixed, files.moving), tmp_path / "out", method)
    there = pickle.loads(pickle.dumps(request))
    assert there == request
    summary = register_files(there)
    assert pickle.loads(pickle.dumps(summary)) == summary
    assert Summary.load(tmp_path / "out") == summary
    assert (summary.fixed, summary.moving) == (str(files.fixed), str(files.moving))
    assert (summary.arguments["seed"], summary.arguments["jitter"]) == (2, True)
    assert set(summary.seconds) == {"load", "register", "write"}
    assert all(0 < seconds < 600 for seconds in summary.seconds.values())
    assert {side: (tmp_path / "out" / path).resolve() for side, path in summary.files.items()} == {
        "fixed": files.fixed.resolve(),
        "moving": files.moving.resolve(),
    }


def test_the_arguments_of_a_request_are_json(files, tmp_path):
    paths = PairPaths(files.fixed, files.moving, fixed_mask=Path("a/mask.nii.gz"))
    request = RegistrationRequest(paths, tmp_path)
    arguments = request.arguments()
    assert json.loads(json.dumps(arguments)) == arguments
    assert arguments["fixed_mask"] == "a/mask.nii.gz"
    assert arguments["moving_mask"] is None
    assert not {"fixed", "moving", "output"} & set(arguments)
