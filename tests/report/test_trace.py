"""`trace.json` against the Trace Event Format: what Perfetto and chrome://tracing need to show it."""

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import ActReason, MemoryLimit, Purpose, ReportOutcome, TestEnd, TestPhase
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.run_spans import run_spans
from pytest_megacpp.report.spans import Kind, RunSpans, Span, WorldSpans
from pytest_megacpp.report.trace import ARGUMENT_CHARS, MOST_THREADS, NAME_CHARS, trace, trace_bytes
from tests.golden.build import CASES
from tests.golden.drills import cases
from tests.scenario import FakeBox

DRILLS = {name: drill.recording for name, drill in cases.load().items()}
GOLDEN = {name: case().recording() for name, case in CASES.items()}


def traced(timeline: Timeline) -> dict[str, Any]:
    judged = {test.index: test for test in judge_run(timeline).tests}
    document = trace(run_spans(timeline, judged), timeline, judged, Redactor({}).text)
    read: dict[str, Any] = json.loads(trace_bytes(document))
    return read


def of_phase(document: dict[str, Any], *phases: str) -> list[dict[str, Any]]:
    return [event for event in document["traceEvents"] if event["ph"] in phases]


def processes(document: dict[str, Any]) -> dict[str, int]:
    named = of_phase(document, "M")
    return {event["args"]["name"]: event["pid"] for event in named if event["name"] == "process_name"}


def assert_well_formed(document: dict[str, Any]) -> None:
    """The rules of the format, as far as a viewer minds."""
    assert document["displayTimeUnit"] in ("ms", "ns")
    threads = {(e["pid"], e["tid"]) for e in of_phase(document, "M") if e["name"] == "thread_name"}
    slices = defaultdict(list)
    for event in document["traceEvents"]:
        assert event["ph"] in ("X", "M", "C", "i", "s", "t", "f")
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        if event["ph"] == "M":
            continue
        assert type(event["ts"]) is int
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 1
            assert (event["pid"], event["tid"]) in threads
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
    assert_nested(slices)
    assert_joined(document, slices)


def assert_nested(slices: dict[tuple[int, int], list[tuple[int, int]]]) -> None:
    """Those of a thread lie beside or within one another."""
    for of_thread in slices.values():
        open_: list[int] = []
        for start, end in sorted(of_thread, key=lambda s: (s[0], -s[1])):
            while open_ and open_[-1] <= start:
                open_.pop()
            assert not open_ or end <= open_[-1] or start + 1 == end
            open_.append(end)


def assert_joined(document: dict[str, Any], slices: dict[tuple[int, int], list[tuple[int, int]]]) -> None:
    """Each flow has one start and one end, in order of time, on slices that are there."""
    flows = defaultdict(list)
    for event in of_phase(document, "s", "t", "f"):
        flows[event["id"]].append(event)
        starts = {start for start, _ in slices[event["pid"], event["tid"]]}
        assert event["ts"] in starts
    for events in flows.values():
        assert [e["ph"] for e in events] == ["s", *["t"] * (len(events) - 2), "f"]
        assert all(before["ts"] <= after["ts"] for before, after in pairwise(events))
        assert len({e["pid"] for e in events}) == len(events)
        assert events[-1]["bp"] == "e"


@pytest.mark.parametrize("name", DRILLS)
def test_the_trace_of_a_drill_is_well_formed(name: str) -> None:
    document = traced(fold(read_all(DRILLS[name])))
    assert_well_formed(document)
    assert of_phase(document, "X")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_trace_of_a_golden_recording_is_well_formed(name: str) -> None:
    assert_well_formed(traced(fold(read_all(GOLDEN[name]))))


def test_a_process_per_rank_has_threads_for_phases_collectives_and_compiles() -> None:
    box = FakeBox(2).begins().enters((0, 1), done=True).passes()
    document = traced(box.after(0.1).box(ev.TestEnded(0, TestEnd.FINISHED)).timeline())
    pids = processes(document)
    assert list(pids) == ["box", "rank 0", "rank 1"]
    named = [e for e in of_phase(document, "M") if e["name"] == "thread_name" and e["pid"] == pids["rank 1"]]
    assert sorted(e["args"]["name"] for e in named) == ["collectives", "compile", "phases"]
    shown = [e["name"] for e in of_phase(document, "X") if e["pid"] == pids["rank 1"]]
    assert shown == ["start", "collection", "setup", "call", "teardown", "all_reduce #1"]


