"""Reading torch's flight recorder, and refusing what it doesn't write."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.flight import read_flight_recorder, read_record
from pytest_megacpp.recording.vocabulary import FlightOrigin
from pytest_megacpp.recording.wire import encode, read_all
from tests.recording.strategies import JSON

EPOCH_S = 1_795_387_400.0


def raw(**changes: object) -> dict[str, Any]:
    """An entry as torch 2.13 dumps it on gloo."""
    return {
        "collective_seq_id": 3,
        "input_dtypes": ["Float"],
        "input_sizes": [[4], [2, 3]],
        "is_p2p": False,
        "op_id": 4,
        "output_dtypes": ["Float"],
        "output_sizes": [[2, 4]],
        "p2p_seq_id": 0,
        "pg_id": 1,
        "process_group": ["0", "default_pg"],
        "profiling_name": "gloo:all_gather",
        "record_id": 3,
        "retired": True,
        "state": "scheduled",
        "thread_id": "140237835881344",
        "thread_name": "python",
        "time_created_ns": 1_795_387_434_538_024_871,
        "time_discovered_completed_ns": 0,
        "time_discovered_started_ns": 0,
        "timeout_ms": 1_800_000,
    } | changes


def dump(*entries: object, **rest: object) -> str:
    status = {"1": {"last_completed_collective": "2", "last_enqueued_collective": "3"}}
    return json.dumps({"entries": entries, "pg_status": status, "version": "2.10"} | rest)


def only(**changes: object) -> ev.Collective:
    ((entry,), _) = read_flight_recorder(dump(raw(**changes)), EPOCH_S)
    return entry


def test_an_entry_and_the_counters() -> None:
    entries, status = read_flight_recorder(dump(raw()), EPOCH_S)
    assert entries == (
        ev.Collective("0", 3, "gloo:all_gather", 10, 8, "Float", "[[4],[2,3]]", 34.538025, True, False, 1),
    )
    assert status == (ev.GroupStatus(1, 3, 2),)


def test_without_collectives_there_are_no_entries() -> None:
    assert read_flight_recorder(b'{"pg_status":{}, "version":"2.10"}', 0.0) == ((), ())
    assert read_flight_recorder(b'{"entries": null, "pg_status": null}', 0.0) == ((), ())


@pytest.mark.parametrize(
    ("state", "retired", "done"),
    [("scheduled", False, False), ("scheduled", True, True), ("started", False, False), ("completed", False, True)],
)
def test_gloo_and_nccl_say_differently_that_it_is_over(state: str, retired: bool, done: bool) -> None:
    assert only(state=state, retired=retired).done is done


def test_point_to_point_has_numbers_of_its_own() -> None:
    entry = only(is_p2p=True, p2p_seq_id=9, profiling_name="nccl:send 0->1")
    assert (entry.p2p, entry.seq) == (True, 9)


def test_a_barrier_has_no_sizes() -> None:
    entry = only(input_sizes=[], output_sizes=[], input_dtypes=[], profiling_name="gloo:barrier")
    assert (entry.numel_in, entry.numel_out, entry.dtype, entry.sizes) == (0, 0, "", "")


def test_scalars_have_one_element_and_several_dtypes_are_named_once() -> None:
    entry = only(input_sizes=[[], []], input_dtypes=["Half", "Float", "Half"])
    assert (entry.numel_in, entry.dtype) == (2, "Float,Half")


def test_a_thousand_tensors_are_said_briefly() -> None:
    assert len(only(input_sizes=[[64]] * 1000).sizes) == 120


def test_a_group_that_has_done_nothing_counts_from_zero() -> None:
    status = {"7": {"last_completed_collective": "-1", "last_enqueued_collective": -1}, "8": {}}
    assert read_flight_recorder(dump(pg_status=status), 0.0)[1] == (ev.GroupStatus(7, 0, 0), ev.GroupStatus(8, 0, 0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        b"\xff",
        "[" * 100_000,
        dump(3),
        dump([]),
        dump({}),
        dump(entries={"a": 1}),
        dump(pg_status=[1]),
        dump(pg_status={"a": {}}),
        dump(pg_status={"1": 1}),
        dump(raw(process_group=[])),
        dump(raw(collective_seq_id=None)),
        dump(raw(collective_seq_id=float("inf"))),
        dump(raw(time_created_ns="soon")),
        dump(raw(time_created_ns=float("nan"))),
        dump(raw(time_created_ns=10**400)),
        dump(raw(input_sizes=[["a"]])),
        dump(raw(input_sizes=7)),
        dump(raw(pg_id=[])),
    ],
)
def test_what_torch_does_not_write_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        read_flight_recorder(text, 0.0)


@given(st.dictionaries(st.sampled_from(sorted(raw())), JSON | st.floats() | st.just(10**400), max_size=3), JSON)
def test_what_is_accepted_can_be_recorded(changes: dict[str, Any], status: Any) -> None:
    for text in (dump(raw(**changes)), dump(raw(), pg_status={"1": status}), dump(raw(), pg_status=status)):
        try:
            entries, counters = read_flight_recorder(text, EPOCH_S)
        except ValueError:
            continue
        said = ev.Event("r1", "w1", "box", 0, 1.0, ev.FlightRecorded(0, 0, FlightOrigin.POLL, entries, counters))
        assert read_all(encode(said)) == [said]


def test_the_newest_entries_and_all_counters() -> None:
    entries, status = read_record(json.loads(dump(*(raw(collective_seq_id=n) for n in (1, 2, 3)))), EPOCH_S, 2)
    assert [e.seq for e in entries] == [2, 3]
    assert status == (ev.GroupStatus(1, 3, 2),)


def test_what_torch_pickles_reads_as_its_json() -> None:
    pickled = raw(process_group=("0", "default_pg"), time_discovered_started_ns=None, time_discovered_completed_ns=None)
    counted = {"1": {"last_completed_collective": 2, "last_enqueued_collective": 3}}
    assert read_record({"entries": [pickled], "pg_status": counted}, EPOCH_S) == read_flight_recorder(
        dump(raw()), EPOCH_S
    )
