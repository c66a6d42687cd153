"""Configurations, models, tables of pairs and BIDS folders that are none: refused in one line."""

import json
import pickle
import struct

import pytest
import torch

from patchmorph.catalogue import packaged_models

IMAGES = "data: {images: [good.nii.gz]}\n"
GOOD = IMAGES + "run: {output: out}\n"
LAUGHS = "a: &a [x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(9)
)
CONFIGURATIONS = {
    "deep": ("a: " + "[" * 10**4, "configuration must be YAML"),
    "digits": ("run: {seed: " + "9" * 5000 + "}\n", "configuration must be YAML"),
    "seed": (IMAGES + "run: {output: out, seed: " + "9" * 400 + "}\n", "run.seed"),
    "nul": ("a: \0", "configuration must be YAML"),
    "bytes": (b"\xff\xfe\x00\x01", "configuration must be YAML"),
    "list": ("- 1", "must be a table of sections, got list"),
    "empty": ("", "must be a table of sections, got NoneType"),
    "code": ("!!python/object/apply:os.system ['true']", "configuration must be YAML"),
    "laughs": (LAUGHS, "configuration must fit its schema"),
    "section": (GOOD + "optimisation: {steps: 5}\n", "permitted (valid: optimization)"),
    "key": (
        GOOD + "optimization: {stps: 5}\n",
        "optimization.stps: Extra inputs are not permitted (valid: steps",
    ),
    "key_of_model": (GOOD + "model: {pach_size: 64}\n", "model.pach_size: Extra inputs"),
    "foreign_key": (GOOD + "validation: {pairs: a, zzz: 1}\n", "(valid: pairs, every, figure)"),
    "type": (GOOD + "optimization: {steps: many}\n", "optimization.steps: Input should be a valid integer"),
    "negative": (GOOD + "optimization: {steps: -5}\n", "optimization.steps: Input should be greater than 0"),
    "nan": (GOOD + "optimization: {learning_rate: .nan}\n", "optimization.learning_rate"),
    "patch": (
        GOOD + "model: {patch_size: 1024}\n",
        "model.patch_size: Input should be less than or equal to 512",
    ),
    "odd_patch": (GOOD + "model: {patch_size: 17}\n", "model.patch_size: Input should be a multiple of 16"),
    "scales": (GOOD + f"model: {{spacings_mm: {list(range(1000, 100, -1))}}}\n", "at most 8 items"),
    "passes": (GOOD + "model: {passes: [1000000000, 1, 1]}\n", "model.passes.0: Input should be less than"),
    "steps": (GOOD + "model: {integration_steps: 1000000000000}\n", "less than or equal to 12"),
    "network": (GOOD + "model: {dense: {name: 'os;system'}}\n", "model.dense.name"),
    "sources": (
        "data: {images: [a], bids: b}\nrun: {output: out}\n",
        "one of images, manifest and bids",
    ),
    "nothing": ("data: {images: ['no*.nii']}\nrun: {output: out}\n", "training images must exist"),
    "nul_path": (IMAGES + 'run: {output: "a\\0b"}\n', "run.output: String should match"),
    "suffix": ("data: {bids: ., suffix: '**'}\nrun: {output: out}\n", "suffix must be letters and digits"),
    "manifest": ("data: {manifest: m.csv}\nrun: {output: out}\n", "manifest must be an existing file"),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_bad_configurations(refused, tmp_path, name):
    text, message = CONFIGURATIONS[name]
    (tmp_path / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(message, "train", "x.yaml", "--device", "cpu")


TABLES = {
    "nothing": ("", "columns must be"),
    "no_rows": ("fixed,moving\n", "must have rows, got none"),
    "short": ("fixed,moving\ngood.nii.gz\n", "rows must be as long as the head, got fewer in line 2"),
    "missing": ("fixed,moving\ngood.nii.gz,no.nii\n", "moving must be an existing file, got no.nii"),
    "column": ("fixed,moving,evil\ngood.nii.gz,good.nii.gz,1\n", "columns must be"),
    "long_file": (f"fixed,moving\n{'n' * 300},good.nii.gz\n", "fixed must be an existing file"),
    "nul": ("fixed,moving\na\0b,good.nii.gz\n", "fixed must be an existing file"),
    "one_label": (
        "fixed,moving,fixed_labels\ngood.nii.gz,good.nii.gz,good.nii.gz\n",
        "given for both images",
    ),
    "bytes": (b"\xff\xff\xff", "must be text in UTF-8"),
    "name_above": ("fixed,moving,name\ngood.nii.gz,good.nii.gz,../../x\n", "name must be letters, digits"),
    "name_dots": ("fixed,moving,name\ngood.nii.gz,good.nii.gz,..\n", "name must be letters, digits"),
    "name_long": (f"fixed,moving,name\ngood.nii.gz,good.nii.gz,{'n' * 300}\n", "at most 200"),
}


@pytest.mark.parametrize("name", TABLES)
def test_bad_tables_of_pairs(refused, tmp_path, name):
    text, message = TABLES[name]
    (tmp_path / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(message, "batch", "x.csv", "-o", "out")
    if not name.startswith("name"):
        refused(message, "evaluate", "x.csv", "-o", "out")


@pytest.mark.parametrize("suffix", ["**", "../x", "/a", "", "[", "*", "T1w\n"])
def test_bad_suffixes_of_bids(refused, tmp_path, suffix):
    (tmp_path / "bids" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "bids" / "sub-01" / "again").symlink_to("..")
    command = ("batch", "bids", "-o", "out", "--fixed", "good.nii.gz", "--suffix")
    refused("BIDS suffix must be letters and digits", *command, suffix)
    refused("BIDS folder must hold sub-*_T1w.nii[.gz], got none", *command, "T1w")


def whole_model() -> tuple[dict, bytes]:
    """The header of a packaged model, and what follows."""
    raw = packaged_models()["t1-brain"].read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:end]), raw[end:]


def model(**changes: object) -> bytes:
    """A model file with some of its specification changed; ``text``: the specification as a whole."""
    header, tensors = whole_model()
    metadata = json.loads(header["__metadata__"]["patchmorph"])
    text = changes.pop("text", None)
    metadata["spec"].update(changes)
    header["__metadata__"]["patchmorph"] = text or json.dumps(metadata)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + tensors


MODELS = {
    "truncated": (lambda: model()[:-1000], "must be a safetensors file"),
    "empty": (lambda: b"", "must be a safetensors file"),
    "head": (lambda: struct.pack("<Q", 2**60) + bytes(100), "must be a safetensors file"),
    "pickle": (lambda: pickle.dumps({"a": 1}), "must be a safetensors file"),
    "patch": (lambda: model(patch_size=1024), "patch_size: Input should be less than or equal to 512"),
    "scales": (lambda: model(spacings_mm=[1000.0 - k for k in range(900)]), "at most 8 items"),
    "passes": (lambda: model(passes=[10**9] * 3), "passes.0: Input should be less than or equal to 32"),
    "steps": (lambda: model(integration_steps=10**12), "integration_steps: Input should be less than"),
    "rising": (lambda: model(spacings_mm=[1, 2, 3]), "spacings_mm must decrease from coarse to fine"),
    "nan": (lambda: model(spacings_mm=[float("nan")] * 3), "spacings_mm"),
    "key": (lambda: model(evil=1), "evil: Extra inputs are not permitted"),
    "code": (lambda: model(dense={"name": "os:system"}), "must name networks on our list, got os:system"),
    "options": (lambda: model(dense={"name": "unet", "options": {"encoder": [10**9]}}), "encoder.0"),
    "shapes": (
        lambda: model(dense={"name": "unet", "options": {"encoder": [8, 8], "decoder": [8, 8]}}),
        "must hold",
    ),
    "deep": (lambda: model(text="[" * 10**5), "metadata that are no JSON"),
    "digits": (lambda: model(text="9" * 5000), "metadata that are no JSON"),
    "list": (lambda: model(text="[]"), "must carry PatchMorph's metadata"),
}


@pytest.mark.parametrize("name", MODELS)
def test_bad_models(refused, tmp_path, name):
    make, message = MODELS[name]
    (tmp_path / "x.safetensors").write_bytes(make())
    refused(message, "register", *["good.nii.gz"] * 2, "-o", "results", "--model", "x.safetensors")


def test_a_pickle_by_another_name_is_not_run(refused, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    torch.save({"a": Evil()}, tmp_path / "x.safetensors")
    for name in ("x.safetensors", "x.pt", "x.h5", "x.mat", "x.nii.gz", "x.gii", "x.csv"):
        (tmp_path / name).write_bytes((tmp_path / "x.safetensors").read_bytes())
    refused("", "register", *["good.nii.gz"] * 2, "-o", "results", "--model", "x.safetensors")
    refused("", "register", *["good.nii.gz"] * 2, "-o", "results", "--model", "x.pt")
    for name in ("x.safetensors", "x.h5", "x.mat", "x.nii.gz"):
        refused("", "apply", name, "good.nii.gz", "--reference", "good.nii.gz", "-o", "out.nii")
    for name in ("x.gii", "x.csv"):
        refused("", "apply-points", "shift.tfm", name, "-o", f"out{name[1:]}")
    refused("", "register", "x.nii.gz", "good.nii.gz", "-o", "results")
    refused("", "evaluate", "x.csv", "-o", "results")
