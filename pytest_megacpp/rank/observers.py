"""Owns the patches of torch in a rank, and what a rank can tell about itself; must not decide anything.

Some of what it sets up has a module: `first_forward` (module calls), `backward`, `autotune` (triton's tuner),
`native_calls` (frames for calls of C++), `handling` (exceptions that are being handled), `compile_counts`. The wrappers
around the making and the end of groups stay here: `recording.stacks` leaves out frames of this file.
An observer that fails is reported once as a missing capability; the test goes on.
"""

import contextlib
import functools
import inspect
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

from pytest_megacpp.rank import backward, first_forward, native_calls
from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.rank.autotune import AUTOTUNER, Staging, when_imported
from pytest_megacpp.rank.cache_keys import separate_keys
from pytest_megacpp.rank.compile_counts import CompileCounts
from pytest_megacpp.rank.errors import FILE_CHARS, in_one_line
from pytest_megacpp.rank.flight_recorders import Lookout, device_backend, dumps, read_dumps, read_recorders, unrecorded
from pytest_megacpp.rank.group_timeouts import Patience
from pytest_megacpp.rank.handling import Handling
from pytest_megacpp.rank.issued import Issued
from pytest_megacpp.rank.torch_state import group_exists, on_cuda
from pytest_megacpp.recording.events import (
    Capability,
    ConfigsDropped,
    DeviceUsed,
    Error,
    FirstForward,
    FlightRecorded,
    GroupBegun,
    GroupCreated,
    Handles,
)
from pytest_megacpp.recording.flight import Read, is_nccl
from pytest_megacpp.recording.stacks import Frame, is_users
from pytest_megacpp.recording.texts import ending
from pytest_megacpp.recording.vocabulary import EvidenceSource, FlightOrigin, ForwardOrigin

SENT_ENTRIES = 64

Counters: TypeAlias = dict[int, tuple[int, int]]
"""(entered, completed) collectives by process group."""


