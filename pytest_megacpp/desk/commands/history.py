"""Owns `megacpp history`: how tests did over the kept runs; must not know what a regression or a flaky test is."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands.command import FAILED, OK, Desk, complain, fitting, say, say_json, takes_json
from pytest_megacpp.desk.commands.runs import moment
from pytest_megacpp.desk.run.directory import HISTORY, utc_now
from pytest_megacpp.desk.run.history_file import write_history
from pytest_megacpp.desk.run.receipts import History, newest_receipts
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.history.findings import changes, flaky
from pytest_megacpp.report.history.page import findings
from pytest_megacpp.report.history.series import METRICS, Metric, Series, series
from pytest_megacpp.report.layout import grouped, wrapped
from pytest_megacpp.report.measures import Measures
from pytest_megacpp.report.quantities import UNKNOWN, age_text

BARS = "▁▂▃▄▅▆▇█"
DRAWN = 20  # values in the line of bars
SHOWN = 20  # runs of one test
SECONDS = METRICS[0]
MARKS = {"passed": "✓", "xfailed": "✓", "xpassed": "✓", "failed": "✗", "error": "!"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("test", metavar="TEST", nargs="?", help="only tests whose node id contains this, run by run")
    parser.add_argument("--limit", metavar="N", type=int, help="only the newest N runs")
    parser.add_argument("--html", action="store_true", help=f"write {HISTORY} into the lane directory, of all runs")
    takes_json(parser)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Prints the history; FAILED if there is none. Raises UsageError and OSError."""
    if arguments.limit is not None and arguments.limit < 1:
        raise pytest.UsageError(f"--limit {arguments.limit}: it has to be 1 or more")
    history = newest_receipts(desk.lane_dir, runs=arguments.limit)
    if arguments.html:
        return _write(desk.lane_dir, history)
    found = [one for one in series(history.receipts) if arguments.test is None or arguments.test in one.nodeid]
    if not found:
        complain(_nothing(desk.lane_dir, history, arguments.test))
    if arguments.json:
        say_json([as_json(one) for one in found])
    elif arguments.test is None:
        say(table(found) if found else ())
    else:
        say(line for one in found for line in run_by_run(one))
    return OK if found else FAILED


def _write(lane_dir: Path, history: History) -> int:
    path = write_history(lane_dir, history)
    if path is None:
        complain(_nothing(lane_dir, history, None))
        return FAILED
    say([str(path)])
    return OK


def _nothing(lane_dir: Path, history: History, test: str | None) -> str:
    if history.receipts and test is not None:
        return f"no receipt of the {history.runs} runs in {lane_dir} is of a test with {test!r} in its node id"
    if history.receipts:
        return f"all {history.runs} runs in {lane_dir} that have receipts are replays, which are no history"
    return f"no receipts in {lane_dir} yet: run tests with pytest -m LANE, or name another --lane-dir"


# -- all tests -----------------------------------------------------------------------------------------------


def table(found: Sequence[Series]) -> Iterator[str]:
    """A line for each test, and below all of them what is worth a word. Where a test ran in several ways, which are not
    compared with each other, its lines say what tells them apart.
    """
    kinds = grouped((one.nodeid, one.kind) for one in found)
    rows = [
        (
            str(len(one.entries)),
            _marks(one.entries),
            _last(one, SECONDS),
            _bars(one, SECONDS),
            one_line(one.kind.distinction(kinds[one.nodeid])),
            one_line(one.nodeid),
        )
        for one in found
    ]
    lines = [("RUNS", "OUTCOMES", "LAST", "DURATION", "WHERE", "TEST"), *rows]
    yield from fitting(lines if any(where for *_, where, _ in rows) else [(*cells, test) for *cells, _, test in lines])
    for one in found:
        for kind, texts in grouped(findings(one)).items():
            if kind in ("red", "slower", "flaky"):
                yield ""
                yield from wrapped(f"{kind}: {one_line(one.nodeid)} ({one_line(str(one.kind))})")
                for text in texts:
                    yield from wrapped(text, "  ")


def _marks(entries: Sequence[Measures]) -> str:
    """A character for each of the newest runs, the newest last."""
    return "".join(MARKS.get(entry.outcome, "-") for entry in entries[-DRAWN:])


def _last(one: Series, metric: Metric) -> str:
    return metric.text(metric.of(one.last))


def _bars(one: Series, metric: Metric) -> str:
    """A bar for each value of a green run, the newest last."""
    values = [value for value in one.values(metric) if value is not None][-DRAWN:]
    if not values:
        return UNKNOWN
    return "".join(_bar(value, max(values)) for value in values)


def _bar(value: float, highest: float) -> str:
    share = min(1.0, max(0.0, value / highest)) if highest > 0 else 0.0
    return BARS[round((len(BARS) - 1) * share)]


# -- one test ------------------------------------------------------------------------------------------------


def run_by_run(one: Series) -> Iterator[str]:
    """A line for each of the newest runs, the newest first."""
    yield from wrapped(f"{one_line(one.nodeid)} · {one_line(str(one.kind))}")
    metrics = [metric for metric in one.metrics if not metric.is_record]
    head = ("RUN", "AGE", "VERDICT", *(metric.label.upper() for metric in metrics), "RECORDS")
    rows = [_row(entry, metrics) for entry in reversed(one.entries[-SHOWN:])]
    yield from fitting([head, *rows])
    if len(one.entries) > SHOWN:
        yield f"… {len(one.entries) - SHOWN} older runs"
    for kind, text in findings(one):
        yield from wrapped(f"{kind}: {text}")
    yield ""


def _row(entry: Measures, metrics: Sequence[Metric]) -> tuple[str, ...]:
    started = moment(entry.started_at)
    age = age_text((utc_now() - started).total_seconds() if started is not None else None)
    records = ", ".join(f"{name}={record}" for name, record in entry.records.items())
    verdict = f"{entry.code} ({entry.blamed})" if entry.blamed_ranks else entry.code
    return (one_line(entry.run_id), age, verdict, *(metric.text(metric.of(entry)) for metric in metrics), records)


# -- for programs --------------------------------------------------------------------------------------------


def as_json(one: Series) -> dict[str, object]:
    """A series, the oldest run first."""
    unsteady = flaky(one)
    return {
        "nodeid": one.nodeid,
        "lane": one.kind.lane,
        "surface": one.kind.surface,
        "dry_run": one.kind.dry_run,
        "preset": one.kind.preset or None,
        "world_size": one.kind.world_size,
        "runs": [
            {
                "run_id": entry.run_id,
                "outcome": entry.outcome,
                "verdict": entry.code,
                "revision": entry.revision or None,
            }
            | {metric.name: metric.of(entry) for metric in METRICS}
            | {"records": {name: record.value for name, record in entry.records.items() if record.value is not None}}
            for entry in one.entries
        ],
        "changes": [
            {"metric": change.metric.name, "value": change.value, "median": change.median, "spread": change.spread}
            | {"earlier": change.earlier, "is_regression": change.is_regression}
            for change in changes(one)
        ],
        "flaky": None
        if unsteady is None
        else {"failures": unsteady.failures, "runs": unsteady.runs, "low": unsteady.low, "high": unsteady.high}
        | {"interval": "wilson-95", "revision": unsteady.revision or None},
    }
