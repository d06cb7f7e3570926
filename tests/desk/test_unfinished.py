"""A run that did not come to everything: every report says so, in the same words."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands.runs import counted
from pytest_megacpp.desk.hooks.announcer import Annotations, BuildkiteAnnotation, Repository, StepSummary
from pytest_megacpp.desk.hooks.summary import TerminalSummary
from pytest_megacpp.judge.verdicts import Outcome
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.plan import PlannedTest
from pytest_megacpp.recording.vocabulary import Preset
from pytest_megacpp.report.page.data import page_data
from pytest_megacpp.report.page.html import html
from pytest_megacpp.report.reporter import Artefact, Line, Output, RunResults, SessionResults
from pytest_megacpp.report.run_json import RunStatus, counts, unfinished
from pytest_megacpp.report.run_spans import run_spans
from tests.report.pages import results
from tests.scenario import FakeBox

NODEIDS = [f"test_w.py::test_{n}" for n in range(21)]
DRY = "dry run on CPU/gloo: says nothing about GPUs"
SAID = "interrupted, 20 of 21 tests have no result"


def interrupted(begun: int = 1, status: RunStatus = RunStatus.INTERRUPTED) -> RunResults:
    """Of 21 tests the first `begun` passed, the others never began."""
    box = FakeBox(2, NODEIDS)
    for index in range(begun):
        box.begins(index).passes().ends()
    run = results(box.timeline())
    tests = tuple(PlannedTest(nodeid, 2, Preset.FULL, Limits()) for nodeid in NODEIDS)
    meta = replace(run.meta, plan=replace(run.plan, tests=tests))
    return replace(
        run, meta=meta, status=status, judged={i: run.judged[i] for i in range(begun)}, reported=[*range(begun)]
    )


def lines(outputs: Iterable[Output]) -> list[str]:
    return [line.text for line in outputs if isinstance(line, Line)]


def step_summary(session: SessionResults) -> str:
    written = [output for output in StepSummary({}).closing(session) if isinstance(output, Artefact)]
    return "".join(content.decode() for a in written for _, content in a.files if isinstance(content, bytes))


def annotations(session: SessionResults) -> list[str]:
    return lines(Annotations(Repository(Path("/"), Path("/"), {})).closing(session))


def by_file(session: SessionResults) -> list[str]:
    return lines(TerminalSummary().closing(session))


def page(session: SessionResults) -> str:
    (run,) = session.runs
    return html(page_data(run, run_spans(run.timeline, run.judged))).decode()


REPORTS: list[Callable[[SessionResults], object]] = [step_summary, annotations, by_file, page]


@pytest.mark.parametrize("report", REPORTS)
def test_each_report_counts_what_has_no_result(report: Callable[[SessionResults], object]) -> None:
    assert SAID in str(report(SessionResults([interrupted()])))
    assert "interrupted, 21 of 21 tests have no result" in str(report(SessionResults([interrupted(0)])))
    assert "interrupted, 1 of 21 tests has no result" in str(report(SessionResults([interrupted(20)])))


@pytest.mark.parametrize("report", REPORTS)
def test_nothing_of_the_kind_is_said_of_a_run_that_came_to_everything(
    report: Callable[[SessionResults], object],
) -> None:
    passed = replace(interrupted(21), status=RunStatus.PASSED)
    assert "no result" not in str(report(SessionResults([passed])))


def test_a_run_that_goes_on_lacks_nothing() -> None:
    assert interrupted(status=RunStatus.DETACHED).unfinished == ""
    assert interrupted(status=RunStatus.RUNNING).unfinished == ""


def test_a_run_that_was_stopped_at_a_failure_counts_the_rest() -> None:
    assert interrupted(status=RunStatus.FAILED).unfinished == "20 of 21 tests have no result"


def test_an_interrupted_run_is_never_green() -> None:
    assert step_summary(SessionResults([interrupted()])).startswith(
        f"### ✗ h200x8 on H200:8, {DRY}: 1 passed, {SAID}\n"
    )
    assert step_summary(SessionResults([interrupted(21)])).startswith("### ✗ ")


def test_the_list_of_runs_says_it_beside_the_status() -> None:
    document = counts([Outcome.PASSED], 21)
    assert counted(document, "interrupted") == f"1 passed, {SAID}"
    assert counted(document, "running") == "1 passed"
    assert counted(counts([], 21), "running") == "running"
    assert counted(counts([], 21), "interrupted") == "interrupted, 21 of 21 tests have no result"
    assert unfinished("passed", 1, 1) == ""


def test_buildkite_has_it_in_red(tmp_path: Path) -> None:
    agent = tmp_path / "buildkite-agent"
    agent.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\ncat >> {tmp_path}/said\n')
    agent.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    group = lines(BuildkiteAnnotation(environ).closing(SessionResults([interrupted()])))
    assert group[0].startswith("+++ ")
    assert SAID in group[1]
    said = (tmp_path / "said").read_text()
    assert "--style error" in said
    assert SAID in said


def test_tests_that_were_never_reported_are_announced() -> None:
    missing = SessionResults([], unreported=("2 selected, but never reported, so the session fails:", "  a.py::test_b"))
    (line,) = annotations(missing)
    assert line.startswith("::error title=lane tests without a result::2 selected, but never reported")
    assert line.endswith("%0A  a.py::test_b")
    environ = {"PATH": "/nonexistent"}
    assert "a.py::test_b" in " ".join(lines(BuildkiteAnnotation(environ).closing(missing)))
