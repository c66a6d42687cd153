"""What pages embed: styles and scripts with their hashes, pictures, and text that shows what it holds."""

import base64
import gzip
import hashlib
import io
import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

QUALITY = 88
"""Of JPEG pictures."""
PACKAGE = "patchmorph.report"
NIIVUE = "niivue.umd.js.gz"


@cache
def environment() -> Environment:
    """Templates whose values are escaped, and whose characters are all visible."""
    return Environment(loader=PackageLoader(PACKAGE), autoescape=True, finalize=_finalized)


def _finalized(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def visible(text: str) -> str:
    """``text`` with the code of each character that is not seen, such as marks of another direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)


@cache
def asset(name: str) -> str:
    """A text file of the package, such as ``viewer/data.js``."""
    return resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8")


@cache
def niivue() -> tuple[str, str]:
    """NiiVue, compressed and in base64, and the hash of the script that it is."""
    packed = resources.files(PACKAGE).joinpath("viewer", NIIVUE).read_bytes()
    return base64.b64encode(packed).decode(), hash_of(gzip.decompress(packed))


def hash_of(text: str | bytes) -> str:
    """The source of a content security policy that allows this text."""
    digest = hashlib.sha256(text.encode() if isinstance(text, str) else text).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def policy(styles: list[str], scripts: list[str]) -> str:
    """A content security policy by which a page runs what it holds and reads nothing else.

    Args:
        styles: hashes.
        scripts: likewise.
    """
    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": " ".join(styles),
        "script-src": " ".join(scripts),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())


def json_block(value: Any) -> Markup:
    """Plain data for a script element."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def jpeg_url(pixels: UInt8[np.ndarray, "v u 3"]) -> Markup:
    """A picture as an address."""
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(pixels)).save(buffer, "jpeg", quality=QUALITY, subsampling=0)
    return Markup(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
