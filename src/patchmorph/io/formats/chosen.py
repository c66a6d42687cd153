"""Addresses of chunked images: a path or a URL, and which channel and time of it: ``IMAGE#c=1,t=0``."""

import re
from pathlib import Path
from typing import NamedTuple

from patchmorph.errors import PatchMorphError

URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
"""A URL, also one whose two slashes became one in a `Path`."""
CHOICE = re.compile(r"(?:c=([^,#]+))?(?:(?:^|,)t=(\d{1,9}))?")


class Chosen(NamedTuple):
    """An image, or one frame of it.

    Attributes:
        place: path or URL.
        channel: number or name; ``None``: all.
        time: number; ``None``: all.
    """

    place: str
    channel: str | None = None
    time: int | None = None

    @property
    def is_url(self) -> bool:
        """Whether fsspec opens it."""
        return "://" in self.place

    @property
    def path(self) -> Path:
        """Its path, if it is no URL."""
        return Path(self.place)


def chosen(path: Path) -> Chosen:
    """The parts of an address."""
    text = str(path)
    place, hash_, choice = text.rpartition("#")
    found = CHOICE.fullmatch(choice) if hash_ and choice else None
    channel, time = (found[1], found[2]) if found else (None, None)
    place = place if found else text
    if (url := URL.fullmatch(place)) and not Path(place).exists():
        slashes = ":///" if url[1] == "file" else "://"
        place = f"{url[1]}{slashes}{url[2]}"
    return Chosen(place, channel, None if time is None else int(time))


def index_of(choice: str | int | None, names: list[str], what: str, path: Path) -> int | None:
    """The index of a channel or a time that is named or numbered; ``None`` if none is chosen of several.

    Raises:
        PatchMorphError: there is none of that name or number.
    """
    if choice is None:
        return 0 if len(names) == 1 else None
    if str(choice) in names:
        return names.index(str(choice))
    if str(choice).isdecimal() and len(str(choice)) < 10 and int(choice) < len(names):
        return int(choice)
    shown = f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
    raise PatchMorphError(f"{what} must be one of {shown}, got {choice} for {path}")
