"""What the box asks of the kernel about processes, and what it does where the kernel refuses."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
print(child.pid, child.stdout.readline().decode().strip(), flush=True)
sys.stdin.read()
"""
CHILD = """
import time
from pytest_megacpp.box.host import process
REFUSE
process.die_with_parent()
print("follows", flush=True)
time.sleep(600)
"""
REFUSED = "process.prctl = lambda option, argument: 'refused'"


@pytest.mark.parametrize("refuse", ["", REFUSED], ids=["by-the-kernel", "by-a-thread"])
def test_a_child_ends_with_its_parent(refuse: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.replace("REFUSE", refuse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid, said = parent.stdout.readline().split()
        assert said == "follows"
        assert process.is_alive(int(pid))
        parent.kill()
    deadline = time.monotonic() + 30
    while process.is_alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not process.is_alive(int(pid))


def by_default() -> None:
    """Whatever the shell that runs the tests has ignored."""
    for sig in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(sig, signal.SIG_DFL)


def test_prctl_says_what_the_kernel_says() -> None:
    assert process.prctl(-1, 0) == "Invalid argument"


@pytest.mark.parametrize("blocked", [False, True], ids=["ignored", "blocked"])
def test_signals_of_a_background_job_become_what_they_were(blocked: bool) -> None:
    """As `setsid nohup … &` leaves them in a shell that isn't interactive."""

    def as_the_shell_does() -> None:
        by_default()
        for sig in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
            if blocked:
                signal.pthread_sigmask(signal.SIG_BLOCK, {sig})
            else:
                signal.signal(sig, signal.SIG_IGN)

    code = (
        "from pytest_megacpp.box.host import process; import os, signal\n"
        "print(*process.default_signals())\n"
        "print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGPIPE))\n"
        "os.kill(os.getpid(), signal.SIGQUIT)"
    )
    ran = subprocess.run([sys.executable, "-c", code], preexec_fn=as_the_shell_does, capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["SIGCHLD SIGHUP SIGINT SIGQUIT", "", "True 1"]
    assert ran.returncode == -signal.SIGQUIT


def test_there_is_nothing_to_undo_in_an_ordinary_process() -> None:
    code = "from pytest_megacpp.box.host import process; print(process.default_signals())"
    ran = subprocess.run([sys.executable, "-c", code], preexec_fn=by_default, capture_output=True, text=True)
    assert ran.stdout == "()\n"


def test_the_main_thread_s_time_without_schedstat(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = process.main_thread(os.getpid())
    assert exact.runs is not None
    real_open = open

    hidden = ["schedstat"]

    def lacking(path: str, *arguments: object) -> object:
        if any(str(path).endswith(name) for name in hidden):
            raise FileNotFoundError(path)
        return real_open(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", lacking)
    counted = process.main_thread(os.getpid())
    time.sleep(0.01)
    again = process.main_thread(os.getpid())
    assert counted.runs is not None
    assert again.runs is not None
    assert again.runs > counted.runs
    hidden.append("status")
    by_ticks = process.main_thread(os.getpid())
    assert by_ticks.runs is None
    assert by_ticks.cpu_s == pytest.approx(exact.cpu_s, abs=0.1)


def test_a_kernel_that_counts_no_runs_has_the_file_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scheduler statistics it reads `0 0 0`."""
    real_open = open

    def counting_nothing(path: str, *arguments: object) -> object:
        return io.BytesIO(b"0 0 0\n") if str(path).endswith("schedstat") else real_open(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", counting_nothing)
    seen = process.main_thread(os.getpid())
    assert seen.runs
    assert seen.cpu_s > 0


def test_a_signal_without_a_name() -> None:
    assert process.signal_name(signal.SIGRTMIN + 1) == "SIGRTMIN+1"


def test_a_process_that_is_gone_has_used_nothing() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert process.main_thread(gone.pid) == process.ThreadTime(0.0, 0)
    assert process.stat(gone.pid) is None
    assert not process.is_alive(gone.pid)


def test_without_proc_nobody_is_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_fields_of", lambda path: None)
    monkeypatch.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert process.is_alive(os.getpid())
    assert not process.is_alive(gone.pid)
    assert process.all_processes() == []
    assert process.descendants(os.getpid()) == []


@pytest.mark.parametrize("kept", [False, True])
def test_the_status_of_a_child_is_kept_where_sigchld_was_ignored(kept: bool) -> None:
    code = (
        "import subprocess, sys; from pytest_megacpp.box.host import process\n"
        f"if {kept}: process.keep_status_of_children()\n"
        "print(subprocess.call([sys.executable, '-c', 'raise SystemExit(3)']))"
    )

    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    ran = subprocess.run([sys.executable, "-c", code], preexec_fn=ignore, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ("3" if kept else "0")


def test_a_fork_does_not_adopt_what_its_parent_adopts() -> None:
    code = (
        "from pytest_megacpp.box.host import process; import os\n"
        "process.adopt_orphans(); print(process.adopts_orphans(), flush=True)\n"
        "if os.fork() == 0: print(process.adopts_orphans(), flush=True)\n"
        "else: os.wait()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "None"]


def test_what_bears_a_mark_is_found(tmp_path: Path) -> None:
    marked = subprocess.Popen(["sleep", "600"], env={"MARK": str(tmp_path)})
    try:
        assert process.marked("MARK", str(tmp_path)) == [marked.pid]
    finally:
        marked.kill()
        marked.wait()
    assert process.marked("MARK", str(tmp_path)) == []
