"""Owns which rules of a gate a change triggers, and why; must not know pytest's session or run anything.

What can't be determined counts as changed. A rule is triggered as a whole by its globs, by what it runs, by a
conftest.py above that and by pytest's configuration; with `follow_imports` also file by file, through what each test
file imports. A test that no rule guards always runs: a new suite must not be left out because it has no rule yet.
"""

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.gate import WHERE, Rule, check_places
from pytest_megacpp.desk.gate.changes import Changes, changes_since, python_files
from pytest_megacpp.desk.gate.imports import ImportGraph, Reach
from pytest_megacpp.desk.gate.pytest_files import CONFIG_FILES, has_lane_tests, is_test_file
from pytest_megacpp.recording.events import Json
from pytest_megacpp.report.clean import one_line

NATIVE = frozenset(
    {".c", ".cc", ".cpp", ".cu", ".cuh", ".cxx", ".h", ".hpp", ".inl", ".ptx", ".pyx", ".pxd", ".so", ".rs"}
)
NOT_SEARCHED = frozenset({"__pycache__", "build", "dist", "node_modules", "venv"})
KEPT_REASONS = 4


@dataclass(frozen=True, slots=True)
class Decision:
    """What a change means for one rule.

    `why` is what triggers the whole rule, `files` are test files triggered one by one, each with its reason, and
    `guarded` are all test files in what the rule runs.
    """

    rule: Rule
    why: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    guarded: tuple[str, ...] = ()

    @property
    def triggered(self) -> bool:
        return bool(self.why or self.files)

    def knows(self, file: str) -> bool:
        """Returns whether this decides about a file's tests. Imports are followed only from what pytest takes for
        tests.
        """
        return bool(self.why) or not self.rule.follow_imports or file in self.guarded

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.why or tuple(dict.fromkeys(self.files.values()))


@dataclass(frozen=True, slots=True)
class Gate:
    """The decisions of one gate. Paths in rules and node ids are relative to `project`."""

    since: str
    project: Path
    changes: Changes
    decisions: tuple[Decision, ...]

    @property
    def triggered(self) -> tuple[Decision, ...]:
        return tuple(d for d in self.decisions if d.triggered)

    def deciding(self, nodeid: str) -> tuple[Decision, ...]:
        """Returns the decisions of the rules that guard a test; empty if none does."""
        file = nodeid.partition("::")[0]
        return tuple(d for d in self.decisions if d.rule.guards(nodeid) and d.knows(file))

    def triggered_for(self, nodeid: str) -> tuple[Decision, ...]:
        """Returns the decisions that make a test run."""
        file = nodeid.partition("::")[0]
        return tuple(d for d in self.deciding(nodeid) if d.why or file in d.files)

    def runs(self, nodeid: str) -> bool:
        """Returns whether the gate requires a test: a rule is triggered for it, or none guards it."""
        return bool(self.triggered_for(nodeid)) or not self.deciding(nodeid)


def decide(
    since: str, rules: Sequence[Rule], project: Path, test_files: Sequence[str], places: Iterable[str] = ()
) -> Gate:
    """Compares the working tree of `project` with its merge base with `since`.

    `test_files` are pytest's patterns, `places` directories on `sys.path`. Raises UsageError for an unknown revision or
    invalid rules.
    """
    check_places(rules, project)
    globs = [_Globs(rule) for rule in rules]
    changes = changes_since(since, project)
    inquiry = _Inquiry(changes, project.resolve(), tuple(test_files), tuple(places))
    return Gate(since, project, changes, tuple(inquiry.decide(rule, g) for rule, g in zip(rules, globs, strict=True)))


def unguarded(gate: Gate, places: Iterable[str], test_files: Sequence[str], lanes: Sequence[str]) -> list[str]:
    """Returns files below `places` that have lane tests by their source and about which no rule decides."""
    found = (file for place in places for file in _tests_below(place, gate.project, test_files))
    alone = (f for f in dict.fromkeys(found) if not any(d.rule.may_guard(f) and d.knows(f) for d in gate.decisions))
    return [file for file in alone if has_lane_tests(gate.project / file, lanes)]


class _Globs:
    """The `paths` of a rule, compiled."""

    def __init__(self, rule: Rule) -> None:
        from pathspec import PathSpec

        self._globs = rule.paths
        try:
            self._spec = PathSpec.from_lines("gitignore", rule.paths)
        except ValueError as error:
            raise pytest.UsageError(f"{WHERE} {rule.name!r}: invalid glob in paths: {error}") from None

    def matched(self, path: str) -> str | None:
        found = self._spec.check_file(path)
        return self._globs[found.index] if found.include and found.index is not None else None


