"""The harness takes away what it says, and nothing else: a probe finds its interface without the harness only."""

import subprocess
import sys

import pytest

from tests.kernel import lacking

_PRELUDE = """
import ctypes, errno, fcntl, os, signal, socket, subprocess, sys
from pytest_megacpp.box.host import loopback
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
def prctl(*arguments):
    if libc.prctl(*arguments, *(0,) * (5 - len(arguments))) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
"""
_PROBES = {
    "pidfd_open": "os.pidfd_open(os.getpid())",
    "peer_credentials": "socket.socketpair()[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)",
    "send_buffer": "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)",
    "parent_death_signal": "prctl(1, 9)",
    "prctl": "prctl(15, b'name')",
    "flock": "fcntl.flock(open('/etc/hosts'), fcntl.LOCK_SH)",
    "netlink": "socket.if_nameindex()",
    "unix": "socket.socket(socket.AF_UNIX)",
    "ipv4_first": "assert loopback.families('lo')[0] == socket.AF_INET",
    "others": "assert loopback.packets() > 0",
    "process_vm_readv": "at = ctypes.create_string_buffer(8); part = (ctypes.c_size_t * 2)(ctypes.addressof(at), 8)\n"
    "one = ctypes.c_ulong(1); assert libc.process_vm_readv(os.getpid(), part, one, part, one, ctypes.c_ulong(0)) == 8",
    "proc": "open('/proc/self/stat')",
    "proc_subset": "open('/proc/cpuinfo')",
    "free_memory": "assert 'MemAvailable: 200000 kB' not in open('/proc/meminfo').read()",
    "dev_shm": "os.stat('/dev/shm')",
    "sys": "os.stat('/sys/class')",
    "sys_class_net": "os.stat('/sys/class/net/lo')",
    "cgroup": "assert os.listdir('/sys/fs/cgroup') and open('/proc/self/cgroup')",
    "schedstat": "open(f'/proc/{os.getpid()}/task/{os.getpid()}/schedstat')",
    "task_status": "open(f'/proc/{os.getpid()}/task/{os.getpid()}/status')",
    "meminfo": "open('/proc/meminfo')",
    "environ": "open(f'/proc/{os.getpid()}/environ')",
    "child_status": "assert os.waitpid(subprocess.Popen(['true']).pid, 0)",
    "interrupts": "assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN",
    "/etc/host*": "open('/etc/hosts')",
}


def probe(names: list[str], code: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-c", f"{_PRELUDE}\n{code}"]
    return subprocess.run(lacking.command(names, words) if names else words, capture_output=True, text=True)


@pytest.mark.parametrize("name", _PROBES)
def test_an_interface_is_there_without_the_harness_and_gone_with_it(name: str) -> None:
    if (why := lacking.impossible([name])) is not None:
        pytest.skip(why)
    if (bare := probe([], _PROBES[name])).returncode != 0:
        pytest.skip(f"this machine lacks it anyway: {bare.stderr.strip().splitlines()[-1]}")
    assert probe([name], _PROBES[name]).returncode == 1


def test_hole_punching_is_refused_as_gvisor_refuses_it() -> None:
    code = "f = os.memfd_create('x'); os.ftruncate(f, 9); print(libc.fallocate(f, 3, 0, 1), ctypes.get_errno())"
    assert probe(["fallocate"], code).stdout.split() == ["-1", "95"]


def test_an_error_of_ones_own_choice() -> None:
    ran = probe(["pidfd_open=EPERM"], _PROBES["pidfd_open"])
    assert "PermissionError" in ran.stderr


def test_what_is_not_named_stays() -> None:
    kept = [_PROBES[name] for name in ("pidfd_open", "peer_credentials", "parent_death_signal", "environ")]
    ran = probe(["fallocate", "schedstat", "send_buffer"], "\n".join(kept))
    assert (ran.returncode, ran.stderr) == (0, "")


def test_orphans_go_to_a_first_process_that_reaps_them() -> None:
    code = """
child = subprocess.Popen([sys.executable, "-c", "import os; pid = os.fork(); print(pid) if pid else os.read(0, 1)"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
orphan = int(child.stdout.readline()); child.wait()
import time
while f"PPid:\\t1\\n" not in open(f"/proc/{orphan}/status").read(): time.sleep(0.01)
child.stdin.close()
while os.path.exists(f"/proc/{orphan}"): time.sleep(0.01)
"""
    if (why := lacking.impossible(["orphans", "proc_subset"])) is not None:
        pytest.skip(why)
    assert probe(["orphans", "proc_subset"], code).returncode == 0


@pytest.mark.parametrize("command", [["sh", "-c", "exit 3"], ["sh", "-c", "kill -TERM $$"]])
def test_the_status_of_the_command_is_passed_on(command: list[str]) -> None:
    plain = subprocess.run(command).returncode
    ran = subprocess.run(lacking.command(["fallocate"], command))
    assert ran.returncode == plain


def test_a_name_that_nobody_knows_is_refused_with_the_known_ones() -> None:
    ran = subprocess.run(lacking.command(["pidfd"], ["true"]), capture_output=True, text=True)
    assert ran.returncode == lacking.IMPOSSIBLE
    assert "unknown interface 'pidfd'; known: cgroup, child_status" in ran.stderr
