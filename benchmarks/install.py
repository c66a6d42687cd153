"""What ``pip install .`` takes on disk beside torch: the whole, and each package.

A virtual environment of its own receives torch and then the package, as pip leaves them (with
compiled bytecode). Torch and what torch itself requires are not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import write

ROOT = Path(__file__).parents[1]
SIZES = """
import importlib.metadata as metadata, json, pathlib
found = {}
for package in metadata.distributions():
    paths = {pathlib.Path(file.locate()) for file in package.files or ()}
    cached = {each for path in paths for each in path.parent.glob(f"__pycache__/{path.stem}.*.pyc")}
    size = sum(path.stat().st_size for path in paths | cached if path.is_file())
    found[package.metadata["Name"].lower()] = size / 1e6
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--extras", default="", help="such as report,train")
    extras = parser.parse_args().extras
    torch = next(
        line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch==")
    )
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install(python, torch)
        before = sizes(python)
        install(python, f"{ROOT}[{extras}]" if extras else str(ROOT))
        added = {name: mb for name, mb in sizes(python).items() if name not in before}
    packages = {name: round(mb, 1) for name, mb in sorted(added.items(), key=lambda item: -item[1])}
    name = "-".join(["install", *extras.split(",")]) if extras else "install"
    write(name, {"extras": extras, "total_mb": round(sum(added.values()), 1), "packages_mb": packages})


def install(python: Path, what: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", what], check=True)


def sizes(python: Path) -> dict[str, float]:
    """Megabytes (10⁶ bytes) of each installed package."""
    done = subprocess.run([python, "-c", SIZES], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
