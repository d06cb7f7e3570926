"""What is too long for a line is never missing without a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.oversize import encoded
from pytest_megacpp.recording.vocabulary import FlightOrigin, ReportOutcome, TestEnd, TestPhase
from pytest_megacpp.recording.wire import MAX_LINE_BYTES, RANK_KINDS, dump_line, encode_fact
from tests.recording.strategies import facts
from tests.scenario import FakeBox

MANY = 60_000
HUGE: list[ev.RankFact] = [
    ev.RankCollected(1, Numbers(range(0, 10 * MANY, 2)), "d"),
    ev.Reported(
        1, 0, TestPhase.TEARDOWN, ReportOutcome.PASSED, 0.1, properties={f"property {i}": i for i in range(MANY)}
    ),
    ev.Reported(1, 0, TestPhase.CALL, ReportOutcome.FAILED, 0.1, ev.Error("E", "m", "f", 1, "t", ("x" * 20,) * MANY)),
    ev.Finished(1, 0, True, digests={f"group {i}": "1-2:abcdef" for i in range(MANY)}),
    ev.FlightRecorded(1, 0, FlightOrigin.POLL, (), tuple(ev.GroupStatus(i, 1, 1) for i in range(MANY))),
    ev.Recorded(1, 0, "losses", list(range(5 * MANY))),
    ev.ConfigsDropped(1, 0, "kernel", tuple(f"BLOCK={i}" * 2 for i in range(MANY)), 1),
    ev.Compiled(1, 0, 1.0, 1, 0, 1, {"inductor": tuple(f"key {i:019}" for i in range(MANY))}),
]


def as_line(fact: ev.Fact) -> bytes:
    return dump_line(encode_fact(fact))


def test_a_fact_that_fits_is_said() -> None:
    fact = ev.Finished(0, 0, True)
    assert encoded(fact, as_line) == (fact, as_line(fact))


@pytest.mark.parametrize("fact", HUGE, ids=lambda fact: type(fact).__name__)
def test_something_is_said_for_every_fact_that_is_too_long(fact: ev.RankFact) -> None:
    with pytest.raises(CodecError):
        as_line(fact)
    said, line = encoded(fact, as_line)
    assert len(line) <= MAX_LINE_BYTES
    assert encode_fact(said)["kind"] in RANK_KINDS
    assert getattr(said, "rank", None) == 1


def refusing(kind: type) -> object:
    def encode(fact: ev.Fact) -> bytes:
        if isinstance(fact, kind):
            raise CodecError("too long")
        return as_line(fact)

    return encode


@given(facts(rank=st.integers(0, 3)))
def test_whatever_is_refused_is_said_to_be_missing(fact: ev.Fact) -> None:
    if isinstance(fact, ev.Muted | ev.RankBroken | ev.Capability):
        return  # short, but for texts, which are cut
    said, _ = encoded(fact, refusing(type(fact)))  # type: ignore[arg-type]
    assert isinstance(said, ev.Muted | ev.RankBroken | ev.Capability)
    assert getattr(said, "rank", None) == getattr(fact, "rank", None)


def test_properties_beyond_measure_cost_no_result() -> None:
    fact = ev.Reported(
        0, 0, TestPhase.TEARDOWN, ReportOutcome.PASSED, 0.1, properties={f"property {i}": i for i in range(MANY)}
    )
    said, _ = encoded(fact, as_line)
    assert isinstance(said, ev.Reported)
    assert (said.outcome, said.properties) == ("passed", {})
    assert said.sections == (("left out by megacpp", "60000 properties and 0 sections: too long for the recording"),)


def test_a_rank_that_can_not_say_what_it_collected_is_no_rank_that_collected_nothing() -> None:
    box = FakeBox(2).starts_world().readies().collects((0,))
    box.rank(encoded(HUGE[0], as_line)[0])
    verdict = judge_test(box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "broken")).done().timeline(), 0).verdict
    assert (verdict.code, verdict.cause, verdict.blamed_ranks) == (Code.STARTUP_FAILURE, "collection", (1,))
    assert "300000 tests) is too long for the recording: run fewer at a time" in verdict.summary


@pytest.mark.parametrize("fact", [HUGE[2], HUGE[3]], ids=["report", "finished"])
def test_a_test_whose_end_is_too_long_to_say_is_never_green(fact: ev.RankFact) -> None:
    box = FakeBox(2).begins()
    box.rank(encoded(fact, as_line)[0]).passes().ends().done()
    verdict = judge_test(box.timeline(), 0).verdict
    assert (verdict.code, verdict.cause) == (Code.NOT_RUN, "no-result")
    assert verdict.certainty is not Certainty.CERTAIN
