"""A collective that some ranks left open and others never issued can't complete, though every rank passed."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording.reports import goes_well, issued_alike
from pytest_megacpp.recording.vocabulary import TestPhase
from tests.scenario import FakeBox

ONE, TWO = "1-1:aaaaaaaaaaaaaaaa", "1-2:bbbbbbbbbbbbbbbb|1-1:aaaaaaaaaaaaaaaa"


def passed(digests: dict[int, str], left_open: tuple[int, ...], missed: dict[int, int] | None = None) -> FakeBox:
    box = FakeBox(len(digests)).begins().announces("0", tuple(digests)).reports(TestPhase.CALL)
    return box.finishes(digests=digests, left_open=left_open, missed=missed).ends()


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.timeline(), 0).verdict


@pytest.mark.parametrize(
    ("digests", "left_open", "blamed"),
    [
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (0, 1, 3), (2,)),
        ({0: ONE, 1: TWO, 2: ONE, 3: ONE}, (1,), (1,)),
        ({0: TWO, 1: ONE}, (0,), ()),
        ({0: TWO, 1: TWO, 2: TWO, 3: ONE}, (1,), (3,)),  # its sender is through with a broadcast
    ],
)
def test_who_is_odd_is_told_by_the_majority(
    digests: dict[int, str], left_open: tuple[int, ...], blamed: tuple[int, ...]
) -> None:
    box = passed(digests, left_open)
    found = verdict(box)
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.COLLECTIVE_MISMATCH, blamed, Certainty.LIKELY)
    assert "#2 of group 0" in found.summary
    view = box.timeline().tests[0]
    assert not issued_alike(view)


@pytest.mark.parametrize(
    ("digests", "left_open", "missed"),
    [
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (), None),  # a call failed, or none was heard of
        ({0: TWO, 1: TWO, 2: TWO, 3: TWO}, (0, 1, 2, 3), None),  # a device that is slow
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (0, 1, 3), {2: 1}),  # it may have issued what was lost
    ],
)
def test_what_may_be_right_passes(
    digests: dict[int, str], left_open: tuple[int, ...], missed: dict[int, int] | None
) -> None:
    box = passed(digests, left_open, missed)
    assert verdict(box).code is Code.PASSED
    assert goes_well(box.timeline(), box.timeline().tests[0])
