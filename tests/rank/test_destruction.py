"""A rank tells what its groups issued before they go; that never stands between a test and torch."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from pytest_megacpp.rank.observers import Observers
from pytest_megacpp.recording.events import Capability, FlightRecorded
from pytest_megacpp.recording.vocabulary import FlightOrigin


class Agent:
    rank = 0
    epoch_s = time.time()

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, fact: Any, *_: object, **__: object) -> None:
        self.sent.append(fact)

    def lacking(self) -> list[str]:
        return [fact.name for fact in self.sent if isinstance(fact, Capability)]


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def observers(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observers]:
    """Of a world of one, in which one collective was issued. `destroy` is as a test gets it."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    made = Observers(agent)  # type: ignore[arg-type]
    made.test, made._default_size = 0, 1
    dist.init_process_group("gloo", store=c10d.HashStore(), rank=0, world_size=1)
    made.issued.begin()
    dist.all_reduce(torch.ones(3))
    yield made
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def destroy(observers: Observers) -> Callable[..., Any]:
    return observers._before_destruction(dist.destroy_process_group)


@pytest.mark.parametrize("size", [None, "", "one", "7"], ids=["removed", "empty", "no-number", "another"])
def test_a_test_may_do_as_it_likes_with_the_world_size(
    size: str | None, destroy: Callable[..., Any], agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size is None:
        monkeypatch.delenv("WORLD_SIZE")
    else:
        monkeypatch.setenv("WORLD_SIZE", size)
    destroy()
    assert not dist.is_initialized()
    assert agent.lacking() == []
    (flight,) = [fact for fact in agent.sent if isinstance(fact, FlightRecorded)]
    assert [group for group, _ in flight.digests] == ["0"]
    assert os.environ.get("WORLD_SIZE") == size


@pytest.mark.parametrize(("size", "missed"), [(1, 0), (2, 1)])
def test_what_nobody_can_be_compared_with_counts_as_lost(
    size: int, missed: int, observers: Observers, agent: Agent
) -> None:
    """One of several worlds in a launch; a world of one has no peers."""
    observers._default_size, observers._launched = size, 4
    observers._before_destruction(dist.destroy_process_group)()
    (flight,) = [fact for fact in agent.sent if isinstance(fact, FlightRecorded)]
    assert flight.digests == ()
    assert observers.finished() == ({}, missed)


def test_a_group_without_a_name_gets_torchs_own_answer(destroy: Callable[..., Any], agent: Agent) -> None:
    make: Any = c10d.ProcessGroup  # torch's stub knows one with a store only
    group = make(0, 1)
    with pytest.raises(Exception) as theirs:
        dist.destroy_process_group(group)
    with pytest.raises(theirs.type) as ours:
        destroy(group)
    assert str(ours.value) == str(theirs.value)
    assert agent.lacking() == []


def test_where_there_is_no_group_none_is_said_to_go(destroy: Callable[..., Any], agent: Agent) -> None:
    destroy()
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        destroy()
    assert [fact.origin for fact in agent.sent if isinstance(fact, FlightRecorded)] == [FlightOrigin.DESTROY]


@pytest.mark.parametrize("broken", ["take", "end", "restart"])
def test_what_fails_of_ours_is_said_and_the_group_goes(
    broken: str,
    observers: Observers,
    destroy: Callable[..., Any],
    agent: Agent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(observers.issued, broken, fail)
        destroy()
    assert not dist.is_initialized()
    assert agent.lacking() == ["flight_recorder"]
    assert observers.finished() == ({}, 1)


def test_a_world_that_goes_while_another_thread_reads_is_not_compared(
    observers: Observers, destroy: Callable[..., Any], agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_megacpp.rank.issued.PATIENCE_S", 0.05)
    observers.issued._lock.acquire()
    destroy()
    observers.issued._lock.release()
    (flight,) = [fact for fact in agent.sent if isinstance(fact, FlightRecorded)]
    assert flight.entries
    assert flight.digests == ()
    assert observers.finished() == ({}, 1)


def test_the_end_of_a_test_is_read_where_counters_may_hide_something(
    observers: Observers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers.issued, "behind", lambda: False)
    assert observers.finished() == ({}, 0)
    monkeypatch.setattr(observers.issued, "may_hide", lambda: True)
    digests, missed = observers.finished()
    assert (list(digests), missed) == (["0"], 0)


@pytest.mark.parametrize("state", [True, False, RuntimeError("no CUDA here")], ids=["capturing", "not", "no-cuda"])
def test_a_rank_on_cuda_asks_for_captures(
    state: bool | Exception, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> bool:
        if isinstance(state, Exception):
            raise state
        return state

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", asked)
    assert not Observers(agent).issued._capturing()  # type: ignore[arg-type]
    monkeypatch.setenv("MEGACPP_DEVICE", "cuda")
    assert Observers(agent).issued._capturing() == (state is True)  # type: ignore[arg-type]
