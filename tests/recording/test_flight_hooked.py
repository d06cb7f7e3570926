"""Recorders that torch's hook writes for a backend (`nccl2` since torch 2.15), in the form its source writes them.

`FlightRecorderHook.cpp`: names are `BACKEND:op`, the state goes from scheduled to completed, `pg_status` has the number
of the last operation of any kind, from 0. The worker server leaves out what is completed.
"""

import json
from typing import Any

import pytest

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.collectives import RankCollectives
from pytest_megacpp.recording.flight import (
    OtherRecorder,
    Read,
    is_nccl,
    read_hooked,
    read_hooked_recorder,
    tells_start,
    together,
)
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.views import RankView
from pytest_megacpp.recording.vocabulary import FlightOrigin
from tests.recording.positions import open_waits

CREATED_NS = 1_795_653_920_798_595_676
EPOCH_S = 1_795_653_900.0


def raw(op: str, seq: int, op_id: int, **changes: object) -> dict[str, Any]:
    return {
        "collective_seq_id": seq,
        "input_dtypes": ["Float"],
        "input_sizes": [[8]],
        "is_p2p": False,
        "op_id": op_id,
        "output_dtypes": ["Float"],
        "output_sizes": [[8]],
        "p2p_seq_id": 0,
        "pg_id": 0,
        "process_group": ["0", "default_pg"],
        "profiling_name": f"nccl2:{op}",
        "record_id": op_id,
        "retired": False,
        "state": "scheduled",
        "thread_id": "1",
        "thread_name": "python",
        "time_created_ns": CREATED_NS + op_id,
        "time_discovered_completed_ns": 0,
        "time_discovered_started_ns": 0,
        "timeout_ms": 600_000,
    } | changes


def over(op: str, seq: int, op_id: int, **changes: object) -> dict[str, Any]:
    known = {"retired": True, "state": "completed"}
    return raw(op, seq, op_id, **known, time_discovered_completed_ns=5, time_discovered_started_ns=5, **changes)


def message(op: str, seq: int, number: int, op_id: int, **changes: object) -> dict[str, Any]:
    return raw(op, seq, op_id, is_p2p=True, p2p_seq_id=number, **changes)


def dump(*entries: dict[str, Any], enqueued: int, completed: int, pg: str = "0") -> dict[str, Any]:
    counted = {"last_enqueued_collective": str(enqueued), "last_completed_collective": str(completed)}
    config = {"0": {"desc": "default_pg", "name": "0", "ranks": "[0, 1]"}}
    return {
        "version": "2.10",
        "pg_config": config,
        "pg_status": {pg: {**counted, "last_started_collective": "-1"}},
        **({"entries": list(entries)} if entries else {}),
    }


def read(data: dict[str, Any]) -> Read:
    return read_hooked_recorder(json.dumps(data), EPOCH_S, "nccl2")


def test_an_open_collective_never_says_that_it_began() -> None:
    (done, waiting), _ = read(dump(over("all_reduce", 1, 0), raw("all_reduce", 2, 1), enqueued=1, completed=0))
    assert (done.op, done.done, waiting.done, waiting.started) == ("nccl2:all_reduce", True, False, False)


def test_operations_are_numbered_from_0_and_collectives_from_1() -> None:
    """After two messages and two collectives, the last of which is open, the hook's counters stand at 3 and 2."""
    entries = (
        over("all_reduce", 1, 0),
        message("send 0->1", 1, 1, 1, state="completed", retired=True),
        message("recv 0<-1", 1, 2, 2, state="completed", retired=True),
        raw("all_reduce", 2, 3),
    )
    assert read(dump(*entries, enqueued=3, completed=2))[1] == (ev.GroupStatus(0, 2, 1),)


def test_where_all_is_over_the_worker_server_lists_nothing_and_nothing_is_claimed() -> None:
    """Eight operations were issued: how many of them were collectives is not known."""
    assert read(dump(enqueued=7, completed=7)) == ((), (ev.GroupStatus(0, 0, 0),))


def test_what_a_poll_no_longer_lists_is_over() -> None:
    """The group is still counted."""
    seen = RankCollectives()
    for data in (dump(raw("all_reduce", 1, 0), enqueued=0, completed=-1), dump(enqueued=0, completed=0)):
        seen.update(ev.FlightRecorded(0, 0, FlightOrigin.POLL, *read(data)), 0.0)
    assert seen.pending() == ()
    assert seen.enqueued == {"0": 1}


def test_the_rank_s_own_look_says_what_polls_leave_out() -> None:
    """A poll of a rank that is past its collectives has no names; its own look has, so it isn't taken for missing."""
    behind = dump(over("broadcast", 1, 0), raw("broadcast", 2, 1), enqueued=1, completed=0)
    ahead = dump(over("broadcast", 1, 0), over("broadcast", 2, 1), enqueued=1, completed=1)
    waiting, past = RankCollectives(), RankCollectives()
    waiting.update(ev.FlightRecorded(0, 0, FlightOrigin.POLL, *read(behind)), 0.0)
    past.update(ev.FlightRecorded(1, 0, FlightOrigin.OWN, *read(ahead)), 0.0)
    past.update(ev.FlightRecorded(1, 0, FlightOrigin.POLL, *read(dump(enqueued=1, completed=1))), 0.0)
    (wait,) = open_waits({0: waiting, 1: past}, Groups(2))
    assert (wait.waiting, wait.missing) == ((0,), ())


def test_a_torch_that_ignores_which_recorder_is_asked_is_found_out() -> None:
    with pytest.raises(OtherRecorder, match="gloo:barrier"):
        read(dump(raw("", 1, 0, profiling_name="gloo:barrier"), enqueued=1, completed=0))


def test_the_newest_entries_of_a_pickle_are_read_as_those_of_a_dump() -> None:
    data = dump(*(over("all_reduce", n + 1, n) for n in range(4)), enqueued=3, completed=3)
    entries, status = read_hooked(data, EPOCH_S, "nccl2", newest=2)
    assert ([e.seq for e in entries], status) == ([3, 4], (ev.GroupStatus(0, 4, 4),))


def test_three_recorders_of_a_process_count_apart() -> None:
    legacy = read(dump(over("all_reduce", 1, 0), enqueued=0, completed=0))
    hooked = read(dump(over("all_reduce", 1, 1), enqueued=0, completed=0))
    entries, status = together(legacy, legacy, hooked)
    assert len({s.pg for s in status}) == len({e.pg for e in entries}) == 3
    assert sorted(e.group for e in entries) == ["0", "0", "0:gloo"]


@pytest.mark.parametrize(
    ("op", "nccl", "start"),
    [
        ("nccl:all_reduce", True, True),
        ("nccl2:all_reduce", True, False),
        ("nccl-lazy:send 0->1", True, False),
        ("gloo:all_reduce", False, False),
    ],
)
def test_which_operations_are_nccl_s_and_tell_their_start(op: str, nccl: bool, start: bool) -> None:
    assert (is_nccl(op), tells_start(op)) == (nccl, start)


def test_a_rank_in_a_collective_of_nccl2_may_burn_cpu() -> None:
    view = RankView(0)
    view.collectives.update(
        ev.FlightRecorded(0, 0, FlightOrigin.POLL, *read(dump(raw("all_reduce", 1, 0), enqueued=0, completed=-1))), 0.0
    )
    assert view.spins