def test_ranks_of_further_worlds_have_the_world_s_name() -> None:
    box = FakeBox(2, tests=("t.py::a", "t.py::b")).begins().passes().box(ev.TestEnded(0, TestEnd.FINISHED))
    box.world_ready().begins(1).passes().box(ev.TestEnded(1, TestEnd.FINISHED))
    assert list(processes(traced(box.timeline()))) == ["box", "rank 0", "rank 1", "w2 rank 0", "w2 rank 1"]


def test_a_flow_joins_a_collective_from_the_first_to_the_last_that_came() -> None:
    box = FakeBox(3).begins().enters(2, done=True).after(1).enters(0, done=True).after(2).enters(1, done=True)
    document = traced(box.passes().box(ev.TestEnded(0, TestEnd.FINISHED)).timeline())
    pids = processes(document)
    flow = of_phase(document, "s", "t", "f")
    assert [e["pid"] for e in flow] == [pids["rank 2"], pids["rank 0"], pids["rank 1"]]
    waited = {e["pid"]: e["dur"] for e in of_phase(document, "X") if e["cat"] == "collective"}
    assert [waited[e["pid"]] for e in flow] == [3_000_000, 2_000_000, 1]


def test_who_waits_says_for_whom_and_until_the_box_acted() -> None:
    box = FakeBox(3).begins().enters((0, 2)).after(5)
    box.box(ev.Acted(0, ActReason.STALL, "all_reduce #1", (0, 2), (1,), (), 5.0))
    document = traced(box.box(ev.TestEnded(0, TestEnd.ABORTED, "stall")).timeline())
    waits = [e for e in of_phase(document, "X") if e["cat"] == "wait"]
    assert [(e["name"], e["dur"], e["args"]["missing"]) for e in waits] == [
        ("all_reduce #1 waits for rank 1", 5_000_000, "1")
    ] * 2
    assert [(e["s"], e["name"]) for e in of_phase(document, "i")] == [
        ("g", "act: the box ended the test: stall (all_reduce #1)")
    ]


def test_each_attempt_has_its_own_verdict() -> None:
    box = FakeBox(2).begins().after(1).exits(1, signal="SIGKILL").box(ev.TestEnded(0, TestEnd.ABORTED, "exit"))
    box.world_ready().tries(Purpose.DIAGNOSTIC).raises(0, message="no shards").after(1)
    document = traced(box.box(ev.TestEnded(1, TestEnd.ABORTED, "failed")).timeline())
    tests = {e["args"]["attempt"]: e["args"] for e in of_phase(document, "X") if e["cat"] == "test"}
    assert {number: (args["verdict"], args["blamed"]) for number, args in tests.items()} == {
        0: ("rank-death", "rank 1"),
        1: ("test-failed", "rank 0"),
    }
    assert "SIGKILL" in tests[0]["summary"]
    assert "no shards" in tests[1]["summary"]


def test_what_is_said_of_an_event_is_longer_than_its_name() -> None:
    """A summary and a detail have as much room as on the page, and an end."""
    long = "x" * 300
    box = FakeBox(2, tests=(long,)).begins().phase(long).enters((0, 1), f"gloo:{long}", group=long)
    box.raises(0, message=long).after(1)
    document = traced(box.box(ev.TestEnded(0, TestEnd.ABORTED, "failed")).timeline())
    events = of_phase(document, "X", "i")
    (test,) = (e for e in events if e["cat"] == "test")
    (collective,) = (e for e in events if e["cat"] in ("collective", "wait") and e["args"]["rank"] == 0)
    assert len(test["args"]["summary"]) > NAME_CHARS
    assert " (train.py:31)" in test["args"]["summary"]
    assert test["name"].startswith("rank-death, rank 0: xxx")
    assert collective["args"]["group"] == long
    assert collective["args"]["operation"].startswith(long)
    assert max(len(e["name"]) for e in events) <= NAME_CHARS + len("failure: ")
    slices = of_phase(document, "X")
    assert max(len(str(value)) for e in slices for value in e["args"].values()) <= ARGUMENT_CHARS


