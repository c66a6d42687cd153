"""Processor time of own code for which SciPy or SimpleITK served before, beside these; the results agree.

Gaps of a field are filled by means of blocks instead of the nearest voxels, so only their times are compared.

Masks are those of smooth noise, of 96³ voxels (the most that a registration makes) and 256³. The field is
random and smooth, of 72 × 84 × 72 points as that of a registration, in ITK's files.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from machine import write
from scipy import ndimage

from patchmorph.images.components import connected_components
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.registration.morphology import closed, fill_holes, grown, opened
from patchmorph.spatial.bsplines import spline_coefficients
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_cubic
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.gaps import filled_gaps

SIZES = 96, 256
RADIUS = 9.0
"""Voxels: that of the closing of a mask."""
FIELD = (72, 84, 72)
RUNS = 3


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, Any] = {f"{size}³": of_masks(size) | of_values(size) for size in SIZES}
    write("replaced", {"seconds": "ours, theirs, equal"} | figures | {"files of ITK": of_files()})


def of_masks(size: int) -> dict[str, list]:
    """Labelling and morphology of a mask."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(size,) * 3), size / 24)
    array = noise > 0
    mask, corners = torch.from_numpy(array)[None, None], np.ones((3, 3, 3))
    return {
        "components by faces": compared(lambda: connected_components(array)[0], lambda: label(array, None)),
        "components by corners": compared(
            lambda: connected_components(array, diagonal=True)[0], lambda: label(array, corners)
        ),
        "holes": compared(lambda: of(fill_holes(mask)), lambda: np.asarray(ndimage.binary_fill_holes(array))),
        "dilation": compared(lambda: of(grown(mask, RADIUS)), lambda: within(array)),
        "closing": compared(lambda: of(closed(mask, RADIUS)), lambda: their_closing(array)),
        "opening": compared(lambda: of(opened(mask, RADIUS)), lambda: within(~within(~array))),
        "gaps": compared(
            lambda: filled_gaps(mask.float(), mask)[0, 0].numpy(),
            lambda: nearest(array)[0],
            False,
        ),
    }


def of_values(size: int) -> dict[str, list]:
    """Cubic interpolation of an image on the four middle planes of a lattice that is turned by 0.1 rad."""
    values = torch.rand(1, 1, size, size, size, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.1, 0.03], [0.1, 0, -0.05], [-0.03, 0.05, 0]]))
    plane = torch.arange(float(size)) - size / 2
    lattice = torch.cartesian_prod(torch.arange(4.0), plane, plane)
    points = (0.8 * lattice @ turn.T + size / 2)[None]
    coefficients, array = spline_coefficients(values), values[0, 0].numpy()
    theirs, places = coefficients[0, 0].numpy(), points[0].T.numpy()
    return {
        "spline prefilter": compared(
            lambda: spline_coefficients(values)[0, 0].numpy(),
            lambda: np.asarray(ndimage.spline_filter(array)),
        ),
        "cubic planes": compared(
            lambda: sample_cubic(coefficients, points)[0, 0].numpy(),
            lambda: their_samples(theirs, places),
        ),
    }


def of_files() -> dict[str, list]:
    """Reading a composite, as a map of points."""
    noise = torch.randn(1, 3, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=FIELD, mode="trilinear")
    grid = Grid.centered(FIELD, 2.5, torch.zeros(1, 3))
    field = DisplacementField(smooth, grid, "zeros")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transform.h5"
        save_transform(field, path)
        found = compared(lambda: displacement(path), lambda: their_displacement(path))
        return {"reading transform.h5": found}


def displacement(path: Path) -> np.ndarray:
    part = load_transform(path)
    assert isinstance(part, DisplacementField)
    return part.displacement[0].movedim(0, -1).numpy() * (-1, -1, 1)


def their_displacement(path: Path) -> np.ndarray:
    composite = sitk.CompositeTransform(sitk.ReadTransform(str(path)))
    field = sitk.DisplacementFieldTransform(composite.GetNthTransform(0)).GetDisplacementField()
    return sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3)


def of(mask: torch.Tensor) -> np.ndarray:
    return mask[0, 0].numpy()


def label(array: np.ndarray, structure: np.ndarray | None) -> np.ndarray:
    return np.asarray(ndimage.label(array, structure)[0])  # type: ignore[index]


def within(array: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.distance_transform_edt(~array)) <= RADIUS


def nearest(array: np.ndarray) -> np.ndarray:
    """Indices of the nearest known voxels, from which gaps were filled."""
    return np.asarray(ndimage.distance_transform_edt(array, return_distances=False, return_indices=True))


def their_samples(coefficients: np.ndarray, places: np.ndarray) -> np.ndarray:
    found = ndimage.map_coordinates(coefficients, places, np.float32, 3, "mirror", prefilter=False)
    return np.asarray(found)


def their_closing(array: np.ndarray) -> np.ndarray:
    margin = int(RADIUS) + 2
    padded = np.pad(array, margin)
    return (~within(~within(padded)))[(slice(margin, -margin),) * 3]


def compared(
    ours: Callable[[], np.ndarray], theirs: Callable[[], np.ndarray], alike: bool = True
) -> list[float | bool | None]:
    """Least processor time of either in turn, in seconds, and whether the results, if ``alike``, agree."""
    times: dict[Callable, float] = {ours: np.inf, theirs: np.inf}
    results: list[np.ndarray] = []
    for _ in range(RUNS):
        results.clear()
        for function in times:
            began = time.process_time()
            results.append(function())
            times[function] = min(times[function], time.process_time() - began)
    agree = bool(np.allclose(*results, atol=1e-5)) if alike else None
    return [*(round(each, 3) for each in times.values()), agree]


if __name__ == "__main__":
    main()
