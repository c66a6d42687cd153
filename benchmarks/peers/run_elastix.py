"""elastix (pip package SimpleITK-SimpleElastix) on one pair.

    python run_elastix.py FIXED MOVING FOLDER SPACING_MM

Its default parameter maps: translation, affine, B-splines, with a final grid of SPACING_MM, and its faster
estimate of the step size.
"""

import protocol
import SimpleITK as sitk  # noqa: N813
import with_sitk

clock = protocol.Clock()
fixed, moving = with_sitk.read(protocol.FIXED), with_sitk.read(protocol.MOVING)
elastix = sitk.ElastixImageFilter()
elastix.LogToConsoleOff()
elastix.SetOutputDirectory(str(protocol.FOLDER))
elastix.SetFixedImage(fixed)
elastix.SetMovingImage(moving)
translation, affine = (sitk.GetDefaultParameterMap(kind, 4) for kind in ("translation", "affine"))
translation["AutomaticTransformInitializationMethod"] = ["CenterOfGravity"]
translation["AutomaticTransformInitialization"] = ["true"]
splines = sitk.GetDefaultParameterMap("bspline", 4, float(protocol.ARGUMENTS[0]))
splines["ASGDParameterEstimationMethod"] = ["DisplacementDistribution"]
elastix.SetParameterMap([translation, affine, splines])
elastix.Execute()
clock.stop()
transformix = sitk.TransformixImageFilter()
transformix.LogToConsoleOff()
transformix.SetOutputDirectory(str(protocol.FOLDER))
found = [dict(values) for values in elastix.GetTransformParameterMap()]
for name in protocol.FORWARD:
    found[-1]["FinalBSplineInterpolationOrder"] = ["0" if name == "labels" else "1"]
    transformix.SetTransformParameterMap(found)
    transformix.SetMovingImage(with_sitk.read(protocol.source(name)))
    sitk.WriteImage(transformix.Execute(), protocol.target(name))
