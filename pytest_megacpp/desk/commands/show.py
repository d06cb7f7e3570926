"""Owns what `megacpp show` and `judge` print; must not know arguments, exit codes or how judging works."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.commands.command import fitting, width
from pytest_megacpp.desk.commands.runs import Entry, as_json, counted, row
from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.desk.hooks.reports import drill_result
from pytest_megacpp.desk.run import runs
from pytest_megacpp.desk.run.directory import RECORDING, inside, read_run_json, utc_now
from pytest_megacpp.desk.run.receipts import read_receipt
from pytest_megacpp.judge.verdicts import RED, Outcome, RunResult, TestResult
from pytest_megacpp.recording.codec import CodecError, from_json, to_json
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.attempts import attempts_line
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.flight_dump import record_name
from pytest_megacpp.report.layout import columns, grouped
from pytest_megacpp.report.measures import Measures, Record, measures
from pytest_megacpp.report.quantities import seconds_text, usd_text
from pytest_megacpp.report.receipt import receipt_name
from pytest_megacpp.report.run_json import RunStatus
from pytest_megacpp.report.running import is_through, running_lines
from pytest_megacpp.report.text import Whereabouts, failure_text, headline

HEAD = ("OUTCOME", "TIME", "FIRST FORWARD", "SKEW", "PRICE", "TEST", "RECORDS")
KEPT_NAMES = 10  # of tests that never began for the same reason


@dataclass(frozen=True, slots=True)
class Judged:
    """A recording judged now, and the `run.json` of its own run (`document`, empty if there is none)."""

    run: Path
    document: Mapping[str, Any]
    timeline: Timeline
    result: RunResult

    @property
    def is_running(self) -> bool:
        """Whether a desk or a box still works on it; a run whose desk died has been marked by now."""
        return self.document.get("status") in (RunStatus.RUNNING, RunStatus.DETACHED)

    @property
    def is_bad(self) -> bool:
        """Whether a test failed, or there is none."""
        return bool(self.bad or not (self.result.tests or self.is_running))

    @property
    def entry(self) -> Entry:
        return Entry(self.run, self.document)

    @property
    def so_far(self) -> tuple[TestResult, ...]:
        """The results as the run will report them."""
        return tuple(_drilled(test, _entry(test, self.document).get("expects")) for test in self.result.tests)

    @property
    def bad(self) -> list[TestResult]:
        """The tests that failed as the run reported them, or as judged now if it never did.

        A drill passes by its verdict. Of a run that is still running only finished tests count.
        """
        tests = self.so_far
        if self.is_running:
            tests = tuple(test for test in tests if is_through(test, self.timeline))
        return [test for test in tests if _reported(test, self.document) in RED]


@dataclass(frozen=True, slots=True)
class GateAlone:
    """A gate that started nothing, as its `run.json` (`entry`) records it."""

    lines: tuple[str, ...]
    failed: bool
    entry: Entry


def gate_alone(lane_dir: Path, name: str) -> GateAlone | None:
    """Returns the gate's decision if `name` is a run in which a gate started nothing; else None."""
    try:
        run = runs.find_run(lane_dir, name)
    except runs.RunNotFound:
        return None
    document = {} if (run / RECORDING).is_file() else read_run_json(run) or {}
    gate = document.get("gate")
    if not isinstance(gate, dict):
        return None
    rules = [rule for rule in _listed(gate, "rules") if isinstance(rule, dict)]
    summary = [f"gate since {gate.get('since')}: nothing was started", *_rule_lines(rules)]
    complaints = [str(complaint) for complaint in _listed(gate, "complaints")]
    lines = [one_line(line, 500) for line in (*summary, *complaints)]
    entry = Entry(run, document)
    return GateAlone((*_summary(entry), *lines), bool(complaints), entry)


@dataclass(frozen=True, slots=True)
class Joint:
    """A joint run: what is judged of each of its boxes; `silent` are the runs that recorded nothing to judge."""

    entry: Entry
    boxes: tuple[Judged, ...]
    silent: tuple[str, ...]

    @property
    def is_bad(self) -> bool:
        """Whether a test failed, or nothing is known of a box that has ended."""
        return any(seen.is_bad for seen in self.boxes) or bool(self.silent and self.entry.status != RunStatus.RUNNING)


def joint_run(lane_dir: Path, name: str) -> Joint | None:
    """The joint run of this name; None if it is no such run."""
    try:
        run = runs.find_run(lane_dir, name)
    except runs.RunNotFound:
        return None
    parts = runs.parts_of_run(run)
    boxes, silent = [], []
    for part in parts:
        try:
            boxes.append(judged(run.parent / part / RECORDING))
        except (runs.RunNotFound, OSError) as e:
            silent.append(f"{part}: {e}")
    return Joint(Entry(run, read_run_json(run) or {}), tuple(boxes), tuple(silent)) if parts else None


def joint_shown(joint: Joint) -> Iterator[str]:
    """The joint run in one line, then the run of each box as ever."""
    yield from _summary(joint.entry)
    for seen in joint.boxes:
        yield from ("", *run_shown(seen))
    yield from (one_line(line, 300) for line in joint.silent)


