"""Steps that several runners do by SimpleITK: an affine map, and the warping of the images."""

import protocol
import SimpleITK as sitk  # noqa: N813


def read(path: str) -> sitk.Image:
    """An image as float32."""
    return sitk.ReadImage(path, sitk.sitkFloat32)


def affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Affine map by mutual information from the centres of mass, as SimpleITK's registration examples do."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 200, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), moments)
    method.SetInitialTransform(start)
    return method.Execute(fixed, moving)


def warp(transform: sitk.Transform) -> None:
    """Pull labels and coordinates to the fixed grid."""
    reference = sitk.ReadImage(protocol.FIXED)
    for name in protocol.FORWARD:
        method = sitk.sitkNearestNeighbor if name == "labels" else sitk.sitkLinear
        warped = sitk.Resample(sitk.ReadImage(protocol.source(name)), reference, transform, method)
        sitk.WriteImage(warped, protocol.target(name))
