"""Owns looking at ranks from outside while a test runs: one thread per rank, facts out; must not decide anything.

A look is at most every 0.1 s and becomes rarer as a test gets older (5 % of its age, at most 1 s), so watching
costs a long test next to nothing. Only changes are reported.
"""

import contextlib
import linecache
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pytest_megacpp.box.host import loopback, process
from pytest_megacpp.box.look.flight_recorders import Recorders
from pytest_megacpp.box.look.message_threads import MessageThreads
from pytest_megacpp.box.look.probe import ask, handlers, read_wait_counters
from pytest_megacpp.recording.events import (
    Capability,
    Fact,
    FlightRecorded,
    Sampled,
    StackTaken,
)
from pytest_megacpp.recording.flight import Read
from pytest_megacpp.recording.stacks import main_thread
from pytest_megacpp.recording.texts import beginning
from pytest_megacpp.recording.views import FROZEN_STATES
from pytest_megacpp.recording.vocabulary import EvidenceSource, FlightOrigin, StackMethod

FASTEST_S = 0.1
READ_S, SEARCH_S = 0.05, 1.0
SLOWEST_S = 1.0
STACK_S = 1.0
SILENT_S = 3.0  # an interpreter that didn't answer isn't asked again at once
EVIDENCE_ENTRIES = 128
SOURCE_CHARS = 200
MAX_DUMP_BYTES = 2 << 20  # faulthandler writes at most 100 threads of 100 frames, 1.2 MB with long paths

_HANDLERS = {
    EvidenceSource.FLIGHT_RECORDER: "fr_trace_json",
    EvidenceSource.WAIT_COUNTERS: "wait_counter_values",
    EvidenceSource.TRACEBACK: "dump_traceback",
}

