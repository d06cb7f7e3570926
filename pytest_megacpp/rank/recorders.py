"""Owns reading this process's flight recorders, and noticing that they miss something; must not know tests.

Which recorders there are is told by what torch's functions accept. A recorder that a hook writes is seen by the box
in part only (its worker server leaves out what is over), so this process looks at it itself, once a second. The look
needs the interpreter lock, which a process that waits for its device has released.
"""

import contextlib
import functools
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pytest_megacpp.recording.flight import HOOKED, NOTHING, Read, is_nccl, read_hooked, read_record, together

LOOK_S = 1.0
ENTRIES = 64  # without its entries NCCL's counters lag behind


def read_recorders(epoch_s: float, newest: int) -> Read:
    """The newest entries of this process's recorders; none: only the counters. Empty without a process group.

    A full ring takes 0.7 ms as a pickle without stack traces, which this process writes for itself, 1.8 ms as JSON.
    """
    from torch._C import _distributed_c10d as c10d

    if not _initialized():
        return NOTHING
    dump = c10d._dump_fr_trace(newest > 0, False, False)  # type: ignore[attr-defined]
    gloo = read_record(pickle.loads(dump), epoch_s, newest)
    if not _on_cuda():
        return gloo
    newest = max(newest, ENTRIES)
    return together(_legacy(epoch_s, newest), gloo, read_hooks(epoch_s, newest))


def _legacy(epoch_s: float, newest: int) -> Read:
    from torch._C import _distributed_c10d as c10d

    dump = getattr(c10d, "_dump_nccl_trace_json", None)
    return NOTHING if dump is None else read_record(json.loads(dump(True, False)), epoch_s, newest)


def read_hooks(epoch_s: float, newest: int) -> Read:
    """What the recorders hold that torch's hook writes; these backends count their groups by one counter."""
    from torch._C import _distributed_c10d as c10d

    if not has_hooks():
        return NOTHING
    dump: Any = c10d._dump_fr_trace  # type: ignore[attr-defined]
    dumps = {backend: pickle.loads(dump(True, False, False, backend=backend)) for backend in HOOKED}
    reads = [read_hooked(data, epoch_s, backend, newest) for backend, data in dumps.items()]
    return tuple(e for entries, _ in reads for e in entries), tuple(s for _, status in reads for s in status)


@functools.cache
def has_hooks() -> bool:
    """Whether this torch has a recorder per backend (2.15 has, 2.14 refuses the argument)."""
    from torch._C import _distributed_c10d as c10d

    dump: Any = c10d._dump_fr_trace_json  # type: ignore[attr-defined]
    try:
        dump(False, False, backend=HOOKED[0])
    except TypeError:
        return False
    return True


class Lookout(threading.Thread):
    """Looks once a second while there are groups of NCCL: sends what a hook recorded, and says of a backend that has
    issued collectives of which its recorder has none.
    """

    def __init__(self, epoch_s: float, send: Callable[[Read], object], unrecorded: Callable[[str], object]) -> None:
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
        """One look. A backend counts what it issues a moment before the recorder has it, so two looks must agree."""
        if (seen := read_hooks(self._epoch_s, ENTRIES)) != self._last:
            self._last = seen
            self._send(together(NOTHING, NOTHING, seen))
        suspect = unrecorded()
        if suspect and suspect == self._suspect:
            self._unrecorded(suspect)
        self._suspect = suspect


def unrecorded() -> str:
    """A backend of NCCL that has issued collectives of which its recorder knows nothing; empty where all is well."""
    return next((name for name, issued in _issued() if issued and not _is_recorded(name)), "")


def _issued() -> Iterator[tuple[str, int]]:
    """Per process group of NCCL its backend's name, and how many collectives that has counted."""
    from torch.distributed import distributed_c10d as c10d

    for group in tuple(c10d._world.pg_map):
        with contextlib.suppress(RuntimeError):  # there are backends that don't count
            backend = device_backend(group)
            if backend is not None and is_nccl(str(backend.name())):
                yield str(backend.name()), int(backend._get_sequence_number_for_group())


def device_backend(group: Any) -> Any:
    """What serves the group's devices; None where nothing does. The group itself calls all but a few "custom"."""
    import torch

    try:
        return group._get_backend(torch.device("cuda"))
    except RuntimeError:
        return None


def _is_recorded(backend: str) -> bool:
    """Whether the backend's recorder has counted anything at all, for whatever group."""
    from torch._C import _distributed_c10d as c10d

    if backend in HOOKED:
        dump: Any = c10d._dump_fr_trace_json if has_hooks() else None  # type: ignore[attr-defined]
        text = dump(False, False, backend=backend) if dump is not None else "{}"
    else:
        dump = getattr(c10d, "_dump_nccl_trace_json", None)
        text = dump(False, False) if dump is not None else "{}"
    return bool(json.loads(text).get("pg_status"))


def _on_cuda() -> bool:
    return os.environ.get("MEGACPP_DEVICE") == "cuda"


def _initialized() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()
