"""The one error that a user can cause."""


class PatchMorphError(ValueError):
    """Something that a user gave cannot be used.

    The message names the thing, what it must be and what it is:
    ``"affine must be invertible, got determinant 0 in sub-01.nii.gz"``. The command line prints it as one
    line and exits with status 2. What only a bug can cause is an ``assert``, never this.
    """
