"""SimpleITK's demons on one pair.

    python run_demons.py FIXED MOVING FOLDER

An affine map, then fast symmetric diffeomorphic demons over three resolutions, with matched histograms, as
SimpleITK's examples of demons and its notebook on multi-resolution demons do.
"""

import protocol
import SimpleITK as sitk  # noqa: N813
import with_sitk

LEVELS = ((4, 200), (2, 100), (1, 50))
"""Factor of the resolution, and iterations."""


def shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    """Smoothed and coarser."""
    if factor == 1:
        return image
    smooth = sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * s for s in image.GetSpacing()])
    return sitk.Shrink(smooth, [factor] * 3)


clock = protocol.Clock()
fixed, moving = with_sitk.read(protocol.FIXED), with_sitk.read(protocol.MOVING)
affine = with_sitk.affine(fixed, moving)
moved = sitk.Resample(moving, fixed, affine)
moved = sitk.HistogramMatching(moved, fixed, 1024, 7, True)
demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
demons.SetSmoothDisplacementField(True)
demons.SetStandardDeviations(1.5)
field = None
for factor, iterations in LEVELS:
    demons.SetNumberOfIterations(iterations)
    small = shrunk(fixed, factor)
    start = field and sitk.Resample(field, small, sitk.Transform(), sitk.sitkLinear)
    field = demons.Execute(small, shrunk(moved, factor), *([start] if start else []))
clock.stop()
deformable = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
with_sitk.warp(sitk.CompositeTransform([affine, deformable]))
