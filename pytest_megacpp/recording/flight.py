"""Owns reading torch's flight recorder into collectives; must not know how it was fetched.

Format: `_dump_fr_trace_json` of torch 2.11–2.15, also served by the worker server; `_dump_fr_trace` pickles the same.
A process has several recorders, and each counts process groups from zero:

* gloo's. `state` never leaves "scheduled", so `retired` says whether a collective is over. On CUDA its groups have the
  same names as NCCL's, so they are marked.
* the legacy NCCL backend's. `state` goes from "scheduled" over "started" to "completed". Messages that were sent as a
  batch stay "scheduled" for good: the entry that closes the batch speaks for them (seen on torch 2.11, H200).
* since torch 2.15, one per backend that a hook records for (`HOOKED`). `state` goes from "scheduled" straight to
  "completed", up to a second after the fact; nothing is recorded while a CUDA graph is captured. The group's counters
  number operations of any kind from 0, so only the entries say how many collectives there were.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pytest_megacpp.recording.events import Collective, GroupStatus
from pytest_megacpp.recording.operations import BY_OUTPUT

Fresh: TypeAlias = tuple[str, int, int, str, tuple[str, ...], tuple[tuple[int, ...], ...]]
Read: TypeAlias = tuple[tuple[Collective, ...], tuple[GroupStatus, ...]]
NOTHING: Read = (), ()
GLOO = ":gloo"
HOOKED = ("nccl2", "nccl-lazy")
"""Backends of NCCL that a hook of torch's records for; also what the names of their operations begin with."""


class OtherRecorder(ValueError):
    """One recorder was asked and another has answered."""


GLOO_PG = 1 << 20
HOOKED_PG = 2 << 20


def read_flight_recorder(dump: bytes | str, epoch_s: float) -> Read:
    """What a JSON dump says; see `read_record`. Raises ValueError when it isn't what torch writes."""
    return read_record(_parsed(dump), epoch_s)


def read_hooked_recorder(dump: bytes | str, epoch_s: float, backend: str) -> Read:
    """What a JSON dump says that was asked of one of `HOOKED`; see `read_hooked`."""
    return read_hooked(_parsed(dump), epoch_s, backend)


def _parsed(dump: bytes | str) -> Any:
    try:
        return json.loads(dump)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"flight recorder dump is not JSON: {e!r}") from None


def read_record(data: Any, epoch_s: float, newest: int | None = None) -> Read:
    """Entries in their order and the counters per group. `epoch_s` is the wall-clock time of box time zero;
    `newest` reads that many of the newest entries only.

    Raises ValueError when the data aren't what torch records.
    """
    try:
        listed = data.get("entries") or []
        closing = _closing(listed)
        first = 0 if newest is None else max(0, len(listed) - newest)
        entries = tuple(_entry(e, epoch_s, closing) for e in listed[first:])
        status = tuple(_caught_up(_status(pg, s), entries) for pg, s in (data.get("pg_status") or {}).items())
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as e:
        raise ValueError(f"flight recorder dump has an unknown form: {e!r}") from None
    return entries, status


def read_hooked(data: Any, epoch_s: float, backend: str, newest: int | None = None) -> Read:
    """As `read_record`, of the recorder that a hook writes for `backend`. A worker server leaves out what is over, so
    the counters are the least that the group has done.

    Raises `OtherRecorder` when the entries are another backend's: a torch that doesn't know the argument answers with
    the recorder of gloo.
    """
    entries, status = read_record(data, epoch_s, newest)
    stranger = next((e.op for e in entries if not e.op.startswith(f"{backend}:")), None)
    if stranger is not None:
        raise OtherRecorder(f"the recorder of {backend} was asked, and one with {stranger} answered")
    return entries, tuple(_by_entries(s.pg, entries) for s in status)


def fresh(data: Any, after: int) -> tuple[Fresh, ...]:
    """The collectives of a dump that were recorded after that one: group, its number, collective's number, operation,
    dtypes and sizes of its input (of one that is compared `BY_OUTPUT`, sizes of its output). Only what is compared is
    read, because all of a test's collectives go through this.
    """
    new = [e for e in data.get("entries") or () if e["record_id"] > after]
    messages = any(e.get("is_p2p") or e.get("p2p_seq_id") for e in new)
    closing = _closing(data["entries"]) if messages else {}
    return tuple(
        (
            e["process_group"][0],
            e.get("pg_id", 0),
            e["collective_seq_id"],
            e["profiling_name"],
            *_of_tensors(e),
        )
        for e in new
        if not messages or not (e.get("is_p2p") or e is closing.get(_batch(e)))
    )


