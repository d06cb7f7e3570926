"""Owns a test's collectives in the format of torch's flight recorder, for torch's own analyser; must not know a file.

Format: `_dump_fr_trace` of torch 2.13, as `torchfrtrace` reads it. That tool stops at a raw dump of gloo, whose groups
aren't named in it and whose states never leave "scheduled". So the dumps are made of what the timeline knows:

* every group with all its members, and a dump of every rank, also of those that died: the tool stops where one lacks;
* states from what is known to be over, whatever the backend;
* operations by the recorder's names (`gloo:all_reduce`), except the one that the tool would stop at;
* of each group only the numbers that no rank's memory lacks: the tool takes a number it misses for a missing rank;
* the stack of a waiting rank at its oldest open collective; frames of others aren't recorded;
* sizes of outputs by their number of elements: shapes are known of inputs only.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TypeAlias

from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.collectives import RankCollectives
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.groups import is_default
from pytest_megacpp.recording.operations import bare_op
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView, TestView

Dump: TypeAlias = dict[str, object]

VERSION = "2.10"
KEPT = 64  # entries of a rank in a group
_ANALYSERS_NAME = {"sparse_all_reduce": "all_reduce"}


def record_name(receipt: str, result: TestResult, number: int) -> str:
    """Where the records of one attempt at a test lie, relative to the run, by the name of the test's receipt."""
    stem = receipt.rpartition("/")[2].removesuffix(".json")
    nth = [attempt.number for attempt in result.attempts].index(number) if result.attempts else 0
    return f"flight/{stem}.{nth + 1}" if nth else f"flight/{stem}"


def flight_dumps(test: TestView, timeline: Timeline, redact: Callable[[str], str]) -> list[Dump]:
    """One dump per rank of the test, in their order, of plain values only."""
    seen = {rank: view.collectives for rank, view in sorted(test.ranks.items())}
    since = _comparable_since(seen.values())
    writer = _Writer(since, _epoch_s(timeline), cache(redact))
    config = writer.groups(seen, test)
    return [writer.dump(test.ranks[rank], config[rank]) for rank in seen]


def _epoch_s(timeline: Timeline) -> float:
    """The wall-clock time of the box's zero, as far as the recording tells it."""
    try:
        return datetime.fromisoformat(timeline.started.started_at).timestamp() if timeline.started else 0.0
    except (ValueError, OverflowError, OSError):
        return 0.0


def _comparable_since(seen: Iterable[RankCollectives]) -> dict[str, int]:
    """Per group the first number from which every rank that used it remembers all of its own."""
    since: dict[str, int] = {}
    for of_rank in seen:
        for group, numbers in _numbers(of_rank).items():
            since[group] = max(since.get(group, 0), _unbroken(numbers))
    return since


def _numbers(seen: RankCollectives) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for group, number in seen.entries:
        found[group].append(number)
    return {group: sorted(numbers)[-KEPT:] for group, numbers in found.items()}


def _unbroken(numbers: list[int]) -> int:
    """Where the last run of consecutive numbers begins."""
    first = numbers[-1]
    for number in reversed(numbers[:-1]):
        if number != first - 1:
            break
        first = number
    return first


def _description(group: str) -> str:
    return "default_pg" if is_default(group) else "undefined"