class Observers:
    """Watches process groups and compiles of this process. `test` is the index in the plan, None between tests."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.test: int | None = None
        self.groups_created = 0
        self.patience = Patience()
        self.issued = Issued(dumps, lambda e: self._missing(EvidenceSource.FLIGHT_RECORDER, e), capturing=_capturing())
        self.handling = Handling(self._handles)
        self.compile_counts = CompileCounts()
        self._server: Any = None
        self._launched = int(os.environ.get("WORLD_SIZE", "0"))  # a test may change the variable
        self._default_size = 0  # of the default group that was made last
        self._device_sent = False
        self._reported_missing: set[str] = set()

    def install(self) -> None:
        """Patches process-group creation and destruction, the time-out of groups made without one, and how torch
        remembers what its compile caches were asked for, whose keys become this rank's own.
        """
        from torch.distributed import distributed_c10d as c10d

        c10d._get_default_timeout = self._longer(c10d._get_default_timeout)
        c10d._new_process_group_helper = self._around_creation(c10d._new_process_group_helper)
        if hasattr(c10d, "split_group"):
            c10d.split_group = split = self._after_split(c10d.split_group)
            for name in ("torch.distributed", "torch.distributed.device_mesh"):  # they have it by name
                if hasattr(sys.modules.get(name), "split_group"):
                    sys.modules[name].split_group = split  # type: ignore[attr-defined]
        destroy = self._before_destruction(c10d.destroy_process_group)
        c10d.destroy_process_group = destroy
        sys.modules["torch.distributed"].destroy_process_group = destroy  # type: ignore[attr-defined]
        try:
            issued = self.issued
            native_calls.report_issued(
                issued.call, issued.fail, self.handling.look, lambda work: issued.hearing.succeeded(work)
            )
            backward.watch(self._around_backward)
        except Exception as e:
            self._missing("issued_collectives", e)
        if self.issued.off:
            why = LookupError("TORCH_FR_BUFFER_SIZE switches torch's flight recorder off")
            self._missing(EvidenceSource.FLIGHT_RECORDER, why)
        try:
            self.compile_counts.watch_keys()
        except Exception as e:
            self._missing("cache_keys", e)
        try:
            separate_keys(self.agent.rank, self._launched)
        except Exception as e:
            self._missing("cache_key_tag", e)
        if on_cuda():
            pruning = Staging(self._dropped, lambda e: self._missing("shared_memory", e), _shared_memory_bytes)
            when_imported(AUTOTUNER, pruning.install)

    def start_worker_server(self, path: str) -> None:
        """Starts torch's C++ server that answers the box without the GIL; it lives as long as this object."""
        try:
            from torch._C._distributed_c10d import _WorkerServer

            with _quiet_stderr():
                self._server = _WorkerServer(path)
        except Exception as e:
            self._missing(EvidenceSource.WORKER_SERVER, e)

    def frame_native_calls(self) -> bool:
        """Makes torch's blocking native calls visible on stacks; returns whether that worked for all of them."""
        try:
            native_calls.install(self.handling.look)
        except Exception as e:
            self._missing("native_calls", e)
            return False
        return True

    def _missing(self, name: str, error: Exception) -> None:
        if name in self._reported_missing:
            return
        self._reported_missing.add(name)
        self.agent.send(Capability(name, False, in_one_line(error, 200), self.agent.rank))

    def _longer(self, default: Callable[..., timedelta]) -> Callable[..., timedelta]:
        """Returns torch's function for default time-outs with longer ones: NCCL's own 10 minutes would end a rank that
        waits for a compile, before the box decides.
        """

        @functools.wraps(default)
        def patient(*args: Any, **kwargs: Any) -> timedelta:
            return self.patience.implied(default(*args, **kwargs))

        return patient

    def _around_creation(self, create: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(create)

        @functools.wraps(create)
        def created(*args: Any, **kwargs: Any) -> Any:
            begun = self._begin_group(parameters, args, kwargs)
            try:
                result = create(*args, **kwargs)
            except BaseException:
                if begun is not None and begun.member:
                    self.agent.send(GroupCreated(self.agent.rank, self.test, begun.name, begun.ranks, failed=True))
                raise
            self.groups_created += 1
            self.patience.created(kwargs.get("timeout"))
            try:
                self._announce(result, begun)
            except Exception as e:
                self._missing(EvidenceSource.GROUP_MEMBERS, e)
            return result

        return created

    def _after_split(self, split: Callable[..., Any]) -> Callable[..., Any]:
        """Returns torch's function for splitting groups, which then announces the new group. NCCL splits without
        torch's helper, so the members are known only afterwards.
        """

        @functools.wraps(split)
        def created(*args: Any, **kwargs: Any) -> Any:
            group = split(*args, **kwargs)
            try:
                self._announce_split(group)
            except Exception as e:
                self._missing(EvidenceSource.GROUP_MEMBERS, e)
            return group

        return created

    def _announce_split(self, group: Any) -> None:
        from torch.distributed.distributed_c10d import get_process_group_ranks

        name = getattr(group, "group_name", None)
        if name is not None:  # this rank is a member
            self.groups_created += 1
            ranks = tuple(int(r) for r in get_process_group_ranks(group))
            self.agent.send(GroupCreated(self.agent.rank, self.test, str(name), ranks, _backend_name(group)))

    def _begin_group(
        self, parameters: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> GroupBegun | None:
        """Announces a group before its members wait for each other. Returns None where torch's arguments aren't the
        known ones.
        """
        try:
            asked = parameters.bind(*args, **kwargs).arguments
            ranks = tuple(int(r) for r in asked["global_ranks_in_group"] or ())
            name, size, group_rank = str(asked["group_name"]), int(asked["group_size"]), asked["group_rank"]
            scope, known = "", True
            if not ranks and size not in (-1, self._launched):
                scope, known = _world_name(asked["store"], self.agent.rank)
            default = not ranks and asked.get("group_desc") == "default_pg"
            member = not ranks or (group_rank is not None and group_rank >= 0)
            number = None if group_rank is None or group_rank < 0 else int(group_rank)
            known_fields = name, ranks, size if known else 0, member, scope, default, number
            begun = GroupBegun(self.agent.rank, self.test, *known_fields, *_asked_at())
        except Exception as e:
            self._missing(EvidenceSource.GROUP_MEMBERS, e)
            return None
        if default:
            self._default_size = size
        self.agent.send(begun)
        self.issued.hearing.made(begun.name)
        return begun

    def _announce(self, result: Any, begun: GroupBegun | None) -> None:
        group = result[0] if isinstance(result, tuple) else result
        name = getattr(group, "group_name", None)
        if name is None:  # this rank is not a member
            return
        backend = _backend_name(group)
        ranks = begun.ranks if begun is not None else ()
        self.agent.send(GroupCreated(self.agent.rank, self.test, str(name), ranks, backend))
        if not self._device_sent and is_nccl(backend):
            self._device_sent = True
            Lookout(lambda: self.agent.epoch_s, self._send_own_record, self._unrecorded).start()
            try:
                self._send_device()
            except Exception as e:
                self._missing("device", e)

    def _send_device(self) -> None:
        import torch

        index = torch.cuda.current_device()
        device = torch.cuda.get_device_properties(index)
        self.agent.send(DeviceUsed(self.agent.rank, index, str(device.name), f"GPU-{device.uuid}"))

    def _before_destruction(self, destroy: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(destroy)
        def destroyed(group: Any = None, *args: Any, **kwargs: Any) -> Any:
            try:
                self._send_before_destruction(group)
            except Exception as e:
                self.issued.lose()
                self._missing(EvidenceSource.FLIGHT_RECORDER, e)
            with contextlib.suppress(Exception):
                self.check_recorders()
            return destroy(group, *args, **kwargs)

        return destroyed

    def _send_before_destruction(self, group: Any) -> None:
        whole = group is None or group is _world_group()
        if whole and not group_exists():  # torch says so; who leaves none has left no more worlds than its peers
            return
        ending = None if whole else _group_name(group)
        origin = FlightOrigin.DESTROY if whole else FlightOrigin.FINISH
        self._send_flight_record(origin, SENT_ENTRIES if whole else 1, ending)
        if whole:
            self.issued.restart()

    def _around_backward(self) -> contextlib.AbstractContextManager[object]:
        """Returns a context with room for what DDP's reducer issues in a backward pass, which
        passes through no Python.
        """
        return self.issued.burst() if group_exists() else contextlib.nullcontext()

    def counters(self) -> Counters:
        """Returns the collectives counted since each group's beginning; cheap."""
        _, status = read_recorders(self.agent.epoch_s, 0)
        return {s.pg: (s.enqueued, s.completed) for s in status}

    def send_flight_record(self, origin: FlightOrigin, at_s: float | None = None) -> None:
        """Sends the newest entries, as of that time."""
        self._send_flight_record(origin, SENT_ENTRIES, at_s=at_s)

    def finished(self) -> tuple[dict[str, str], int]:
        """Sends the newest collective of a finished test, if there was any. Returns the digests of all of them, and how
        many of them nothing is known of.
        """
        if self.issued.behind():
            self._send_flight_record(FlightOrigin.FINISH, 1)
        elif self.issued.may_hide():
            self.issued.take()
        digests = self._comparable(self.issued.end())
        return digests, self.issued.missed

    def _send_flight_record(
        self, origin: FlightOrigin, newest: int, ending: str | None = None, at_s: float | None = None
    ) -> None:
        """Sends the newest entries, with the digests of groups that end (`ending`, or all of them)."""
        try:
            if (taken := self.issued.take()) is None:
                return
            entries, status = read_dumps(taken, self.agent.epoch_s, newest)
        except Exception as e:
            self.issued.lose()
            self._missing(EvidenceSource.FLIGHT_RECORDER, e)
            return
        ended = self.issued.end(ending) if origin is FlightOrigin.DESTROY or ending is not None else {}
        if entries or status or origin is FlightOrigin.DESTROY:
            fact = FlightRecorded(
                self.agent.rank, self.test, origin, entries[-newest:], status, tuple(self._comparable(ended).items())
            )
            self.agent.send(fact, at_s, hold=True)

    def _comparable(self, digests: dict[str, str]) -> dict[str, str]:
        """Returns the digests that other ranks must have as well. A default group of another size than the world is one
        of several (trainers and workers, a world of one in every process): their groups have names in common, and
        nothing else. So theirs count as lost, except in a world of one, which has no peers.
        """
        if self._default_size == self._launched:
            return digests
        if self._default_size != 1:
            self.issued.miss(len(digests))
        return {}

    def _send_own_record(self, seen: Read) -> None:
        self.agent.send(FlightRecorded(self.agent.rank, self.test, FlightOrigin.OWN, *seen))

    def _unrecorded(self, backend: str) -> None:
        self._missing(
            EvidenceSource.FLIGHT_RECORDER, LookupError(f"{backend} has issued collectives that torch did not record")
        )

    def _handles(self, error: Error | None, propagates: bool, is_known: bool) -> None:
        self.agent.send(Handles(self.agent.rank, self.test, error, propagates, is_known))

    def check_recorders(self) -> None:
        """Reports, after a test, a backend that has issued collectives that no recorder has."""
        if self._device_sent and (backend := unrecorded()):
            self._unrecorded(backend)

    @contextlib.contextmanager
    def first_forwards(self) -> Iterator[None]:
        """Sends the first forwards of modules in this block."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(first_forward.watching(self._forwarded))
            except Exception as e:
                self._missing("first_forward", e)
            yield

    def _forwarded(self, name: str, seconds: float) -> None:
        if self.test is not None:
            origin = ForwardOrigin.AUTOMATIC
            self.agent.send(FirstForward(self.agent.rank, self.test, name, round(seconds, 6), origin))

    def _dropped(self, kernel: str, dropped: tuple[str, ...], limit_bytes: int, kept: bool) -> None:
        if self.test is not None:
            self.agent.send(ConfigsDropped(self.agent.rank, self.test, kernel, dropped, limit_bytes, kept))

    def send_compiled(self) -> None:
        """Sends what this test compiled, when it compiled anything."""
        if self.test is not None and (compiled := self.compile_counts.compiled(self.agent.rank, self.test)) is not None:
            self.agent.send(compiled, hold=True)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps out of stderr what torch writes at every start of the server."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _shared_memory_bytes() -> int:
    """Returns the most bytes of shared memory that a block may have on this rank's device."""
    import torch

    device: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    return int(device.shared_memory_per_block_optin)


def _backend_name(group: Any) -> str:
    backend = device_backend(group) if on_cuda() else None
    return str((group if backend is None else backend).name())


def _capturing() -> Callable[[], bool]:
    """Returns a function that tells whether the current stream is captured."""
    if not on_cuda():
        return lambda: False
    import torch

    def capturing() -> bool:
        try:
            return bool(torch.cuda.is_current_stream_capturing())
        except Exception:  # a torch without CUDA
            return False

    return capturing


def _group_name(group: Any) -> str:
    """Returns the group's name; empty where it has none, as torch reports when it is asked to destroy it."""
    try:
        return str(group.group_name)
    except Exception:  # whatever the test passed
        return ""


def _world_name(store: Any, rank: int) -> tuple[str, bool]:
    """Returns the name that all members of a default group share which isn't the whole launch, and whether it is known:
    whoever asks the group's store first names it. Without an answer the rank has a name of its own, and who else may
    come to the world will not be known.
    """
    alone = f"{rank}-{uuid.uuid4().hex[:8]}"
    try:
        return str(store.compare_set("pytest_megacpp/world", "", alone).decode()), True
    except Exception:  # a store may know no such operation
        return alone, False


def _asked_at() -> tuple[str, int]:
    """Returns file and line of the user's code that is being run; no file where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        at = Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        if is_users(at):
            return ending(at.file, FILE_CHARS), at.line
        frame = frame.f_back  # type: ignore[assignment]
    return "", 0


def _world_group() -> Any:
    import torch.distributed as dist

    return dist.group.WORLD
