"""Owns the far end of a connection to a box (decision 0101): starts it where the desk asks for that, lets the desk
follow it, and lets go of it when the desk is gone; must not know what carries the connection, nor a run.

The box lives in `lease`, a process of a session of its own, so that it survives whatever ends this one by a signal, and
ends in order. `tied`: it ends with this connection. Otherwise it lives on its lease, and a later connection finds it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pytest_megacpp.box.host import process
from pytest_megacpp.box.remote.control import Control, Desk
from pytest_megacpp.box.remote.follow import SILENT_S, follow
from pytest_megacpp.box.remote.tidy import LOOSE, TIED, tidy

ENDED_S = 60.0  # for a box that was let go to end in order
FORCED_S = 5.0
LOOK_S = 0.5
HOLDER = "holder.json"
RUN_VARIABLE = "MEGACPP_RUN_ID"  # every process of a run has it


def main(request: Mapping[str, Any], home: str, place: str) -> int:
    """Carries out what the desk wants: `start` a box and follow it, or `follow` one from `offset` on. `place` is where
    process ids mean the same as here.
    """
    run = Path(home) / "run"
    control = Control(run)
    control.directory.mkdir(parents=True, exist_ok=True)
    process.adopt_orphans()
    lease = _start(request, Path(home), place) if request["wish"] == "start" else None
    print("#started {}", flush=True)
    tether = Tether(Path(home), place, control, lease, tied=bool(request["tied"]))
    return tether.serve(int(request["offset"]))


def _start(request: Mapping[str, Any], home: Path, place: str) -> "subprocess.Popen[bytes]":
    start = home / "package" / "pytest_megacpp" / "box" / "remote" / "start.py"
    arguments = (
        str(home / "plan.json"),
        str(home / "run"),
        str(request["lease_s"]),
        "",
        TIED if request["tied"] else LOOSE,
    )
    with (home / "lease.log").open("wb") as log:
        lease = subprocess.Popen(
            [sys.executable, str(start), "remote.lease", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=home,
            env={**os.environ, RUN_VARIABLE: str(request["run"])},
            start_new_session=True,
        )
    (home / HOLDER).write_text(
        json.dumps({"place": place, "pid": lease.pid, "tied": request["tied"]}), encoding="utf-8"
    )
    return lease


class Tether:
    """`lease` is None where another connection started the box."""

    def __init__(
        self, home: Path, place: str, control: Control, lease: "subprocess.Popen[bytes] | None", *, tied: bool
    ) -> None:
        self._home = home
        self._place = place
        self._control = control
        self._lease = lease
        self._tied = tied
        self._is_let_go = False
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sig, lambda *_: self._let_go())
        self._desk = Desk(control)
        threading.Thread(target=self._watch, daemon=True).start()

    def serve(self, offset: int) -> int:
        """Returns 0 when the desk has everything."""
        left = 1
        with contextlib.suppress(OSError):  # the connection broke
            left = follow(self._home / "run", offset, self._control, self._is_desk_gone)
        if left and not self._tied:
            return left  # the box goes on
        self._let_go()
        self._wait_for_the_end()
        return left

    def _is_desk_gone(self) -> bool:
        if self._is_let_go and not self._tied:
            return True
        return self._desk.is_gone or time.monotonic() - self._desk.heard_s > SILENT_S

    def _watch(self) -> None:
        """Looks after what `serve` can't see while it writes to a connection that takes nothing: the desk, and a lease
        that was killed.
        """
        while not self._is_desk_gone():
            self._note_a_dead_lease()
            time.sleep(LOOK_S)
        if self._tied:
            self._let_go()
            self._wait_for_the_end()
        else:
            time.sleep(FORCED_S)
        os._exit(1)

    def _note_a_dead_lease(self) -> None:
        """Says in its place that the box has ended, once that is so: a box ends in order when its lease is killed."""
        if self._control.ended() is not None or self._is_held():
            return
        if self._lease is None or not process.descendants(os.getpid()):
            with contextlib.suppress(OSError):
                self._control.say_ended(128 + signal.SIGKILL)

    def _is_held(self) -> bool:
        """Whether the lease is held, as far as that can be seen from here."""
        if self._lease is not None:
            return self._lease.poll() is None
        try:
            holder = json.loads((self._home / HOLDER).read_text(encoding="utf-8"))
            return bool(holder["place"] != self._place or process.is_alive(int(holder["pid"])))
        except (OSError, ValueError, TypeError, KeyError):
            return True

    # -- letting go ----------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """The lease sees the end of its input; only a tied one minds."""
        self._is_let_go = True
        stdin: IO[bytes] | None = self._lease.stdin if self._lease is not None else None
        if stdin is not None:
            with contextlib.suppress(OSError):
                stdin.close()

    def _wait_for_the_end(self) -> None:
        """Of all that this connection started: where this process is the first of a container or a job, its end is
        theirs.
        """
        if self._lease is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._lease.wait(ENDED_S)
        deadline = time.monotonic() + FORCED_S
        while (left := process.descendants(os.getpid())) and time.monotonic() < deadline:
            process.end_all(p.pid for p in left)
            process.reap_strays()
            time.sleep(0.02)
        tidy(self._home, keep_records=not self._tied)
