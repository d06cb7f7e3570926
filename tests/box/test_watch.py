"""What a look at a rank costs when the rank doesn't answer, and whose CPU time counts as its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.box.host.process import Stat, stat, sum_by_session
from pytest_megacpp.box.look import watch as watching
from pytest_megacpp.box.look.watch import ProcessTable, RankWatch, Target
from pytest_megacpp.recording.events import Capability, Fact, Sampled, StackTaken


@pytest.fixture
def stopped() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"]) as child:
        os.kill(child.pid, signal.SIGSTOP)
        while (seen := stat(child.pid)) is not None and seen.state != "T":
            pass
        yield child.pid
        child.kill()


def test_a_stopped_process_is_not_asked_for_what_it_can_not_answer(
    stopped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question would cost its time-out, and a verdict has two seconds."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no py-spy
    facts: list[Fact] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "rank.sock"))
        server.listen()
        server.setblocking(False)
        logs = str(tmp_path / "stdout.log"), str(tmp_path / "stderr.log")
        target = Target(3, stopped, str(tmp_path / "rank.sock"), logs)
        looking = RankWatch(target, ProcessTable(), 0.0, facts.append)
        looking.evidence(0, stack=True)
        looking.stack(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    sample, *stacks = facts
    assert isinstance(sample, Sampled)
    assert (sample.state, sample.answered) == ("T", False)
    assert [f.method for f in stacks if isinstance(f, StackTaken) and not f.ok] == [
        "py-spy",
        "faulthandler",
        "traceback",
    ]


def test_a_stopped_process_is_seen_by_py_spy_without_its_command_line(
    stopped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "py-spy"
    spy.write_text("#!/bin/sh\nprintf 'Process 7: python -c x\\nPython v3\\n\\nThread 7 (idle)\\n    f (/a.py:3)\\n'\n")
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    facts: list[Fact] = []
    target = Target(3, stopped, str(tmp_path / "gone.sock"), ("", ""))
    RankWatch(target, ProcessTable(), 0.0, facts.append).evidence(0, stack=True)
    (taken,) = (f for f in facts if isinstance(f, StackTaken))
    assert (taken.method, taken.text) == ("py-spy", "Thread 7 (idle)\n    f (/a.py:3)\n")


def test_cpu_time_of_sessions_that_a_rank_started_is_its_own() -> None:
    """A compiler's pool may lead a session of its own."""
    processes = [
        Stat(1, "S", 0, 1, 1, 1.0),
        Stat(10, "S", 1, 10, 10, 2.0),  # a rank
        Stat(11, "S", 10, 10, 10, 4.0),
        Stat(20, "S", 11, 20, 20, 8.0),  # a pool, started by the rank's child
        Stat(30, "S", 20, 30, 30, 16.0),
        Stat(40, "S", 1, 40, 40, 32.0),  # another rank
        Stat(51, "S", 99, 50, 50, 64.0),  # its leader is gone
    ]
    assert sum_by_session(processes, lambda p: p.cpu_s) == {1: 63.0, 10: 30.0, 20: 24.0, 30: 16.0, 40: 32.0, 50: 64.0}


def test_processes_that_claim_to_be_each_others_parents_are_counted_once() -> None:
    circle = [Stat(1, "S", 2, 1, 1, 1.0), Stat(2, "S", 1, 2, 2, 2.0)]
    assert sum_by_session(circle, lambda p: p.cpu_s) == {1: 3.0, 2: 3.0}


def test_processes_are_read_often_and_searched_for_rarely(stopped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []
    search = process.descendants

    def counted(root: int) -> list[Stat]:
        searches.append(root)
        return search(root)

    monkeypatch.setattr(process, "descendants", counted)
    monkeypatch.setattr(watching, "READ_S", -1.0)
    monkeypatch.setattr(watching, "SEARCH_S", 1000.0)
    table = ProcessTable()
    assert table.look(stopped).state == "T"
    os.kill(stopped, signal.SIGCONT)
    while table.look(stopped).state == "T":
        pass
    assert len(searches) == 1
    with subprocess.Popen(["sleep", "600"]) as another:  # a rank of the next world is found at once
        assert table.look(another.pid).state in "SRD"
        another.kill()
    assert len(searches) == 2


def test_somebody_below_a_rank_who_waits_for_a_disk_is_seen(tmp_path: Path) -> None:
    """As who reads a file does, so does a process whose child has not come to its program yet."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    spawn = f"os.posix_spawn('/bin/true', ['true'], {{}}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, {str(pipe)!r}, 0, 0)])"
    rank = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; ' + {spawn!r}])"
    table = ProcessTable()
    with subprocess.Popen([sys.executable, "-c", rank], start_new_session=True) as started:
        while (seen := table.look(started.pid)).disk_waits == 0:
            assert started.poll() is None
            time.sleep(0.01)
        assert seen.state == "S"
        pipe.open("wb").close()
    assert started.returncode == 0


def test_what_a_torch_can_not_answer_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*asked: object, **more: object) -> bytes:
        raise OSError("404")

    monkeypatch.setattr(watching, "ask", silent)
    monkeypatch.setattr(watching, "handlers", lambda path: ("ping", "fr_trace_json"))
    facts: list[Fact] = []
    logs = str(tmp_path / "stdout.log"), str(tmp_path / "stderr.log")
    looking = RankWatch(Target(3, os.getpid(), "", logs), ProcessTable(), 0.0, facts.append)
    looking.look(0)
    looking.look(0)
    assert [f for f in facts if isinstance(f, Capability)] == [
        Capability("wait_counters", False, "torch's worker server has no wait_counter_values", 3),
        Capability("traceback", False, "torch's worker server has no dump_traceback", 3),
    ]
    monkeypatch.setattr(watching, "handlers", silent)
    facts.clear()
    RankWatch(Target(3, os.getpid(), "", logs), ProcessTable(), 0.0, facts.append).look(0)
    assert not [f for f in facts if isinstance(f, Capability)]


@pytest.mark.parametrize(("nccl", "said"), [(True, ["flight_recorder"]), (False, [])], ids=["devices", "dry-run"])
def test_devices_without_a_recorder_of_nccl_are_a_missing_source(
    nccl: bool, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watching, "ask", lambda *asked, **more: b"{}")
    cpu_only = ("ping", "fr_trace_json", "wait_counter_values", "dump_traceback")
    monkeypatch.setattr(watching, "handlers", lambda path: cpu_only)
    facts: list[Fact] = []
    logs = str(tmp_path / "stdout.log"), str(tmp_path / "stderr.log")
    RankWatch(Target(3, os.getpid(), "", logs, nccl), ProcessTable(), 0.0, facts.append).look(0)
    assert [f.name for f in facts if isinstance(f, Capability)] == said
