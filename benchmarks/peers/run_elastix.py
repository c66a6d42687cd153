"""elastix (pip package itk-elastix) on one pair.

    python run_elastix.py FIXED MOVING FOLDER SPACING_MM

Its default parameter maps: translation, affine, B-splines, with a final grid of SPACING_MM, and its faster
estimate of the step size.
"""

import itk
import numpy as np
import protocol

clock = protocol.Clock()
fixed, moving = itk.imread(protocol.FIXED, itk.F), itk.imread(protocol.MOVING, itk.F)
parameters = itk.ParameterObject.New()
for kind in ("translation", "affine"):
    parameters.AddParameterMap(parameters.GetDefaultParameterMap(kind, 4))
spacing = float(protocol.ARGUMENTS[0])
parameters.AddParameterMap(parameters.GetDefaultParameterMap("bspline", 4, spacing))
parameters.SetParameter(2, "ASGDParameterEstimationMethod", "DisplacementDistribution")
parameters.SetParameter(0, "AutomaticTransformInitializationMethod", "CenterOfGravity")
parameters.SetParameter(0, "AutomaticTransformInitialization", "true")
_, found = itk.elastix_registration_method(fixed, moving, parameter_object=parameters, log_to_console=False)
clock.stop()
last = found.GetNumberOfParameterMaps() - 1
for name in protocol.FORWARD:
    order = "0" if name == "labels" else "1"
    found.SetParameter(last, "FinalBSplineInterpolationOrder", order)
    image = itk.imread(protocol.source(name), itk.F)
    warped = itk.transformix_filter(image, found)
    warped = itk.image_from_array(np.asarray(warped))
    warped.CopyInformation(fixed)
    itk.imwrite(warped, protocol.target(name))
