"""A box that was stopped for good is reported and ended; one that is only silent, or looked at, is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.surfaces.local import stopped_box
from pytest_megacpp.surfaces.local.stopped_box import LOOK_S, STOPPED_S, StoppedBoxWatch
from pytest_megacpp.surfaces.local.surface import LocalBox

GUARD = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()  # a rank
        time.sleep(600)
    sys.stdin.read()
    os._exit(0)
os.close(0)
os.wait()
"""
"""As the guard does: the box is its child, and ends with its standard input."""


@pytest.fixture
def guard() -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True) as child:
        until(lambda: len(process.descendants(child.pid)) == 2)
        family = [p.pid for p in process.descendants(child.pid)]  # its rank has another parent once the box is gone
        try:
            yield child
        finally:
            process.end_all([*family, child.pid])


def until(seen: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def box_of(guard: "subprocess.Popen[bytes]") -> int:
    return next(p.pid for p in process.descendants(guard.pid) if p.parent == guard.pid)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: (seen := process.stat(pid)) is not None and seen.state == "T")


def look(watch: StoppedBoxWatch, seconds: float, every_s: float = LOOK_S, start_s: float = 100.0) -> int | None:
    """The last answer of looks in this time."""
    answer = None
    for number in range(1, int(seconds / every_s) + 1):
        answer = watch.look(start_s + number * every_s)
    return answer


def test_a_silent_box_is_none_that_was_stopped(guard: "subprocess.Popen[bytes]") -> None:
    assert look(StoppedBoxWatch(guard.pid), 100 * STOPPED_S) is None


def test_a_stopped_box_is_found_in_bounded_time(guard: "subprocess.Popen[bytes]") -> None:
    stop(box := box_of(guard))
    assert look(StoppedBoxWatch(guard.pid), STOPPED_S - LOOK_S) is None
    assert look(StoppedBoxWatch(guard.pid), STOPPED_S + 3 * LOOK_S) == box


def test_a_stopped_guard_is_none_of_the_desk_s_business_while_the_box_lives(guard: "subprocess.Popen[bytes]") -> None:
    watch = StoppedBoxWatch(guard.pid)
    stop(guard.pid)
    assert look(watch, 10 * STOPPED_S) is None
    assert guard.stdin is not None
    guard.stdin.close()
    until(lambda: all(p.parent != guard.pid for p in process.descendants(guard.pid)))
    assert look(watch, STOPPED_S + 3 * LOOK_S, start_s=10_000.0) == guard.pid


def test_one_that_goes_on_in_between_was_not_stopped_for_long(guard: "subprocess.Popen[bytes]") -> None:
    watch, box = StoppedBoxWatch(guard.pid), box_of(guard)
    for start_s in (0.0, STOPPED_S):
        stop(box)
        assert look(watch, STOPPED_S - 2 * LOOK_S, start_s=start_s) is None
        os.kill(box, signal.SIGCONT)
        until(lambda: (seen := process.stat(box)) is not None and seen.state != "T")
        assert look(watch, LOOK_S, start_s=start_s + STOPPED_S - 2 * LOOK_S) is None


def test_a_desk_that_slept_itself_has_seen_nothing(guard: "subprocess.Popen[bytes]") -> None:
    """The machine slept, or both were stopped: only what the desk saw counts."""
    stop(box_of(guard))
    assert look(StoppedBoxWatch(guard.pid), 10 * STOPPED_S, every_s=STOPPED_S) is None


def test_the_desk_ends_it_and_says_why(
    guard: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopped_box, "LOOK_S", 0.01)
    monkeypatch.setattr(stopped_box, "STOPPED_S", 0.2)
    box, family = LocalBox("run-1", guard, tmp_path / "recording.jsonl", tmp_path / "box.log"), box_of(guard)
    assert box.ended() is None
    stop(family)
    until(lambda: box.ended() is not None)
    ended = box.ended()
    assert ended is not None
    assert isinstance(ended.problem, ProblemFound)
    assert (ended.problem.code, ended.problem.cause) == ("box-lost", "frozen")
    assert f"process {family} of the box was stopped (SIGSTOP)" in ended.problem.detail
    assert process.descendants(guard.pid) == []
    assert not process.is_alive(guard.pid)


@pytest.mark.parametrize("whole", [False, True], ids=["box", "guard too"])
def test_an_interrupt_lets_a_stopped_box_end_in_order(
    whole: bool, guard: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    """Not by force after all grace periods."""
    box = LocalBox("run-1", guard, tmp_path / "recording.jsonl", tmp_path / "box.log")
    stop(box_of(guard))
    if whole:
        stop(guard.pid)
    box.end()
    ended = box.ended()
    assert ended is not None
    assert ended.problem is None, "its status is that of an end in order"
