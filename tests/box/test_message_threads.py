"""Which threads' CPU time is no progress of a test."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_megacpp.box.look.message_threads import NAMES, MessageThreads
from pytest_megacpp.box.look.watch import ProcessTable, RankWatch, Target
from pytest_megacpp.recording.events import Fact, Sampled

SPINNING = """
import ctypes, sys, threading, time

def spin():
    ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)  # PR_SET_NAME
    while time.thread_time() < 1.0:
        pass
    spun.set()
    threading.Event().wait()

spun = threading.Event()
threading.Thread(target=spin, daemon=True).start()
spun.wait()
print(time.process_time(), flush=True)
sys.stdin.read()
"""


def cpu_seen_s(name: str, tmp_path: Path) -> tuple[float, float]:
    """CPU seconds that a look reports of a process with a thread of that name that used one, and those it used."""
    command = [sys.executable, "-c", SPINNING, name]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child,
        socket.socket(socket.AF_UNIX) as server,
    ):
        assert child.stdout is not None
        used_s = float(child.stdout.readline())
        server.bind(str(tmp_path / "rank.sock"))  # nobody listens: the worker server doesn't answer
        facts: list[Fact] = []
        logs = (os.devnull, os.devnull)
        target = Target(0, child.pid, str(tmp_path / "rank.sock"), logs)
        looking = RankWatch(target, ProcessTable(), 0.0, facts.append)
        looking.evidence(0, stack=False)
        child.kill()
    (sample,) = facts
    assert isinstance(sample, Sampled)
    return sample.cpu_s, used_s


@pytest.mark.parametrize("name", ["TP_UV_loop", "pt_gloo_runloop", "pt_nccl_watchdg", "NCCL Progress 0"])
def test_threads_that_carry_messages_make_no_progress(name: str, tmp_path: Path) -> None:
    seen_s, used_s = cpu_seen_s(name, tmp_path)
    assert seen_s <= used_s - 0.9


@pytest.mark.parametrize("name", ["pt_autograd_0", "python", "torch_inductor"])
def test_threads_that_compute_do(name: str, tmp_path: Path) -> None:
    seen_s, used_s = cpu_seen_s(name, tmp_path)
    assert seen_s >= used_s - 0.1


def test_threads_of_a_process_that_is_gone_used_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    assert MessageThreads(child.pid).cpu_s() == 0.0


TORCH = """
import sys
import time
import torch.distributed as dist
from torch._C._distributed_c10d import _WorkerServer

store = dist.TCPStore("localhost", 0, 1, True)
server = _WorkerServer(sys.argv[1])
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
print("up", flush=True)
sys.stdin.read()
"""


def thread_names(pid: int) -> set[bytes]:
    """A thread may end meanwhile, and a new one has its maker's name for a moment."""
    found = set[bytes]()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found.add((task / "comm").read_bytes())
    return found


def test_the_threads_of_a_rank_that_waits_are_known_by_their_names(tmp_path: Path) -> None:
    """Their names are torch's, and may change with it."""
    command = [sys.executable, "-c", TORCH, str(tmp_path / "worker.sock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        of_main = Path(f"/proc/{child.pid}/comm").read_bytes()
        deadline, names = time.monotonic() + 30, set[bytes]()
        while not (any(b"gloo" in n for n in names) and any(b"workerserver" in n for n in names)):
            assert time.monotonic() < deadline, names
            names = thread_names(child.pid)
        child.kill()
    assert {n for n in names if not n.startswith(NAMES)} == {of_main}
