"""The box's loop, piece by piece: a world that can't be started, and how long a flooding rank is left alone."""

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.box.main import FLOOD_SHARE, NEEDED, Box
from pytest_megacpp.box.recorder import Recorder
from pytest_megacpp.box.worlds import interpreters
from pytest_megacpp.box.worlds.interpreters import InterpreterLost, Interpreters
from pytest_megacpp.box.worlds.rank_channel import MAX_GARBAGE_LINES
from pytest_megacpp.box.worlds.world import RankProcess, World
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan, PlannedTest, SeedPlan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import Preset, RunEnd
from pytest_megacpp.recording.wire import read_all


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """With a test of two ranks, in a run of eight."""
    test = PlannedTest("a.py::test", 2, Preset.FULL, ev.Limits())
    plan = Plan("r1", "h200x8", "local", "H200", 8, 8, True, False, (test,), (), "/", SeedPlan())
    recorder = Recorder(str(tmp_path / "recording.jsonl"), "r1", Redactor({}))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in NEEDED:
        (scratch / name).touch()
    made = Box(plan, tmp_path, recorder, Redactor({}), scratch, control=-1)
    yield made
    made._pump.close()
    made.oom.close()
    recorder.close()


def fails(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def facts_of_a_run(box: Box, monkeypatch: pytest.MonkeyPatch) -> list[ev.Fact]:
    for step in ("_environment", "_preflight", "_warmth", "_prepare", "_fetch"):
        monkeypatch.setattr(box, step, lambda: True)
    box._admission = SimpleNamespace(close=lambda: None)  # type: ignore[assignment]
    box.run()
    return [event.fact for event in read_all((box.directory / "recording.jsonl").read_bytes())]


def problem_of_a_start(box: Box, monkeypatch: pytest.MonkeyPatch) -> ev.ProblemFound:
    found = facts_of_a_run(box, monkeypatch)
    assert ev.RunFinished(RunEnd.REFUSED) in found
    (problem,) = [fact for fact in found if isinstance(fact, ev.ProblemFound)]
    return problem


def test_a_forkserver_that_has_no_successor(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice is to read the box's log, so it has to be there."""
    box._interpreters = Interpreters(("1", "2"), (), box.scratch)
    monkeypatch.setattr(box._interpreters, "begin", fails(ValueError("no such module")))
    problem = problem_of_a_start(box, monkeypatch)
    assert problem.detail == "2 ranks can't be started here: ValueError: no such module"
    assert "box.log" in problem.mend
    assert capsys.readouterr().err.count("in fail\n") == 1


class Imports:
    """Interpreters that come to no end."""

    are_known = are_through = staticmethod(lambda: False)
    begin = staticmethod(lambda: None)

    @staticmethod
    def learn() -> None:
        raise InterpreterLost("the interpreter was not through: it was importing slow")


def test_imports_without_end_are_no_reason_to_wait_for_ever(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box._interpreters = Imports()  # type: ignore[assignment]
    monkeypatch.setattr(interpreters, "PRELOAD_S", 0.0)
    problem = problem_of_a_start(box, monkeypatch)
    assert "2 ranks can't be started here" in problem.detail
    assert "it was importing slow" in problem.detail
    assert "`preload`" in problem.mend


def stop(box: Box) -> None:
    box.stop(RunEnd.INTERRUPTED, "the desk is gone")


def exceed_the_limit(box: Box) -> None:
    box.plan = box.supervisor.plan = replace(box.plan, run_s=1e-9)


@pytest.mark.parametrize(("end", "reason"), [(stop, "interrupted"), (exceed_the_limit, "run-limit")])
def test_a_run_ends_in_order_while_interpreters_import(
    box: Box, monkeypatch: pytest.MonkeyPatch, end: Callable[[Box], None], reason: str
) -> None:
    """Before there is a world."""
    box._interpreters = Imports()  # type: ignore[assignment]
    monkeypatch.setattr(box._interpreters, "begin", lambda: end(box))
    box.seeding = SimpleNamespace(keep=lambda timeline, why: ev.Progress("seed"))  # type: ignore[assignment]
    facts = facts_of_a_run(box, monkeypatch)
    assert isinstance(facts[-1], ev.RunFinished)
    assert facts[-1].reason == reason
    assert not [fact for fact in facts if isinstance(fact, ev.WorldStarted | ev.ProblemFound)]


def test_a_world_that_can_not_be_started(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box._interpreters = Interpreters(("1",), (), box.scratch)
    monkeypatch.setattr(box, "_await_interpreters", lambda ranks: True)
    monkeypatch.setattr(World, "new_store", fails(OSError(errno.EMFILE, "Too many open files")))
    problem = problem_of_a_start(box, monkeypatch)
    assert problem.detail == "2 ranks can't be started here: OSError: [Errno 24] Too many open files"
    assert "ulimit -n" in problem.mend
    assert capsys.readouterr().err.count("in fail\n") == 1


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
        handle: Any = None
        rank = RankProcess(0, handle, None, ("", ""), "", None, here)
        for took_s in (0.06, 0.06, 3.0):
            there.sendall(b"\n" * (MAX_GARBAGE_LINES + 1))
            monkeypatch.setattr(time, "thread_time", iter((5.0, 5.0 + took_s)).__next__)
            assert box._receive(world, rank)
        rank.exited = True
        there.sendall(b"\n")
        monkeypatch.setattr(time, "thread_time", lambda: 5.0)
        assert box._receive(world, rank)
    assert rests == [pytest.approx(took_s / FLOOD_SHARE) for took_s in (0.06, 3.0)]
