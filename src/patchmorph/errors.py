"""The base class of all errors that a user can cause, and one line for what a schema found."""

from pydantic import ValidationError

MAX_PROBLEMS = 3
"""Problems of one file that a message lists."""


class PatchMorphError(ValueError):
    """An input of the user is invalid.

    The message names the input, the requirement and the value:
    ``"affine must be invertible, got determinant 0 in sub-01.nii.gz"``. The command line prints it as one
    line and exits with status 2. Conditions that only a bug can violate are checked by ``assert`` instead.
    """


def problems(error: ValidationError) -> str:
    """What a schema found in a file, on one line: each place and what it must be; at most `MAX_PROBLEMS`."""
    found = error.errors(include_url=False, include_context=False)
    lines = [": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in found[:MAX_PROBLEMS]]
    more = [f"{len(found) - MAX_PROBLEMS} more"] if len(found) > MAX_PROBLEMS else []
    return " ".join("; ".join(lines + more).split())
