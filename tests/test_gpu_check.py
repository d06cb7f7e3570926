"""Nothing that a step of `benchmarks/gpu_check.sh` started goes on using the GPU, after its limit or Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process

ROOT = Path(__file__).parents[1]
STEP = """
import os, subprocess, sys, time
def start(code):
    return subprocess.Popen([sys.executable, "-c", code])
orphan = "import os, time; os.setsid(); open(f'{os.getpid()}.pid', 'x'); time.sleep(300)"
start(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {orphan!r}])").wait()
start(orphan)
time.sleep(300)
"""
CHECK = """
import sys
from benchmarks.gpu_check import __main__ as check
check.STEPS = (check.Step("step", "starts and waits", float(sys.argv[1]), ("-c", sys.argv[2])),)
check.ROOT = check.Path.cwd()
del sys.argv[1:]
sys.exit(check.main())
"""


def started(directory: Path) -> list[int]:
    return [int(path.stem) for path in directory.glob("*.pid")]


def _hear_interrupts() -> None:
    """They are ignored where the tests were started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [None, signal.SIGINT, signal.SIGTERM], ids=["limit", "ctrl-c", "terminated"])
def test_processes_with_sessions_of_their_own_end_with_the_step(tmp_path: Path, sent: signal.Signals | None) -> None:
    limit_s = "6" if sent is None else "100"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OUT": str(tmp_path / "out")}
    command = [sys.executable, "-c", CHECK, limit_s, STEP]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, preexec_fn=_hear_interrupts
    ) as ran:
        deadline_s = time.monotonic() + 60
        while len(started(tmp_path)) < 2 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        if sent is not None:
            ran.send_signal(sent)
        ran.wait(60)
    pids = started(tmp_path)
    left = [pid for pid in pids if process.is_alive(pid)]
    process.end_all(left)
    assert (len(pids), left) == (2, [])
    assert ran.returncode != 0
