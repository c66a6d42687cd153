"""Groups of options that several commands share, each group a dataclass."""

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the fields of each parameter that is a dataclass in its place, for typer."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {part.name: part.annotation for part in own if is_dataclass(part.annotation)}

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    parameters = [
        one for part in own for one in (_fields(groups[part.name]) if part.name in groups else [part])
    ]
    keyword_only = [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in parameters]
    expanded.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    expanded.__annotations__ = {part.name: part.annotation for part in parameters}
    return expanded


def _fields(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass, all of which have defaults, as parameters."""
    hints = typing.get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(group)
    ]