@dataclass
class _Inquiry:
    """What is needed to decide. Paths are relative to the top of the repository, node ids to the project."""

    changes: Changes
    project: Path
    test_files: tuple[str, ...]
    places: tuple[str, ...]
    _graph: ImportGraph | None = None

    def __post_init__(self) -> None:
        inside = self.project.is_relative_to(self.changes.root.resolve())
        prefix = self.project.relative_to(self.changes.root.resolve()).as_posix() if inside else "."
        self.prefix = "" if prefix == "." else f"{prefix}/"

    def decide(self, rule: Rule, globs: _Globs) -> Decision:
        files = tuple(sorted(self._guarded(rule)))
        if self.changes.unknown:
            return Decision(rule, (f"the changes cannot be determined: {self.changes.unknown}",), guarded=files)
        why = list(self._whole(rule, globs))
        if why or not rule.follow_imports:
            return Decision(rule, tuple(dict.fromkeys(why)), guarded=files)
        if not files and (changed := self._changed_source()):
            return Decision(rule, (f"no test file was found in what it runs, so it may import {self._shown(changed)}",))
        reasons = {file: reason for file in files if (reason := self._imported(file))}
        return Decision(rule, (), reasons, files)

    # -- all of a rule ---------------------------------------------------------------------------------------

    def _whole(self, rule: Rule, globs: _Globs) -> Iterator[str]:
        for path in self.changes.paths:
            glob = globs.matched(self._seen(path))
            if glob is not None:
                yield f"{self._shown(path)} matches {glob}"
        yield from (f"{self._shown(path)} configures pytest" for path in self.changes.paths if self._configures(path))
        for path in self.changes.paths:
            if self._is_run(path, rule):
                yield f"{self._shown(path)} is part of what the rule runs"
            elif self._governs(path, rule):
                yield f"{self._shown(path)} applies to what the rule runs"

    def _seen(self, path: str) -> str:
        """Returns a path as globs see it: relative to the project, or for files outside it to the top of the
        repository.
        """
        return path.removeprefix(self.prefix)

    def _shown(self, path: str) -> str:
        gone = " (deleted)" if path in self.changes.deleted else ""
        return f"{one_line(self._seen(path), 200)}{gone}"

    def _configures(self, path: str) -> bool:
        folder, name = posixpath.split(path)
        return name in CONFIG_FILES and f"{folder}/".removeprefix("/") in ("", self.prefix)

    def _is_run(self, path: str, rule: Rule) -> bool:
        """Returns whether a path is below what `run` names. With `follow_imports` imports decide about Python files."""
        if rule.follow_imports and path.endswith(".py") and path not in self.changes.opaque:
            return False
        below = path.startswith(self.prefix) and rule.guards(self._seen(path))
        return below or self._seen(path) in rule.places

    def _governs(self, path: str, rule: Rule) -> bool:
        """Returns whether a path is a conftest.py or package file above what `run` names, which every test there
        imports.
        """
        folder, name = posixpath.split(path)
        if name not in ("conftest.py", "__init__.py"):
            return False
        return any(not folder or f"{self.prefix}{place}".startswith(f"{folder}/") for place in rule.places)

    # -- file by file ----------------------------------------------------------------------------------------

    def _imported(self, file: str) -> str:
        """Returns why the tests of one file run; empty if they need not."""
        reach = self._imports().reach(f"{self.prefix}{file}")
        for path in self.changes.paths:
            if path in reach.files:
                return self._by_import(path, reach)
        return self._opaque(reach) or self._native(reach)

    def _by_import(self, path: str, reach: Reach) -> str:
        chain = [one_line(self._seen(step), 120) for step in reach.chain(path)]
        if len(chain) == 1:
            return f"{self._shown(path)} changed"
        shown = [chain[0], "…", chain[-2]] if len(chain) > 4 else chain[:-1]
        return f"{self._shown(path)} is imported by {' ← '.join(reversed(shown))}"

    def _opaque(self, reach: Reach) -> str:
        """Returns why an import that can't be read counts as changed: it may be any module, and a submodule may hold
        anything.
        """
        if self.changes.opaque:
            return f"{self._shown(min(self.changes.opaque))} is a separate repository, whose files are not read"
        changed = self._changed_source()
        return f"{one_line(reach.opaque[0], 200)}: it may be {self._shown(changed)}" if reach.opaque and changed else ""

    def _changed_source(self) -> str | None:
        """Returns a changed file that might be imported; None if there is none."""
        return next((p for p in self.changes.paths if p.endswith(".py") or _is_native(p)), None)

    def _native(self, reach: Reach) -> str:
        """Returns which native source changed next to an imported module or below its directory; empty if none did."""
        folders = {posixpath.dirname(path) for path, importer in reach.files.items() if importer is not None}
        for path in self.changes.paths:
            if _is_native(path) and not folders.isdisjoint(_folders(path)):
                return f"{self._shown(path)} is next to modules that it imports"
        return ""

    def _imports(self) -> ImportGraph:
        if self._graph is None:
            try:
                files = python_files(self.changes.root)
            except OSError:
                files = frozenset(_python_below(self.changes.root))
            there = files | {path for path in self.changes.paths if path.endswith(".py")}
            self._graph = ImportGraph(self.changes.root, there, self._on_path())
        return self._graph

    def _on_path(self) -> tuple[str, ...]:
        """Returns where modules are: the project, its `src`, the top of the repository, and the parts of `sys.path` in
        it.
        """
        root = self.changes.root.resolve()
        named = [Path(p).resolve() for p in self.places if p]
        inside = [p.relative_to(root).as_posix() for p in named if p.is_relative_to(root)]
        usual = (self.prefix.rstrip("/"), f"{self.prefix}src", "", "src")
        return tuple(dict.fromkeys((*usual, *("" if p == "." else p for p in inside))))

    # -- the tests -------------------------------------------------------------------------------------------

    def _guarded(self, rule: Rule) -> Iterator[str]:
        """Yields the test files in what the rule runs, relative to the project."""
        for place in rule.places:
            yield from filter(rule.may_guard, _tests_below(place, self.project, self.test_files))


