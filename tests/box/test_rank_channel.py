"""What a rank's bytes come to: whatever it sends, it hears only facts in its own name, in order, not too many."""

import itertools
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.box.worlds.rank_channel import (
    ANYTHING_BYTES,
    MAX_GARBAGE_BYTES,
    MAX_GARBAGE_LINES,
    TESTIMONY_BYTES,
    RankChannel,
)
from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Outcome
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.vocabulary import Lost, ReportOutcome, TestPhase
from pytest_megacpp.recording.wire import MAX_LINE_BYTES, RANK_KINDS, dump_line, encode, encode_fact, read_all
from tests.fuzzing import fuzzer
from tests.recording.strategies import ANY_FACTS
from tests.scenario import FakeBox

NOW_S = 10.0


def said(fact: ev.Fact, at_s: object = 1.0) -> bytes:
    return dump_line({"t": at_s} | encode_fact(fact))


def heard(line: RankChannel, data: bytes, now_s: float = NOW_S) -> list[ev.Fact]:
    return [fact for fact, _ in line.feed(data, now_s)]


def flood(fact: ev.Fact, total_bytes: int) -> Iterator[bytes]:
    """The same fact again and again, in portions of some 256 KiB."""
    portion = said(fact) * max(1, (1 << 18) // len(said(fact)))
    return itertools.repeat(portion, total_bytes // len(portion) + 1)


@fuzzer()
@given(
    st.lists(st.tuples(ANY_FACTS, st.floats(allow_nan=True)), max_size=30), st.lists(st.integers(1, 400), max_size=8)
)
def test_only_what_a_rank_may_say_is_heard(listed: list[tuple[ev.Fact, float]], cuts: list[int]) -> None:
    data, line = b"".join(json.dumps({"t": t} | encode_fact(f)).encode() + b"\n" for f, t in listed), RankChannel(1)
    found: list[tuple[ev.Fact, float]] = []
    for size in itertools.cycle(cuts or [64]):
        if not data:
            break
        portion, data = data[:size], data[size:]
        found += line.feed(portion, NOW_S)
    assert all(encode_fact(fact)["kind"] in RANK_KINDS and getattr(fact, "rank", None) == 1 for fact, _ in found)
    times = [at_s for _, at_s in found]
    assert times == sorted(times)
    assert all(at_s <= NOW_S for at_s in times)


@fuzzer()
@given(st.binary(max_size=600))
def test_any_bytes_are_read(data: bytes) -> None:
    line = RankChannel(0)
    line.feed(data, NOW_S)
    assert not line.endless


@pytest.mark.parametrize(
    "data",
    [
        b'{"t":1,"kind":"finished","rank":1,"test":0,"group_clean":true}',
        b'{"t":1,"kind":"test-ended","test":0,"reason":"finished"}',
        b'{"t":1,"kind":"muted","rank":0,"lost":""}',
        b'{"t":1,"kind":"reported","rank":0,"test":0,"when":"call","outcome":"rerun","duration_s":1}',
        b'{"t":1,"kind":"muted","rank":1,"lost":"reports"}',
        b'{"t":1,"kind":"rank-exited","rank":0,"code":0}',
        b'{"t":NaN,"kind":"finished","rank":0,"test":0,"group_clean":true}',
        b'{"t":1e999,"kind":"finished","rank":0,"test":0,"group_clean":true}',
        b'{"kind":"finished","rank":0,"test":0,"group_clean":true}',
        b'{"t":1,"kind":["finished"],"rank":0}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"t":1,"kind":"recorded","rank":0,"test":0,"key":"\xff","value":1}',
        b'{"t":1,"kind":"recorded","rank":0,"test":' + b"9" * 5_000 + b',"key":"k","value":1}',
    ],
    ids=lambda data: repr(data[:50]),
)
def test_nonsense_is_not_heard(data: bytes) -> None:
    assert heard(RankChannel(0), data + b"\n") == []


def test_a_key_that_comes_twice_is_one_key() -> None:
    data = b'{"t":1,"kind":"rank-exited","kind":"finished","rank":1,"rank":0,"test":0,"group_clean":true}\n'
    assert heard(RankChannel(0), data) == [ev.Finished(0, 0, True)]


def test_times_are_neither_of_the_past_nor_of_the_future() -> None:
    line = RankChannel(0)
    facts = [said(ev.PhaseStarted(0, 0, "x"), at_s) for at_s in (3.0, -1e308, 2.0, 1e308, 4)]
    assert [at_s for _, at_s in line.feed(b"".join(facts), 5.0)] == [3.0, 3.0, 3.0, 5.0, 5.0]


def test_what_is_said_once_counts_once() -> None:
    line = RankChannel(0)
    collected, other = ev.RankCollected(0, Numbers((0,)), "d"), ev.RankCollected(0, Numbers((0, 1, 2)), "e")
    assert heard(line, said(collected) + said(other)) == [collected]
    finished = ev.Finished(0, 0, True)
    assert heard(line, said(finished) + said(ev.Finished(0, 0, False))) == [finished]
    line.begin()
    assert heard(line, said(ev.Finished(0, 1, True)) + said(other)) == [ev.Finished(0, 1, True)]


def test_a_line_without_an_end_is_noticed() -> None:
    line = RankChannel(0)
    line.feed(b"x" * (MAX_LINE_BYTES + 1), NOW_S)
    assert line.endless


@pytest.mark.parametrize(
    "fact",
    [
        ev.Recorded(0, 0, "loss", list(range(1000))),
        ev.GroupCreated(0, 0, "g", tuple(range(1000))),
        ev.Capability("x" * 4000, False, "", 0),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_a_flood_ends_and_what_verdicts_rest_on_is_still_heard(fact: ev.Fact) -> None:
    line, taken_bytes, found = RankChannel(0), 0, []
    for portion in flood(fact, 2 * ANYTHING_BYTES):
        for one in heard(line, portion):
            if one == fact:
                taken_bytes += len(said(one)) - 1
            else:
                found.append(one)
    assert taken_bytes <= ANYTHING_BYTES
    assert found == [ev.Muted(0, Lost.EXTRAS)]
    last: list[ev.Fact] = [ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.FAILED, 1.0), ev.Finished(0, 0, True)]
    assert heard(line, b"".join(map(said, last))) == last
    line.begin()
    assert heard(line, said(fact)) == [fact]


@pytest.mark.parametrize("garbage", [b"\n", b"x\n", b'{"kind":"finished"}\n', b'{"t":1,"kind":"finished","rank":1}\n'])
def test_a_flood_of_nonsense_ends_too(garbage: bytes) -> None:
    """What can't be read, and what is another rank's, is refused one by one only so often."""
    line = RankChannel(0)
    found = heard(line, garbage * (MAX_GARBAGE_LINES + 100))
    assert found == [ev.Muted(0, Lost.EXTRAS)]
    assert line.floods
    last = ev.Finished(0, 0, True)
    assert heard(line, said(last)) == [last]
    line.begin()
    assert not line.floods


def muted_line() -> RankChannel:
    return RankChannel(0, _muted=Lost.EXTRAS)


WORDS = [b"\n", b"x", b'"kind":"finished"', b" " * 44, said(ev.Finished(0, 0, True)), said(ev.Recorded(0, 0, "k", 1))]
WORDS += [said(ev.Reported(0, 0, when, ReportOutcome.PASSED, 1.0)) for when in (TestPhase.SETUP, TestPhase.CALL)]


@given(st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join), st.lists(st.integers(1, 200), max_size=8))
def test_of_a_flood_the_same_is_heard_in_whatever_portions_it_comes(data: bytes, cuts: list[int]) -> None:
    expected, found = heard(muted_line(), data), list[ev.Fact]()
    bytewise, portioned = muted_line(), muted_line()
    assert [fact for byte in data for fact in heard(bytewise, bytes([byte]))] == expected
    for size in itertools.cycle(cuts or [64]):
        if not data:
            break
        found += heard(portioned, data[:size])
        data = data[size:]
    assert found == expected


@pytest.mark.parametrize("flood", [b"\n", b"x\n", said(ev.Recorded(0, 0, "k", 1))])
def test_lines_of_a_flood_are_not_looked_at_one_by_one(flood: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of a quarter of a million of them took the box a tenth of a second, in which it heard no other rank."""
    looked_at: list[bytes] = []
    look = RankChannel._read_fact

    def heard_one(line: RankChannel, data: bytes, now_s: float) -> list[tuple[ev.Fact, float]]:
        looked_at.append(data)
        return look(line, data, now_s)

    monkeypatch.setattr(RankChannel, "_read_fact", heard_one)
    line, last = muted_line(), ev.Finished(0, 0, True)
    looked_at.clear()
    assert heard(line, flood * 10_000 + said(last) + flood * 10_000) == [last]
    assert len(looked_at) <= 3


def test_a_flood_of_long_nonsense_ends_after_few_lines() -> None:
    """One such line takes a hundred times as long to refuse as ten thousand short ones would allow."""
    line, garbage = RankChannel(0), b'{"t":1,"kind":"finished","x":[' + b"[]," * (MAX_GARBAGE_BYTES // 8) + b"0]}\n"
    found = [heard(line, garbage) for _ in range(4)]
    assert found == [[], [], [ev.Muted(0, Lost.EXTRAS)], []]
    assert line.floods


def test_a_flood_of_reports_ends_too() -> None:
    line, found = RankChannel(0), []
    report = ev.Reported(0, 0, TestPhase.CALL, ReportOutcome.PASSED, 1.0, sections=(("log", "x" * 4000),))
    for portion in flood(report, 2 * TESTIMONY_BYTES):
        found += [one for one in heard(line, portion) if one != report]
    assert found == [ev.Muted(0, Lost.REPORTS)]
    assert heard(line, said(ev.Recorded(0, 0, "k", 1)) + said(ev.Finished(0, 0, True))) == [ev.Finished(0, 0, True)]


# -- what a verdict makes of it ----------------------------------------------------------------------------------


def muted_test(lost: Lost) -> tuple[Outcome, Code, Certainty]:
    box = FakeBox(2).begins()
    box.box(ev.Muted(1, lost)).passes().ends().done()
    result = judge_test(box.timeline(), 0)
    return result.outcome, result.verdict.code, result.verdict.certainty


def test_a_test_without_all_its_reports_is_never_green() -> None:
    assert muted_test(Lost.REPORTS) == (Outcome.ERROR, Code.NOT_RUN, Certainty.LIKELY)


def test_a_test_without_its_extras_is_less_certain() -> None:
    assert muted_test(Lost.EXTRAS) == (Outcome.PASSED, Code.PASSED, Certainty.LIKELY)


def test_a_rank_that_could_not_say_something_may_say_so_and_nobody_takes_it_back() -> None:
    lost = [ev.Muted(0, Lost.REPORTS, 0), ev.Muted(0, Lost.EXTRAS, 0)]
    assert heard(RankChannel(0), b"".join(map(said, lost))) == lost
    box = FakeBox(2).begins().rank(lost[0]).rank(lost[1])
    assert box.timeline().tests[0].ranks[0].muted == Lost.REPORTS


def test_a_rank_can_not_mute_another() -> None:
    events = [ev.Event("r", "w1", "rank 0", 0, 1.0, ev.Muted(1, Lost.REPORTS))]
    assert fold(read_all(b"".join(map(encode, events)))).stray == 1
