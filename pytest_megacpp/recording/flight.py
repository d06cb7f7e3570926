"""Owns reading torch's flight recorder JSON into collectives; must not know how it was fetched.

Format: `_dump_fr_trace_json` of torch 2.11–2.13, also served by the worker server. On gloo `state` never leaves
"scheduled", so `retired` says whether a collective is over; on NCCL "completed" does as well.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from pytest_megacpp.recording.events import Collective, GroupStatus


def read_flight_recorder(
    dump: bytes | str, epoch_s: float, newest: int | None = None
) -> tuple[tuple[Collective, ...], tuple[GroupStatus, ...]]:
    """Entries in their order and the counters per group. `epoch_s` is the wall-clock time of box time zero;
    `newest` reads that many of the newest entries only.

    Raises ValueError when the dump isn't what torch writes.
    """
    try:
        data = json.loads(dump)
        listed = data.get("entries") or []
        first = 0 if newest is None else max(0, len(listed) - newest)
        entries = tuple(_entry(e, epoch_s) for e in listed[first:])
        status = tuple(_status(pg, s) for pg, s in (data.get("pg_status") or {}).items())
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as e:
        raise ValueError(f"flight recorder dump has an unknown form: {e!r}") from None
    return entries, status


def _entry(entry: Mapping[str, Any], epoch_s: float) -> Collective:
    sizes_in, sizes_out = entry.get("input_sizes") or [], entry.get("output_sizes") or []
    p2p = bool(entry.get("is_p2p"))
    return Collective(
        group=str(entry["process_group"][0]),
        seq=int(entry["p2p_seq_id"] if p2p else entry["collective_seq_id"]),
        op=str(entry["profiling_name"]),
        numel_in=_numel(sizes_in),
        numel_out=_numel(sizes_out),
        dtype=",".join(sorted({str(d) for d in entry.get("input_dtypes") or []})),
        sizes=_compact(sizes_in),
        entered_s=_seconds(entry["time_created_ns"], epoch_s),
        done=bool(entry.get("retired")) or entry.get("state") == "completed",
        p2p=p2p,
        pg=int(entry.get("pg_id", 0)),
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


def _status(pg: str, status: Mapping[str, Any]) -> GroupStatus:
    return GroupStatus(
        int(pg),
        max(0, int(status.get("last_enqueued_collective", 0))),
        max(0, int(status.get("last_completed_collective", 0))),
    )