def _of_tensors(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    if entry["profiling_name"] == BY_OUTPUT:
        return (), tuple(map(tuple, entry.get("output_sizes") or ()))
    return tuple(entry.get("input_dtypes") or ()), tuple(map(tuple, entry.get("input_sizes") or ()))


def numel_and_dtype(dtypes: Sequence[str], sizes: Sequence[Sequence[int]]) -> tuple[int, str]:
    """The number of elements and the dtype, as a `Collective` has them."""
    return _numel(sizes), ",".join(sorted(set(map(str, dtypes))))


def _by_entries(pg: int, entries: Sequence[Collective]) -> GroupStatus:
    mine = [e for e in entries if e.pg == pg and not e.p2p]
    enqueued = max((e.seq for e in mine), default=0)
    return GroupStatus(pg, enqueued, min((e.seq - 1 for e in mine if not e.done), default=enqueued))


def together(nccl: Read, gloo: Read, hooked: Read = NOTHING) -> Read:
    """What the recorders of a process hold together, in the order of time."""
    hooked = _numbered(hooked, HOOKED_PG)
    marked = tuple(replace(e, group=e.group + GLOO) for e in gloo[0])
    gloo = _numbered((marked, gloo[1]), GLOO_PG)
    entries = (*nccl[0], *hooked[0], *gloo[0])
    in_order = tuple(sorted(entries, key=lambda e: e.entered_s)) if gloo[0] or hooked[0] else entries
    return in_order, (*nccl[1], *hooked[1], *gloo[1])


def _numbered(read: Read, first: int) -> Read:
    """The same, with group numbers that no other recorder of the process uses."""
    entries, status = read
    return tuple(replace(e, pg=e.pg + first) for e in entries), tuple(replace(s, pg=s.pg + first) for s in status)


def without_backend(group: str) -> str:
    """The name of a group without the mark of its collectives on gloo, which it has beside those on NCCL."""
    return group.replace(GLOO, "")


def tells_start(op: str) -> bool:
    """Whether the recorder that has this operation tells when its device began it, if it was asked to time it."""
    return op.startswith("nccl:")


def is_nccl(op: str) -> bool:
    """Whether the operation is one of any of NCCL's backends."""
    return op.startswith("nccl")


def _closing(listed: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], Mapping[str, Any]]:
    """By (process group, message number): the entry that closes a batch of messages."""
    batches = {_batch(e) for e in listed if e.get("is_p2p")}
    return {
        _batch(e): e
        for at, e in enumerate(listed)
        if _closes(e) and (_batch(e) in batches or at == 0)  # the ring forgets the messages first
    }


def _batch(entry: Mapping[str, Any]) -> tuple[int, int]:
    return int(entry.get("pg_id", 0)), int(entry.get("p2p_seq_id", 0))


def _closes(entry: Mapping[str, Any]) -> bool:
    name = str(entry.get("profiling_name", ""))
    return name.endswith(":coalesced") and not entry.get("is_p2p") and bool(entry.get("p2p_seq_id"))


def _entry(
    entry: Mapping[str, Any], epoch_s: float, closing: Mapping[tuple[int, int], Mapping[str, Any]]
) -> Collective:
    sizes_in, sizes_out = entry.get("input_sizes") or [], entry.get("output_sizes") or []
    numel_in, dtype = numel_and_dtype(entry.get("input_dtypes") or [], sizes_in)
    closes = closing.get(_batch(entry))
    p2p = bool(entry.get("is_p2p")) or entry is closes
    state = closes if closes is not None and p2p else entry
    return Collective(
        group=str(entry["process_group"][0]),
        seq=int(entry["p2p_seq_id"] if p2p else entry["collective_seq_id"]),
        op=str(entry["profiling_name"]),
        numel_in=numel_in,
        numel_out=_numel(sizes_out),
        dtype=dtype,
        sizes=_compact(sizes_in),
        entered_s=_seconds(entry["time_created_ns"], epoch_s),
        done=bool(state.get("retired")) or state.get("state") == "completed",
        p2p=p2p,
        pg=int(entry.get("pg_id", 0)),
        started=state.get("state") == "started" or bool(state.get("time_discovered_started_ns")),
    )


def _seconds(time_ns: int, epoch_s: float) -> float:
    """Box time; raises ValueError when there is no such time."""
    seconds = round(time_ns / 1e9 - epoch_s, 6)
    if not math.isfinite(seconds):
        raise ValueError(f"{time_ns} ns is no time")
    return seconds


def _numel(sizes: Iterable[Iterable[int]]) -> int:
    return sum(math.prod(map(int, size)) for size in sizes)


def _compact(sizes: list[list[int]]) -> str:
    text = json.dumps(sizes, separators=(",", ":")) if sizes else ""
    return text if len(text) <= 120 else text[:117] + "..."


def _caught_up(status: GroupStatus, entries: Sequence[Collective]) -> GroupStatus:
    """NCCL counts what is over in its watchdog, which looks now and then; an entry's state is asked of the device."""
    mine = [e for e in entries if e.pg == status.pg and not e.p2p and is_nccl(e.op)]
    open_ = min((e.seq for e in mine if not e.done), default=status.enqueued + 1)
    over = max((e.seq for e in mine if e.done and e.seq < open_), default=0)
    return replace(status, completed=max(status.completed, over))


def _status(pg: str, status: Mapping[str, Any]) -> GroupStatus:
    return GroupStatus(
        int(pg),
        max(0, int(status.get("last_enqueued_collective", 0))),
        max(0, int(status.get("last_completed_collective", 0))),
    )
