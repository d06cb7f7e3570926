"""Owns what `[[tool.pytest_megacpp.gate]]` says, checked; must not know what changed.

A rule names what it watches (`paths`, `follow_imports`) and the tests that run when that changes (`run`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from pytest_megacpp.settings.checks import flag, known, text

GATE_KEYS = ("name", "paths", "run", "follow_imports", "may_skip")
WHERE = "[[tool.pytest_megacpp.gate]]"
EXAMPLE = 'paths = ["**/kernels/**"], run = ["smoke_suites/kernels"]'


@dataclass(frozen=True, slots=True)
class Rule:
    """`paths` are gitwildmatch globs. `run` and `may_skip` name directories, files or node ids from the project's
    directory; an entry of `run` that begins with `!` takes tests out again.
    """

    name: str
    paths: tuple[str, ...]
    run: tuple[str, ...]
    follow_imports: bool = False
    may_skip: tuple[str, ...] = ()

    def guards(self, nodeid: str) -> bool:
        """Whether this rule decides about a test; of several entries that name it, the last one counts."""
        named = [entry for entry in self.run if _names(entry.removeprefix("!"), nodeid)]
        return bool(named) and not named[-1].startswith("!")

    def may_guard(self, file: str) -> bool:
        """Whether this rule decides about any test of a file."""
        return self.guards(f"{file}::") or any(entry.startswith(f"{file}::") for entry in self.run)

    def lets_skip(self, nodeid: str) -> bool:
        return any(_names(entry, nodeid) for entry in self.may_skip)

    @property
    def places(self) -> tuple[str, ...]:
        """The files and directories that `run` names."""
        return tuple(dict.fromkeys(e.partition("::")[0] for e in self.run if not e.startswith("!")))


def _names(entry: str, nodeid: str) -> bool:
    """`a/b` names `a/b/test_c.py::test_d[x]`, so does `a/b/test_c.py::test_d`; `.` names everything."""
    return entry == "." or any(nodeid == entry or nodeid.startswith(f"{entry}{end}") for end in ("/", "::", "["))


def read_rules(value: object, where: str = WHERE) -> tuple[Rule, ...]:
    """Raises UsageError for an invalid rule."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise pytest.UsageError(
            f"gate in [tool.pytest_megacpp] must be an array of tables, each under {where}, not {value!r}"
        )
    rules = tuple(_rule(number, entry) for number, entry in enumerate(value, 1))
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise pytest.UsageError(f"{where}: two rules are called {twice!r}; rename one of them")
    return rules


def _rule(number: int, entry: Mapping[str, object]) -> Rule:
    where = f"{WHERE} number {number}"
    for key in entry:
        known(key, GATE_KEYS, what="key", where=where)
    follow = flag(entry.get("follow_imports", False), what="follow_imports", where=where)
    paths, run = _texts(entry, "paths", where), _places(entry, "run", where)
    if not paths and not follow:
        raise pytest.UsageError(f"{where} watches nothing: give it paths or follow_imports = true, such as {EXAMPLE}")
    if not run:
        raise pytest.UsageError(f"{where} runs nothing: say which tests it guards, such as {EXAMPLE}")
    named = text(entry["name"], what="name", where=where) if "name" in entry else _called(run, number)
    return Rule(named, paths, run, follow, _places(entry, "may_skip", where))


def _called(run: Sequence[str], number: int) -> str:
    """A rule without a name is called by what it runs."""
    return run[0] if len(run) == 1 else f"{run[0]} … (rule {number})"


def _texts(entry: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise pytest.UsageError(f'{where}: {key} must be a list, such as ["**/kernels/**"], not {value!r}')
    return tuple(text(one, what=f"an entry of {key}", where=where) for one in value)


def _places(entry: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    return tuple(_place(one, key, where) for one in _texts(entry, key, where))


def _place(entry: str, key: str, where: str) -> str:
    """As node ids spell it: `./a/b/` is `a/b`."""
    no, path, colons, name = ("!" * entry.startswith("!"), *entry.removeprefix("!").partition("::"))
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise pytest.UsageError(f"{where}: {entry!r} in {key} must be inside the project, relative to its directory")
    return f"{no}{pure}{colons}{name}"


def check_places(rules: Iterable[Rule], project: Path) -> None:
    """A rule that names what isn't there would never run anything. Raises UsageError."""
    if not rules:
        raise pytest.UsageError(
            f"no gate rule is configured: add at least one {WHERE} to pyproject.toml, such as {EXAMPLE}"
        )
    for rule in rules:
        for place in rule.places:
            if not (project / place).exists():
                raise pytest.UsageError(
                    f"{WHERE} {rule.name!r}: it runs {place!r}, but {project / place} does not exist"
                )
