"""Owns reading torch's flight recorder into collectives; must not know how it was fetched.

Format: `_dump_fr_trace_json` of torch 2.11–2.13, also served by the worker server; `_dump_fr_trace` pickles the same.
On gloo `state` never leaves "scheduled", so `retired` says whether a collective is over; on NCCL "completed" does as
well, and messages that were sent as a batch stay "scheduled" for good: the entry that closes the batch speaks for them
(seen on torch 2.11, H200). A CUDA build has two recorders, one of them for gloo; their groups bear the same names, so
gloo's are told apart.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pytest_megacpp.recording.events import Collective, GroupStatus

Read: TypeAlias = tuple[tuple[Collective, ...], tuple[GroupStatus, ...]]
GLOO = ":gloo"
_GLOO_PG = 1 << 20  # both recorders count their groups from zero


def read_flight_recorder(dump: bytes | str, epoch_s: float) -> Read:
    """What a JSON dump says; see `read_record`. Raises ValueError when it isn't what torch writes."""
    try:
        data = json.loads(dump)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"flight recorder dump is not JSON: {e!r}") from None
    return read_record(data, epoch_s)


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


def together(nccl: Read, gloo: Read) -> Read:
    """What a process's two recorders say, in the order of time."""
    entries = [*nccl[0], *(replace(e, group=e.group + GLOO, pg=e.pg + _GLOO_PG) for e in gloo[0])]
    status = (*nccl[1], *(replace(s, pg=s.pg + _GLOO_PG) for s in gloo[1]))
    return tuple(sorted(entries, key=lambda e: e.entered_s) if gloo[0] else entries), status


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
    closes = closing.get(_batch(entry))
    p2p = bool(entry.get("is_p2p")) or entry is closes
    state = closes if closes is not None and p2p else entry
    return Collective(
        group=str(entry["process_group"][0]),
        seq=int(entry["p2p_seq_id"] if p2p else entry["collective_seq_id"]),
        op=str(entry["profiling_name"]),
        numel_in=_numel(sizes_in),
        numel_out=_numel(sizes_out),
        dtype=",".join(sorted({str(d) for d in entry.get("input_dtypes") or []})),
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


def _numel(sizes: list[list[int]]) -> int:
    return sum(math.prod(map(int, size)) for size in sizes)


def _compact(sizes: list[list[int]]) -> str:
    text = json.dumps(sizes, separators=(",", ":")) if sizes else ""
    return text if len(text) <= 120 else text[:117] + "..."


def _caught_up(status: GroupStatus, entries: Sequence[Collective]) -> GroupStatus:
    """NCCL counts what is over in its watchdog, which looks now and then; an entry's state is asked of the device."""
    mine = [e for e in entries if e.pg == status.pg and not e.p2p and e.op.startswith("nccl")]
    open_ = min((e.seq for e in mine if not e.done), default=status.enqueued + 1)
    over = max((e.seq for e in mine if e.done and e.seq < open_), default=0)
    return replace(status, completed=max(status.completed, over))


def _status(pg: str, status: Mapping[str, Any]) -> GroupStatus:
    return GroupStatus(
        int(pg),
        max(0, int(status.get("last_enqueued_collective", 0))),
        max(0, int(status.get("last_completed_collective", 0))),
    )
