"""What the schedule's settings bring and cost, on two labelled pairs: writes results/inference.json.

    python benchmarks/inference.py [--data FOLDER] [--device cpu|cuda]

Behind docs/decisions/004. Each variant changes some values of the packaged model's specification.
"""

import argparse
from pathlib import Path
from typing import Any

import accuracy
import machine

from patchmorph import api
from patchmorph.evaluation.benchmark import evaluate, loading, summarize
from patchmorph.networks.model import ModelSpec

PEOPLE = (("sub-01", "sub-02"), ("sub-01", "sub-05"))
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"overlap": 0.5},
    {"overlap": 0.5, "smoothing": 0.0},
    {"smoothing": 0.0},
    {"smoothing": 0.0, "integration_steps": 8},
    {"smoothing": 0.49},
    {"reference_radius_mm": 55.4},
    {"reference_radius_mm": None},
)
SHOWN = ("dice_aseg", "dice_cortex", "folding_percent", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = api.load_model(api.SAME_CONTRAST, arguments.device)
    packaged = model.spec
    pairs = [
        pair
        for pair in accuracy.pairs(arguments.data)
        if (pair.fixed.name[:6], pair.moving.name[:6]) in PEOPLE
    ]
    rows = []
    for variant in VARIANTS:
        model.spec = ModelSpec.model_validate(packaged.model_dump() | variant)
        means = summarize(
            list(evaluate(pairs, loading(lambda fixed, moving: api.register(fixed, moving, model))))
        )
        rows.append({"changed": variant, **{name: round(means[name], 4) for name in SHOWN}})
        print(rows[-1], flush=True)
    machine.write("inference", {"pairs": PEOPLE, "packaged": packaged.model_dump(), "variants": rows})


if __name__ == "__main__":
    main()