def test_deaths_and_failures_are_marked_on_their_ranks() -> None:
    box = FakeBox(2).begins().after(1).exits(1, signal="SIGKILL").after(1).loses_peer(0)
    document = traced(box.box(ev.TestEnded(0, TestEnd.ABORTED, "exit")).timeline())
    pids = processes(document)
    assert [(e["pid"], e["name"]) for e in of_phase(document, "i")] == [
        (pids["rank 1"], "death: died (SIGKILL)"),
        (pids["rank 0"], "failure: raised RuntimeError in call"),
    ]


def test_a_moment_has_its_place_and_more_of_its_words_than_its_name() -> None:
    box = FakeBox(2).begins().raises(1, message="no shards in /data", line=31).after(1)
    box.box(ev.Acted(0, ActReason.FAILURE_STUCK, "x" * (ARGUMENT_CHARS // 2)))
    document = traced(box.box(ev.TestEnded(0, TestEnd.ABORTED, "failed")).timeline())
    failure, act = of_phase(document, "i")
    assert failure["args"] == {
        "text": "raised ValueError in call",
        "rank": 1,
        "attempt": 0,
        "place": "suite/train.py:31",
        "message": "no shards in /data",
    }
    assert "rank" not in act["args"]
    assert len(act["args"]["text"]) > NAME_CHARS


def test_collectives_in_flight_together_get_threads_of_their_own() -> None:
    box = FakeBox(2).begins()
    for seq in range(1, 2 * MOST_THREADS):
        box.enters(0, seq=seq, done=True).after(0.01)
    for seq in range(1, 2 * MOST_THREADS):
        box.enters(1, seq=seq, done=True).after(0.01)
    document = traced(box.passes().box(ev.TestEnded(0, TestEnd.FINISHED)).timeline())
    assert_well_formed(document)
    first = processes(document)["rank 0"]
    tids = {e["tid"] for e in of_phase(document, "X") if e["pid"] == first and e["cat"] == "collective"}
    assert len(tids) == MOST_THREADS


def test_of_slices_that_begin_in_one_microsecond_the_longer_one_is_around_the_other() -> None:
    box = FakeBox(1)
    lane = [Span(0.4, 0.5, Kind.STEP, "short"), Span(0.4000003, 2.0, Kind.PHASE, "long")]
    world = WorldSpans("w1", 1, "", 0.0, 2.0, {0: lane})
    document: Any = trace(RunSpans([world], [], [], [], 2.0), box.timeline(), {}, Redactor({}).text)
    assert [(e["name"], e["dur"]) for e in of_phase(document, "X")] == [("long", 1_600_000), ("short", 100_000)]


def test_cpu_and_memory_are_counters() -> None:
    box = FakeBox(2).begins()
    for second in range(4):
        box.after(1).samples(0, cpu_s=3.0 * second)
        box.box(ev.MemoryUsed(3 << 30, 8 << 30, MemoryLimit.CGROUP, 0.0, (ev.RankMemory(0, (second + 1) << 29),)))
    document = traced(box.passes().box(ev.TestEnded(0, TestEnd.FINISHED)).timeline())
    rank = processes(document)["rank 0"]
    counters = [e for e in of_phase(document, "C") if e["pid"] == rank]
    assert [e["args"]["GiB"] for e in counters if e["name"] == "memory"] == [0.5, 1.0, 1.5, 2.0]
    assert [e["args"]["cores"] for e in counters if e["name"] == "CPU"][-3:] == [3.0, 3.0, 0.0]


def test_no_text_of_a_rank_breaks_the_file_or_keeps_a_secret() -> None:
    secret = "hf_" + "aBcDeFgHiJ" * 4
    hostile = f'\ud800"\\\x1b[2J</script>\n{secret}'
    box = FakeBox(2, tests=(hostile,)).begins().enters((0, 1), f"gloo:{hostile}", group=hostile).phase(hostile)
    box.raises(1, hostile, hostile).reports(TestPhase.TEARDOWN, 0, ReportOutcome.PASSED)
    document = traced(box.box(ev.TestEnded(0, TestEnd.ABORTED, hostile)).timeline())
    assert_well_formed(document)
    text = json.dumps(document, ensure_ascii=False)
    assert secret not in text
    assert "\x1b" not in text
    assert "\\u001b" not in text