def joint_json(joint: Joint) -> dict[str, object]:
    """As `run_json`, with the tests of all boxes, and `boxes` for the ids of their runs."""
    tests = [test for seen in joint.boxes for test in _tests_json(seen)]
    boxes = [seen.run.name for seen in joint.boxes]
    is_running = any(seen.is_running for seen in joint.boxes)
    return {**as_json(joint.entry), "is_running": is_running, "tests": tests, "boxes": boxes}


def _rule_lines(rules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for rule in rules:
        reasons = "; ".join(map(str, _listed(rule, "why"))) or "no file that it watches changed"
        yield f"rule {rule.get('name')}: {'triggered' if rule.get('triggered') else 'not triggered'}: {reasons}"


def _listed(document: Mapping[str, Any], name: str) -> list[Any]:
    """Returns a list in a `run.json`, which may have any content; empty if it is none."""
    value = document.get(name)
    return value if isinstance(value, list) else []


def judged(recording: Path) -> Judged:
    """Judges a recording.

    Raises RunNotFound if nothing in it can be judged, OSError if it can't be read.
    """
    from pytest_megacpp.judge.arbiter import judge_run

    with runs.no_garbage_collection():
        timeline = runs.read_timeline(recording)
        result = judge_run(timeline)
    seen = Judged(recording.parent, read_run_json(recording.parent) or {}, timeline, result)
    if not timeline.planned and not timeline.tests and not seen.is_running:
        why = runs.first_damage(timeline)
        raise runs.RunNotFound(f"nothing in {recording} can be judged: it records no test{why}")
    return seen


def _summary(entry: Entry) -> Iterator[str]:
    """The run in one line: without its age, since texts of it are kept."""
    cells = row(entry, utc_now())
    yield from columns([(cells[0], *cells[2:])])


def _tests(seen: Judged) -> Iterator[str]:
    """Of tests with a receipt: nothing else has what they measured."""
    rows = [_measured(test, found, seen) for test in seen.so_far if (found := _receipt(test, seen)) is not None]
    if rows:
        yield from fitting([HEAD, *rows])


def _measured(test: TestResult, found: Measures, seen: Judged) -> tuple[str, ...]:
    return (
        _reported(test, seen.document),
        seconds_text(found.seconds),
        seconds_text(found.first_forward_s),
        seconds_text(found.skew_s),
        usd_text(found.usd),
        one_line(test.nodeid),
        ", ".join(f"{name}={record}" for name, record in found.records.items()),
    )


def _receipt(test: TestResult, seen: Judged) -> Measures | None:
    """What the receipt says that `run.json` names, or that the run will name."""
    name = _entry(test, seen.document).get("receipt")
    known = name if isinstance(name, str) else f"receipts/{receipt_name(test.nodeid)}"
    path = inside(seen.run, known)
    return measures(read_receipt(path)) if path is not None else None


def run_json(seen: Judged) -> dict[str, object]:
    """`megacpp show --json`: the run as `megacpp runs --json` has it, and its tests as they are judged now."""
    return {**as_json(seen.entry), "is_running": seen.is_running, "tests": list(_tests_json(seen))}


def judgement_json(seen: Judged) -> dict[str, object]:
    """`megacpp judge --json`."""
    tests = [{"nodeid": t.nodeid, "outcome": str(t.outcome), "verdict": to_json(t.verdict)} for t in seen.result.tests]
    return {"run_id": seen.result.run_id, "finished": seen.result.finished, "tests": tests}


def _tests_json(seen: Judged) -> Iterator[dict[str, object]]:
    for test in seen.so_far:
        done = not seen.is_running or is_through(test, seen.timeline)
        found, entry = _receipt(test, seen), _entry(test, seen.document)
        yield {
            "nodeid": test.nodeid,
            "outcome": _reported(test, seen.document) if done else None,
            "verdict": to_json(test.verdict) if done else None,
            "expects": entry.get("expects"),
            "receipt": entry.get("receipt"),
            "seconds": found.seconds if found else None,
            "first_forward_s": found.first_forward_s if found else None,
            "skew_s": found.skew_s if found else None,
            "worst_wait_s": found.worst_wait_s if found else None,
            "compile_s": found.compile_s if found else None,
            "usd": found.usd if found else None,
            "records": {name: _recorded(record) for name, record in found.records.items()} if found else {},
        }


def _recorded(record: Record) -> list[float] | str:
    return list(record.numbers) or record.text


def _silent_s(run: Path) -> float | None:
    try:
        return max(0.0, time.time() - (run / RECORDING).stat().st_mtime)
    except OSError:
        return None


def run_shown(seen: Judged) -> Iterator[str]:
    """Yields the run in one line, its directory, a line for each test that has a result, and the text of each failing
    test.
    """
    yield from _summary(seen.entry)
    yield _typed(seen.run)
    yield from _tests(seen)
    if seen.is_running:
        yield from _running(seen)
    if seen.document.get("status") == RunStatus.DETACHED:
        yield f"still running; reattach with: pytest --attach {seen.run.name}"
    for alike in _alike(seen.bad, seen.timeline):
        yield from ("", *_text(alike, seen))


def _running(seen: Judged) -> Iterator[str]:
    """In the words of the session itself."""
    from pytest_megacpp.desk.hooks.live import seen_once

    silent_s = _silent_s(seen.run)
    tests = seen_once(seen.timeline, seen.timeline.last_s + (silent_s or 0.0))
    yield from running_lines(seen.timeline, seen.so_far, tests, silent_s)


def judgement_shown(seen: Judged) -> Iterator[str]:
    """Yields every test as judged now: a line for a green one, the text of a failing one; then the counts."""
    bad = _alike([test for test in seen.result.tests if test.outcome.is_red], seen.timeline)
    texts = {alike[0].index: alike for alike in bad}
    for test in seen.result.tests:
        if test.index in texts:
            yield from (*_text(texts[test.index], seen), "")
        elif not test.outcome.is_red:
            steps = attempts_line(test)
            line = f"{headline(test.verdict)} · {steps}" if steps else headline(test.verdict)
            yield f"{test.outcome:<8} {one_line(test.nodeid)} · {line}"
    outcomes = [test.outcome for test in seen.result.tests]
    yield counted({str(outcome): outcomes.count(outcome) for outcome in Outcome})


def _reported(test: TestResult, document: Mapping[str, Any]) -> str:
    outcome = _entry(test, document).get("outcome")
    return outcome if isinstance(outcome, str) else test.outcome


def _drilled(test: TestResult, expects: object) -> TestResult:
    """Returns the result as a drill has it, which passes by the verdict that it expects."""
    try:
        return drill_result(test, from_json(Expectation, expects))
    except CodecError:
        return test


def _entry(test: TestResult, document: Mapping[str, Any]) -> Mapping[str, Any]:
    tests = document.get("tests")
    entry = tests[test.index] if isinstance(tests, list) and test.index < len(tests) else None
    return entry if isinstance(entry, dict) and entry.get("nodeid") == test.nodeid else {}


def _alike(tests: Iterable[TestResult], timeline: Timeline) -> Iterable[list[TestResult]]:
    """Each test by itself; together those that never began, for the same reason: one text says it of all of them."""

    def reason(test: TestResult) -> object:
        if test.index in timeline.tests or test.attempts:
            return test.index
        world, _ = timeline.unreached.get(test.index, ("", None))
        return test.outcome, replace(test.verdict, next_step=""), world

    return grouped((reason(test), test) for test in tests).values()


def _text(alike: Sequence[TestResult], seen: Judged) -> list[str]:
    """Of one test, or of the first of several that never began, below the names of all."""
    first = alike[0]
    text = failure_text(first, seen.timeline, _whereabouts(first, seen), width())
    why = first.verdict.cause or first.verdict.code
    several = f"{len(alike)} tests never began: {one_line(str(why), 80)}"
    title = one_line(first.nodeid) if len(alike) == 1 else several
    names = [f"  {one_line(test.nodeid)}" for test in alike[:KEPT_NAMES]] if len(alike) > 1 else []
    names += [f"  … and {len(alike) - KEPT_NAMES} more"] if len(alike) > KEPT_NAMES else []
    names += ["", "the first of them:"] if names else []
    return [f"── {first.outcome.upper()} {title} ".ljust(width(), "─"), *names, *text.split("\n")]


def _whereabouts(test: TestResult, seen: Judged) -> Whereabouts:
    name, started, logs = _entry(test, seen.document).get("receipt"), seen.timeline.started, seen.run / "ranks"
    receipt = inside(seen.run, name) if isinstance(name, str) else None
    return Whereabouts(
        lane=started.lane if started else "?",
        receipt=_typed(receipt) if receipt is not None else None,
        flight=_flight(test, name, seen.run, test.number),
        logs=_typed(logs) if logs.is_dir() else None,
        known=_known(test, name, seen),
    )


def _known(test: TestResult, receipt: object, seen: Judged) -> dict[str, str]:
    """Returns what a support ticket needs besides the recording."""
    ids, recording = seen.document.get("ids"), seen.run / "recording.jsonl"
    named = {name: ids.get(name) for name in ("app", "sandbox")} if isinstance(ids, dict) else {}
    flights = (_flight(test, receipt, seen.run, attempt.number) for attempt in test.attempts)
    known = named | {
        "flight": ", ".join(filter(None, flights)),
        "recording": _typed(recording) if recording.is_file() else None,
    }
    return {name: text for name, text in known.items() if isinstance(text, str) and text}


def _flight(test: TestResult, receipt: object, run: Path, number: int) -> str | None:
    """Returns the directory of an attempt's flight records; None if there is none."""
    if not isinstance(receipt, str):
        return None
    records = inside(run, record_name(receipt, test, number))
    return _typed(records) if records is not None and os.path.isdir(records) else None


def _typed(path: Path) -> str:
    """Returns the path relative to the current directory, if it is in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