Report = Callable[[Fact], None]
Means: TypeAlias = tuple[tuple[StackMethod, Callable[[], str]], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A rank as seen from outside. `logs` are its stdout and stderr files."""

    rank: int
    pid: int
    worker: str
    logs: tuple[str, str]
    nccl: bool = False


@dataclass(frozen=True, slots=True)
class TreeLook:
    """The state letter of a process, the CPU seconds of its session and of those started from it, and how many
    processes there waited for a disk.
    """

    state: str = "?"
    cpu_s: float = 0.0
    disk_waits: int = 0


class ProcessTable:
    """What process trees use, read at most every 50 ms for all ranks together. Going through all processes of the
    machine takes milliseconds, so new ones are looked for once a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_s = 0.0
        self._searched_s = 0.0
        self._members: tuple[int, ...] = ()
        self._looks: dict[int, TreeLook] = {}

    def look(self, pid: int) -> TreeLook:
        with self._lock:
            now_s = time.monotonic()
            if pid not in self._members:
                self._searched_s = float("-inf")
            self._search(now_s)
            if now_s - self._read_s > READ_S:
                self._read()
            return self._looks.get(pid, TreeLook())

    def processes(self) -> list[process.Stat]:
        """Returns the box's descendants as of the last search, at most a second ago."""
        with self._lock:
            self._search(time.monotonic())
            return [stat for pid in self._members if (stat := process.stat(pid)) is not None]

    def _search(self, now_s: float) -> None:
        """Searches for descendants where that is due. The caller holds the lock."""
        if now_s - self._searched_s > SEARCH_S:
            self._members = tuple(p.pid for p in process.descendants(os.getpid()))
            self._searched_s, self._read_s = now_s, 0.0

    def _read(self) -> None:
        processes = [stat for pid in self._members if (stat := process.stat(pid)) is not None]
        cpu_s = process.sum_by_session(processes, lambda p: p.cpu_s)
        waits = process.sum_by_session(processes, lambda p: p.waits_for_disk)
        self._looks = {p.pid: TreeLook(p.state, cpu_s.get(p.pid, 0.0), int(waits.get(p.pid, 0))) for p in processes}
        self._read_s = time.monotonic()


class RankWatch(threading.Thread):
    """Polls one rank. `report` is called from this thread."""

    def __init__(self, target: Target, table: ProcessTable, epoch_s: float, report: Report) -> None:
        super().__init__(name=f"watch-{target.rank}", daemon=True)
        self.target = target
        self._table = table
        self._recorders = Recorders(target.worker, target.nccl, epoch_s)
        self._message_threads = MessageThreads(target.pid)
        self._report = report
        self._test: int | None = None
        self._since_s = 0.0
        self._wake = threading.Event()
        self._is_poll_due = threading.Event()
        self._looking = threading.Lock()
        self._silent_s = 0.0
        self._stopped = False
        self._seen: Sampled | None = None
        self._last: tuple[object, ...] = ()
        self._examined = False

    def begin(self, test: int, epoch_s: float) -> None:
        self._recorders.epoch_s = epoch_s
        self._test, self._since_s = test, time.monotonic()
        self._seen, self._last = None, ()
        self._wake.set()

    def poll_soon(self) -> None:
        """Looks soon, and often again, as in a young test: something happened."""
        self._since_s = time.monotonic()
        self._is_poll_due.set()

    def pause(self) -> None:
        self._test = None
        self._wake.clear()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        while True:
            self._wake.wait()
            if self._stopped:
                return
            self._is_poll_due.clear()
            since_s, test = self._since_s, self._test
            self._is_poll_due.wait(min(SLOWEST_S, max(FASTEST_S, 0.05 * (time.monotonic() - since_s))))
            if test is not None and (test, since_s) == (self._test, self._since_s) and not self._stopped:
                self.look(test)

    def look(self, test: int) -> None:
        """Looks once: state, counters, collectives."""
        with self._looking:
            self._examine()
            sample = self._sample(test)
            if sample != self._seen:
                self._seen = sample
                self._report(sample)
            if sample.answered:
                self._look_at_collectives(test)

    def _examine(self) -> None:
        """Records once what this torch's worker server can't answer, since verdicts are less certain without it."""
        if self._examined:
            return
        try:
            known = handlers(self.target.worker)
        except OSError:
            return
        self._examined = True
        for source, handler in _HANDLERS.items():
            if handler not in known:
                detail = f"torch's worker server has no {handler}"
                self._report(Capability(source, False, detail, self.target.rank))
        if lacking := self._recorders.learn(known):
            self._report(Capability(EvidenceSource.FLIGHT_RECORDER, False, lacking, self.target.rank))

    def _sample(self, test: int | None) -> Sampled:
        tree = self._table.look(self.target.pid)
        answered, compile_s = tree.state not in FROZEN_STATES, 0.0
        compiling: tuple[str, ...] = ()
        try:
            if answered:
                compiling, compile_s = read_wait_counters(ask(self.target.worker, "wait_counter_values"))
        except (OSError, ValueError):
            answered = False
        main = process.main_thread(self.target.pid)
        return Sampled(
            rank=self.target.rank,
            test=test,
            answered=answered,
            state=tree.state,
            compiling=compiling,
            compile_s=round(compile_s, 3),
            cpu_s=round(max(0.0, tree.cpu_s - self._message_threads.cpu_s()), 2),
            main_cpu_s=round(main.cpu_s, 2),
            output_bytes=sum(_size(path) for path in self.target.logs),
            main_runs=main.runs,
            packets=loopback.packets() if main.runs is None else None,
            disk_waits=tree.disk_waits,
        )

    def _look_at_collectives(self, test: int) -> None:
        try:
            entries, status = self.flight_record()
        except (OSError, ValueError):
            return
        newest = {e.group: e for e in entries}.values()
        kept = tuple(dict.fromkeys([*(e for e in entries if not e.done), *newest]))
        if (kept, status) != self._last:
            self._last = (kept, status)
            self._report(FlightRecorded(self.target.rank, test, FlightOrigin.POLL, kept, status))

    def flight_record(self) -> Read:
        """Returns the newest entries and the status of each group. Raises OSError or ValueError."""
        return self._recorders.read()

    def evidence(self, test: int | None, *, stack: bool) -> None:
        """Reports everything that can be learnt of this rank before it is ended: counters, collectives, its stack. One
        whose server is silent isn't asked twice: its time-outs would add up.
        """
        sample = self._sample(test)
        self._report(sample)
        if sample.answered:
            self._flight_recorder(FlightOrigin.EVIDENCE, test)
        if stack:
            self._stack(test, self._means[0 if sample.answered else 1 :])

    def _flight_recorder(self, origin: FlightOrigin, test: int | None) -> None:
        try:
            entries, status = self.flight_record()
        except (OSError, ValueError):
            return
        if entries or status:
            kept = entries[-EVIDENCE_ENTRIES:]
            self._report(FlightRecorded(self.target.rank, test, origin, kept, status))

    def last_look(self) -> None:
        """Reports the collectives of a process that stands still in a crash (decision 0007)."""
        self._flight_recorder(FlightOrigin.FAILURE, self._test)

    def stack(self, test: int | None) -> None:
        """Reports the stack that the worker server answers with, which perturbs nothing."""
        self._stack(test, self._means[:1])

    def stack_now(self) -> None:
        """Reports the stack, in the test that runs or between tests, without a signal."""
        self._stack(self._test, self._means[:2])

    @property
    def _means(self) -> Means:
        """The ways to get a stack, a signal last."""
        return (
            (StackMethod.TRACEBACK, self._traceback),
            (StackMethod.PY_SPY, self._pyspy),
            (StackMethod.FAULTHANDLER, self._signal),
        )

    def _stack(self, test: int | None, means: Means) -> None:
        """Reports the first of the stacks that can be had."""
        for method, take in means:
            text = take()
            self._report(StackTaken(self.target.rank, test, method, bool(text), text, _innermost_line(text)))
            if text:
                return

    def _stands_still(self) -> bool:
        """Returns whether the process answers nobody, so that asking only costs a time-out."""
        return self._table.look(self.target.pid).state in FROZEN_STATES

    def _traceback(self) -> str:
        if self._stands_still() or time.monotonic() - self._silent_s < SILENT_S:
            return ""
        try:
            return ask(self.target.worker, "dump_traceback", STACK_S).decode(errors="replace")
        except OSError:
            self._silent_s = time.monotonic()
            return ""

    def _pyspy(self) -> str:
        """Returns py-spy's stack, empty where there is none. Full file names tell the user's code from libraries, which
        is why the worker server's own py-spy handler won't do.
        """
        command = ("py-spy", "dump", "--nonblocking", "--full-filenames", "--pid", str(self.target.pid))
        try:
            dump = subprocess.run(command, capture_output=True, timeout=2 * STACK_S, check=True).stdout
            head, _, stacks = dump.decode(errors="replace").partition("\n\n")  # the head is only a command line
            return stacks or head
        except (OSError, subprocess.SubprocessError):
            return ""

    def _signal(self) -> str:
        """Returns the stack that faulthandler writes to the rank's stderr on SIGUSR1; empty where it doesn't. The
        signal may interrupt a system call.
        """
        import signal

        if self._stands_still():
            return ""
        path = self.target.logs[1]
        before = _size(path)
        try:
            os.kill(self.target.pid, signal.SIGUSR1)
        except OSError:
            return ""
        deadline = time.monotonic() + STACK_S
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if _size(path) > before:
                time.sleep(0.05)
                break
        return _read_from(path, before)


class CrashWatch(threading.Thread):
    """Waits for a crash of one rank. Until its dump is read the process stands still, and can be looked at (decision
    0007). What comes beyond the longest dump is refused by closing the line.
    """

    def __init__(self, line: socket.socket, watch: RankWatch) -> None:
        super().__init__(name=f"crash-{watch.target.rank}", daemon=True)
        self._line = line
        self._watch = watch

    def run(self) -> None:
        if words := self._receive():
            self._watch.last_look()
        left = MAX_DUMP_BYTES
        while words and left > 0:
            words, left = words[:left], left - len(words)
            with contextlib.suppress(OSError), open(self._watch.target.logs[1], "ab") as log:
                log.write(words)
            words = self._receive()
        if words:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> bytes:
        try:
            return self._line.recv(1 << 16)
        except OSError:
            return b""


def _innermost_line(dump: str) -> str:
    thread = main_thread(dump)
    if thread is None or not thread.frames:
        return ""
    frame = thread.frames[0]
    return beginning(linecache.getline(frame.file, frame.line).strip(), SOURCE_CHARS)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _read_from(path: str, offset: int) -> str:
    try:
        with open(path, "rb") as f:
            f.seek(offset)
            return f.read(64_000).decode(errors="replace")
    except OSError:
        return ""
