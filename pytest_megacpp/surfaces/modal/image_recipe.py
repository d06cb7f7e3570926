"""Owns what is in the image that a box gets by default: the desk's versions, as data; must not build anything.

Layers go from what is heavy and rarely changes to what is light: a C++ compiler (Triton and Inductor call one), torch,
numpy (torch's object collectives need it) with the user's packages, pytest with the desk's plugins. The source is no
layer at all, so that an edit builds nothing.
"""

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_megacpp.surfaces.modal.config import ImageConfig

COMPILER = ("g++",)
TORCH_COMPANIONS = ("numpy",)
SUPPORTED_TORCH = "torch>=2.11,<3"
SUPPORTED_PYTEST = "pytest>=8.2"
_RELEASE = re.compile(r"(?P<release>\d+(\.\d+)+(\.post\d+)?)(\+[\w.]+)?")
_NOT_FOR_RANKS = frozenset({"pytest", "pytest-megacpp"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """The default image. Each of `layers` is one installation of requirements, in this order.

    `torch_index` is where torch comes from when not from PyPI, whose Linux wheels are built for CUDA.
    """

    python: str
    system_packages: tuple[str, ...]
    torch: str
    torch_index: str | None
    layers: tuple[tuple[str, ...], ...]


def default_recipe(config: ImageConfig, installed: Mapping[str, str], plugins: Iterable[str]) -> Recipe:
    """`installed` are the desk's versions by distribution, `plugins` its distributions that are pytest plugins.

    What a desk runs from a checkout can't be installed by version; it isn't in the image.
    """
    others = sorted(pin for name in plugins if name not in _NOT_FOR_RANKS and (pin := _pinned(name, installed[name])))
    pytest = (_pinned("pytest", installed.get("pytest", "")) or SUPPORTED_PYTEST, *filter(None, others))
    return Recipe(
        python=config.python or "{}.{}".format(*sys.version_info),
        system_packages=COMPILER,
        torch=_pinned("torch", installed.get("torch", "")) or SUPPORTED_TORCH,
        torch_index=config.torch_index,
        layers=((*TORCH_COMPANIONS, *config.packages), pytest),
    )


def _pinned(name: str, version: str) -> str:
    """`torch==2.13.0`, of whatever build (`+cpu`); empty for what is no release."""
    found = _RELEASE.fullmatch(version)
    return f"{name}=={found['release']}" if found else ""


def desk_versions() -> tuple[dict[str, str], tuple[str, ...]]:
    """Versions of all distributions of this Python, and which of them are pytest plugins; checkouts have none."""
    versions: dict[str, str] = {}
    plugins: list[str] = []
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()
        if not name or name in versions:
            continue
        versions[name] = "" if distribution.read_text("direct_url.json") else distribution.version
        if any(entry.group == "pytest11" for entry in distribution.entry_points):
            plugins.append(name)
    return versions, tuple(plugins)
