"""The process that hosts a world's stores: it answers, and one that doesn't is replaced or reported."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from pytest_megacpp.box.worlds import stores
from pytest_megacpp.box.worlds.stores import Stores, StoresLost


def started(target: Callable[..., None], args: tuple[object, ...]) -> BaseProcess:
    context: Any = multiprocessing.get_context("fork")
    process: BaseProcess = context.Process(target=target, args=args)
    process.start()
    return process


def counts(line: Connection) -> None:
    port = 0
    while line.recv_bytes() == b"new":
        port += 1
        line.send_bytes(str(port).encode())


def sleeps(line: Connection) -> None:
    time.sleep(600)


def ends(line: Connection) -> None:
    os._exit(3)


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Connection], None]], Stores]:
    def host(by: Callable[[Connection], None]) -> Stores:
        monkeypatch.setattr(stores, "host", by)
        return Stores(started)

    return host


def test_a_killed_host_has_a_successor(hosted: Callable[..., Stores]) -> None:
    own = hosted(counts)
    assert [own.new(), own.new()] == [1, 2]
    assert own._host is not None
    assert own._host.pid is not None
    os.kill(own._host.pid, signal.SIGKILL)
    own._host.join(60)
    assert own.new() == 1
    process = own._host
    own.close()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("by", [sleeps, ends])
def test_one_that_never_answers_is_reported(
    hosted: Callable[..., Stores], by: Callable[[Connection], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "ANSWER_S", 0.2 if by is sleeps else 60.0)
    own = hosted(by)
    with pytest.raises(StoresLost):
        own.new()
    own.close()


def test_ports_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real host: what a rank finds there, and that only the newest store is left."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    own = Stores(started)
    try:
        first, second = own.new(), own.new()
        TCPStore(stores.ADDRESS, first, is_master=False).set("key", "of the first")
        newest = TCPStore(stores.ADDRESS, second, is_master=False)
        newest.set("key", "of the second")
        own.drop()
        third = own.new()
        assert len({first, second, third}) == 3
        assert newest.get("key") == b"of the second"
    finally:
        own.close()