@dataclass(frozen=True, slots=True)
class _Writer:
    """`since`: the first number of each group that is written. `hide` takes secrets out of a text."""

    since: Mapping[str, int]
    epoch_s: float
    hide: Callable[[str], str]

    def groups(self, seen: Mapping[int, RankCollectives], test: TestView) -> dict[int, dict[str, Dump]]:
        """For each rank the groups that it is in, with all of their members."""
        config: dict[int, dict[str, Dump]] = {rank: {} for rank in seen}
        users: dict[str, set[int]] = defaultdict(set)
        for rank, of_rank in seen.items():
            for name in {*of_rank.enqueued, *(e.group for e in (*of_rank.entries.values(), *of_rank.messages))}:
                users[name].add(rank)
        for name, using in sorted(users.items()):
            members = sorted((test.groups.of(name, using) | using) & config.keys())
            shown: Dump = {"name": self.hide(name), "desc": _description(name), "ranks": str(members)}
            for rank in members:
                config[rank][self.hide(name)] = shown
        return config

    def dump(self, view: RankView, config: Mapping[str, Dump]) -> Dump:
        seen = view.collectives
        kept = [e for (group, number), e in seen.entries.items() if number >= self.since[group]]
        entries = sorted((*kept, *seen.messages), key=lambda e: (e.entered_s, e.group, e.seq))
        waits_in = next(iter(seen.pending()), None)
        return {
            "version": VERSION,
            "pg_config": dict(config),
            "pg_status": {str(pg): _status(seen, name) for pg, name in seen.groups.items()},
            "entries": [
                {"frames": self._frames(view) if entry is waits_in else [], **self._entry(entry, number, seen)}
                for number, entry in enumerate(entries)
            ],
        }

    def _frames(self, view: RankView) -> list[Dump]:
        """The main thread's newest stack, the innermost frame first."""
        taken = view.stack()
        frames = taken[1].frames if taken is not None else ()
        return [{"name": self.hide(f.function), "filename": self.hide(f.file), "line": f.line} for f in frames]

    def _entry(self, entry: Collective, number: int, seen: RankCollectives) -> Dump:
        done = entry.done if entry.p2p else seen.is_done(entry)
        dtypes = entry.dtype.split(",") if entry.dtype else []
        sizes_in, sizes_out = _sizes(entry)
        return {
            "record_id": number,
            "pg_id": entry.pg,
            "process_group": (self.hide(entry.group), _description(entry.group)),
            "collective_seq_id": seen.enqueued.get(entry.group, 0) if entry.p2p else entry.seq,
            "p2p_seq_id": entry.seq if entry.p2p else 0,
            "op_id": number + 1,
            "profiling_name": self.hide(_name(entry.op)),
            "time_created_ns": int((self.epoch_s + entry.entered_s) * 1e9),
            "input_sizes": sizes_in,
            "input_dtypes": dtypes,
            "output_sizes": sizes_out,
            "output_dtypes": [] if bare_op(entry.op) == "scatter" else dtypes,  # only its root has inputs
            "state": "completed" if done else "started" if entry.started else "scheduled",
            "time_discovered_started_ns": None,
            "time_discovered_completed_ns": None,
            "retired": done,
            "timeout_ms": 0,
            "is_p2p": entry.p2p,
        }


def _status(seen: RankCollectives, group: str) -> Dump:
    return {
        "last_enqueued_collective": seen.enqueued.get(group, 0),
        "last_started_collective": -1,
        "last_completed_collective": seen.completed.get(group, 0),
    }


def _name(op: str) -> str:
    backend, colon, name = op.partition(":")
    return f"{backend}{colon}{_ANALYSERS_NAME.get(name, name)}"


def _sizes(entry: Collective) -> tuple[list[list[int]], list[list[int]]]:
    """Shapes where they are known whole; of an all_to_all the analyser adds up the first tensors only."""
    shapes = _shapes(entry.sizes) if bare_op(entry.op) != "all_to_all" else None
    inputs = [[entry.numel_in]] if entry.sizes and shapes is None else shapes or []
    if entry.numel_out == entry.numel_in:
        return inputs, inputs
    return inputs, [[entry.numel_out]] if entry.numel_out else []


def _shapes(sizes: str) -> list[list[int]] | None:
    """None when they were shortened."""
    try:
        read = json.loads(sizes) if sizes else []
    except (ValueError, RecursionError):
        return None
    is_table = isinstance(read, list) and all(isinstance(s, list) and all(type(n) is int for n in s) for s in read)
    return read if is_table else None
