"""Order, truncation, repetition and garbage: what may not change a verdict, and what may never make a run green."""

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.judge.arbiter import judge_run, judge_test
from pytest_megacpp.judge.verdicts import Certainty, Outcome, RunResult
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.wire import decode_fact, encode_fact, read_all
from tests.fuzzing import fuzzer
from tests.golden.build import CASES
from tests.recording.strategies import facts

GREEN = frozenset({Outcome.PASSED, Outcome.SKIPPED, Outcome.XFAILED, Outcome.XPASSED})
NAMES = sorted(CASES)
RECORDINGS = {name: CASES[name]().recording() for name in NAMES}
EVENTS = {name: read_all(RECORDINGS[name]) for name in NAMES}
RESULTS = {name: judge_run(fold(EVENTS[name])) for name in NAMES}
FAILING = [name for name in NAMES if any(t.outcome not in GREEN for t in RESULTS[name].tests)]
# A mismatch that no rank noticed rests on the flight recorder alone: without its events there is nothing to see.
BY_RANKS = [name for name in FAILING if name != "collective-mismatch-dtype"]
# Causes end what ranks can be interleaved with.
BARRIERS = ev.WorldStarted | ev.TestStarted | ev.Acted | ev.TestEnded | ev.RunFinished | ev.RankExited | ev.TestPlanned

names = st.sampled_from(NAMES)


def bad(result: RunResult) -> set[int]:
    return {test.index for test in result.tests if test.outcome not in GREEN}


def green(result: RunResult) -> set[int]:
    return {test.index for test in result.tests if test.outcome in GREEN}


def segments(events: list[ev.Event]) -> list[list[ev.Event]]:
    found: list[list[ev.Event]] = [[]]
    for event in events:
        if isinstance(event.fact, BARRIERS):
            found += [[event], []]
        else:
            found[-1].append(event)
    return found


def interleaved(events: list[ev.Event], dice: random.Random) -> list[ev.Event]:
    """Another order that keeps each source's own."""
    queues: dict[tuple[str, str], list[ev.Event]] = defaultdict(list)
    for event in events:
        queues[event.world, event.source].append(event)
    mixed = []
    while queues:
        key = dice.choice(sorted(queues))
        mixed.append(queues[key].pop(0))
        if not queues[key]:
            del queues[key]
    return mixed


@given(names, st.randoms(use_true_random=False))
def test_any_interleaving_gives_the_same_verdicts(name: str, dice: random.Random) -> None:
    events = [event for part in segments(EVENTS[name]) for event in interleaved(part, dice)]
    assert judge_run(fold(events)).tests == RESULTS[name].tests


@pytest.mark.parametrize("name", FAILING)
def test_no_prefix_of_a_failing_run_is_green(name: str) -> None:
    timeline = Timeline()
    for event in EVENTS[name]:
        timeline.add(event)
        assert not green(judge_run(timeline)) & bad(RESULTS[name])


@given(names, st.floats(0, 1))
def test_no_cut_of_the_bytes_raises_or_turns_green(name: str, share: float) -> None:
    recording = RECORDINGS[name]
    cut = judge_run(fold(read_all(recording[: int(share * len(recording))])))
    assert not green(cut) & bad(RESULTS[name])


@given(st.sampled_from(BY_RANKS), st.data())
def test_lost_lines_never_turn_green(name: str, data: st.DataObject) -> None:
    lines = RECORDINGS[name].splitlines(keepends=True)
    kept = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    holed = judge_run(fold(read_all(b"".join(line for line, keep in zip(lines, kept, strict=True) if keep))))
    assert not green(holed) & bad(RESULTS[name])


@given(st.sampled_from(BY_RANKS), st.randoms(use_true_random=False))
def test_no_order_at_all_turns_green(name: str, dice: random.Random) -> None:
    events = EVENTS[name].copy()
    dice.shuffle(events)
    assert not green(judge_run(fold(events))) & bad(RESULTS[name])


@given(names)
def test_repeated_lines_change_nothing(name: str) -> None:
    lines = RECORDINGS[name].splitlines(keepends=True)
    assert judge_run(fold(read_all(b"".join(line for line in lines for _ in range(2))))) == RESULTS[name]


@given(names)
def test_repeated_facts_change_nothing(name: str) -> None:
    doubled = [event for event in EVENTS[name] for _ in range(2)]
    assert judge_run(fold(doubled)).tests == RESULTS[name].tests


def is_readable(fact: ev.Fact) -> bool:
    """Whether a recording could hold it."""
    try:
        decode_fact(encode_fact(fact))
    except CodecError:
        return False
    return True


def as_read(fact: ev.Fact) -> ev.Fact:
    """With the members of enums, which a reader makes of their values."""
    return decode_fact(encode_fact(fact))


HOSTILE = (
    facts(
        rank=st.integers(-1, 5),
        test=st.integers(-1, 3) | st.none(),
        seq=st.integers(-1, 4),
        size=st.integers(-1, 5),
        group=st.sampled_from(["0", "1", ""]),
        when=st.sampled_from(["setup", "call", "teardown", "x"]),
        outcome=st.sampled_from(["passed", "failed", "skipped", "rerun"]),
        why=st.sampled_from(
            ["exit", "stall", "skew", "compile", "mismatch", "test-limit", "startup-limit", "stop", "?"]
        ),
        reason=st.sampled_from(["finished", "aborted", "not-run", "completed", "stopped"]),
    )
    .filter(is_readable)
    .map(as_read)
)


@given(names, st.lists(st.tuples(HOSTILE, st.floats(0, 100), st.integers(0, 1000)), max_size=12))
def test_strange_facts_never_raise(name: str, strange: list[tuple[ev.Fact, float, int]]) -> None:
    events = EVENTS[name].copy()
    for fact, time_s, at in strange:
        world = events[min(at, len(events) - 1)].world
        events.insert(at % len(events), ev.Event("run-1", world, "box", 0, time_s, fact))
    judge_run(fold(events))


@fuzzer()
@given(st.lists(st.tuples(st.sampled_from(["", "w1"]), HOSTILE, st.floats(0, 100)), max_size=30))
def test_nothing_but_strange_facts(strange: list[tuple[str, ev.Fact, float]]) -> None:
    timeline = fold([ev.Event("r", world, "box", 0, time_s, fact) for world, fact, time_s in strange])
    assert judge_test(timeline, 0).verdict.certainty in Certainty
    judge_run(timeline)


@fuzzer()
@given(st.binary(max_size=400))
def test_bytes_that_are_no_recording(data: bytes) -> None:
    assert judge_run(fold(read_all(data))).tests == ()


def test_a_test_that_nothing_is_known_of() -> None:
    result = judge_test(Timeline(), 7)
    assert (result.index, result.nodeid, result.outcome) == (7, "", Outcome.ERROR)


@pytest.mark.parametrize("name", NAMES)
def test_live_and_afterwards_are_judged_alike(name: str) -> None:
    """The desk judges when the last attempt at a test has ended, before its ranks are gone; a replay sees what came
    after as well.
    """
    timeline = Timeline()
    settled = {(t.attempts[-1].number if t.attempts else t.index): t for t in RESULTS[name].tests}
    for event in EVENTS[name]:
        timeline.add(event)
        if isinstance(event.fact, ev.TestEnded) and event.fact.test in settled:
            result = settled[event.fact.test]
            assert judge_test(timeline, result.index) == result
