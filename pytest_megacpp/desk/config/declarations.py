"""Owns how an option or a table is declared, and what follows from that: command line, variable, key of the table and
documentation; must not know which options there are.

A declaration is a field of a dataclass. From its name, such as `lane_dir`, follow `--lane-dir`, `MEGACPP_LANE_DIR` and
the key `lane_dir`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import pytest

from pytest_megacpp.desk.config.checks import Unparsed, flag
from pytest_megacpp.desk.config.pyproject import TABLE

_DECLARED = "megacpp"  # the key of a field's metadata
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Check(Protocol[T_co]):
    """Returns the checked value; `where` it was written is for messages. Raises UsageError.

    A relative path that it returns counts from the directory of what was written: the working directory for the
    command line and variables, pytest's root directory for the table.
    """

    def __call__(self, value: object, /, *, where: str) -> T_co: ...


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `help` is for the terminal, `more` continues it in the documents; no `metavar`: it takes no value.

    `default` is checked like a value of the table; without one, an option that nobody wrote is None.

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
    excludes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Table:
    """A key that is no option; `read` checks it, and `absent` stands for one that isn't there."""

    read: Callable[[Any], Any]
    absent: object


# -- declaring -----------------------------------------------------------------------------------------------------


@overload
def option(check: Check[T], *, metavar: str, help: str, default: str, more: str = "") -> T: ...


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
    """An option with a value; without a default it is None where nobody wrote one."""
    return _declare(Option(check, **declared))


def switch(*, help: str, more: str = "", only_typed: bool = False, excludes: Mapping[str, str] | None = None) -> bool:
    """An option without a value; `only_typed` on the command line, so it has neither a variable nor a key."""
    value: bool = _declare(
        Option(
            partial(flag, what="it"),
            help,
            more,
            default=False,
            has_variable=not only_typed,
            has_key=not only_typed,
            excludes=excludes or {},
        )
    )
    return value


def pairs(check: Check[tuple[str, T]], *, metavar: str, help: str, more: str = "") -> Mapping[str, T]:
    """A repeatable option without a key: `check` takes one entry; its variable has several, between commas or blanks.
    The command line's entries override the variable's.
    """
    value: Mapping[str, T] = _declare(Option(check, help, more, metavar, is_repeatable=True, has_key=False))
    return value


def table(read: Callable[[Any], T], *, absent: object) -> T:
    """A table, or another key that is no option: what `read` makes of it, or of `absent` where it isn't there."""
    value: T = _declare(_Table(read, absent))
    return value


class deferred_table(cached_property[T]):
    """A table that is checked when it is asked for: a method that gets what is written, `{}` where it isn't there."""

    def __init__(self, read: Callable[[Any, object], T]) -> None:
        super().__init__(lambda options: read(options, options.tables.get(read.__name__, {})))
        self.__doc__ = read.__doc__


def _declare(declared: Option | _Table) -> Any:
    """A field of a dataclass; for a type checker it is the value that the field will have."""
    return field(metadata={_DECLARED: declared})


def options_of(cls: Any) -> dict[str, Option]:
    """What a class declares, in its order."""
    return {name: declared for name, declared in _declarations(cls) if isinstance(declared, Option)}


def deferred_tables_of(cls: type) -> tuple[str, ...]:
    return tuple(name for name, value in vars(cls).items() if isinstance(value, deferred_table))


def keys_of(cls: type) -> tuple[str, ...]:
    """What may be in the table."""
    declared = (name for name, one in _declarations(cls) if isinstance(one, _Table) or one.has_key)
    return (*declared, *deferred_tables_of(cls))


def _declarations(cls: Any) -> Iterator[tuple[str, Option | _Table]]:
    return ((one.name, one.metadata[_DECLARED]) for one in fields(cls) if _DECLARED in one.metadata)


# -- names ---------------------------------------------------------------------------------------------------------


