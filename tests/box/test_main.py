"""The box, piece by piece: a world that can't be started, and how long a flooding rank is left alone."""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.box import asked, main, prepare, supervisor, watches
from pytest_megacpp.box.actions import Action
from pytest_megacpp.box.asked import ask
from pytest_megacpp.box.context import ASKER_CHARS, MAX_ASKERS, NEEDED, RunContext
from pytest_megacpp.box.desk_commands import DeskCommands
from pytest_megacpp.box.prepare import Prepared, Refused
from pytest_megacpp.box.ranks import FLOOD_SHARE, Ranks
from pytest_megacpp.box.recorder import Recorder
from pytest_megacpp.box.seed.working_copy import WorkingCopy
from pytest_megacpp.box.supervisor import Supervisor
from pytest_megacpp.box.watches import Watches
from pytest_megacpp.box.worlds import interpreters
from pytest_megacpp.box.worlds.interpreters import InterpreterLost, Interpreters
from pytest_megacpp.box.worlds.rank_channel import MAX_GARBAGE_LINES
from pytest_megacpp.box.worlds.world import RankProcess, World
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.commands import word_line
from pytest_megacpp.recording.plan import Plan, PlannedTest, SeedPlan, Stop
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.seed_layout import SeedError
from pytest_megacpp.recording.vocabulary import Preset, ProblemCode, RunEnd, SeedMode, SeedState, StackMethod
from pytest_megacpp.recording.wire import read_all


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    """Of a run of eight ranks, with a test of two."""
    test = PlannedTest("a.py::test", 2, Preset.FULL, ev.Limits())
    plan = Plan("r1", "h200x8", "local", "H200", 8, 8, True, False, (test,), (), "/", SeedPlan())
    recorder = Recorder(str(tmp_path / "recording.jsonl"), "r1", Redactor({}))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in NEEDED:
        (scratch / name).touch()
    made = RunContext(plan, tmp_path, scratch, recorder, Redactor({}))
    yield made
    made.pump.close()
    recorder.close()


def prepared(interpreters: Any = None) -> Any:
    seed = SimpleNamespace(checked=SimpleNamespace(state=SeedState.ABSENT, covered=0, wanted=0))
    return Prepared(seed, SimpleNamespace(close=lambda: None), interpreters)  # type: ignore[arg-type]


def fails(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def facts_of_a_run(context: RunContext, monkeypatch: pytest.MonkeyPatch, interpreters: Any) -> list[ev.Fact]:
    monkeypatch.setattr(main, "prepare", lambda context: prepared(interpreters))
    main.run(context, control=None, signals=())
    return [event.fact for event in read_all((context.directory / "recording.jsonl").read_bytes())]


def test_why_nothing_can_begin_is_recorded_once(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ev.ProblemFound(ProblemCode.ENVIRONMENT, "kernel", "no sockets here", "set TMPDIR")
    monkeypatch.setattr(main, "prepare", fails(Refused(problem)))
    main.run(context, control=None, signals=("SIGTERM",))
    facts = [event.fact for event in read_all((context.directory / "recording.jsonl").read_bytes())]
    assert [type(fact) for fact in facts[:3]] == [ev.RunStarted, ev.TestPlanned, ev.Progress]
    assert facts[3:] == [problem, ev.RunFinished(RunEnd.REFUSED)]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (Stop(RunEnd.STOPPED), "the desk asked for it"),
        (Stop(RunEnd.STOPPED, by_command=True), "megacpp stop asked for it"),
        (Stop(RunEnd.STOPPED, why="Ctrl-C"), "Ctrl-C"),
    ],
)
def test_the_desk_may_end_the_run_while_it_is_prepared(
    context: RunContext, monkeypatch: pytest.MonkeyPatch, word: Stop, said: str
) -> None:
    """Its commands are read whenever the preparation waits for something."""
    control, desk = os.pipe()

    def prepare(context: RunContext) -> Prepared:
        os.write(desk, b'{"beat": 1}\nnonsense\n' + word_line(word))
        assert context.wait_until(context.is_to_end, 10.0)
        return prepared()  # type: ignore[no-any-return]

    monkeypatch.setattr(main, "prepare", prepare)
    main.run(context, control=control, signals=())
    *_, last = read_all((context.directory / "recording.jsonl").read_bytes())
    assert last.fact == ev.RunFinished(RunEnd.STOPPED, said)
    os.close(desk)
    os.close(control)


def problem_of_a_start(context: RunContext, monkeypatch: pytest.MonkeyPatch, interpreters: Any) -> ev.ProblemFound:
    found = facts_of_a_run(context, monkeypatch, interpreters)
    assert ev.RunFinished(RunEnd.REFUSED) in found
    (problem,) = [fact for fact in found if isinstance(fact, ev.ProblemFound)]
    return problem


