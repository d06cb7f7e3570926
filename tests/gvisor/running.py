"""Owns a command under gVisor from its start to its end: streams through pipes, signals, status; leaves no sandbox."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from pytest_megacpp.box.host import process
from tests.gvisor.builds import Build
from tests.gvisor.sandbox import Files, Job, Sandbox

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHUNK_BYTES = 1 << 16
_PATIENCE_S = 5.0


def environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This process's own, with the commands of this Python's installation first."""
    path = os.pathsep.join((os.path.dirname(sys.executable), given.get("PATH", os.defpath)))
    return {**given, "PATH": path}


@contextlib.contextmanager
def sandboxed(build: Build, job: Job, files: Files) -> Iterator["tuple[Sandbox, subprocess.Popen[bytes]]"]:
    """A running sandbox, its output in pipes: gVisor writes to a file of this machine from its beginning, always.

    Nothing of it is left, whatever happens in between: the kernel ends `runsc run` with this process, and with
    `runsc run` the sandbox.
    """
    sandbox = Sandbox(build, Path(tempfile.mkdtemp(prefix="megacpp-runsc-")))
    child: subprocess.Popen[bytes] | None = None
    try:
        sandbox.describe(job, files)
        child = subprocess.Popen(
            sandbox.run(files),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=process.die_with_parent,
        )
        yield sandbox, child
    finally:
        if child is not None:
            child.kill()
            child.wait()
        sandbox.forget()


def run(build: Build, job: Job, files: Files) -> int:
    """Runs a job with this process's output and signals; its exit status, as a shell counts it."""
    with sandboxed(build, job, files) as (sandbox, child), _signals_passed_on(sandbox, child):
        pumps = [_pump(child.stdout, sys.stdout.buffer), _pump(child.stderr, sys.stderr.buffer)]
        status = child.wait()
        for pump in pumps:
            pump.join()
    return status if status >= 0 else 128 - status


def _pump(source: IO[bytes] | None, sink: IO[bytes]) -> threading.Thread:
    assert source is not None
    thread = threading.Thread(target=_copy, args=(source.fileno(), sink))
    thread.start()
    return thread


def _copy(source: int, sink: IO[bytes]) -> None:
    """To the source's end, even when nobody reads the sink any more: a full pipe would stop the sandbox."""
    while data := os.read(source, _CHUNK_BYTES):
        with contextlib.suppress(OSError):
            sink.write(data)
            sink.flush()


@contextlib.contextmanager
def _signals_passed_on(sandbox: Sandbox, child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """`runsc run` itself would end by them, and the sandbox with it, before its tests report anything."""

    def pass_on(number: int, frame: object) -> None:
        if not _succeeds(sandbox.signal(number)):
            child.kill()  # a sandbox that did not come up, or hangs

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _succeeds(command: Sequence[str]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, timeout=_PATIENCE_S).returncode == 0
    return False
