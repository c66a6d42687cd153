"""The base class of all errors that a user can cause."""


class PatchMorphError(ValueError):
    """An input of the user is invalid.

    The message names the input, the requirement and the value:
    ``"affine must be invertible, got determinant 0 in sub-01.nii.gz"``. The command line prints it as one
    line and exits with status 2. Conditions that only a bug can violate are checked by ``assert`` instead.
    """
