"""Owns which surfaces there are, by name; must not know what any of them does. Every session pays for importing this
module, so it imports a surface's package only when somebody asks for that surface (decision 0042).

Some are registered here, others by the user's configuration: each `[tool.pytest_megacpp.surfaces.NAME]` is one that is
reached by a command (decision 0101). So whoever looks a name up has the configured tables at hand.
"""

import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from pytest_megacpp.settings.checks import known

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
CONFIGURED = "surfaces"
"""The table with a table for each configured surface."""
CONFIGURED_PACKAGE = "pytest_megacpp.surfaces.command"
"""Its module `provider` has `provider_of(name, table)`, with a `SurfaceProvider` for each."""
METAVAR = f"{{{','.join((AUTO, *sorted(SURFACES), 'NAME'))}}}"
METAVAR_OF_ONE = f"{{{','.join((*sorted(SURFACES), 'NAME'))}}}"
"""Of what can't be `auto`."""
TABLES = (*(name for name, entry in SURFACES.items() if entry.has_table), CONFIGURED)
NONE: Mapping[str, object] = MappingProxyType({})
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")  # as recordings and reruns name it


def configured(tables: Mapping[str, object]) -> Mapping[str, object]:
    """The tables of configured surfaces by name, unchecked but for the names; `tables` are those of
    `[tool.pytest_megacpp]`. Raises UsageError.
    """
    found = tables.get(CONFIGURED, {})
    where = f"[tool.pytest_megacpp.{CONFIGURED}]"
    if not isinstance(found, dict):
        raise pytest.UsageError(f"{where}: it must have a table for each surface, not {found!r}")
    for name in found:
        if name == AUTO or name in SURFACES:
            raise pytest.UsageError(f"{where}: {name!r} is a surface already; choose another name")
        if not _NAME.fullmatch(name):
            raise pytest.UsageError(
                f"{where}: a name is of small letters, digits, '_' and '-', and begins with a letter; not {name!r}"
            )
    return found


def names(tables: Mapping[str, object]) -> tuple[str, ...]:
    """All surfaces, registered and configured. Raises UsageError."""
    return (*sorted(SURFACES), *sorted(configured(tables)))


def known_surface(word: object, tables: Mapping[str, object], *, where: str, automatic: bool = False) -> str:
    """`word` if it names a surface, or `automatic` allows it to be `auto`. Raises UsageError, which lists all there
    are.
    """
    return known(word, (*((AUTO,) if automatic else ()), *names(tables)), what="surface", where=where)


def is_known(name: str, tables: Mapping[str, object]) -> bool:
    return name in SURFACES or name in configured(tables)


def provider(name: str, tables: Mapping[str, object] = NONE) -> "SurfaceProvider":
    """The surface that is registered or configured as `name`. Raises KeyError, and UsageError for a table that is
    wrong.
    """
    found: SurfaceProvider
    if name in SURFACES:
        found = importlib.import_module(f"{SURFACES[name].package}.provider").PROVIDER
    else:
        table = configured(tables)[name]
        found = importlib.import_module(f"{CONFIGURED_PACKAGE}.provider").provider_of(name, table)
    return found


def automatic(environ: Mapping[str, str]) -> "SurfaceProvider":
    """The one that `auto` chooses; `environ` is the desk's."""
    return next(found for found in map(provider, SURFACES) if found.is_ready(environ))


def attachable(tables: Mapping[str, object] = NONE) -> "list[SurfaceProvider]":
    """Those whose boxes can outlive their desk."""
    found = (provider(name, tables) for name in (*SURFACES, *configured(tables)))
    return [one for one in found if one.attaching is not None]


def is_remote(name: str) -> bool:
    """Whether boxes of a surface run on another machine. One that isn't registered is reached by a command, or is one
    that a recording names and that is no more: both count as remote.
    """
    return name not in SURFACES or provider(name).is_remote
