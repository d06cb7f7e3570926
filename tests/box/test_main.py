"""The box's loop, piece by piece: how long a flooding rank is left alone."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box.line import MAX_GARBAGE_LINES
from pytest_megacpp.box.main import FLOOD_SHARE, Box
from pytest_megacpp.box.recorder import Recorder
from pytest_megacpp.box.world import RankProcess, World
from pytest_megacpp.recording.plan import Plan, SeedPlan
from pytest_megacpp.recording.redact import Redactor


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """One that doesn't run."""
    plan = Plan("r1", "h200x8", "local", "H200", 8, 8, True, False, (), (), "/", SeedPlan())
    recorder = Recorder(str(tmp_path / "recording.jsonl"), "r1", Redactor({}))
    made = Box(plan, tmp_path, recorder, Redactor({}), tmp_path)
    yield made
    made._pump.close()
    made.oom.close()
    recorder.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("w1", 2, tmp_path / "ranks", tmp_path)


def test_a_rank_that_floods_gets_its_share_of_the_time_of_the_box(
    box: Box, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it took to read what it said; and none has to rest that only comes to say too much."""
    rests: list[float] = []
    monkeypatch.setattr(box._pump, "rest", lambda source, for_s: rests.append(for_s))
    with contextlib.ExitStack() as stack:
        here, there = (stack.enter_context(end) for end in socket.socketpair())
        rank = RankProcess(0, None, None, ("", ""), "", here)
        for took_s in (0.06, 0.06, 3.0):
            there.sendall(b"\n" * (MAX_GARBAGE_LINES + 1))
            monkeypatch.setattr(time, "thread_time", iter((5.0, 5.0 + took_s)).__next__)
            assert box._receive(world, rank)
        rank.exited = True
        there.sendall(b"\n")
        monkeypatch.setattr(time, "thread_time", lambda: 5.0)
        assert box._receive(world, rank)
    assert rests == [pytest.approx(took_s / FLOOD_SHARE) for took_s in (0.06, 3.0)]
