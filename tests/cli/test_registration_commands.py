"""Options of ``register`` and of `patchmorph.register` reach what they are for."""

import inspect
import json

import pytest
import torch

import patchmorph
from patchmorph import api
from patchmorph.errors import PatchMorphError
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.networks.model import PatchMorphModel


class ReachedError(Exception):
    """Ends a command where its registration would begin."""


@pytest.fixture
def asked(monkeypatch, run, files, tmp_path):
    """What ``register FIXED MOVING OPTIONS`` asks the Python interface for, by the names of its arguments."""
    signature = inspect.signature(api.register)

    def command(*options) -> dict:
        caught = {}

        def register(*given, **named):
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            caught.update(bound.arguments)
            raise ReachedError

        with monkeypatch.context() as patch:
            patch.setattr(api, "register", register)
            with pytest.raises(ReachedError):
                run("register", files.fixed, files.moving, "-o", tmp_path / "out", *options)
        return caught

    return command


def test_the_command_and_the_python_interface_have_the_same_defaults(asked, files):
    given = asked()
    assert (given["fixed"].name, given["moving"].name) == (str(files.fixed), str(files.moving))
    for name, parameter in inspect.signature(api.register).parameters.items():
        if name not in ("fixed", "moving"):
            assert given[name] == parameter.default, name


def test_every_option_of_the_command_reaches_its_argument(asked, files):
    options = {
        "--model": ("none", "model", "none"),
        "--device": ("cpu", "device", "cpu"),
        "--refine": (7, "refine", 7),
        "--save-uncertainty": (None, "uncertainty", True),
        "--seed": (11, "seed", 11),
        "--jitter": (None, "jitter", True),
        "--similarity": ("mind", "similarity", "mind"),
        "--fixed-mask": (files.fixed_mask, "fixed_mask", files.fixed_mask),
        "--moving-mask": (files.moving_mask, "moving_mask", files.moving_mask),
    }
    default = asked()
    for flag, (value, name, expected) in options.items():
        given = asked(flag, *([] if value is None else [value]))
        assert given[name] == expected
        others = [key for key in default if key not in (name, "fixed", "moving")]
        assert {key: given[key] for key in others} == {key: default[key] for key in others}, flag
    assert isinstance(asked("--model", files.model)["model"], PatchMorphModel)


def test_a_known_map_is_found_and_the_summary_says_by_what(run, files, tmp_path):
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
        "fixed_mask": None,
        "moving_mask": None,
    }
    assert summary["similarity_after"] > 0.97 > summary["similarity_before"]
    assert (summary["fixed"], summary["moving"]) == (str(files.fixed), str(files.moving))
    assert summary["notes"] == []
    assert run("register", files.fixed, files.moving, "-o", tmp_path, "--model", files.model, *masks)[0] == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arguments"]["fixed_mask"] == str(files.fixed_mask)
    assert summary["arguments"]["moving_mask"] == str(files.moving_mask)
    notes = zip(summary["notes"], (files.fixed, files.moving), strict=True)
    assert all(note.startswith(f"{path}: outside of its mask left out") for note, path in notes)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_mask_is_that_of_its_image(files, side):
    """The other image is as it was, so the note names one image; the masks have the grids of both."""
    masks = {f"{side}_mask": files.folder / f"{side}_mask.nii.gz"}
    found = api.register(files.fixed, files.moving, files.model, **masks)
    path = files.folder / f"{side}.nii.gz"
    (note,) = [note for note in found.notes if "mask" in note]
    assert note.startswith(f"{path}: outside of its mask left out")


def test_a_path_and_an_image_are_the_same_and_a_brain_on_itself_stays(files):
    model = api.load_model(files.model, "cpu")
    image = load_image(files.fixed)
    found = patchmorph.register(str(files.fixed), image, model)
    assert (found.transform(files.points) - files.points).norm(dim=-1).mean() < 0.03  # a tenth of a voxel
    torch.testing.assert_close(found.fixed.data, found.moving.data)


def test_options_of_the_python_interface_change_the_map(files):
    model = api.load_model(files.model, "cpu")

    def mapped(**options):
        return patchmorph.register(files.fixed, files.moving, model, **options)

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


def test_passes_by_default():
    assert api.default_passes(classical=True, refine=None) == 40
    assert api.default_passes(classical=False, refine=None) == 0
    assert api.default_passes(classical=True, refine=3) == api.default_passes(classical=False, refine=3) == 3


def test_networks_of_packages_that_nobody_trusts_are_refused(files, monkeypatch):
    monkeypatch.delenv("PATCHMORPH_TRUST")
    with pytest.raises(PatchMorphError, match=r"trusted packages, got estimators:AffineFlow in .*TRUST=est"):
        api.load_model(files.model, "cpu")
    monkeypatch.setenv("PATCHMORPH_TRUST", "other,estimators")
    assert api.load_model(files.model, "cpu").spec.affine_repeats == 2


def test_a_model_of_half_precision_is_the_same_model(files, tmp_path):
    model = api.load_model(files.model, "cpu")
    api.save_model(model, tmp_path / "half.safetensors", half=True)
    half = api.load_model(tmp_path / "half.safetensors", "cpu")
    assert half.spec == model.spec
    for name, value in half.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=0)
