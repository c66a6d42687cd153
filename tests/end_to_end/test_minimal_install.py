"""What ``pip install .`` brings is enough for a registration, its files and those of other tools."""

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from brains import inside, moved_brain
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from synthetic import rotation

from patchmorph.io.transforms.formats import load_transform, save_transform

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
TOOLS = {"setuptools", "pip"}
"""Distributions that an environment has anyway."""
CODE = """
import json, sys
absent, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from patchmorph import cli

for words in commands:
    sys.argv = ["patchmorph", *words]
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(f"exit status {code} of {words}")
"""


def required() -> set[str]:
    """Distributions that the package requires, and those that these require."""
    names, more = set(), [Requirement(each) for each in PROJECT["dependencies"]]
    while more:
        requirement = more.pop()
        name = canonicalize_name(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            more += map(Requirement, metadata.requires(name) or ())
    return names


def modules_beyond(names: set[str]) -> list[str]:
    """Modules of this environment that none of these distributions brings."""
    kept = names | TOOLS | {"patchmorph"}
    owners = metadata.packages_distributions()
    return [module for module, of in owners.items() if not kept & {canonicalize_name(each) for each in of}]


def minimal(*commands: tuple) -> subprocess.CompletedProcess:
    """Run commands in one process without any optional package."""
    words = json.dumps([list(map(str, each)) for each in commands])
    absent = json.dumps(modules_beyond(required()))
    return subprocess.run([sys.executable, "-c", CODE, absent, words], capture_output=True, text=True)


def test_optional_packages_are_absent_here():
    absent = modules_beyond(required())
    assert {"SimpleITK", "scipy", "matplotlib", "nilearn", "nitransforms", "zarr"} <= set(absent)
    assert not {"torch", "numpy", "nibabel", "h5py", "PIL", "patchmorph"} & set(absent)


@pytest.mark.slow
def test_a_pair_is_registered_and_its_files_are_used(mni, tmp_path):
    results, warped, affine = tmp_path / "results", tmp_path / "warped", tmp_path / "affine.tfm"
    sitk.WriteTransform(sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)), str(affine))
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    fixed, moving, truth = moved_brain(mni, tmp_path, smoothly=True)
    chain, reference = results / "transform.h5", ("--reference", fixed)
    steps = [
        ("register", fixed, moving, "-o", results),
        *(
            ("apply", chain, moving, *reference, "-o", warped / f"{kind}.nii", "--interpolation", kind)
            for kind in ("linear", "cubic", "nearest", "label")
        ),
        ("apply-points", chain, tmp_path / "points.csv", "-o", tmp_path / "mapped.csv"),
        ("convert", affine, "-o", tmp_path / "affine.mat"),
        ("convert", tmp_path / "affine.mat", "-o", tmp_path / "affine.h5"),
        ("convert", chain, "-o", tmp_path / "warp.nii.gz", *reference),
        ("invert", affine, "-o", tmp_path / "inverse.h5"),
        ("compose", affine, chain, "-o", tmp_path / "both.h5"),
        ("jacobian", chain, *reference, "-o", tmp_path / "jacobian.nii.gz"),
        ("report", results),
    ]
    done = minimal(*steps)
    assert done.stdout.count("exit status 0") == len(steps), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    points = inside(mni)
    assert (load_transform(chain)(points) - truth(points)).norm(dim=-1).mean() < 0.7
    expected, found = (load_transform(path)(points) for path in (affine, tmp_path / "affine.h5"))
    torch.testing.assert_close(found, expected)


def test_other_images_name_the_line_that_installs_their_reader(tmp_path):
    image, affine = sitk.GaussianSource(size=[8, 8, 8]), tmp_path / "map.tfm"
    nrrd, meta, nifti = (tmp_path / f"image.{ending}" for ending in ("nrrd", "mha", "nii"))
    for path in (nrrd, meta, nifti):
        sitk.WriteImage(image, str(path))
    dicom, output, results = tmp_path / "dicom", tmp_path / "x.mha", tmp_path / "results"
    dicom.mkdir()
    save_transform(rotation(), affine)
    uses = {
        f"read the NRRD file {nrrd}": ("apply", affine, nifti, "--reference", nrrd, "-o", tmp_path / "x.nii"),
        f"read the MetaImage {meta}": ("register", meta, nifti, "-o", results),
        f"read the DICOM series {dicom}": ("register", nifti, dicom, "-o", results),
        f"write {results / 'warped.nrrd'}": ("register", nifti, nifti, "-o", results, "--format", "nrrd"),
        f"write {output}": ("apply", affine, nifti, "--reference", nifti, "-o", output),
    }
    done = minimal(*uses.values())
    assert done.stdout.count("exit status 2") == len(uses), done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("patchmorph: ")]
    missing = "(pip install 'patchmorph[itk]'), got No module named 'SimpleITK'"
    assert lines == [f"patchmorph: SimpleITK must be installed to {use} {missing}" for use in uses]
