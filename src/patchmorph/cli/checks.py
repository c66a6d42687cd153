"""What the commands print of the checks of a transform."""

from patchmorph.cli.app import console
from patchmorph.transforms.checks import MAX_ERROR_MM, InverseCheck, JacobianCheck
from patchmorph.transforms.jacobian import DIFFERENCES, Differences, Folding


def print_misses(check: InverseCheck) -> None:
    """Print how many points an inverse misses, and how many are not mapped."""
    points = check.points
    console.print(f"inverse misses by over {MAX_ERROR_MM} mm at {check.failed} of {points} points")
    if check.unmapped:
        console.print(f"{check.unmapped} of {points} points are not mapped")


def determinant_figures(check: JacobianCheck, differences: Differences) -> dict[str, int | float]:
    """What is printed of a Jacobian determinant, by name."""
    mapped, unmapped = check.mapped(differences), check.unmapped(differences)
    figures: dict[str, int | float] = {"smallest": float(mapped.min()), "largest": float(mapped.max())}
    for name in DIFFERENCES:
        figures[f"folding, % of voxels by {name} differences"] = check.folding_percent(name)
    figures |= folding_figures(check.folding)
    return figures | ({"voxels that are not mapped": unmapped} if unmapped else {})


def folding_figures(found: Folding) -> dict[str, int | float]:
    """What is printed of the cells that a transform inverts."""
    return {
        "non-diffeomorphic voxels": found.voxels,
        "non-diffeomorphic tetrahedra": found.tetrahedra,
        "non-diffeomorphic volume, %": 100 * found.volume_share,
    }