def _tests_below(place: str, project: Path, test_files: Sequence[str]) -> Iterator[str]:
    """Yields the test files in a directory, or the file itself, relative to the project."""
    path = project / place
    if path.is_file():
        yield place
    else:
        yield from (file for file in _python_below(path, project) if is_test_file(file, test_files))


def _python_below(folder: Path, start: Path | None = None) -> Iterator[str]:
    """Yields Python files where pytest looks by default, relative to `start`."""
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if _may_hold_tests(place, name))
        below = Path(place).relative_to(start or folder)
        yield from ((below / name).as_posix() for name in sorted(names) if name.endswith(".py"))


def _may_hold_tests(place: str, name: str) -> bool:
    other = name.startswith(".") or name.endswith(".egg") or name in NOT_SEARCHED
    return not other and not os.path.exists(os.path.join(place, name, "pyvenv.cfg"))


def _is_native(path: str) -> bool:
    return posixpath.splitext(path)[1].lower() in NATIVE


def _folders(path: str) -> Iterator[str]:
    folder = posixpath.dirname(path)
    yield folder
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def shortened(reasons: Sequence[str]) -> tuple[str, ...]:
    """Returns the first few reasons, and how many more there are."""
    kept = tuple(dict.fromkeys(reasons))
    more = len(kept) - KEPT_REASONS
    return kept if more <= 0 else (*kept[:KEPT_REASONS], f"and {more} more")


# -- as text -----------------------------------------------------------------------------------------------------


def explained(gate: Gate, *, everything: bool = False) -> list[str]:
    """Returns what the change is compared with, then each rule's decision with a few of its reasons, or all."""
    changes = gate.changes
    if changes.unknown:
        lines = [f"gate since {gate.since}: everything runs, because the changes cannot be determined"]
    else:
        number = len(changes.paths)
        lines = [f"gate since {gate.since} ({changes.base[:12]}): {number} file{'s' * (number != 1)} changed"]
    return [*lines, *(line for decision in gate.decisions for line in _explained(decision, everything))]


def _explained(decision: Decision, everything: bool) -> Iterator[str]:
    name = one_line(decision.rule.name, 80)
    if not decision.triggered:
        yield f"  rule {name}: does not run, no file that it watches changed"
        return
    some = "" if decision.why else f", {len(decision.files)} of {len(decision.guarded)} test files"
    first, *others = decision.reasons if everything else shortened(decision.reasons)
    yield f"  rule {name}: runs{some}: {first}"
    yield from (f"    {reason}" for reason in others)
    if everything:
        own = decision.files or dict.fromkeys(decision.guarded, "")
        yield from (f"    test file {one_line(file, 200)}{reason and ': '}{reason}" for file, reason in own.items())


def as_json(gate: Gate) -> dict[str, Json]:
    """Returns the gate as `run.json` records it."""
    return {
        "since": gate.since,
        "base": gate.changes.base or None,
        "unknown": gate.changes.unknown or None,
        "changed": len(gate.changes.paths),
        "rules": [_decision_json(decision) for decision in gate.decisions],
    }


def _decision_json(decision: Decision) -> Json:
    return {
        "name": decision.rule.name,
        "triggered": decision.triggered,
        "why": [*shortened(decision.reasons)],
        "files": [*sorted(decision.files)],
    }
