"""Owns how an option or a table is declared, and what follows from that: command line, variable and key of the table;
must not know which options there are.

A declaration is a field of a dataclass. From its name, such as `lane_dir`, follow `--lane-dir`, `MEGACPP_LANE_DIR` and
the key `lane_dir`. Every session pays for importing this module, so it has no dataclass: creating one costs as much as
the rest of the module.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, overload

import pytest

from pytest_megacpp.desk.config.pyproject import TABLE
from pytest_megacpp.settings.checks import Unparsed, flag

_OPTION, _TABLE = "megacpp-option", "megacpp-table"  # keys of a field's metadata
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Check(Protocol[T_co]):
    """Returns the checked value; `where` it was written is for messages. Raises UsageError.

    A relative path that it returns counts from the directory of what was written: the working directory for the
    command line and variables, pytest's root directory for the table.
    """

    def __call__(self, value: object, /, *, where: str) -> T_co: ...


class Option(NamedTuple):
    """One option. `help` is for the terminal, `more` continues it in the documents; no `metavar`: it takes no value.

    `default` is checked like a value of the table; without one, an option that is not set is None.

    `excludes` has other options of the command line, with the reasons: a usage error where both are on the command
    line; an option that only a variable or the table sets then has no effect.
    """

    check: Check[Any]
    help: str
    more: str = ""
    metavar: str | None = None
    default: object = None
    is_repeatable: bool = False
    has_variable: bool = True
    has_key: bool = True
    excludes: Mapping[str, str] = MappingProxyType({})


# -- declaring -----------------------------------------------------------------------------------------------------


@overload
def option(
    check: Check[T], *, metavar: str, help: str, default: str, more: str = "", excludes: Mapping[str, str] = ...
) -> T: ...


@overload
def option(
    check: Check[T],
    *,
    metavar: str,
    help: str,
    more: str = "",
    has_variable: bool = True,
    has_key: bool = True,
    excludes: Mapping[str, str] = ...,
) -> T | None: ...


def option(check: Check[Any], **declared: Any) -> Any:
    """An option with a value; without a default it is None where it is not set."""
    return field(metadata={_OPTION: Option(check, **declared)})


def switch(*, help: str, more: str = "", only_typed: bool = False, excludes: Mapping[str, str] | None = None) -> bool:
    """An option without a value; `only_typed` on the command line, so it has neither a variable nor a key."""
    declared = Option(
        partial(flag, what="it"),
        help,
        more,
        default=False,
        has_variable=not only_typed,
        has_key=not only_typed,
        excludes=excludes or {},
    )
    value: bool = field(metadata={_OPTION: declared})
    return value


def pairs(check: Check[tuple[str, T]], *, metavar: str, help: str, more: str = "") -> Mapping[str, T]:
    """A repeatable option without a key: `check` takes one entry; its variable has several, between commas or blanks.
    The command line's entries override the variable's.
    """
    declared = Option(check, help, more, metavar, is_repeatable=True, has_key=False)
    value: Mapping[str, T] = field(metadata={_OPTION: declared})
    return value


def table(read: Callable[[Any], T], *, absent: object) -> T:
    """A table, or another key that is no option: what `read` makes of it, or of `absent` where it isn't there."""
    value: T = field(metadata={_TABLE: (read, absent)})
    return value


class deferred_table(cached_property[T]):
    """A table that is checked when it is asked for: a method that gets what is written, `{}` where it isn't there."""

    def __init__(self, read: Callable[[Any, object], T]) -> None:
        super().__init__(lambda options: read(options, options.tables.get(read.__name__, {})))
        self.__doc__ = read.__doc__


def options_of(cls: Any) -> dict[str, Option]:
    """Returns the options that a class declares, in its order."""
    return {one.name: one.metadata[_OPTION] for one in fields(cls) if _OPTION in one.metadata}


def _tables_of(cls: Any) -> dict[str, tuple[Callable[[object], Any], object]]:
    """Returns how each table is read, and the value in place of a missing one."""
    return {one.name: one.metadata[_TABLE] for one in fields(cls) if _TABLE in one.metadata}


def deferred_tables_of(cls: type) -> tuple[str, ...]:
    """Returns the names of the deferred tables of a class and its bases."""
    return tuple(
        name for base in cls.__mro__ for name, value in vars(base).items() if isinstance(value, deferred_table)
    )


def keys_of(cls: type) -> tuple[str, ...]:
    """Returns the keys that the table may have."""
    options = (name for name, declared in options_of(cls).items() if declared.has_key)
    return (*options, *_tables_of(cls), *deferred_tables_of(cls))


