"""Owns the box on this machine: a process of its own session, followed by its recording; must not know tests.

The box's standard input is the lease: when the desk dies, by whatever, the kernel closes it and the box ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from pytest_megacpp.box.host import process
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.commands import Word, word_line
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Plan, Stop
from pytest_megacpp.recording.vocabulary import ProblemCode, RunEnd
from pytest_megacpp.surfaces.box_end import problem_of
from pytest_megacpp.surfaces.local.stopped_box import STOPPED_S, StoppedBoxWatch
from pytest_megacpp.surfaces.protocol import Address, Ended, SurfaceFailed
from pytest_megacpp.surfaces.sweep import RUN_VARIABLE, processes_of, sweep

STOP_S = 25.0  # the box's own grace periods together, and some
TERM_S = 5.0
LAST_WORDS_BYTES = 4_000
_NOT_FOR_THE_BOX = (
    *("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"),
    *("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"),
)


class LocalSurface:
    """Runs boxes on this machine, with this interpreter."""

    def start(self, plan: Plan, run: Path) -> "LocalBox":
        plan_path, log_path = run / "plan.json", run / "box.log"
        process.keep_status_of_children()
        try:
            _write_for_us(plan_path, json.dumps(to_json(plan), indent=1))  # it has the configured secrets
            with log_path.open("wb") as log:
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pytest_megacpp.box", str(plan_path), str(run)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=plan.cwd,
                    env=_environment(plan.run_id),
                    start_new_session=True,
                )
        except OSError as e:
            raise SurfaceFailed(f"the box could not be started: {e}") from e
        return LocalBox(plan.run_id, child, run / "recording.jsonl", log_path)


def _write_for_us(path: Path, text: str) -> None:
    """A file that nobody else may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _environment(run_id: str) -> dict[str, str]:
    """The desk's, without what describes the desk's own process; the package stays importable."""
    kept = {k: v for k, v in os.environ.items() if k not in _NOT_FOR_THE_BOX and not _is_torch_s_own(k, v)}
    package_root = str(Path(__file__).resolve().parents[3])
    paths = [p for p in kept.get("PYTHONPATH", "").split(os.pathsep) if p]
    if package_root not in paths:
        kept["PYTHONPATH"] = os.pathsep.join([*paths, package_root])
    return {**kept, RUN_VARIABLE: run_id}


def _is_torch_s_own(name: str, value: str) -> bool:
    """Where something compiled in the desk's process, torch put its default cache into the environment: nobody chose
    that, and the box has a cache of its own.
    """
    default = os.path.join(tempfile.gettempdir(), "torchinductor_")
    return name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR") and value.startswith(default)


class LocalBox:
    """See `RunningBox`."""

    def __init__(self, run_id: str, child: "subprocess.Popen[bytes]", recording: Path, log: Path) -> None:
        self._run_id = run_id
        self._child = child
        self._recording = recording
        self._log = log
        self._file: IO[bytes] | None = None
        self._guard_died_s: float | None = None
        self._stopped_box = StoppedBoxWatch(child.pid)
        self._lost: Ended | None = None

    def read(self) -> bytes:
        if self._file is None:
            try:
                self._file = self._recording.open("rb")
            except FileNotFoundError:
                return b""
        return self._file.read(1 << 20)

    def ended(self) -> Ended | None:
        if self._lost is not None:
            return self._lost
        status = self._child.poll()
        if status is None:
            return self._lost_to_a_stop()
        if status < 0 and self._goes_on_alone():
            return None
        return Ended(problem_of(status, self._log_end()))

    def _lost_to_a_stop(self) -> Ended | None:
        """A box that was stopped for good is ended: nobody else would, and it would hold what it has."""
        stopped = self._stopped_box.look(time.monotonic())
        if stopped is None:
            return None
        self._kill()
        words = f"process {stopped} of the box was stopped (SIGSTOP) and stayed so for {STOPPED_S:g} s"
        remedy = "find out what stops processes here (kill -STOP, a job manager); kill -CONT in time lets a box go on"
        self._lost = Ended(ProblemFound(ProblemCode.BOX_LOST, "frozen", words, remedy))
        return self._lost

    def address(self) -> Address:
        return Address()

    def _log_end(self) -> str:
        """What the box wrote to its log last."""
        try:
            return self._log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace")
        except OSError:
            return ""

    def _goes_on_alone(self) -> bool:
        """A box whose guard was killed ends in order by itself, which takes as long as any end."""
        if self._guard_died_s is None:
            self._guard_died_s = time.monotonic()
        if time.monotonic() - self._guard_died_s > STOP_S:
            sweep(self._run_id)
        return bool(processes_of(self._run_id))

    def say(self, word: Word) -> None:
        stdin = self._child.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(OSError):
                stdin.write(word_line(word))
                stdin.flush()

    def stop(self, reason: RunEnd, why: str = "") -> None:
        self.say(Stop(reason, why=why))

    def end(self) -> None:
        if self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
        process.send(self._child.pid, signal.SIGCONT)  # a box that was stopped ends in order as well
        if not self._wait(STOP_S):
            process.send(self._child.pid, signal.SIGTERM)
            if not self._wait(TERM_S):
                self._kill()
        deadline = time.monotonic() + STOP_S + TERM_S
        while self.ended() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def _kill(self) -> None:
        process.end_all(p.pid for p in process.descendants(self._child.pid))
        process.end_all([self._child.pid])
        self._wait(TERM_S)
        sweep(self._run_id)

    def _wait(self, limit_s: float) -> bool:
        try:
            self._child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True
