"""The end of a process is noticed, whatever the kernel offers, and how it ended stays to be collected."""

import errno
import multiprocessing
import os
import select
import signal
import time
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import pytest

from pytest_megacpp.box.worlds.exits import watch_exit

Method = Literal["spawn", "forkserver"]
METHODS: tuple[Method, ...] = ("spawn", "forkserver")


def started(method: Method) -> Any:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=time.sleep, args=(600,), daemon=True)
    process.start()
    return process


def is_readable(descriptor: int, within_s: float) -> bool:
    return bool(select.select([descriptor], [], [], within_s)[0])


def refuse(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def pidfd_open(pid: int, flags: int = 0) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)


def assert_noticed(process: BaseProcess, method: Method) -> None:
    ended = watch_exit(process, is_own_child=method == "spawn")
    assert ended is not None
    try:
        assert not is_readable(ended, 0.2)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert is_readable(ended, 30)
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        assert is_readable(ended, 30), "it stays so, once the forkserver has closed its end"
    finally:
        os.close(ended)


@pytest.mark.parametrize("method", METHODS)
def test_by_a_pidfd(method: Method) -> None:
    assert_noticed(started(method), method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EMFILE, errno.EINVAL], ids=errno.errorcode.get)
def test_without_a_pidfd(error: int, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, error)
    assert_noticed(started(method), method)


@pytest.mark.parametrize("method", METHODS)
def test_without_the_function(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert_noticed(started(method), method)


def test_without_waitid_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def waitid(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    refuse(monkeypatch, errno.ENOSYS)
    monkeypatch.setattr(os, "waitid", waitid)
    assert_noticed(started("spawn"), "spawn")


def test_one_that_was_reaped_has_ended() -> None:
    process = started("spawn")
    process.kill()
    process.join(30)
    assert watch_exit(process, is_own_child=True) is None


def test_one_that_ended_before_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.ENOSYS)
    process = started("spawn")
    os.kill(process.pid, signal.SIGKILL)
    ended = watch_exit(process, is_own_child=True)
    assert ended is not None
    assert is_readable(ended, 30)
    os.close(ended)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


def test_a_child_of_the_rank_does_not_keep_it_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits the rank's end of multiprocessing's own pipe."""
    refuse(monkeypatch, errno.ENOSYS)
    process = multiprocessing.get_context("spawn").Process(target=_fork_and_sleep, daemon=True)
    process.start()
    ended = watch_exit(process, is_own_child=True)
    assert ended is not None
    assert is_readable(ended, 30)
    os.close(ended)
    process.join(30)
    assert process.exitcode == 3


def _fork_and_sleep() -> None:
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    os._exit(3)