def test_a_forkserver_that_has_no_successor(
    context: RunContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice is to read the box's log, so it has to be there."""
    interpreters = Interpreters(("1", "2"), (), context.scratch)
    monkeypatch.setattr(interpreters, "begin", fails(ValueError("no such module")))
    problem = problem_of_a_start(context, monkeypatch, interpreters)
    assert problem.detail == "2 ranks can't be started here: ValueError: no such module"
    assert "box.log" in problem.remedy
    assert capsys.readouterr().err.count("in fail\n") == 1


class Imports:
    """Interpreters that come to no end."""

    are_known = are_through = staticmethod(lambda: False)

    def __init__(self, begin: Callable[[], None] = lambda: None) -> None:
        self.begin = begin

    @staticmethod
    def learn() -> None:
        raise InterpreterLost("the interpreter had not finished its imports: it was importing slow")


def test_imports_without_end_are_no_reason_to_wait_for_ever(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreters, "PRELOAD_S", 0.0)
    problem = problem_of_a_start(context, monkeypatch, Imports())
    assert "2 ranks can't be started here" in problem.detail
    assert "it was importing slow" in problem.detail
    assert "`preload`" in problem.remedy


def stop(context: RunContext) -> None:
    context.stop(RunEnd.INTERRUPTED, "the desk is gone")


def exceed_the_limit(context: RunContext) -> None:
    context.supervisor.plan = replace(context.plan, run_s=1e-9)


@pytest.mark.parametrize(("end", "reason"), [(stop, "interrupted"), (exceed_the_limit, "run-limit")])
def test_a_run_ends_in_order_while_interpreters_import(
    context: RunContext, monkeypatch: pytest.MonkeyPatch, end: Callable[[RunContext], None], reason: str
) -> None:
    """Before there is a world."""
    facts = facts_of_a_run(context, monkeypatch, Imports(lambda: end(context)))
    assert isinstance(facts[-1], ev.RunFinished)
    assert facts[-1].reason == reason
    assert not [fact for fact in facts if isinstance(fact, ev.WorldStarted | ev.ProblemFound)]


def test_a_world_that_can_not_be_started(
    context: RunContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interpreters = Interpreters(("1",), (), context.scratch)
    monkeypatch.setattr(interpreters, "are_known", lambda: True)
    monkeypatch.setattr(World, "new_store", fails(OSError(errno.EMFILE, "Too many open files")))
    problem = problem_of_a_start(context, monkeypatch, interpreters)
    assert problem.detail == "2 ranks can't be started here: OSError: [Errno 24] Too many open files"
    assert "ulimit -n" in problem.remedy
    assert capsys.readouterr().err.count("in fail\n") == 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("w1", 2, tmp_path / "ranks", tmp_path)


def test_a_rank_that_floods_gets_its_share_of_the_time_of_the_box(
    context: RunContext, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it took to read what it said; and none has to rest that only comes to say too much."""
    rests: list[float] = []
    ranks = Ranks(context, prepared(), Watches(context))
    monkeypatch.setattr(context.pump, "rest", lambda source, for_s: rests.append(for_s))
    with contextlib.ExitStack() as stack:
        here, there = (stack.enter_context(end) for end in socket.socketpair())
        handle: Any = None
        rank = RankProcess(0, handle, None, ("", ""), "", None, here)
        for took_s in (0.06, 0.06, 3.0):
            there.sendall(b"\n" * (MAX_GARBAGE_LINES + 1))
            monkeypatch.setattr(time, "thread_time", iter((5.0, 5.0 + took_s)).__next__)
            assert ranks._receive(world, rank)
        rank.exited = True
        there.sendall(b"\n")
        monkeypatch.setattr(time, "thread_time", lambda: 5.0)
        assert ranks._receive(world, rank)
    assert rests == [pytest.approx(took_s / FLOOD_SHARE) for took_s in (0.06, 3.0)]


# -- what other processes ask for --------------------------------------------------------------------------------


def test_a_stop_is_read_while_a_seed_is_packed(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may take minutes, as may unpacking it: `megacpp stop` would kill the box before."""
    copies: list[WorkingCopy] = []

    def load(copy: WorkingCopy) -> SimpleNamespace:
        copies.append(copy)
        checked = ev.SeedChecked(SeedMode.AUTO, SeedState.ABSENT, "", "", "", 0, 0, 0)
        return SimpleNamespace(checked=checked, refusal=lambda: None, reasons=dict)

    monkeypatch.setattr(prepare, "shape_of", lambda *_: None)
    monkeypatch.setattr(prepare, "load", load)
    ours, theirs = os.pipe()
    monkeypatch.setattr(asked, "EVERY_S", 0.0)
    DeskCommands(context, ours)
    survey: Any = None
    prepare._load_seed(context, context.scratch / "cache", (), survey)
    assert not copies[0].is_stopped()
    ask(context.directory, Stop(RunEnd.INTERRUPTED))
    assert copies[0].is_stopped()
    with pytest.raises(SeedError, match="the run was interrupted"):
        copies[0].go_on()
    os.close(theirs)
    os.close(ours)


# -- a look that somebody asked for ------------------------------------------------------------------------------


class Slow:
    """The watch of a rank that answers when it is let."""

    def __init__(self) -> None:
        self.target = SimpleNamespace(rank=0)
        self.asked = 0
        self.may_answer = threading.Event()
        self.on_asked: Callable[[], object] = lambda: None

    def stack_now(self) -> None:
        self.asked += 1
        self.may_answer.wait(60.0)
        self.on_asked()


class Waiting(Supervisor):
    """Has nothing to do until `until` says so."""

    until: Callable[[], bool]

    def _decide(self, now_s: float) -> tuple[Action, ...]:
        self.finished = self.until()
        return ()


@pytest.fixture
def slow(context: RunContext) -> Iterator[Slow]:
    """The only rank that lives."""
    rank: Any = SimpleNamespace(ranks={0: SimpleNamespace(exited=False)}, alive=lambda: ())
    context.worlds["w1"] = rank
    watch = Slow()
    yield watch
    watch.may_answer.set()


def test_a_long_look_moves_no_alarm(context: RunContext, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on meanwhile: what it did not see is a pause of the box, which no limit counts."""
    monkeypatch.setattr(supervisor, "PAUSE_S", 1.0)
    waiting = context.supervisor = Waiting(context.plan, context.recorder.timeline)
    box: Any = main.Box(context, prepared())
    box._looked_s = float("inf")
    box._watches._of["w1"] = [slow]
    context.ask_for_stacks("me")
    waiting.until = lambda: context.recorder.now_s() > 1.5
    box._loop()
    assert slow.asked == 1
    assert waiting._pauses == []


def test_looks_are_not_stacked_up(context: RunContext, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [10.0]
    monkeypatch.setattr(context.recorder, "now_s", lambda: now_s[0])
    looking: Any = Watches(context)
    looking._of["w1"] = [slow]
    context.ask_for_stacks("first")
    looking.take_stacks()
    now_s[0] += watches.STACKS_EVERY_S
    context.ask_for_stacks("second")
    context.ask_for_stacks("third")
    looking.take_stacks()  # the first one goes on
    assert looks(context) == [("first",)]
    slow.may_answer.set()
    for thread in looking._taking:
        thread.join()
    looking.take_stacks()
    for thread in looking._taking:
        thread.join()
    now_s[0] += watches.STACKS_EVERY_S / 2
    context.ask_for_stacks("fourth")
    looking.take_stacks()  # so soon
    assert looks(context) == [("first",), ("second", "third")]
    assert slow.asked == 2
    assert list(context.askers) == ["fourth"]


def looks(context: RunContext) -> list[tuple[str, ...]]:
    """Who was answered by each look that began."""
    facts = (event.fact for event in read_all((context.directory / "recording.jsonl").read_bytes()))
    return [fact.askers for fact in facts if isinstance(fact, ev.StacksAsked)]


def test_a_look_is_recorded_before_what_it_finds(context: RunContext, slow: Slow) -> None:
    """Who asks takes no older stack for the answer."""
    looking: Any = Watches(context)
    looking._of["w1"] = [slow]
    slow.on_asked = lambda: context.report("w1", ev.StackTaken(0, None, StackMethod.TRACEBACK, True, "stack"))
    slow.may_answer.set()
    context.ask_for_stacks("me")
    looking.take_stacks()
    for thread in looking._taking:
        thread.join()
    context.pump.drain()
    events = list(read_all((context.directory / "recording.jsonl").read_bytes()))
    assert [type(event.fact) for event in events] == [ev.StacksAsked, ev.StackTaken]
    assert events[0].time_s <= events[1].time_s


def test_where_nobody_lives_the_answer_is_at_once_that_there_is_none(context: RunContext) -> None:
    context.ask_for_stacks("me")
    assert looks(context) == [("me",)]
    assert not context.askers


def test_askers_are_few_and_short(context: RunContext, slow: Slow) -> None:
    """Whoever can write into the run's directory can ask."""
    for number in range(1000):
        context.ask_for_stacks(f"{number}-")
        context.ask_for_stacks(f"{number}-" + "x" * 1000)
    context.record_look()
    (askers,) = looks(context)
    assert len(askers) == MAX_ASKERS
    assert max(map(len, askers)) <= ASKER_CHARS
