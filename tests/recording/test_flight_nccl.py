"""NCCL's recorder, as an H200 with torch 2.11 dumped it; a process with two recorders; messages and their partners."""

import json
from typing import Any

import pytest

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.agreement import disagreements
from pytest_megacpp.recording.collectives import RankCollectives
from pytest_megacpp.recording.flight import GLOO, read_flight_recorder, read_record, together
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.vocabulary import FlightOrigin
from pytest_megacpp.recording.waits import Wait
from tests.recording.positions import message_waits, open_waits

CREATED_NS = 1_795_653_920_798_595_676


def raw(name: str, seq: int, **changes: object) -> dict[str, Any]:
    return {
        "collective_seq_id": seq,
        "input_dtypes": ["Float"],
        "input_sizes": [[8]],
        "is_p2p": False,
        "output_dtypes": ["Float"],
        "output_sizes": [[8]],
        "p2p_seq_id": 0,
        "pg_id": 0,
        "process_group": ["0", "default_pg"],
        "profiling_name": f"nccl:{name}",
        "retired": False,
        "state": "scheduled",
        "time_created_ns": CREATED_NS,
        "time_discovered_completed_ns": 0,
        "time_discovered_started_ns": 0,
    } | changes


def closing(seq: int, number: int, **changes: object) -> dict[str, Any]:
    """What ends a batch of messages: no sizes, the number of the collective before it."""
    return raw("coalesced", seq, p2p_seq_id=number, input_sizes=[], input_dtypes=[], **changes)


def message(name: str, seq: int, number: int, **changes: object) -> dict[str, Any]:
    return raw(name, seq, is_p2p=True, p2p_seq_id=number, **changes)


def read(*entries: dict[str, Any], newest: int | None = None) -> tuple[ev.Collective, ...]:
    return read_record({"entries": entries, "pg_status": {}}, 1_795_653_900.0, newest)[0]


@pytest.mark.parametrize(
    ("state", "started_ns", "started", "done"),
    [("scheduled", 0, False, False), ("started", 5, True, False), ("completed", 0, False, True)],
)
def test_a_collective_is_queued_then_begun_then_over(state: str, started_ns: int, started: bool, done: bool) -> None:
    (entry,) = read(raw("all_reduce", 2, state=state, time_discovered_started_ns=started_ns))
    assert (entry.started, entry.done) == (started, done)


def test_the_entry_that_closes_a_batch_of_messages_speaks_for_them() -> None:
    """The messages themselves stay "scheduled" for good."""
    entries = read(
        raw("all_reduce", 2, state="completed", retired=True),
        message("send 0->1", 2, 1),
        message("recv 0<-1", 2, 1),
        closing(2, 1, state="completed", retired=True),
    )
    assert [(e.op, e.p2p, e.done) for e in entries] == [
        ("nccl:all_reduce", False, True),
        ("nccl:send 0->1", True, True),
        ("nccl:recv 0<-1", True, True),
        ("nccl:coalesced", True, True),
    ]


def test_an_open_batch_leaves_its_messages_open() -> None:
    entries = read(message("recv 0<-1", 0, 1), closing(0, 1))
    assert [e.done for e in entries] == [False, False]


def test_a_closing_entry_is_no_collective_also_when_the_ring_lost_its_messages() -> None:
    """It bears the number of the collective before it, which would look like a mismatch."""
    first, second = read(closing(2, 1, state="completed"), raw("all_reduce", 3))
    assert first.p2p
    assert not second.p2p


def test_coalesced_collectives_are_collectives() -> None:
    (_, entry) = read(raw("all_reduce", 1), raw("coalesced", 2, input_sizes=[]))
    assert not entry.p2p


def test_batches_are_recognised_beyond_the_newest_entries_that_were_asked_for() -> None:
    (entry,) = read(raw("all_reduce", 1), message("send 0->1", 1, 1), closing(1, 1), newest=1)
    assert entry.p2p


