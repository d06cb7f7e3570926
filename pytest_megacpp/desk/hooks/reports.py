"""Owns a judged lane test as pytest reports; must not judge."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

import pytest

from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.desk.hooks.summary import shown
from pytest_megacpp.desk.hooks.verdict_text import Crash, VerdictText
from pytest_megacpp.judge.verdicts import Outcome, TestResult, Verdict
from pytest_megacpp.recording.events import Error, Reported
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.recording.vocabulary import ReportOutcome, TestPhase
from pytest_megacpp.report.brief import blamed_line
from pytest_megacpp.report.clean import clean, one_line
from pytest_megacpp.report.durations import phase_seconds
from pytest_megacpp.report.layout import WIDTH
from pytest_megacpp.report.reporter import RunResults
from pytest_megacpp.report.reporters import flight_records, receipt_path
from pytest_megacpp.report.text import Whereabouts, failure_lines, headline, headlines
from pytest_megacpp.report.tones import TonedLine, plain, text_of

SETUP, CALL, TEARDOWN = TestPhase
SECTION_CHARS = 6_000
REASON_CHARS = 2_000


def drill_result(result: TestResult, expected: Expectation) -> TestResult:
    """The result of a test that expects a verdict. What kept it from being tested is an error, as for any test."""
    missed = _difference(result.verdict, expected)
    red = Outcome.ERROR if result.outcome is Outcome.ERROR else Outcome.FAILED
    return replace(result, outcome=red if missed else Outcome.PASSED, missed=missed)


def _difference(reached: Verdict, expected: Expectation) -> str:
    if expected.code is not reached.code:
        return f"expected verdict {expected.code}, got {reached.code}"
    blamed = tuple(sorted(reached.blamed_ranks))
    if expected.ranks not in (None, blamed):
        return f"expected blamed ranks {list(expected.ranks or ())}, got {list(blamed)}"
    cause = None if reached.cause is None else str(reached.cause)
    if expected.cause not in (None, cause):
        return f"expected cause {expected.cause!r}, got {cause!r}"
    return ""


def _known(run: RunResults, index: int, relative_to: Path) -> dict[str, str]:
    """What a support ticket needs in addition to the recording."""
    flights = flight_records(run, run.judged[index]).values()
    found = {
        "app": run.meta.ids.app,
        "sandbox": run.meta.ids.sandbox,
        "flight": ", ".join(shown(run.directory / path, relative_to) for path in flights),
        "recording": shown(run.directory / "recording.jsonl", relative_to),
    }
    return {name: text for name, text in found.items() if text}


def reports_of(
    item: pytest.Item,
    run: RunResults,
    index: int,
    relative_to: Path,
    properties: Mapping[str, object],
    *,
    drill: bool,
) -> Iterator[pytest.TestReport]:
    """Set-up, call and teardown of one test of a run, as pytest would have reported them. Paths in texts are shown
    relative to `relative_to`, `properties` are for JUnit. A drill that passed has its verdict as a section, which
    `pytest -rP` shows. The reports' durations add up to the test's: what has none of its own counts to the first one.
    """
    result, timeline = run.judged[index], run.timeline
    make = _Maker(item, result, timeline.tests.get(result.number), properties)
    made = list(_made(make, timeline, _whereabouts(run, index, relative_to), drill))
    seconds = phase_seconds(result, timeline)
    for report in made:
        report.duration = seconds[TestPhase(report.when)]
    made[0].duration += sum(seconds.values()) - sum(report.duration for report in made)
    yield from made


def _whereabouts(run: RunResults, index: int, relative_to: Path) -> Whereabouts:
    result = run.judged[index]
    receipt, flight = receipt_path(run, index), flight_records(run, result).get(result.number)
    return Whereabouts(
        lane=run.plan.lane,
        receipt=shown(run.directory / receipt, relative_to) if receipt else None,
        flight=shown(run.directory / flight, relative_to) if flight else None,
        logs=_logs(run, relative_to),
        known=_known(run, index, relative_to),
    )


def _logs(run: RunResults, relative_to: Path) -> str | None:
    """Where the logs of ranks are, or come to from a machine elsewhere; None for a recording without them."""
    logs = run.directory / "ranks"
    return shown(logs, relative_to) if logs.is_dir() or run.meta.ids.sandbox else None


def skipped_reports(item: pytest.Item, why: str) -> Iterator[pytest.TestReport]:
    """Of a test that nobody waits for here, as it runs on without this desk or not at all: skipped, never passed."""
    path, line, _ = item.location
    skipped = (path, (line or 0) + 1, f"Skipped: {why}")
    yield _report(item, "setup", "skipped", skipped)
    yield _report(item, "teardown", "passed", None)


def missed_reports(item: pytest.Item, why: str) -> Iterator[pytest.TestReport]:
    """Of a test that should have run and did not, without a verdict: an error."""
    yield _report(item, "setup", "failed", f"not run: {why}")
    yield _report(item, "teardown", "passed", None)


def _report(item: pytest.Item, when: str, outcome: str, longrepr: Any) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=longrepr,
        when=when,  # type: ignore[arg-type]
    )


def _made(make: "_Maker", timeline: Timeline, around: Whereabouts, drill: bool) -> Iterator[pytest.TestReport]:
    item, result = make.item, make.result

    def lines(width: int, is_short: bool) -> list[TonedLine]:
        return failure_lines(result, timeline, around, width, is_short=is_short)

    match result.outcome:
        case Outcome.PASSED:
            verdict = (("Verdict", clean("\n".join(map(text_of, lines(WIDTH, False))))),) if drill else ()
            yield from (make(SETUP), make(CALL, sections=verdict))
        case Outcome.FAILED | Outcome.ERROR:
            failed_in = _failed_in(result)
            briefs = [one_line(result.missed, REASON_CHARS)] if result.missed else headlines(result.verdict)
            longrepr = VerdictText(
                lines, _crash(item, result, timeline), briefs, item.config, is_error=failed_in is not CALL
            )
            if failed_in is not SETUP:
                yield make(SETUP)
            if failed_in is TEARDOWN:
                yield make(CALL)
                yield make(TEARDOWN, ReportOutcome.FAILED, longrepr)
                return
            yield make(failed_in, ReportOutcome.FAILED, longrepr)
            if (broken := make.broken_teardown()) is not None:
                yield make(TEARDOWN, ReportOutcome.FAILED, broken)
                return
        case Outcome.SKIPPED:
            yield from make.skipped()
        case Outcome.XFAILED:
            yield make(SETUP)
            yield make(CALL, ReportOutcome.SKIPPED, result.verdict.summary, wasxfail=make.xfail_reason())
        case Outcome.XPASSED:
            yield make(SETUP)
            yield make(CALL, wasxfail=make.xfail_reason())
        case _:
            assert_never(result.outcome)
    yield make(TEARDOWN)


def _failed_in(result: TestResult) -> TestPhase:
    """The phase whose report is red: pytest calls a failure of the call `failed`, one of the others an error."""
    if result.outcome is Outcome.FAILED:
        return CALL
    return TEARDOWN if result.verdict.phase is TEARDOWN else SETUP


@dataclass(frozen=True, slots=True)
class _Maker:
    item: pytest.Item
    result: TestResult
    view: TestView | None
    properties: Mapping[str, object]

    def __call__(
        self,
        when: TestPhase,
        outcome: ReportOutcome = ReportOutcome.PASSED,
        longrepr: Any = None,
        wasxfail: str | None = None,
        sections: Iterable[tuple[str, str]] = (),
    ) -> pytest.TestReport:
        extra: dict[str, Any] = {} if wasxfail is None else {"wasxfail": one_line(wasxfail, REASON_CHARS)}
        # JUnit reads properties and output from the teardown
        shown = when is not SETUP or outcome is ReportOutcome.FAILED
        return pytest.TestReport(
            nodeid=self.item.nodeid,
            location=self.item.location,
            keywords=dict.fromkeys(self.item.keywords, 1),
            outcome=outcome.value,  # type: ignore[arg-type]  # plain texts: pytest-xdist sends no others
            longrepr=longrepr,
            when=when.value,  # type: ignore[arg-type]
            sections=[*sections, *(_sections(self.view, teardown=when is TEARDOWN) if shown else ())],
            user_properties=list(self.properties.items()) if shown else [],
            **extra,
        )

    def broken_teardown(self) -> VerdictText | None:
        """What ranks raised in teardown after another failure, which pytest counts as an error of its own."""
        raised: dict[str, list[int]] = defaultdict(list)
        errors: list[Error] = []
        for rank in self.view.ranks.values() if self.view else ():
            _, report = rank.reports.get(TEARDOWN, (0.0, None))
            if report is not None and report.outcome is ReportOutcome.FAILED and report.error is not None:
                raised[clean(report.error.traceback[-SECTION_CHARS:])].append(rank.rank)
                errors.append(report.error)
        if not errors:
            return None
        texts = [f"{ranks_named(ranks)} raised in teardown\n{text}" for text, ranks in raised.items()]
        who, first = ranks_named(next(iter(raised.values()))), errors[0]
        briefs = [f"{who} raised {one_line(first.type, 80)} in teardown: {one_line(first.message)}"]
        briefs.append(briefs[0].partition(":")[0])
        crash = Crash(one_line(first.file), first.line, briefs[0])
        lines = plain("\n\n".join(texts).split("\n"))
        return VerdictText(lambda width, is_short: lines, crash, briefs, self.item.config, is_error=True)

    def skipped(self) -> Iterator[pytest.TestReport]:
        """Where and why the ranks skipped."""
        report = next(iter(self._reports(ReportOutcome.SKIPPED)), None)
        where = (str(self.item.path), 0, f"Skipped: {self.result.verdict.summary}")
        if report is not None and report.skip is not None:
            where = (one_line(report.skip.file), report.skip.line, one_line(report.skip.reason, REASON_CHARS))
        if report is not None and report.when is CALL:
            yield self(SETUP)
            yield self(CALL, ReportOutcome.SKIPPED, where)
        else:
            yield self(SETUP, ReportOutcome.SKIPPED, where)

    def xfail_reason(self) -> str:
        return next((r.xfail for r in self._reports() if r.xfail), "")

    def _reports(self, outcome: ReportOutcome | None = None) -> Iterator[Reported]:
        for rank in self._ranks():
            for _, report in rank.reports.values():
                if outcome is None or report.outcome is outcome:
                    yield report

    def _ranks(self) -> Iterable[RankView]:
        return self.view.ranks.values() if self.view else ()


def _crash(item: pytest.Item, result: TestResult, timeline: Timeline) -> Crash:
    """At the line that a blamed rank failed at or stood in, else where the test begins."""
    message = one_line(result.missed or headline(result.verdict), REASON_CHARS)
    file, defined_at, _ = item.location
    path, line = blamed_line(result, timeline) or (file, (defined_at or 0) + 1)
    return Crash(one_line(path), line, message)


def _sections(view: TestView | None, *, teardown: bool) -> Iterator[tuple[str, str]]:
    """What the ranks wrote and logged, without or with the teardown's; equal texts of several ranks once."""
    if view is None:
        return
    texts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank in view.ranks.values():
        for stream, output in rank.output.items():
            texts[f"Captured {one_line(stream, 20)}", clean(output.text[-SECTION_CHARS:])].append(rank.rank)
        for _, report in rank.reports.values():
            for heading, text in report.sections if teardown or report.when is not TEARDOWN else ():
                texts[one_line(heading, 80), clean(text[-SECTION_CHARS:])].append(rank.rank)
    for (heading, text), ranks in texts.items():
        yield f"{heading} of {ranks_named(ranks)}", text