# -- names ---------------------------------------------------------------------------------------------------------


def argument_of(name: str) -> str:
    """Returns the command line's name of an option: `lane_dir` → `--lane-dir`."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Returns the variable of an option: `lane_dir` → `MEGACPP_LANE_DIR`."""
    return f"MEGACPP_{name.upper()}"


def misspelt_variables(cls: type, environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like an option's and is none; those of ranks and users look different."""
    from difflib import get_close_matches

    variables = [variable_of(name) for name, one in options_of(cls).items() if one.has_variable]
    ours = (name for name in sorted(environ) if name.startswith("MEGACPP_") and name not in variables)
    near = ((name, get_close_matches(name, variables, n=1, cutoff=0.9)) for name in ours)
    return [f"the variable {name} means nothing here; did you mean {found[0]!r}?" for name, found in near if found]


# -- the command line ----------------------------------------------------------------------------------------------


def add_option(group: pytest.OptionGroup, name: str, declared: Option) -> None:
    """Nothing is checked by argparse: it can't name the nearest valid word."""
    how: dict[str, Any] = {"metavar": declared.metavar} if declared.metavar else {"action": "store_true"}
    if declared.is_repeatable:
        how["action"] = "append"
    group.addoption(argument_of(name), dest=_dest(name), default=None, help=declared.help, **how)


def given_of(cls: type, config: pytest.Config) -> dict[str, Any]:
    """Returns the command line's value of each option, None where it has none."""
    return {name: config.getoption(_dest(name)) for name in options_of(cls)}


def _dest(name: str) -> str:
    return f"megacpp_{name}"


# -- reading -------------------------------------------------------------------------------------------------------


class Sources:
    """Where an option may be written. The command line (`given`) overrides the variable, which overrides the table.

    A relative path counts from `typed_in`, that of a table from `configured_in`.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        environ: Mapping[str, str],
        settings: Mapping[str, object],
        *,
        typed_in: Path,
        configured_in: Path,
    ) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        self.environ = environ
        self.settings = settings
        self.typed_in = typed_in
        self.configured_in = configured_in

    def variable(self, name: str) -> str:
        """A variable that is set to nothing is not set: that is how CI systems leave out an input."""
        return self.environ.get(variable_of(name), "").strip()


_Written: TypeAlias = tuple[object, str, Path]
"""A value, where it was written, and the directory from which it counts if it is a relative path."""


def read_declared(cls: type, sources: Sources) -> dict[str, Any]:
    """The fields that a class declares, checked. Raises UsageError."""
    options = {name: read_option(name, declared, sources) for name, declared in options_of(cls).items()}
    tables = _tables_of(cls).items()
    return options | {name: read(sources.settings.get(name, absent)) for name, (read, absent) in tables}


def read_option(name: str, declared: Option, sources: Sources) -> Any:
    """One option, checked. Raises UsageError."""
    if declared.is_repeatable:
        return dict(declared.check(entry, where=where) for entry, where in _entries(name, sources))
    written = _first(name, declared, sources)
    if written is None:
        return None
    given, where, base = written
    value = declared.check(given, where=where)
    if value and _is_excluded(name, declared, sources):
        return None if declared.default is None else declared.check(declared.default, where="the default")
    return base / value if isinstance(value, Path) else value


def _first(name: str, declared: Option, sources: Sources) -> _Written | None:
    if name in sources.given:
        given = sources.given[name]
        return given if given is True else Unparsed(given), argument_of(name), sources.typed_in
    if declared.has_variable and (content := sources.variable(name)):
        return Unparsed(content), variable_of(name), sources.typed_in
    if declared.has_key and name in sources.settings:
        return sources.settings[name], f"{name} in {TABLE}", sources.configured_in
    return None if declared.default is None else (declared.default, "the default", sources.configured_in)


def _entries(name: str, sources: Sources) -> Iterator[tuple[Unparsed, str]]:
    """Each entry of a repeatable option, and where it was written."""
    for where, entries in (
        (variable_of(name), sources.variable(name).replace(",", " ").split()),
        (argument_of(name), sources.given.get(name, ())),
    ):
        yield from ((Unparsed(entry), f"{where} {entry}") for entry in entries)


def _is_excluded(name: str, declared: Option, sources: Sources) -> bool:
    """Raises UsageError if both are on the command line."""
    other = next((other for other in declared.excludes if sources.given.get(other)), None)
    if other is not None and name in sources.given:
        why = declared.excludes[other]
        raise pytest.UsageError(f"{argument_of(name)} and {argument_of(other)} exclude each other: {why}")
    return other is not None
