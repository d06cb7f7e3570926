"""Golden recordings and kept drills, damaged anywhere: the desk reads, judges, tells and keeps whatever comes, and
nothing that acts on a terminal gets through.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from enum import StrEnum
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.desk.hooks.announcer import Annotations, Repository, StepSummary
from pytest_megacpp.desk.hooks.live import LiveLines
from pytest_megacpp.desk.hooks.reporters import reporters
from pytest_megacpp.desk.run.artefacts import Artefacts
from pytest_megacpp.desk.run.directory import dump_json
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.verdicts import Outcome, TestResult
from pytest_megacpp.recording.events import FlightRecorded, Limits, TestEnded
from pytest_megacpp.recording.plan import Plan, PlannedTest
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.vocabulary import Preset
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.receipt import receipt_name, receipt_names
from pytest_megacpp.report.reporter import Board, ChangedFields, Content, RunResults, SessionResults, Span
from pytest_megacpp.report.run_json import RunMeta, RunStatus, run_status
from pytest_megacpp.report.text import Whereabouts, failure_text
from tests.fuzzing import fuzzer
from tests.golden.build import CASES
from tests.golden.drills import cases

ALL = {name: case().recording() for name, case in CASES.items()} | {n: d.recording for n, d in cases.load().items()}
PLAN = Plan("r1", "h200x8", "local", "H200:8", 0, 4, True, False, (), (), "")
KEPT_TESTS = 10
OPTIONS: Any = SimpleNamespace(
    lane_annotations="off",
    lane_dir=Path("/nonexistent"),
    lane_output=frozenset(),
    lane_heartbeat=30.0,
    given=frozenset(),
)
CONFIG: Any = SimpleNamespace(
    invocation_params=SimpleNamespace(dir=Path("/")),
    rootpath=Path("/"),
    getoption=lambda *_: "no",
    stash=pytest.Stash(),
    pluginmanager=SimpleNamespace(get_plugin=lambda name: None),
)
REPORTERS = (*reporters(OPTIONS, CONFIG), Annotations(Repository(Path("/"), Path("/"), {})), StepSummary({}))
REDACT = Redactor({}).text
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
GREEN = (Outcome.PASSED, Outcome.SKIPPED, Outcome.XFAILED, Outcome.XPASSED)

HOSTILE: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, 0, -1, 1, 3, 10**18, -(10**18), 10**4000, 1e308, -1e308, 5e-324, 8_192, 10**9),
        *("", "0", "passed", "failed", "finished", "rank 0", "../../../etc/passwd", "NaN", "x" * 70_000),
        *("\x1b[2J\x1b]0;title\x07", "\x9b31m", "\u202egnihton", "\ud800", "\x00\r\n", "\n\n── PASSED"),
        *([], {}, [[]] * 3, [0] * 300, {"a": {"b": [1]}}, [["\x1b[2J"] * 2]),
        'Thread 0x1 (most recent call first):\n  File "/a\x1b[31m", line 9 in f\x07\n',
    ]
)


def at_any_depth(data: Any, place: list[float], change: Callable[[Any, Any], None]) -> None:
    """Lets `change` have a container in `data` and one of its keys; `place` says where, a share per level."""
    while True:
        keys: list[Any] = list(data) if isinstance(data, dict) else list(range(len(data)))
        key = keys[int(place[0] * len(keys))]
        inner, place = data[key], place[1:]
        if not (isinstance(inner, dict | list) and inner and place):
            change(data, key)
            return
        data = inner


share = st.floats(0, 1, exclude_max=True)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    lines = ALL[draw(st.sampled_from(sorted(ALL)))].splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at, what = (
            int(draw(share) * len(lines)),
            draw(st.sampled_from(["field", "field", "field", "twice", "cut", "swap"])),
        )
        if what == "field":
            lines[at] = draw(st.just(_with(lines[at], draw(st.lists(share, min_size=1, max_size=4)), draw(HOSTILE))))
        elif what == "twice":
            lines.insert(int(draw(share) * len(lines)), lines[at])
        elif what == "cut":
            lines[at] = lines[at][: int(draw(share) * len(lines[at]))]
        else:
            other = int(draw(share) * len(lines))
            lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines) + b"\n"


def _with(line: bytes, place: list[float], value: Any) -> bytes:
    try:
        data = json.loads(line)
    except ValueError:  # cut before
        return line
    at_any_depth(data, place, lambda container, key: container.__setitem__(key, value))
    return json.dumps(data).encode()


@fuzzer(200)
@given(damaged())
def test_whatever_is_recorded_can_be_judged_shown_and_kept(recording: bytes) -> None:
    timeline = fold(read_all(recording))
    tests = judge_run(timeline).tests
    for test in tests[:3]:
        text = failure_text(test, timeline, Whereabouts("h200x8", receipt="receipts/x.json"))
        assert ACTING.search(text) is None
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.json", receipt_name(test.nodeid))
    every_reporter_works(timeline, {test.index: test for test in tests[:3] if 0 <= test.index < KEPT_TESTS})
    looks_while_it_runs(fold(takewhile(lambda e: not isinstance(e.fact, TestEnded), read_all(recording))))


def every_reporter_works(timeline: Timeline, judged: Mapping[int, TestResult]) -> None:
    """All of the list are asked at every moment; none may raise."""
    nodeids = [judged[index].nodeid if index in judged else f"test {index}" for index in range(KEPT_TESTS)]
    planned = [PlannedTest(nodeid, 4, Preset.FULL, Limits()) for nodeid in nodeids]
    run = RunResults(
        meta=RunMeta(replace(PLAN, tests=tuple(planned)), "2026-01-01T00:00:00.000Z"),
        status=run_status(judged.values()),
        nodeids=nodeids,
        receipt_names=receipt_names(nodeids),
        judged=judged,
        timeline=timeline,
        redact=REDACT,
        reported=tuple(judged),
        defined_at=dict.fromkeys(judged, ("test_step.py", 1)),
    )
    artefacts = Artefacts(REPORTERS, kept, REDACT)
    artefacts.ask(lambda reporter: [made for index in run.judged for made in reporter.tested(run, index)])
    for index in run.judged:
        artefacts.properties(run, index)
    artefacts.ask(lambda reporter: reporter.started(run))
    artefacts.ask(lambda reporter: reporter.running(run))
    artefacts.ask(lambda reporter: reporter.ended(run))
    artefacts.ask(lambda reporter: reporter.closing(SessionResults([run])))
    assert artefacts.unwritten == []


def looks_while_it_runs(timeline: Timeline) -> None:
    """What it looks like now, for who followed it and for who comes late: on a board and in lines."""
    nodeids = [f"test {index}" for index in range(KEPT_TESTS)]
    plan = replace(PLAN, tests=tuple(PlannedTest(nodeid, 4, Preset.FULL, Limits()) for nodeid in nodeids))
    run = RunResults(RunMeta(plan, ""), RunStatus.RUNNING, nodeids, nodeids, {}, timeline, REDACT)
    for draws in (True, False):
        live = LiveLines(1.0, partial(bool, draws), partial(next, count(0.0, 60.0)))
        for _ in range(2):
            for shown in live.running(run):
                rows = shown.rows if isinstance(shown, Board) else [[Span(getattr(shown, "text", ""))]]
                texts = ["".join(span.text for span in row) for row in rows]
                assert all(texts)
                assert not any(ACTING.search(text) or "\n" in text for text in texts), texts
                assert not any("can't be shown" in text for text in texts), texts


def kept(path: str, content: Content) -> None:
    """As the desk writes it."""
    if not isinstance(content, bytes):
        json.loads(dump_json(content.values if isinstance(content, ChangedFields) else content))


FAILING = [
    name for name, data in ALL.items() if any(t.outcome not in GREEN for t in judge_run(fold(read_all(data))).tests)
]


def words_in(recording: bytes) -> set[bytes]:
    """Every field of a closed set with each of its values: `"reason":"aborted"`. What a rank's flight recorder had is
    evidence alone: a reader that can't take it in is less certain.
    """
    return {
        b'"%s":"%s"' % (name.encode(), str(value).encode())
        for found in read_all(recording)
        for name, value in ((f.name, getattr(found.fact, f.name)) for f in fields(found.fact))
        if isinstance(value, StrEnum) and not isinstance(found.fact, FlightRecorded)
    }


@pytest.mark.parametrize("name", [name for name in FAILING if name in CASES])
def test_no_word_of_a_newer_version_makes_a_failing_recording_green(name: str) -> None:
    recording = ALL[name]
    bad = {t.index for t in judge_run(fold(read_all(recording))).tests if t.outcome not in GREEN}
    for word in words_in(recording):
        newer = recording.replace(word, word.partition(b":")[0] + b':"of-tomorrow"')
        read = judge_run(fold(read_all(newer))).tests
        assert not bad & {t.index for t in read if t.outcome in GREEN}, word


@pytest.mark.parametrize("name", FAILING)
def test_no_cut_of_a_failing_recording_is_green(name: str) -> None:
    recording = ALL[name]
    bad = {t.index for t in judge_run(fold(read_all(recording))).tests if t.outcome not in GREEN}
    for eighths in range(8):
        cut = judge_run(fold(read_all(recording[: len(recording) * eighths // 8]))).tests
        assert not bad & {t.index for t in cut if t.outcome in GREEN}
