"""Registrations, each as where it takes the fixed points, and what a result answers."""

from collections.abc import Callable

import numpy as np
import torch
from frozen import brains
from frozen.brains import NEAR, TURNED, cropped, fixed, half_space, moving
from frozen.internals import Image, folding, heads, packaged, register, tiny

Outputs = dict[str, np.ndarray]
"""By name; the first word of a name is its kind, which says how it is compared (see `frozen.outputs`)."""
Case = Callable[[], Outputs]


class Cases(dict[str, Case]):
    """Functions that compute outputs, by name."""

    def add(self, function: Case) -> Case:
        """Decorate a function with this."""
        self[function.__name__] = function
        return function


CASES = Cases()


def points() -> torch.Tensor:
    return torch.from_numpy(brains.points_world()).float()[None]


def mapped(transform) -> np.ndarray:
    """Where the fixed points go: ``[n, 3]``, mm."""
    with torch.no_grad():
        return transform(points())[0].double().numpy()


def at(volume: torch.Tensor, image: Image) -> np.ndarray:
    """Values of a volume on the grid of ``image`` at the voxels next to the fixed points."""
    voxels = image.grid.to_voxel(points())[0].round().long()
    inside = [
        index.clamp(0, count - 1) for index, count in zip(voxels.unbind(-1), image.grid.shape, strict=True)
    ]
    return volume.squeeze()[inside[0], inside[1], inside[2]].double().numpy()


def found(fixed_image: Image, moving_image: Image, **choices) -> Outputs:
    result = register(fixed_image, moving_image, **choices)
    return {
        "mm map": mapped(result.transform),
        "share missing": np.array(result.fraction_without_counterpart),
    }


@CASES.add
def packaged_same_contrast() -> Outputs:
    """The affine network is accepted and moves points by millimetres; what a result answers."""
    result = register(fixed(), moving(), packaged("t1-brain"))
    folds = folding(result.transform, fixed().grid)
    stages = {f"mm stage {k}": mapped(stage) for k, stage in enumerate(result.history)}
    return stages | {
        "mm inverse": mapped(result.inverse),
        "share warped": at(result.warped().data, fixed()),
        "share warped cubic": at(result.warped(interpolation="cubic").data, fixed()),
        "share jacobian": at(result.jacobian(), fixed()),
        "share folding": np.array([folds.voxel_share, folds.volume_share]),
    }


@CASES.add
def packaged_two_scales() -> Outputs:
    return found(fixed(), moving(), model=packaged("t1-brain", 2))


@CASES.add
def auto_same_contrast() -> Outputs:
    return found(fixed(), moving())


@CASES.add
def auto_inverted() -> Outputs:
    return found(fixed(), moving(NEAR, brains.inverted))


@CASES.add
def auto_two_contrasts_refined() -> Outputs:
    return found(fixed(), moving(NEAR, brains.folded), refine=2, similarity="mind", seed=3)


@CASES.add
def head() -> Outputs:
    with heads():
        return found(fixed(brains.head, "head"), moving(NEAR, brains.head, "head"), model=tiny())


@CASES.add
def tiny_same_contrast() -> Outputs:
    result = register(fixed(), moving(), tiny())
    return {f"mm stage {k}": mapped(stage) for k, stage in enumerate(result.history)}


@CASES.add
def other_pose_orientation_and_spacing() -> Outputs:
    return found(fixed(), moving(TURNED, grid="other"), model=tiny())


@CASES.add
def moving_truncated() -> Outputs:
    return found(fixed(), cropped(moving(), 2, slice(0, 40)), model=tiny())


@CASES.add
def fixed_truncated() -> Outputs:
    return found(cropped(fixed(), 1, slice(18, None)), moving(), model=tiny())


@CASES.add
def jitter() -> Outputs:
    return found(fixed(), moving(), model=tiny(), jitter=True, seed=1)


@CASES.add
def jitter_of_another_seed() -> Outputs:
    return found(fixed(), moving(), model=tiny(), jitter=True, seed=2)


@CASES.add
def refined() -> Outputs:
    return found(fixed(), moving(), model=tiny(), refine=2)


@CASES.add
def refined_by_another_seed() -> Outputs:
    return found(fixed(), moving(), model=tiny(), refine=2, seed=5)


@CASES.add
def refined_by_mse() -> Outputs:
    return found(fixed(), moving(), model=tiny(), refine=2, similarity="mse")


@CASES.add
def uncertainty() -> Outputs:
    result = register(fixed(), moving(), tiny(), uncertainty=True, refine=1)
    return {"mm map": mapped(result.transform), "mm uncertainty": at(result.uncertainty().data, fixed())}


@CASES.add
def fixed_mask() -> Outputs:
    return found(fixed(), moving(), model=tiny(), fixed_mask=half_space(fixed(), 2, -20.0))


@CASES.add
def moving_mask() -> Outputs:
    return found(fixed(), moving(), model=tiny(), moving_mask=half_space(moving(), 1, 45.0, -1))


@CASES.add
def both_masks() -> Outputs:
    masks = {
        "fixed_mask": half_space(fixed(), 2, -20.0),
        "moving_mask": half_space(moving(), 2, -25.0),
    }
    return found(fixed(), moving(), model=tiny(), **masks)


@CASES.add
def no_model() -> Outputs:
    return found(fixed(), moving(), model="none", refine=2)


@CASES.add
def no_model_and_two_contrasts() -> Outputs:
    return found(fixed(), moving(NEAR, brains.inverted), model="none", refine=2, similarity="mi")