def test_two_recorders_of_a_process_count_apart_under_the_same_names() -> None:
    nccl = read(raw("all_reduce", 1, time_created_ns=CREATED_NS + 9_000))
    gloo = read(raw("", 1, profiling_name="gloo:barrier"))
    entries, status = together((nccl, (ev.GroupStatus(0, 1, 0),)), (gloo, (ev.GroupStatus(0, 1, 1),)))
    assert [(e.op, e.group) for e in entries] == [("gloo:barrier", "0" + GLOO), ("nccl:all_reduce", "0")]
    assert len({s.pg for s in status}) == 2
    seen = RankCollectives()
    seen.update(ev.FlightRecorded(0, 0, FlightOrigin.POLL, entries, status), 0.0)
    groups = Groups(2)
    groups.announce("0", (0, 1))
    assert disagreements({0: seen}, groups) == ()
    assert groups.of("0" + GLOO, ()) == {0, 1}
    assert groups.knows("0" + GLOO)


# -- what is waited for ------------------------------------------------------------------------------------------


def entry(op: str, seq: int = 1, *, started: bool = False, p2p: bool = False, group: str = "0") -> ev.Collective:
    return ev.Collective(group, seq, f"nccl:{op}", 8, 8, "Float", "[[8]]", 1.0, False, p2p, 0, started)


def world(*ranks: tuple[ev.Collective, ...]) -> dict[int, RankCollectives]:
    found = {rank: RankCollectives() for rank in range(len(ranks))}
    for rank, entries in enumerate(ranks):
        found[rank].update(ev.FlightRecorded(rank, 0, FlightOrigin.POLL, entries, ()), 0.0)
    return found


def test_a_rank_whose_device_has_not_begun_is_missing_where_others_have() -> None:
    began, queued = entry("all_reduce", started=True), entry("all_reduce")
    (wait,) = open_waits(world((began,), (queued,), (began,)), Groups(3))
    assert (wait.waiting, wait.missing, wait.began) == ((0, 2), (1,), True)


def test_without_timing_whoever_queued_it_waits() -> None:
    queued = entry("all_reduce")
    (wait,) = open_waits(world((queued,), (queued,), ()), Groups(3))
    assert (wait.waiting, wait.missing, wait.began) == ((0, 1), (2,), False)


def test_a_message_without_its_other_end_waits_for_that_rank() -> None:
    waits = open_waits(world((entry("recv 0<-2", p2p=True),), (), ()), Groups(3))
    assert [(str(w), w.waiting, w.missing) for w in waits] == [("recv from rank 2 #1", (0,), (2,))]


def test_a_message_whose_ends_meet_waits_for_nobody() -> None:
    assert open_waits(world((entry("recv 0<-1", p2p=True),), (entry("send 1->0", 4, p2p=True),)), Groups(2)) == ()


def test_partners_are_named_by_their_rank_in_the_world() -> None:
    groups = Groups(8)
    groups.announce("7", (2, 5))
    waits = message_waits({5: (entry("send 1->0", p2p=True, group="7"),)}, groups)
    assert [(w.op, w.missing) for w in waits] == [("send to rank 2", (2,))]


@pytest.mark.parametrize("op", ["send", "recv 0<-", "recv 0<-77", "recv x<-1", "coalesced", "send 0->1 extra"])
def test_names_that_say_something_else_are_no_messages(op: str) -> None:
    assert message_waits({0: (entry(op, p2p=True),)}, Groups(2)) == ()


def test_waits_of_one_number_are_told_apart() -> None:
    waits = message_waits({0: (entry("recv 0<-1", p2p=True), entry("send 0->1", p2p=True))}, Groups(2))
    collective = Wait("0", 1, "all_reduce", (0,), (1,), 1.0)
    assert len({w.number for w in (*waits, collective)}) == 3


def test_what_the_device_ended_is_completed_although_the_watchdog_has_not_looked() -> None:
    entries = (raw("all_reduce", 1, state="completed"), raw("all_reduce", 2, state="completed"), raw("all_reduce", 3))
    status = {"0": {"last_enqueued_collective": "3", "last_completed_collective": "1"}}
    _, (counted,) = read_flight_recorder(json.dumps({"entries": entries, "pg_status": status}), 0.0)
    assert counted == ev.GroupStatus(0, 3, 2)
