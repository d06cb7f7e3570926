"""How the stacks of all ranks are shown."""

from pytest_megacpp.recording.events import StackTaken
from pytest_megacpp.recording.vocabulary import StackMethod
from pytest_megacpp.report.stack_groups import newest_stacks, stack_lines, stacks_json
from tests.golden.build import in_step
from tests.scenario import FakeBox


def shown(box: FakeBox, *, every_thread: bool = False) -> list[str]:
    return list(stack_lines(newest_stacks(box.timeline(), "w1"), "/repo", every_thread=every_thread))


def test_equal_stacks_are_shown_once_the_most_frequent_first() -> None:
    lines = shown(in_step().at(2, line=88).after(1.0).at((0, 1, 3), line=40, function="step"))
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert [head.partition(":")[0] for head in heads] == ["ranks 0,1,3", "rank 2"]
    assert "    step (suite/train.py:40)" in lines
    assert "    load_batch (suite/train.py:88)" in lines


def test_the_newest_stack_of_a_rank_counts() -> None:
    lines = shown(in_step().at((0, 1, 2, 3), line=1).after(1.0).at((0, 1, 2, 3), line=2))
    assert not [line for line in lines if ":1)" in line]
    assert "    load_batch (suite/train.py:2)" in lines


def test_ranks_without_a_stack_are_said() -> None:
    box = in_step().at((0, 1))
    box.box(StackTaken(2, 0, StackMethod.TRACEBACK, False, ""))
    lines = shown(box)
    assert "    it did not answer" in lines
    assert "    no stack was taken of it" in lines
    said = stacks_json(newest_stacks(box.timeline(), "w1"))
    assert [entry["answered"] for entry in said] == [True, True, False, False]


def test_what_a_rank_wrote_into_its_stack_acts_on_nothing() -> None:
    box = in_step()
    box.box(StackTaken(0, 0, StackMethod.FAULTHANDLER, True, "\x1b]0;owned\x07 no frames\n::error::hi\n"))
    text = "\n".join(shown(box))
    assert "\x1b" not in text
    assert "\n::error" not in text


def test_all_threads_with_all_of_their_frames() -> None:
    dump = (
        'Thread 0x01 (most recent call first):\n  File "/repo/data.py", line 5 in worker\n\n'
        'Thread 0x7f01 (most recent call first):\n  File "/repo/suite/train.py", line 7 in step\n'
        '  File "/usr/lib/python3.11/site-packages/_pytest/python.py", line 1 in pytest_pyfunc_call\n'
    )
    box = in_step()
    box.box(StackTaken(0, 0, StackMethod.TRACEBACK, True, dump))
    assert "    step (suite/train.py:7)" in shown(box)
    assert not [line for line in shown(box) if "worker" in line or "pyfunc" in line]
    whole = shown(box, every_thread=True)
    assert "    worker (data.py:5)" in whole
    assert "    pytest_pyfunc_call (_pytest/python.py:1)" in whole
