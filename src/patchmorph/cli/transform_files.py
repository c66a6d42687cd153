"""Transform files of the commands: their options, and what is printed on reading and writing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from patchmorph.cli.app import console
from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.transforms.registry import TOOLS, WRITTEN
from patchmorph.transforms.base import Transform, compose
from patchmorph.transforms.gaps import missing_voxels

TransformPath = Annotated[Path, typer.Argument(help="Transform file; see `patchmorph convert --help`.")]
NextTransforms = Annotated[
    list[Path] | None, typer.Option(help="Further transform, applied after the previous one; repeatable.")
]
Inverse = Annotated[bool, typer.Option(help="Apply the inverse of the transform, or of the whole list.")]
AUTO = "auto"
"""Value of ``--from`` for a file that states its format."""
FROM_HELP = f"Tool whose convention the file follows, where it does not say: {', '.join(TOOLS)}."
From = Annotated[str | None, typer.Option("--from", help=FROM_HELP)]
EachFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--from", help=f"{FROM_HELP} Once for all files, or once for each in their order (or {AUTO})."
    ),
]
To = Annotated[str | None, typer.Option("--to", help=f"Tool whose convention to use: {', '.join(WRITTEN)}.")]


def load_one(path: Path, tool: str | None, pair: GridPair) -> Transform:
    """`load_transform`, with a line on voxels that the file does not map."""
    transform = load_transform(path, tool, pair)
    if missing := missing_voxels(transform):
        console.print(f"{path} does not map {missing} voxels of its grid (NaN, or zeros among positions)")
    return transform


def load_chain(
    paths: Sequence[Path], tools: Sequence[str] | None, inverse: bool, pair: GridPair
) -> Transform:
    """The composed transforms, the first applied first; ``pair`` is used for a single one only.

    Raises:
        PatchMorphError: as for `load_transform`, or ``tools`` for some of the files only.
    """
    named = [None if tool == AUTO else tool for tool in tools or [AUTO]]
    if len(named) == 1:
        named *= len(paths)
    if len(named) != len(paths):
        raise PatchMorphError(f"--from must be given once or {len(paths)} times, got {len(named)} times")
    grids = pair if len(paths) == 1 else GridPair()
    loaded = [load_one(path, tool, grids) for path, tool in zip(paths, named, strict=True)]
    chain = compose(*reversed(loaded))
    return chain.inverse() if inverse else chain


def save(transform: Transform, output: Path, to: str | None, pair: GridPair) -> None:
    """`save_transform`, with a line on the file."""
    form = save_transform(transform, output, to, pair)
    size = sum(file.stat().st_size for file in ([output] if output.is_file() else output.rglob("*")))
    console.print(f"wrote {output}: {form.tool}, {form.holds}, {size / 1e6:.1f} MB")
