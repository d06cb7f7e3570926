"""Pages of recordings: what tests of `timeline.html` share, those in a browser as well."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from html.parser import HTMLParser
from typing import Any

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin, TestEnd
from pytest_megacpp.recording.wire import encode, read_all
from pytest_megacpp.report.page.data import page_data
from pytest_megacpp.report.page.html import html
from pytest_megacpp.report.receipt import receipt_names
from pytest_megacpp.report.reporter import RunResults
from pytest_megacpp.report.run_json import RunMeta, run_status
from pytest_megacpp.report.run_spans import run_spans
from pytest_megacpp.report.trace import trace, trace_bytes
from tests.scenario import FakeBox

HOSTILE = (
    "</script><script>top.pwned=1</script><img src=x onerror='top.pwned=1'>\"'&amp;<!--\u2028]]>{{7*7}}${top.pwned=1}"
)
PLAN = Plan("run-1", "h200x8", "local", "H200:8", 0, 8, True, False, (), (), "")


def results(timeline: Timeline, *, added: str = "") -> RunResults:
    """The run as a reporter gets it. `added` to each text that the desk itself has of it."""
    judged = {test.index: test for test in judge_run(timeline).tests}
    redact = Redactor({}).text
    nodeids = [redact(judged[index].nodeid) for index in sorted(judged)]
    names = receipt_names(nodeids)
    started_at = timeline.started.started_at if timeline.started else ""
    return RunResults(
        meta=RunMeta(replace(PLAN, lane=PLAN.lane + added, surface=PLAN.surface + added), started_at),
        status=run_status(judged.values()),
        nodeids=nodeids,
        receipt_names=names,
        judged=judged,
        timeline=timeline,
        redact=redact,
        written={f"receipts/{name}" for name in names},
        defined_at=dict.fromkeys(judged, (f"suite/test_step.py{added}", 9)) if added else {},
    )


def page_of(recording: bytes, *, added: str = "") -> bytes:
    run = results(fold(read_all(recording)), added=added)
    return html(page_data(run, run_spans(run.timeline, run.judged)))


def trace_of(recording: bytes) -> bytes:
    """The run's `trace.json`."""
    run = results(fold(read_all(recording)))
    return trace_bytes(trace(run_spans(run.timeline, run.judged), run.timeline, run.judged, run.redact))


def data_in(page: bytes) -> dict[str, Any]:
    """What the page's script reads."""
    reader = Elements()
    reader.feed(page.decode())
    read: dict[str, Any] = json.loads(reader.data)
    return read


class Elements(HTMLParser):
    """The elements of a page and their attributes, in order, and the text of its data block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[dict[str, str | None]] = []
        self.data = ""
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.attributes.append(dict(attrs))
        self._in_data = ("id", "data") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
            self._in_data = False


def made_hostile(recording: bytes) -> bytes:
    """With markup added to every text in it: names of groups stay those of the same groups, and so on."""
    said = [event for event in read_all(recording) if not isinstance(event.fact, ev.Gap | ev.Damaged | ev.Unknown)]
    return b"".join(encode(replace(event, fact=_hostile(event.fact))) for event in said)


def _hostile(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value
    if isinstance(value, str):
        return value + HOSTILE if value else value
    if is_dataclass(value) and not isinstance(value, type) and type(value).__module__ == ev.__name__:
        return replace(value, **{f.name: _hostile(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(_hostile(item) for item in value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, StrEnum) else _hostile(key): _hostile(item) for key, item in value.items()}
    return value


def large(tests: int, ranks: int, collectives: int, absent: int) -> FakeBox:
    """Tests of many collectives; in the last one a rank doesn't come to the last of these."""
    box = FakeBox(ranks, tests=[f"suite/test_train.py::test_step[{n}]" for n in range(tests)]).world_ready()
    for test in range(tests):
        box.begins(test)
        is_last = test == tests - 1
        for seq in range(1, collectives + 1):
            is_open = is_last and seq == collectives
            for rank in range(ranks):
                if not (is_open and rank == absent):
                    _comes(box, rank, seq, 0.0001 * ((rank * 7 + seq) % 40), is_open=is_open)
            box.after(0.006)
        if is_last:
            waiting = box.others(absent)
            box.after(2.5).box(ev.Acted(test, ActReason.STALL, "waits for a peer", waiting, (absent,), (), 2.5))
            box.box(ev.TestEnded(test, TestEnd.ABORTED, "stall"))
        else:
            box.passes().box(ev.TestEnded(test, TestEnd.FINISHED)).after(0.01)
    return box


def _comes(box: FakeBox, rank: int, seq: int, later_s: float, *, is_open: bool) -> None:
    at_s = round(box.now_s + later_s, 6)
    entry = ev.Collective("0", seq, "gloo:all_reduce", 8, 8, "Float", "[[8]]", at_s, not is_open)
    origin = FlightOrigin.POLL if is_open else FlightOrigin.FINISH
    box.box(ev.FlightRecorded(rank, box.test, origin, (entry,), (ev.GroupStatus(0, seq, seq - is_open),)))
