"""Dataclasses ↔ JSON: what goes in comes out, what doesn't fit is refused with the place."""

from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording.codec import MAX_DEPTH, CodecError, from_json, to_json
from pytest_megacpp.recording.events import Error, Json, Limits, Recorded, Reported, RunStarted
from pytest_megacpp.recording.plan import Go, Leave, Plan, PlannedTest, Stop
from pytest_megacpp.recording.vocabulary import ReportOutcome, TestPhase
from pytest_megacpp.recording.wire import KINDS
from tests.recording.strategies import JSON, instances

CLASSES = [*KINDS.values(), Plan, PlannedTest, Go, Leave, Stop, Limits]


@dataclass(frozen=True, slots=True)
class Sample:
    """A field of every form that the codec knows."""

    count: int
    seconds: float = 1.5
    pair: tuple[str, int] = ("", 0)
    many: tuple[tuple[str, ...], ...] = ()
    error: Error | None = None
    when: TestPhase = TestPhase.CALL
    outcome: ReportOutcome | None = None
    anything: Json = None


@given(st.data())
@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_there_and_back_is_the_same(cls: type, data: st.DataObject) -> None:
    value = data.draw(instances(cls))
    assert from_json(cls, to_json(value)) == value


def test_what_was_read_is_as_frozen_as_what_was_made() -> None:
    read = from_json(Limits, {"stall": 5.0})
    assert (type(read), hash(read)) == (Limits, hash(Limits(stall=5.0)))
    with pytest.raises(FrozenInstanceError):
        read.stall = 6.0  # type: ignore[misc]


@given(JSON)
def test_evidence_of_any_form_survives(value: Json) -> None:
    recorded = Recorded(0, 1, "losses", value)
    assert from_json(Recorded, to_json(recorded)) == recorded
    reported = Reported(0, 1, TestPhase.CALL, ReportOutcome.PASSED, 0.5, properties={"x": value, "y": [value]})
    assert from_json(Reported, to_json(reported)) == reported


def test_a_newer_writers_fields_are_ignored_and_missing_ones_take_their_default() -> None:
    assert from_json(Limits, {"stall": 5, "newer": [1]}) == Limits(stall=5.0)
    assert from_json(Sample, {"count": 3}) == Sample(3)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "count is missing"),
        ([], "expected an object for Sample, got list"),
        (None, "expected an object for Sample, got NoneType"),
        ({"count": True}, "count: expected int, got bool"),
        ({"count": 1.0}, "count: expected int, got float"),
        ({"count": "1"}, "count: expected int, got str"),
        ({"count": None}, "count: expected int, got NoneType"),
        ({"count": 1, "seconds": True}, "seconds: expected float, got bool"),
        ({"count": 1, "seconds": float("nan")}, "seconds: not a finite number"),
        ({"count": 1, "seconds": float("-inf")}, "seconds: not a finite number"),
        ({"count": 1, "seconds": 10**400}, "seconds: not a finite number"),
        ({"count": 1, "pair": ["a"]}, "pair: expected a list of 2"),
        ({"count": 1, "pair": {"0": "a"}}, "pair: expected a list of 2"),
        ({"count": 1, "many": [["a"], "b"]}, "many: expected a list, got str"),
        ({"count": 1, "many": "ab"}, "many: expected a list, got str"),
        ({"count": 1, "error": {"type": "X"}}, "error: message is missing"),
        ({"count": 1, "error": False}, "error: expected an object for Error, got bool"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(data: Any, complaint: str) -> None:
    with pytest.raises(CodecError) as refused:
        from_json(Sample, data)
    assert str(refused.value) == complaint


def test_a_whole_number_is_a_time_too() -> None:
    limits = from_json(Limits, {"stall": 7})
    assert (limits.stall, type(limits.stall)) == (7.0, float)


def test_nesting_without_end_is_refused() -> None:
    value: Json = 0
    for _ in range(MAX_DEPTH):
        value = [value]
    assert from_json(Sample, {"count": 1, "anything": value}).anything == value
    with pytest.raises(CodecError, match="anything: nested deeper than"):
        from_json(Sample, {"count": 1, "anything": {"deeper": value}})


@given(st.data(), JSON | st.floats() | st.integers())
@pytest.mark.parametrize("cls", [Reported, Plan, RunStarted], ids=lambda c: c.__name__)
def test_any_json_anywhere_is_read_or_refused(cls: type, data: st.DataObject, hostile: Any) -> None:
    raw = to_json(data.draw(instances(cls)))
    place: Any = raw
    key = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = hostile
    try:
        value: object = from_json(cls, raw)
    except CodecError:
        return
    assert from_json(cls, to_json(value)) == value
