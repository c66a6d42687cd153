"""The base class of all errors that a user can cause, and the texts that others give them."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

MAX_PROBLEMS, MAX_CHARACTERS = 3, 300
"""Problems of one file that a message lists, and its length: a file may be broken in many places."""


class PatchMorphError(ValueError):
    """An input of the user is invalid.

    The message names the input, the requirement and the value:
    ``"affine must be invertible, got determinant 0 in sub-01.nii.gz"``. The command line prints it as one
    line and exits with status 2. Conditions that only a bug can violate are checked by ``assert`` instead.
    Line ends and control characters of what is quoted from a file become blanks and ``?``.
    """

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


def problems(error: ValidationError, schema: type[BaseModel] | None = None) -> str:
    """What a schema found in a file, on one line: each place and what it must be; at most `MAX_PROBLEMS`.

    Args:
        error: of the schema.
        schema: if given, the nearest valid key is named for each that it does not have.
    """
    found = error.errors(include_url=False, include_context=False)
    lines = [": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in found[:MAX_PROBLEMS]]
    if schema is not None:
        lines = [line + _nearest(e, schema) for line, e in zip(lines, found, strict=False)]
    more = [f"{len(found) - MAX_PROBLEMS} more"] if len(found) > MAX_PROBLEMS else []
    return one_line("; ".join(lines + more))


def _nearest(problem: Any, schema: type[BaseModel]) -> str:
    """What may have been meant by a key that a schema does not have."""
    *sections, key = problem["loc"] or ("",)
    if problem["type"] != "extra_forbidden" or not isinstance(key, str):
        return ""
    for section in sections:
        kind = schema.model_fields[section].annotation
        kinds = [each for each in (get_args(kind) or (kind,)) if isinstance(each, type)]
        schema = next(each for each in kinds if issubclass(each, BaseModel))
    near = difflib.get_close_matches(key, schema.model_fields, 1) or [", ".join(schema.model_fields)]
    return f" (valid: {near[0]})"


def one_line(text: object) -> str:
    """What a file or another library says, fit for a message: one line, printable and short."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}…"


def printable(text: str) -> str:
    """``text`` on one line, with ``?`` for what a terminal would not show or would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.splitlines()))