def argument_of(name: str) -> str:
    """The command line's name of an option: `lane_dir` → `--lane-dir`."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """The variable that stands for an option: `lane_dir` → `MEGACPP_LANE_DIR`."""
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


def _dest(name: str) -> str:
    return f"megacpp_{name}"


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sources:
    """Where an option may be written. The command line overrides the variable, which overrides the table."""

    config: pytest.Config
    environ: Mapping[str, str]
    settings: Mapping[str, object]

    def given(self, name: str) -> Any:
        """What the command line says; None where it doesn't."""
        return self.config.getoption(_dest(name))

    def variable(self, name: str) -> str:
        """A variable that is set to nothing is not set: that is how CI systems leave out an input."""
        return self.environ.get(variable_of(name), "").strip()


@dataclass(frozen=True, slots=True)
class _Written:
    """A relative path counts from `base`."""

    value: object
    where: str
    base: Path


def read_declared(cls: type, sources: Sources) -> dict[str, Any]:
    """The fields that a class declares, checked. Raises UsageError."""
    options = {name: _read(name, declared, sources) for name, declared in options_of(cls).items()}
    tables = ((name, one) for name, one in _declarations(cls) if isinstance(one, _Table))
    return options | {name: one.read(sources.settings.get(name, one.absent)) for name, one in tables}


def _read(name: str, declared: Option, sources: Sources) -> Any:
    if declared.is_repeatable:
        return dict(declared.check(one.value, where=one.where) for one in _entries(name, sources))
    written = _first(name, declared, sources)
    if written is None:
        return None
    value = declared.check(written.value, where=written.where)
    if value and _is_excluded(name, declared, sources):
        return declared.default
    return written.base / value if isinstance(value, Path) else value


def _first(name: str, declared: Option, sources: Sources) -> _Written | None:
    typed_in, configured_in = sources.config.invocation_params.dir, sources.config.rootpath
    if (given := sources.given(name)) is not None:
        return _Written(given if given is True else Unparsed(given), argument_of(name), typed_in)
    if declared.has_variable and (content := sources.variable(name)):
        return _Written(Unparsed(content), variable_of(name), typed_in)
    if declared.has_key and name in sources.settings:
        return _Written(sources.settings[name], f"{name} in {TABLE}", configured_in)
    return None if declared.default is None else _Written(declared.default, "the default", configured_in)


def _entries(name: str, sources: Sources) -> Iterator[_Written]:
    typed_in = sources.config.invocation_params.dir
    for where, entries in (
        (variable_of(name), sources.variable(name).replace(",", " ").split()),
        (argument_of(name), sources.given(name) or ()),
    ):
        yield from (_Written(Unparsed(entry), f"{where} {entry}", typed_in) for entry in entries)


def _is_excluded(name: str, declared: Option, sources: Sources) -> bool:
    """Raises UsageError if both are on the command line."""
    other = next((other for other in declared.excludes if sources.given(other)), None)
    if other is not None and sources.given(name):
        why = declared.excludes[other]
        raise pytest.UsageError(f"{argument_of(name)} and {argument_of(other)} exclude each other: {why}")
    return other is not None


# -- documentation -------------------------------------------------------------------------------------------------


def configuration_table(cls: type) -> str:
    """The table of docs/configuration.md."""
    rows = (
        f"| `{_usage(name, one)}` | {_code(variable_of(name), one.has_variable)} | {_code(name, one.has_key)} "
        f"| {one.help}{one.more} |"
        for name, one in options_of(cls).items()
    )
    return "\n".join(("| option | variable | key | meaning |", "|---|---|---|---|", *rows, ""))


def readme_table(cls: type) -> str:
    """The table of README.md, one directory up."""
    rows = (
        f"| `{_usage(name, one)}` | {one.help}{one.more.replace('](', '](docs/')} |"
        for name, one in options_of(cls).items()
    )
    return "\n".join(("| option | meaning |", "|---|---|", *rows, ""))


def _usage(name: str, declared: Option) -> str:
    return f"{argument_of(name)} {declared.metavar or ''}".rstrip()


def _code(text: str, is_there: bool) -> str:
    return f"`{text}`" if is_there else "–"
