"""That a call for peers in `except` or `finally` is noticed, with the exception, and no other is."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch._C import _distributed_c10d as native

from pytest_megacpp.rank import native_calls
from pytest_megacpp.rank.handling import MOST_REPORTS, Handling
from pytest_megacpp.recording.events import Error


@pytest.fixture
def said() -> list[Error | None]:
    return []


@pytest.fixture
def look(said: list[Error | None]) -> Any:
    return Handling(lambda error, propagates, is_known: said.append(error)).look


@contextmanager
def closing(look: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        look()


def types(said: list[Error | None]) -> list[str | None]:
    return [error.type if error else None for error in said]


def test_a_call_without_an_exception_says_nothing(look: Any, said: list[Error | None]) -> None:
    with suppress(ValueError):
        raise ValueError
    look()
    assert said == []


def test_finally_except_and_exits_are_noticed_and_their_end_too(look: Any, said: list[Error | None]) -> None:
    with suppress(ValueError):
        try:
            raise ValueError("bad shard")
        finally:
            look()
    with suppress(KeyError), closing(look):
        raise KeyError("x")
    try:
        raise OSError("disk")
    except OSError:
        look()
    look()
    look()
    assert types(said) == ["ValueError", "KeyError", "OSError", None]
    assert said[0] is not None
    assert said[0].message == "bad shard"
    assert said[0].file.endswith("test_handling.py")


def test_a_loop_over_handlers_stops_being_reported_and_says_so(look: Any, said: list[Error | None]) -> None:
    for _ in range(2 * MOST_REPORTS):
        try:
            raise ValueError
        except ValueError:
            look()
    assert types(said) == ["ValueError"] * MOST_REPORTS + [None]


def test_other_threads_are_not_the_test(look: Any, said: list[Error | None]) -> None:
    def elsewhere() -> None:
        try:
            raise ValueError
        except ValueError:
            look()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert said == []


class Unkind(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_without_a_text_breaks_nothing(look: Any, said: list[Error | None]) -> None:
    try:
        raise Unkind
    except Unkind:
        look()
    assert len(said) == 1


def test_stores_and_collectives_ask_before_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store's call is noticed before it blocks, a collective before it is issued."""
    calls: list[str] = []
    for owner in (native.Store, native.ProcessGroup, native.Work, native.TCPStore, torch._C.Future):
        for name, value in dict(vars(owner)).items():
            if not name.startswith("__"):
                monkeypatch.setattr(owner, name, value)  # so that all come back
    monkeypatch.setattr(native.TCPStore, "__init__", native.TCPStore.__init__)
    native_calls.install(lambda: calls.append("store"))
    native_calls.report_issued(lambda *_: calls.append("issued"), before=lambda: calls.append("before"))
    store = native.HashStore()
    store.set("key", "value")
    store.get("key")
    group = native.ProcessGroup(store, 0, 1)
    with suppress(Exception):
        group.barrier(native.BarrierOptions())
    assert calls[:2] == ["store", "before"]


@pytest.fixture
def seen() -> list[bool]:
    return []


def test_what_propagates_is_told_from_what_was_caught(seen: list[bool]) -> None:
    look = Handling(lambda error, propagates, is_known: seen.append(propagates)).look

    with suppress(ValueError):
        try:
            raise ValueError
        finally:
            for _ in range(1):
                look()
    with suppress(ValueError), closing(look):
        raise ValueError
    try:
        raise ValueError
    except KeyError:
        pass
    except ValueError:
        look()
    try:
        raise ValueError
    except:  # noqa: E722
        look()

    def endless() -> Iterator[int]:
        try:
            yield 1
        finally:
            look()

    for _ in (steps := endless()):
        break
    del steps
    assert seen == [True, True, False, False, False]


def test_a_loop_that_is_not_recorded_any_more_is_unknown() -> None:
    known: list[bool] = []
    look = Handling(lambda error, propagates, is_known: known.append(is_known)).look
    for _ in range(2 * MOST_REPORTS):
        try:
            raise ValueError
        except ValueError:
            look()
    look()
    assert known == [True] * MOST_REPORTS + [False]
