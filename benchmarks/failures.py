"""The picture of docs/when-it-fails.md: how a failed registration looks, and the same after what to try.

    python benchmarks/failures.py

The brains of ``patchmorph demo``, the moving one inverted, in an axial plane of the report's first figure.
"""

import machine
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from patchmorph import api, catalogue, demo
from patchmorph.images.foreground import find_content
from patchmorph.images.volume import Image
from patchmorph.registration.result import Registration
from patchmorph.spatial.grid import Grid

POINTS = 220


def inverted(image: Image) -> Image:
    data = image.normalized().values()
    return Image(torch.where(data > 0.05, 1.05 - data, 0), image.grid, "inverted")


def overlay(found: Registration) -> np.ndarray:
    """Fixed image magenta, warped one green, in the axial plane through two thirds of the height."""
    lower, upper = find_content(found.fixed.normalized()).box_world
    spacing = float((upper - lower)[:2].max()) / POINTS
    center = ((lower + upper) / 2)[None].clone()
    center[0, 2] = lower[2] + 0.72 * (upper - lower)[2]
    points = Grid.centered((POINTS, POINTS, 2), spacing, center).points_world()[:, :, :, :1]
    fixed = found.fixed.normalized().sample(points, spacing)[0, 0, :, :, 0]
    moving = found.moving.normalized().sample(found.transform(points), spacing)[0, 0, :, :, 0]
    return torch.stack([fixed, moving, fixed], -1).permute(1, 0, 2).clamp(0, 1).cpu().numpy()


def main() -> None:
    pair = demo.demo_pair()
    other = inverted(pair.moving)
    figure = Figure(figsize=(8, 4.2), facecolor="black", layout="compressed")
    commands = {"--model t1-brain": "t1-brain", "--model auto, the default": catalogue.AUTO}
    for axes, (title, model) in zip(figure.subplots(1, 2), commands.items(), strict=True):
        found = api.register(pair.fixed, other, model)
        axes.imshow(overlay(found), origin="lower")
        axes.set_title(title, color="white", fontsize=11)
        axes.set_axis_off()
        print(title, *found.notes, sep="; ")
    path = machine.RESULTS.parents[1] / "docs" / "images" / "failures.png"
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    main()
