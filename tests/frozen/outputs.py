"""Write the frozen outputs of the code as it is, or compare them with a file of an earlier state.

    python tests/frozen/outputs.py --write /tmp/before.json     # before a change
    python tests/frozen/outputs.py --compare /tmp/before.json   # after it, on the same machine: strict
    python tests/frozen/outputs.py --freeze                     # renew what the suite compares with

Option ``--only NAME…`` runs some cases; ``--freeze`` keeps the others as they were. The package that is
imported is the one that is installed; set ``PYTHONPATH=src`` to test another checkout.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from frozen import files, maps, trainings
from frozen.internals import fixed_conditions, patchmorph

FROZEN = Path(__file__).with_name("frozen.json")
CASES = {**maps.CASES, **trainings.CASES, **files.CASES}
Outputs = maps.Outputs


class Tolerance(NamedTuple):
    """What two numbers may differ by: an absolute part, and a relative one of the larger of their arrays."""

    absolute: float
    relative: float
    digits: int
    """Decimals that are stored for the suite."""


# Between processors the order of float32 sums differs, 1e-7 of a value, which networks and refinement enlarge
# to 0.012 mm at most where it was measured; README.md has the reasons of each number.
LOOSE = {
    "mm": Tolerance(0.02, 0.0, 4),
    "share": Tolerance(2e-3, 0.0, 5),
    "number": Tolerance(1e-4, 1e-5, 6),
    "step": Tolerance(1.0, 0.0, 3),
    "loss": Tolerance(1e-6, 1e-3, 8),
    "exact": Tolerance(0.0, 0.0, 12),
}
STRICT = {
    "mm": Tolerance(1e-4, 0.0, 12),
    "share": Tolerance(1e-6, 1e-6, 12),
    "number": Tolerance(1e-9, 1e-6, 12),
    "step": Tolerance(1.0, 0.0, 12),
    "loss": Tolerance(1e-12, 1e-6, 12),
    "exact": Tolerance(0.0, 0.0, 12),
}


def differences(found: Outputs, before: Outputs, tolerances: dict[str, Tolerance]) -> list[str]:
    """One line for each output that is not what it was."""
    lines = [f"{name}: only {side}" for side, names in _lone(found, before).items() for name in names]
    for name in sorted(found.keys() & before.keys()):
        new, old = np.asarray(found[name]), np.asarray(before[name])
        if new.shape != old.shape:
            lines.append(f"{name}: shape must be {old.shape}, got {new.shape}")
        elif new.dtype.kind in "US" or old.dtype.kind in "US":
            lines += [] if np.array_equal(new, old) else [f"{name}: must be {old}, got {new}"]
        elif not np.array_equal(np.isnan(new), np.isnan(old)):
            lines.append(f"{name}: NaN at other places")
        else:
            off = float(np.nanmax(np.abs(new - old), initial=0.0))
            size = float(np.nanmax(np.abs(old), initial=0.0))
            absolute, relative, _ = tolerances[name.split()[0]]
            if off > absolute + relative * size:
                lines.append(
                    f"{name}: off by {off:.3g} of {size:.3g}, {absolute + relative * size:.1g} allowed"
                )
    return lines


def _lone(found: Outputs, before: Outputs) -> dict[str, list[str]]:
    return {"now": sorted(found.keys() - before.keys()), "before": sorted(before.keys() - found.keys())}


def read(path: Path) -> dict[str, Outputs]:
    """The outputs in a file, by case."""
    content = json.loads(path.read_text(encoding="utf-8"), parse_int=float)  # keeps the sign of -0
    return {
        name: {
            key: np.array(values, None if isinstance(values, str) else np.float64)
            for key, values in outputs.items()
        }
        for name, outputs in content.items()
    }


def write(path: Path, cases: dict[str, Outputs], tolerances: dict[str, Tolerance]) -> None:
    """Write outputs as JSON, one a line, with the digits of ``tolerances``."""

    def plain(key: str, value: np.ndarray):
        value = np.asarray(value)
        if value.dtype.kind in "US":
            return str(value)
        kind = key.split()[0]
        digits = tolerances[kind].digits
        if kind == "loss":
            return np.vectorize(lambda x: float(f"{x:.{digits}g}"), otypes=[float])(value).tolist()
        return np.round(value.astype(np.float64), digits).tolist()

    blocks = []
    for name, outputs in cases.items():
        lines = [f"  {json.dumps(key)}: {_dense(plain(key, value))}" for key, value in outputs.items()]
        blocks.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    path.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def _dense(value) -> str:
    return json.dumps(value, separators=(",", ":")).replace(".0,", ",").replace(".0]", "]")


def computed(names: list[str]) -> dict[str, Outputs]:
    """The outputs of some cases, with the seconds that each took on standard error."""
    outputs = {}
    with fixed_conditions():
        for name in names:
            start = time.perf_counter()
            outputs[name] = CASES[name]()
            print(f"{time.perf_counter() - start:6.2f} s  {name}", file=sys.stderr, flush=True)
    return outputs


def freeze(outputs: dict[str, Outputs], path: Path = FROZEN) -> None:
    """Renew some cases of the file that the suite compares with; those that the code has no more go."""
    frozen = read(path) | outputs
    write(path, {name: frozen[name] for name in CASES if name in frozen}, LOOSE)


def main() -> int:
    """Run as a script; the status is 1 where an output differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE")
    action.add_argument("--compare", type=Path, metavar="FILE")
    action.add_argument("--freeze", action="store_true")
    parser.add_argument("--loose", action="store_true", help="compare with the tolerances of the suite")
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES), metavar="NAME")
    given = parser.parse_args()
    print(f"package: {Path(patchmorph.__file__).parent}", file=sys.stderr)
    outputs = computed(given.only)
    if given.write:
        write(given.write, outputs, STRICT)
        return 0
    if given.freeze:
        freeze(outputs)
        return 0
    before = read(given.compare)
    failed = 0
    for name in given.only:
        for line in differences(outputs[name], before.get(name, {}), LOOSE if given.loose else STRICT):
            print(f"{name}: {line}")
            failed += 1
    print(f"{failed} outputs differ in {len(given.only)} cases")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
