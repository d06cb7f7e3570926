"""Owns a box far from its desk: starts the guard, holds its lease, keeps its records; must not know a network or a run.

`python -m pytest_megacpp.box.remote.lease PLAN DIRECTORY LEASE_S KEEP HOLD`. The desk speaks through its followers
(`follow`), or on standard input where none can be started. `LEASE_S` 0: the run is detached and needs no desk. `KEEP`
(a volume, or empty) gets the records. `HOLD` is for a machine that stays: what the box needed is removed at its end.
`tied`: the end of standard input ends the lease as well, because nobody else can find the box, and nothing is kept;
`loose`: others find it, and its records. The recording is repeated on standard output, without its bulk, for desks that
no follower can serve.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_megacpp.box.host import process
from pytest_megacpp.box.remote.control import Control, Desk
from pytest_megacpp.box.remote.tidy import LOOSE, TIED, tidy

POLL_S = 0.1
LINGER_S = 30.0  # for a listening desk to fetch the logs
LISTENING_S = 20.0  # a desk that was heard within this time is a living one
_BULK = (b'"kind":"sampled"', b'"origin":"poll"')


def main(plan: str, directory: str, lease_s: str, keep: str = "", hold: str = "") -> int:
    """Runs the guard under a lease. Returns the guard's exit status."""
    run = Path(directory)
    control = Control(run)
    control.directory.mkdir(parents=True, exist_ok=True)
    process.adopt_orphans()
    if float(lease_s) > 0:
        control.listening()
    desk = Desk(control)
    planned = json.loads(Path(plan).read_text(encoding="utf-8"))
    with (run / "box.log").open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("start.py")), "__main__", plan, directory],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=planned["cwd"],
            start_new_session=True,
        )

    def is_left() -> bool:
        return hold == TIED and desk.is_gone

    status = _watch(guard, control, float(lease_s), Echo(run / "recording.jsonl"), is_left)
    _clean(run / "box.log", planned.get("environment", {}))
    if keep:
        _keep(run, Path(keep))
    control.say_ended(status)
    _linger(control, min(LISTENING_S, float(lease_s) or LISTENING_S), is_left)
    if is_left() or hold == LOOSE:
        tidy(run.parent, keep_records=hold == LOOSE)
    return status


def _watch(
    guard: "subprocess.Popen[bytes]",
    control: Control,
    lease_s: float,
    echo: "Echo",
    is_left: Callable[[], bool],
) -> int:
    """Waits until the box has ended. A lease that ran out, nobody who `is_left`, and a signal, close the guard's input:
    the box ends in order.
    """
    assert guard.stdin is not None
    stdin = guard.stdin
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda *_: _close(stdin))
    told_bytes = 0
    while (status := guard.poll()) is None:
        if is_left() or (lease_s > 0 and control.lease_age_s() > lease_s):
            _close(stdin)
        words = control.words(told_bytes)
        if words and not stdin.closed:
            told_bytes += len(words)
            with contextlib.suppress(OSError):
                stdin.write(words)
                stdin.flush()
        echo.pass_on()
        time.sleep(POLL_S)
    echo.pass_on()
    return status if status >= 0 else 128 - status


def _close(stdin: object) -> None:
    with contextlib.suppress(OSError):
        stdin.close()  # type: ignore[attr-defined]


class Echo:
    """Repeats whole lines of the recording on standard output, except the facts that polls add."""

    def __init__(self, recording: Path) -> None:
        self._recording = recording
        self._offset = 0
        self._broken = False

    def pass_on(self) -> None:
        if self._broken:
            return
        try:
            with self._recording.open("rb") as file:
                file.seek(self._offset)
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return
        for line in lines:
            if line.endswith(b"\n"):
                self._offset += len(line)
                self._say(line)

    def _say(self, line: bytes) -> None:
        if any(mark in line for mark in _BULK):
            return
        try:
            while line:
                line = line[os.write(1, line) :]
        except OSError:
            self._broken = True  # nobody keeps what is said here; the run goes on


def _clean(log: Path, configured: Mapping[str, str]) -> None:
    """Takes secrets out of what guard and box wrote, which is complete only when they have ended."""
    if log.exists() and log.stat().st_size:
        from pytest_megacpp.box.logs.redaction import redact_file
        from pytest_megacpp.recording.redact import Redactor

        redact_file(str(log), Redactor({**os.environ, **configured}))


def _keep(run: Path, keep: Path) -> None:
    """Copies the records into the run's own directory of a volume, each whole or not at all; what can't be copied costs
    no result. The recording comes last, so that whoever sees it sees everything.
    """
    try:
        for source in sorted(run.glob("ranks/*/*/*.log")):
            _copy(source, keep / source.relative_to(run))
        for name in ("box.log", "recording.jsonl"):
            if (run / name).exists():
                _copy(run / name, keep / name)
        os.sync()
    except OSError as e:
        print(f"the records could not be kept in {keep}: {e}", file=sys.stderr, flush=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, beside)
    beside.replace(target)


def _linger(control: Control, listening_s: float, is_left: Callable[[], bool]) -> None:
    """Gives a desk that still listens the time to fetch the logs."""
    deadline = time.monotonic() + LINGER_S
    while time.monotonic() < deadline and not control.fetched() and not is_left():
        if control.lease_age_s() >= listening_s:
            return
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
