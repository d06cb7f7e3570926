"""Owns reading this process's flight recorders, and noticing that they miss something; must not know tests.

What torch's functions accept shows which recorders there are. A recorder that a hook writes is seen by the box
in part only (its worker server leaves out what is over), so this process looks at it itself, once a second. The look
needs the interpreter lock, which a process that waits for its device has released.
"""

import contextlib
import functools
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_megacpp.rank.torch_state import group_exists, on_cuda
from pytest_megacpp.recording.flight import HOOKED, NOTHING, Read, is_nccl, read_hooked, read_record, together

LOOK_S = 1.0
ENTRIES = 64  # without its entries NCCL's counters lag behind


@dataclass(frozen=True, slots=True)
class Dump:
    """What one recorder holds; `record` is the number of its newest entry, -1 without any."""

    recorder: str  # gloo, nccl, or a backend of HOOKED
    data: Any

    @property
    def record(self) -> int:
        listed = self.data.get("entries") or ()
        return listed[-1]["record_id"] if listed else -1


def dumps(entries: bool = True) -> tuple[Dump, ...]:
    """Returns what all recorders of this process hold, or only their counters where `entries` is false. Empty without a
    process group. A full ring of 64 takes 0.3 ms as a pickle without stack traces, counters 4 µs (CPU build of torch
    2.13).
    """
    if not group_exists():
        return ()
    gloo = Dump("gloo", _pickled("_dump_fr_trace", entries))
    if not on_cuda():
        return (gloo,)
    legacy = _legacy(entries)
    hooks = HOOKED if has_hooks() else ()
    others = (Dump(backend, _pickled("_dump_fr_trace", entries, backend=backend)) for backend in hooks)
    return (*(() if legacy is None else (Dump("nccl", legacy),)), gloo, *others)


def _pickled(function: str, entries: bool, **arguments: str) -> Any:
    from torch._C import _distributed_c10d as c10d

    return pickle.loads(getattr(c10d, function)(entries, False, False, **arguments))


def _legacy(entries: bool) -> Any:
    from torch._C import _distributed_c10d as c10d

    dump = getattr(c10d, "_dump_nccl_trace_json", None)
    return None if dump is None else json.loads(dump(entries, False))


def read_recorders(epoch_s: float, newest: int) -> Read:
    """Returns the `newest` entries of this process's recorders; with 0 only the counters. Empty without a process
    group.
    """
    return read_dumps(dumps(newest > 0 or on_cuda()), epoch_s, newest)


def read_dumps(taken: Sequence[Dump], epoch_s: float, newest: int) -> Read:
    """Returns the same as `read_recorders`, from dumps."""
    if not on_cuda():
        return read_record(taken[0].data, epoch_s, newest) if taken else NOTHING
    newest = max(newest, ENTRIES)
    of = {dump.recorder: dump.data for dump in taken}
    legacy, gloo = (read_record(of[name], epoch_s, newest) if name in of else NOTHING for name in ("nccl", "gloo"))
    hooked = [read_hooked(of[name], epoch_s, name, newest) for name in HOOKED if name in of]
    return together(legacy, gloo, _all(hooked))


def _all(reads: Iterable[Read]) -> Read:
    """Returns the reads of several recorders as one: their backends count groups by one counter."""
    reads = tuple(reads)
    return tuple(e for entries, _ in reads for e in entries), tuple(s for _, status in reads for s in status)


def read_hooks(epoch_s: float, newest: int) -> Read:
    """Returns what the recorders hold that torch's hook writes."""
    backends = HOOKED if has_hooks() else ()
    return _all(
        read_hooked(_pickled("_dump_fr_trace", True, backend=backend), epoch_s, backend, newest) for backend in backends
    )


@functools.cache
def has_hooks() -> bool:
    """Returns whether this torch has a recorder per backend (2.15 has, 2.14 refuses the argument)."""
    from torch._C import _distributed_c10d as c10d

    dump: Any = c10d._dump_fr_trace_json  # type: ignore[attr-defined]
    try:
        dump(False, False, backend=HOOKED[0])
    except TypeError:
        return False
    return True


class Lookout(threading.Thread):
    """Looks once a second while there are NCCL groups: sends what a hook recorded, and reports a backend that has
    issued collectives of which its recorder has none (decision 0070).
    """

    def __init__(
        self, epoch_s: Callable[[], float], send: Callable[[Read], object], unrecorded: Callable[[str], object]
    ) -> None:
        super().__init__(name="megacpp-lookout", daemon=True)
        self._epoch_s = epoch_s
        self._send = send
        self._unrecorded = unrecorded
        self._last: Read = NOTHING
        self._suspect = ""

    def run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with contextlib.suppress(Exception):  # the group may go meanwhile
                self.look()

    def look(self) -> None:
        """Looks once. A backend counts what it issues a moment before the recorder has it, so two looks must agree."""
        if (seen := read_hooks(self._epoch_s(), ENTRIES)) != self._last:
            self._last = seen
            self._send(together(NOTHING, NOTHING, seen))
        suspect = unrecorded()
        if suspect and suspect == self._suspect:
            self._unrecorded(suspect)
        self._suspect = suspect


def unrecorded() -> str:
    """Returns an NCCL backend that has issued collectives of which its recorder knows nothing; empty where there is
    none.
    """
    return next((name for name, issued in _issued() if issued and not _is_recorded(name)), "")


def _issued() -> Iterator[tuple[str, int]]:
    """Yields for each NCCL process group its backend's name, and how many collectives that has counted."""
    from torch.distributed import distributed_c10d as c10d

    for group in tuple(c10d._world.pg_map):
        with contextlib.suppress(RuntimeError):  # there are backends that don't count
            backend = device_backend(group)
            if backend is not None and is_nccl(str(backend.name())):
                yield str(backend.name()), int(backend._get_sequence_number_for_group())


def device_backend(group: Any) -> Any:
    """Returns the backend that serves the group's devices; None where none does. The group itself calls all but a few
    "custom".
    """
    import torch

    try:
        return group._get_backend(torch.device("cuda"))
    except RuntimeError:
        return None


def _is_recorded(backend: str) -> bool:
    """Returns whether the backend's recorder has counted anything at all, for whatever group."""
    from torch._C import _distributed_c10d as c10d

    if backend in HOOKED:
        dump: Any = c10d._dump_fr_trace_json if has_hooks() else None  # type: ignore[attr-defined]
        text = dump(False, False, backend=backend) if dump is not None else "{}"
    else:
        dump = getattr(c10d, "_dump_nccl_trace_json", None)
        text = dump(False, False) if dump is not None else "{}"
    return bool(json.loads(text).get("pg_status"))
