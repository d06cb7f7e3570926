"""One thread waits; what happens at descriptors and what others hand over reaches it."""

import socket
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from pytest_megacpp.box.event_loop import Pump

SOON_S = 10.0


@pytest.fixture
def taken() -> list[str]:
    return []


@pytest.fixture
def pump(taken: list[str]) -> Iterator[Pump[str]]:
    made = Pump[str](taken.append, map(float, range(1, 1000)).__next__)
    yield made
    made.close()


def test_what_another_thread_hands_over_wakes_the_one_that_waits(pump: Pump[str], taken: list[str]) -> None:
    thread = threading.Thread(target=lambda: deque(map(pump.hand_over, map(str, range(100)))))
    thread.start()
    assert pump.until(lambda: len(taken) == 100, SOON_S)
    thread.join()
    assert taken == [str(n) for n in range(100)]


def test_one_that_a_handler_forgets_is_not_handled_in_the_same_look(pump: Pump[str]) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    handled: list[int] = []

    def handle(number: int) -> None:
        handled.append(number)
        for end, _ in pairs:
            pump.forget(end)
            end.close()

    for number, (end, other) in enumerate(pairs):
        pump.register(end, lambda n=number: handle(n))  # type: ignore[misc]
        other.send(b".")
    pump.once(SOON_S)
    assert len(handled) == 1
    for end, other in pairs:
        pump.forget(end)
        other.close()


def test_a_look_counts_once_its_findings_are_handled(pump: Pump[str]) -> None:
    seen: list[float] = []
    end, other = socket.socketpair()

    def handle() -> None:
        seen.append(pump.looked_s)
        end.recv(1)

    pump.register(end, handle)
    for _ in range(2):
        other.send(b".")
        pump.once(SOON_S)
    assert (seen, pump.looked_s) == ([0.0, 1.0], 2.0)
    assert not pump.until(lambda: False, 0.0)
    pump.forget(end)
    end.close()
    other.close()


def test_one_that_rests_is_heard_later_and_others_meanwhile(pump: Pump[str]) -> None:
    (loud, mouth), (quiet, other) = socket.socketpair(), socket.socketpair()
    heard: list[str] = []
    pump.register(loud, lambda: heard.append("loud") or loud.recv(1))  # type: ignore[func-returns-value]
    pump.register(quiet, lambda: heard.append("quiet") or quiet.recv(1))  # type: ignore[func-returns-value]
    mouth.send(b".")
    pump.rest(loud, 0.05)
    other.send(b".")
    pump.once(0.0)
    assert heard == ["quiet"]
    assert pump.until(lambda: "loud" in heard, SOON_S)
    pump.rest(loud, 0.0)
    pump.forget(loud)
    mouth.send(b".")
    pump.once(0.0)
    assert heard.count("loud") == 1
    for end in (loud, mouth, quiet, other):
        pump.forget(end)
        end.close()
