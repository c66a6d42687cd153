"""Vector and tensor images: their intents in NIfTI, and the frame of their components."""

from typing import Literal, get_args

from patchmorph.errors import PatchMorphError
from patchmorph.io.frames import Frames
from patchmorph.transforms.reorientation import TENSOR, VECTOR

Reorient = Literal["ras", "lps", "none"]
"""World axes along which components run; ``none``: components are numbers like any other."""
REORIENT: tuple[Reorient, ...] = get_args(Reorient)
KINDS = {
    1004: "matrices",
    1005: "symmetric tensors",
    1006: "displacement vectors",
    1007: "vectors",
    1010: "quaternions",
}
"""NIfTI's intent codes of components that turn with the image."""
NOT_TURNED = (1004, 1010)
AXES: dict[Reorient, tuple[int, int, int]] = {"ras": (1, 1, 1), "lps": (-1, -1, 1)}
"""Signs of the axes of the components in RAS+."""


def check_reorient(frames: Frames, reorient: Reorient | None) -> None:
    """Check that components that turn with an image are resampled as the user means it.

    NIfTI does not state along which axes components run, and tools differ, so the user must.

    Args:
        frames: the image. One of a single frame is no vector, whatever is stated.
        reorient: what the user stated, if anything.

    Raises:
        PatchMorphError: nothing was stated for an image of such an intent, or one of other components.
    """
    kind = KINDS.get(frames.intent, "values")
    if frames.intent in KINDS and reorient is None:
        raise PatchMorphError(
            f"--reorient must be ras or lps (the axes of components, which are turned with the map) or none, "
            f"for {kind} (NIfTI intent {frames.intent}; a displacement field is for `patchmorph compose`), "
            f"got nothing for {frames.path}"
        )
    if turning_axes(frames, reorient) is None:
        return
    *others, size = frames.further
    components = size in (VECTOR, TENSOR) and set(others) <= {1} and frames.dtype.kind == "f"
    if frames.intent in NOT_TURNED or not components:
        raise PatchMorphError(
            f"--reorient {reorient} must get one vector (3) or lower triangle of a symmetric tensor (6) of "
            f"floating point numbers a voxel, got {kind}, {frames.dtype} {frames.further}, in {frames.path}"
        )


def turning_axes(frames: Frames, reorient: Reorient | None) -> tuple[int, int, int] | None:
    """Signs in RAS+ of the axes of an image's components; ``None`` if they are not to be turned."""
    return AXES.get(reorient) if reorient is not None and len(frames) > 1 else None
