"""XML elements with their places in the bytes of a file, so that a change leaves all other bytes alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from patchmorph.io.points.surfaces import BrokenSurfaceError, Splice

MAX_DEPTH = 50
"""Elements in one another: VTK nests eight."""
TAG = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")


@dataclass(eq=False)
class Node:
    """An element.

    Attributes:
        name, attributes, children: of the element.
        start, opened, end: its first byte, the one after its first tag, and the one after its last.
        text: where the text before its first child begins and ends.
        changes: attributes to be set, or removed (``None``).
    """

    name: str
    attributes: dict[str, str]
    start: int
    opened: int
    end: int = 0
    text: tuple[int, int] = (0, 0)
    children: list["Node"] = field(default_factory=list)
    changes: dict[str, str | None] = field(default_factory=dict)

    def all(self, name: str) -> list["Node"]:
        """Children of this name."""
        return [child for child in self.children if child.name == name]

    def walk(self) -> Iterator["Node"]:
        """The element and all that are in it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def tag(self, raw: bytes) -> Splice:
        """The element's first tag with its changes."""
        tag = raw[self.start : self.opened]
        for name, value in self.changes.items():
            pattern = rb"\s+" + name.encode() + rb"\s*=\s*(\"[^\"]*\"|'[^']*')"
            tag = re.sub(pattern, b"" if value is None else f' {name}="{value}"'.encode(), tag, count=1)
        return Splice(self.start, self.opened, tag)

    def removal(self) -> Splice:
        """The file without the element."""
        return Splice(self.start, self.end)


def parse(raw: bytes) -> Node:
    """The outermost element of a file.

    Raises:
        BrokenSurfaceError: a document type, by which a small file can grow without bounds, or nesting without
            end.
        ExpatError: no XML.
    """
    parser, root, stack = expat.ParserCreate(), Node("", {}, 0, 0), list[Node]()

    def tag_end(at: int) -> int:
        if (found := TAG.match(raw, at)) is None:
            raise BrokenSurfaceError("its text must be in UTF-8")
        return found.end()

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(stack) == MAX_DEPTH:
            raise BrokenSurfaceError(f"its elements must be nested {MAX_DEPTH} deep at most")
        at = parser.CurrentByteIndex
        node = Node(name, attributes, at, tag_end(at))
        (stack[-1] if stack else root).children.append(node)
        stack.append(node)

    def end(name: str) -> None:
        node, at = stack.pop(), parser.CurrentByteIndex
        empty = raw.endswith(b"/>", 0, node.opened)
        node.end = node.opened if empty else tag_end(at)
        last = node.children[0].start if node.children else at
        node.text = (node.opened, node.opened if empty else last)

    def refuse(*_: object) -> None:
        raise BrokenSurfaceError("it has a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(raw, True)
    return root.children[0]
