"""Owns a gate during a pytest session: what it leaves out, and that all it wants was run; must not decide or judge.

Under a gate nothing is green by absence: what a triggered rule guards has to be collected, selected and run. Whatever
falls short is a complaint with words of its own, and a session with complaints is never green.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.gate.decide import Decision, Gate, as_json, decide, explained
from pytest_megacpp.desk.gate.pytest_files import has_lane_tests
from pytest_megacpp.judge.verdicts import Outcome, TestResult
from pytest_megacpp.recording.events import Json, RunStarted
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted

KEPT_NAMES = 5


@dataclass
class Gatekeeper:
    """`lane_of` says which lane that was asked for an item belongs to, None if it belongs to none."""

    gate: Gate
    lanes: Sequence[str]
    lane_of: Callable[[pytest.Item], str | None]
    complaints: list[str] = field(default_factory=list)
    left_out: int = 0
    unguarded: int = 0
    _has_looked: bool = False
    _wanted: dict[str, pytest.Item] = field(default_factory=dict)
    _executed: set[str] = field(default_factory=set)
    _skipped_files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: pytest.Config,
        options: Options,
        lanes: Sequence[str],
        lane_of: Callable[[pytest.Item], str | None],
    ) -> "Gatekeeper":
        """Decides by the changes since the given revision. Raises UsageError."""
        assert options.gate_since is not None
        patterns = [str(pattern) for pattern in config.getini("python_files")]
        places = [*sys.path, *map(str, config.getini("pythonpath"))]
        gate = decide(options.gate_since, options.gate, options.project, patterns, places)
        return cls(gate, lanes, lane_of)

    def header(self) -> list[str]:
        return explained(self.gate)

    # -- what is selected ------------------------------------------------------------------------------------

    def note_skipped_file(self, report: pytest.CollectReport, rootpath: Path) -> None:
        """Notes why a whole file was skipped: none of its tests is collected."""
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = one_line(str(report.longrepr[2]).removeprefix("Skipped: "))
            self._skipped_files[self._from_project(rootpath / report.nodeid, report.nodeid)] = reason

    def sort_out(self, collected: Iterable[pytest.Item], items: list[pytest.Item]) -> list[pytest.Item]:
        """Removes the lane tests that the gate leaves out from `items` and returns them. `collected` are the tests
        before any deselection.
        """
        wanted = [item for item in collected if self.lane_of(item) is not None and self.gate.runs(self.name(item))]
        self._wanted = {self.name(item): item for item in wanted}
        self.unguarded = sum(not self.gate.deciding(name) for name in self._wanted)
        refused = [item for item in items if self.lane_of(item) is not None and self.name(item) not in self._wanted]
        self.left_out = len(refused)
        gone = set(refused)
        items[:] = [item for item in items if item not in gone]
        return refused

    def name(self, item: pytest.Item) -> str:
        """The node id as rules spell it, from the project's directory."""
        file, colons, inner = item.nodeid.partition("::")
        return f"{self._from_project(Path(item.path), file)}{colons}{inner}"

    def _from_project(self, path: Path, otherwise: str) -> str:
        path, project = path.resolve(), self.gate.project.resolve()
        return path.relative_to(project).as_posix() if path.is_relative_to(project) else otherwise

    def must_run(self, item: pytest.Item) -> bool:
        """Returns whether a triggered rule requires that this test is not skipped."""
        decisions = self.gate.triggered_for(self.name(item))
        return bool(decisions) and not any(d.rule.lets_skip(self.name(item)) for d in decisions)

    def check_selection(self, items: Sequence[pytest.Item]) -> None:
        """Complains of guarded tests that are not selected, and of triggered rules that have no test to run."""
        self._has_looked = True
        selected = {self.name(item) for item in items}
        guarded = [name for name in self._wanted if self.gate.deciding(name)]
        dropped = [name for name in guarded if name not in selected]
        if dropped:
            how = "by -k, -m, --lf, --deselect or a plugin"
            self._complain(f"{_named(dropped)} guarded by a triggered rule, but left out of this session ({how})")
        for decision in self.gate.triggered:
            self._check_rule(decision, [name for name in guarded if decision.rule.guards(name)])

    def _check_rule(self, decision: Decision, names: Sequence[str]) -> None:
        rule, lanes = decision.rule, " or ".join(self.lanes)
        collected = {name.partition("::")[0] for name in names}
        missing = [file for file in self._lane_files(decision) if file not in collected]
        for file in missing:
            reason = self._skipped_files.get(file)
            how = "none was collected" if reason is None else f"the whole file was skipped ({reason})"
            where = f"{one_line(file, 200)}, which has tests of {lanes}"
            self._complain(f"rule {rule.name} was triggered for {where}, but {how}")
        if not names and not missing:
            self._complain(f"rule {rule.name} was triggered, but {', '.join(rule.run)} has no test of {lanes} to run")

    def _lane_files(self, decision: Decision) -> Iterator[str]:
        """Yields the files that a triggered rule guards and that have tests of a requested lane."""
        for file in decision.guarded:
            if (decision.why or file in decision.files) and has_lane_tests(self.gate.project / file, self.lanes):
                yield file

    # -- results --------------------------------------------------------------------------------------------

    def note(self, item: pytest.Item, result: TestResult) -> None:
        """Notes the result of a reported lane test. An error fails the session by itself."""
        if result.outcome is not Outcome.SKIPPED:
            self._executed.add(self.name(item))
        elif self.must_run(item):  # of a run that was submitted without this gate
            self._complain(f"{_named([self.name(item)])} skipped, though a triggered rule guards it")

    def note_left_out(self, item: pytest.Item) -> None:
        """Notes that the user's options select no case of a test at the box."""
        if self.must_run(item):
            self._complain(f"{_named([self.name(item)])} without a case that -k or -m selects at the box")

    def check_collected(self) -> None:
        """Complains if no tests were collected at all."""
        if not self._has_looked:
            self._complain("the session ended before its tests were collected")

    def check_results(self, selected: Sequence[pytest.Item], reported: Collection[pytest.Item]) -> None:
        """Complains of selected tests that were never reported, and of triggered rules of which no test ran."""
        silent = [self.name(item) for item in selected if item not in reported]
        if silent:
            self._complain(f"{_named(silent)} selected, but never reported")
        for decision in self.gate.triggered:
            names = [name for name in self._wanted if decision in self.gate.triggered_for(name)]
            if names and not self._executed.intersection(names):
                outcome = f"none of its {counted(len(names), 'test')} was executed"
                self._complain(f"rule {decision.rule.name} was triggered, but {outcome}")

    def check_run(self, run_id: str, started: RunStarted | None, here: str, *, dry: bool) -> None:
        """Complains if an earlier run does not prove this change. `here` is the revision that the gate checks."""
        if started is None or not started.revision or started.revision != here or here.endswith("+"):
            there = (started.revision if started else "") or "an unknown revision"
            self._complain(f"run {run_id} tested {there}, but this gate checks {here or 'an unknown revision'}")
        if started is not None and started.dry_run and not dry:
            self._complain(f"run {run_id} was a dry run, and --dry-run was not given")

    @property
    def ran_nothing_rightly(self) -> bool:
        """Whether there were lane tests and the gate needed none of them."""
        return self.left_out > 0 and not self._wanted and not self.complaints

    def notes(self) -> list[str]:
        """Returns what was left out and what no rule guards, for the end of the session."""
        lines = []
        if self.left_out:
            lines.append(f"{counted(self.left_out, 'lane test')} left out: no file that their rules watch changed")
        if self.unguarded:
            lines.append(f"guarded by no rule, so always run: {counted(self.unguarded, 'lane test')}")
        return lines

    def as_json(self) -> dict[str, Json]:
        counted: dict[str, Json] = {"left_out": self.left_out, "unguarded": self.unguarded}
        return {**as_json(self.gate), **counted, "complaints": [*self.complaints]}

    def _complain(self, complaint: str) -> None:
        if complaint not in self.complaints:
            self.complaints.append(complaint)


def _named(names: Sequence[str]) -> str:
    """`a.py::b, a.py::c and 3 more were`."""
    shown = ", ".join(one_line(name, 120) for name in names[:KEPT_NAMES])
    more = f" and {len(names) - KEPT_NAMES} more" if len(names) > KEPT_NAMES else ""
    return f"{shown}{more} {'was' if len(names) == 1 else 'were'}"
