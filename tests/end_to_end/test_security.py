"""What no code of the package does, and what a small file cannot make it allocate."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_bad_images import SIXTEEN_GB, huge, meta, mgh, nifti, nrrd
from test_bad_points import ply, surface, vtk
from test_bad_transforms import TWO, warp

import patchmorph

SOURCE = Path(patchmorph.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    *("torch.load", "np.load", "numpy.load", "eval", "exec", "os.system", "os.popen"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp"),
}


def calls_and_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found


@pytest.mark.parametrize("room", sorted({path.relative_to(SOURCE).parts[0] for path in SOURCE.rglob("*.py")}))
def test_nothing_unpickles_or_runs_text(room):
    for path in [SOURCE / room, *(SOURCE / room).rglob("*.py")]:
        if path.suffix == ".py":
            assert not calls_and_imports(path) & (FORBIDDEN_MODULES | FORBIDDEN_CALLS), path


LIMITED = """
import json, resource, sys
from patchmorph import cli
from patchmorph.cli.commands import COMMANDS, load_command

for name in COMMANDS:
    load_command(name)
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
for words in json.loads(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_DATA, (used + 500_000_000, resource.RLIM_INFINITY))
    sys.argv = ["patchmorph", *words]
    try:
        cli.main()
    except SystemExit as end:
        print(end.code, end=" ")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux' RLIMIT_DATA")
def test_small_files_that_claim_gigabytes_take_no_memory(refused, tmp_path):
    """In a process that may allocate 500 MB."""
    images = {
        "a.nii": nifti(SIXTEEN_GB),
        "a.mgh": mgh(SIXTEEN_GB),
        "a.nrrd": huge(nrrd),
        "a.mha": meta(DimSize="1600 1600 1600"),
    }
    points = {
        "a.ply": ply(10**12),
        "b.ply": ply(10**9, 10**9, "binary_little_endian", bytes(99)),
        "a.vtk": vtk(10**12),
        "a.surface": surface(10**9, 10**9),
    }
    transforms = {
        "b.mgz": warp((1600, 1600, 1600, 3), TWO),
        "b.nii": nifti((1600, 1600, 1600), ("<8h", 40, 5, 1600, 1600, 1600, 1, 3, 1, 1), ("<h", 68, 1007)),
    }
    for name, data in (images | points | transforms).items():
        (tmp_path / name).write_bytes(data)
    np.savetxt(tmp_path / "x.txt", np.eye(4))
    commands = [("apply", "shift.tfm", name, "--reference", "good.nii.gz", "-o", "o.nii") for name in images]
    commands += [("apply", "shift.tfm", "good.nii.gz", "--reference", name, "-o", "o.nii") for name in images]
    commands += [("apply-points", "shift.tfm", name, "-o", f"o{name[1:]}") for name in points]
    commands += [
        ("apply", name, "good.nii.gz", "--reference", "good.nii.gz", "-o", "o.nii") for name in transforms
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(commands)], capture_output=True, text=True, cwd=tmp_path
    )
    *statuses, peak = map(int, done.stdout.split())
    assert statuses == [2] * len(commands), done.stderr
    assert done.stderr.count("\n") == len(commands)
    assert peak < 1_000_000, done.stderr  # kB
