"""How long `megacpp stacks` and `logs` ask a box that no desk follows: a surface answers step by step."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.desk.commands import asking, logs, stacks
from pytest_megacpp.desk.run.rank_logs import Wanted
from pytest_megacpp.desk.run.runs import GrowingRecording
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.plan import Look
from pytest_megacpp.recording.vocabulary import Stream
from pytest_megacpp.recording.wire import encode
from tests.golden.build import in_step
from tests.scenario import FakeBox

READ, ANSWERED, NEVER = 3, 5, 1000
RANKS = 0, 1, 2, 3
STEP_S = 0.1


class Growing:
    """A surface whose box writes something in each step of a visit, because ranks are looked at. All that there was has
    been read after `READ` steps, and what was asked is answered after `answered`.
    """

    def __init__(self, clock: list[float], answered: int = ANSWERED) -> None:
        self.steps = 0
        self.box = in_step().at(RANKS, line=40).box(ev.OutputRead(1, 0, Stream.STDOUT, "step 7\n"))
        self.answered = answered
        self._clock = clock

    def visit(
        self, options: object, run_id: str, into: Path, words: Sequence[Word], is_over: Callable[[bool], bool]
    ) -> bool:
        written = 0
        while not is_over(self.steps >= READ) and self.steps < NEVER:
            self.steps += 1
            self._clock[0] += STEP_S
            self.box.after(STEP_S).samples(RANKS, cpu_s=self.steps)
            if words and self.steps == self.answered:
                self._answer(self.box, *words)
            with (into / "recording.jsonl").open("ab") as recording:
                recording.write(b"".join(map(encode, self.box.events[written:])))
            written = len(self.box.events)
        return True

    @staticmethod
    def _answer(box: FakeBox, word: Word) -> None:
        assert isinstance(word, Look)
        box.say(ev.StacksAsked((word.asker,)), world="").at(RANKS, line=41)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [100.0]
    for module in (asking, stacks):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s[0], time=lambda: now_s[0]))
    return now_s


@pytest.fixture
def growing(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> Growing:
    attaching = Growing(clock)
    monkeypatch.setattr(asking, "provider", lambda surface, tables: SimpleNamespace(attaching=attaching))
    return attaching


DESK: Any = SimpleNamespace(configured=lambda surface: None, settings={})


def entry(run: Path) -> Any:
    return SimpleNamespace(path=run, text=lambda name: "modal")


def looked(run: Path) -> stacks.Looking:
    looking = stacks.Looking(GrowingRecording(run / "recording.jsonl"))
    assert stacks._ask_elsewhere(DESK, looking, entry(run), run)
    return looking


def test_stacks_are_there_as_soon_as_the_box_answers(tmp_path: Path, growing: Growing) -> None:
    assert looked(tmp_path).silent("w1") == []
    assert growing.steps == ANSWERED


def test_a_box_that_does_not_answer_is_given_its_time(tmp_path: Path, growing: Growing) -> None:
    """From when it was reached; how long that was is said."""
    growing.answered = NEVER
    looking = looked(tmp_path)
    assert looking.silent("w1") == list(RANKS)
    assert looking.waited_s == pytest.approx(READ * STEP_S + stacks.ANSWER_S, abs=2 * STEP_S)


def test_a_recording_that_never_comes_is_not_waited_for_without_end(
    tmp_path: Path, growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing.answered = NEVER
    monkeypatch.setattr("tests.desk.test_asking.READ", NEVER)
    assert looked(tmp_path).waited_s == pytest.approx(asking.REACH_S, abs=2 * STEP_S)


def test_logs_end_with_what_there_was(tmp_path: Path, growing: Growing, capsys: pytest.CaptureFixture[str]) -> None:
    """However much is written meanwhile."""
    arguments = Namespace(test="", follow=False, json=False)
    assert logs._elsewhere(DESK, entry(tmp_path), Wanted(), arguments) == 0
    assert capsys.readouterr().out == "[rank 1] step 7\n"
    assert growing.steps == READ
