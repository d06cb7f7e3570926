"""A collective that some ranks left open and others never issued can't complete, though every rank passed."""

from typing import Any

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.groups import KEPT_GROUPS
from pytest_megacpp.recording.reports import goes_well, issued_alike
from pytest_megacpp.recording.vocabulary import TestPhase
from tests.scenario import FakeBox

ONE, TWO = "1-1:aaaaaaaaaaaaaaaa", "1-2:bbbbbbbbbbbbbbbb|1-1:aaaaaaaaaaaaaaaa"


def passed(digests: dict[int, str], left_open: tuple[int, ...], **more: Any) -> FakeBox:
    box = FakeBox(len(digests)).begins().announces("0", tuple(digests)).reports(TestPhase.CALL)
    return box.finishes(digests=digests, left_open=left_open, **more).ends()


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
    ("digests", "left_open", "more"),
    [
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (), {}),  # nobody has one open
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (0, 1, 3), {"gave_up": (0,)}),  # the others dropped what one waited for
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (0, 1, 3), {"gave_up": (2,)}),  # a call that failed was its part
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (0, 1, 3), {"running": (2,)}),  # it comes to that later
        ({0: TWO, 1: TWO, 2: TWO, 3: TWO}, (0, 1, 2, 3), {}),  # a device that is slow
        ({0: TWO, 1: TWO, 2: ONE, 3: TWO}, (0, 1, 3), {"missed": {2: 1}}),  # it may have issued what was lost
    ],
)
def test_what_may_be_right_passes(digests: dict[int, str], left_open: tuple[int, ...], more: dict[str, Any]) -> None:
    box = passed(digests, left_open, **more)
    assert verdict(box).code is Code.PASSED
    assert goes_well(box.timeline(), box.timeline().tests[0])
    assert issued_alike(box.timeline().tests[0])


def test_a_rank_of_too_many_groups_may_have_issued_what_is_not_kept() -> None:
    """Rank 1 has a digest of group 0 as well, as its last one."""
    box = FakeBox(2).begins().announces("0", (0, 1)).reports(TestPhase.CALL)
    box.phase("teardown").reports(TestPhase.TEARDOWN)
    many = {str(1 + n): ONE for n in range(KEPT_GROUPS)}
    box.rank(ev.Finished(0, 0, True, digests={"0": TWO}, left_open=True))
    box.rank(ev.Finished(1, 0, True, digests=many | {"0": TWO}))
    assert issued_alike(box.ends().timeline().tests[0])


@pytest.mark.parametrize(
    ("digests", "code"),
    [
        ({0: "1-9:aaaaaaaaaaaaaaaa", 1: "1-17:bbbbbbbbbbbbbbbb"}, Code.PASSED),
        ({0: "1-9:aaaaaaaaaaaaaaaa", 1: "1-9:bbbbbbbbbbbbbbbb"}, Code.COLLECTIVE_MISMATCH),
    ],
)
def test_digests_of_a_thread_that_runs_are_of_a_moment(digests: dict[int, str], code: Code) -> None:
    """They differ for sure only where two of one length do."""
    box = passed(digests, (), running=(0, 1))
    found = verdict(box)
    assert (found.code, found.certainty) == (code, Certainty.LIKELY if code is Code.PASSED else Certainty.CERTAIN)
    assert issued_alike(box.timeline().tests[0]) is (code is Code.PASSED)
