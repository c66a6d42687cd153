"""What an installation consists of and whether it works: versions, devices, memory, models and extras."""

import importlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

import torch

from patchmorph.catalogue import load_model, packaged_models
from patchmorph.errors import one_line
from patchmorph.results.summary import device_name, versions

EXTRAS = {
    "report": ("nilearn",),
    "monai": ("monai", "einops"),
    "train": ("accelerate", "tensorboard"),
    "formats": ("nitransforms", "zarr"),
    "large": ("zarr", "fsspec", "dask", "distributed"),
    "itk": ("SimpleITK",),
}
"""Modules that each extra brings."""


class Finding(NamedTuple):
    """One line of an examination.

    Attributes:
        name: of what was examined.
        text: what was found.
        works: whether it is as it should be; an extra that is not installed is.
    """

    name: str
    text: str
    works: bool = True


def examine() -> Iterator[Finding]:
    """Examine the installation, one finding after another."""
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
    yield Finding("system", platform.platform())
    yield Finding("memory", _memory())
    for device in [torch.device("cpu"), *(torch.device("cuda", k) for k in range(torch.cuda.device_count()))]:
        yield _device(device)
    for name in packaged_models():
        yield _model(name)
    for extra, modules in EXTRAS.items():
        yield _extra(extra, modules)


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB, {os.cpu_count()} processor cores"


def _device(device: torch.device) -> Finding:
    """A device with its memory, on which a convolution is computed."""
    try:
        memory = ""
        if device.type == "cuda":
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
            memory = f", {free:.1f} of {total:.1f} GiB free"
        ones = torch.ones(1, 1, 4, 4, 4, device=device)
        works = float(torch.conv3d(ones, ones).sum()) == 64
        return Finding(
            str(device), device_name(device) + memory + ("" if works else ": computes wrongly"), works
        )
    except RuntimeError as error:
        return Finding(str(device), f"broken: {one_line(error)}", False)


def _model(name: str) -> Finding:
    try:
        return Finding("model", f"{name}: {load_model(name, 'cpu')!r}")
    except Exception as error:  # of a file that is damaged in whatever way
        return Finding("model", f"{name} is broken: {one_line(error)}", False)


def _extra(extra: str, modules: tuple[str, ...]) -> Finding:
    """Whether the modules of an extra are there, and can be imported."""
    name, found = f"extra {extra}", []
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name == module:
                return Finding(name, f"not installed (pip install 'patchmorph[{extra}]')")
            return Finding(name, f"broken: {module} requires {error.name}", False)
        except Exception as error:  # whatever a broken library raises
            return Finding(name, f"broken: {module}: {one_line(error)}", False)
        found.append(f"{module} {_version(module)}")
    return Finding(name, ", ".join(found))


def _version(module: str) -> str:
    names = metadata.packages_distributions().get(module, [module])
    return metadata.version(names[0])
