"""Owns which surfaces there are, by name; must not know what any of them does. Every session pays for importing this
module, so it imports a surface's package only when somebody asks for that surface (decision 0042).
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_megacpp.surfaces.protocol import SurfaceProvider


class Entry:
    """`package` has a module `provider` with a `PROVIDER` (`surfaces.protocol.SurfaceProvider`). `has_table`: it reads
    `[tool.pytest_megacpp.NAME]`. No dataclass, since making one takes longer than all else here.
    """

    def __init__(self, package: str, *, has_table: bool = False) -> None:
        self.package = package
        self.has_table = has_table


SURFACES: Mapping[str, Entry] = {  # `auto` chooses the first that is ready
    "modal": Entry("pytest_megacpp.surfaces.modal", has_table=True),
    "local": Entry("pytest_megacpp.surfaces.local"),
}
HERE = "local"
"""The default surface of commands."""
AUTO = "auto"
CHOICES = (AUTO, *sorted(SURFACES))
TABLES = tuple(name for name, entry in SURFACES.items() if entry.has_table)


def provider(name: str) -> "SurfaceProvider":
    """The surface that is registered as `name`. Raises KeyError."""
    found: SurfaceProvider = importlib.import_module(f"{SURFACES[name].package}.provider").PROVIDER
    return found


def automatic(environ: Mapping[str, str]) -> "SurfaceProvider":
    """The one that `auto` chooses; `environ` is the desk's."""
    return next(found for found in map(provider, SURFACES) if found.is_ready(environ))


def attachable() -> "list[SurfaceProvider]":
    """Those whose boxes can outlive their desk."""
    return [found for found in map(provider, SURFACES) if found.attaching is not None]


def is_remote(name: str) -> bool:
    """Whether boxes of a surface run on another machine. A recording may name one that isn't registered any more,
    which counts as remote.
    """
    return name not in SURFACES or provider(name).is_remote
