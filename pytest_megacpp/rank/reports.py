"""Owns what a rank sends of pytest's reports: outcome, texts and properties, within bounds; must not know the box, nor
when a report is made.
"""

import pytest

from pytest_megacpp.rank.errors import rendered
from pytest_megacpp.recording.events import Json, Skip
from pytest_megacpp.recording.oversize import LEFT_OUT
from pytest_megacpp.recording.texts import ending, text_of
from pytest_megacpp.recording.vocabulary import ReportOutcome

KEPT_PROPERTIES = 256
SHOWN_CHARS = 8_000
_OUTCOMES = frozenset(ReportOutcome)


def outcome_of(report: pytest.TestReport) -> ReportOutcome:
    """Returns the outcome. pytest's type allows three words, plugins report others (`rerun`)."""
    return ReportOutcome(report.outcome) if report.outcome in _OUTCOMES else ReportOutcome.OTHER


def shown(report: pytest.CollectReport | pytest.TestReport) -> str:
    return ending(text_of(report.longrepr), SHOWN_CHARS)


def unrendered(item: pytest.Item, call: pytest.CallInfo[None], why: Exception) -> pytest.TestReport:
    """Returns a report for an exception that pytest can't render, since a property of it raises: failed, with the
    traceback as Python prints it.
    """
    assert call.excinfo is not None
    text = f"{rendered(call.excinfo.value)}\npytest could not render this exception: {rendered(why, limit=-1)}"
    times = {"duration": call.duration, "start": call.start, "stop": call.stop}
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, call.when, **times)  # type: ignore[arg-type]


def skip_of(report: pytest.TestReport) -> Skip | None:
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return None
    file, line, reason = report.longrepr
    return Skip(str(file), int(line or 0), str(reason))


def sections_of(report: pytest.TestReport) -> tuple[tuple[str, str], ...]:
    """Returns what plugins added for this phase (captured logging); streams go to the rank's log files instead."""
    mine = [(heading, _without_c10d(text)) for heading, text in report.sections if heading.endswith(f" {report.when}")]
    return tuple((heading, ending(text, 16_000)) for heading, text in mine if text.strip())


def properties_of(report: pytest.TestReport) -> dict[str, Json]:
    properties: dict[str, Json] = {text_of(k): text_of(v) for k, v in report.user_properties[:KEPT_PROPERTIES]}
    more = len(report.user_properties) - KEPT_PROPERTIES
    return properties | {LEFT_OUT: f"{more} more properties"} if more > 0 else properties


def _without_c10d(text: str) -> str:
    """Drops torch's own debug records of every failed collective, which repeat the exception."""
    return "".join(line for line in text.splitlines(keepends=True) if "c10d-NullHandler" not in line)
