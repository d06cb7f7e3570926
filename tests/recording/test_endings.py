"""Processes that ended badly while no test ran."""

import pytest

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.endings import bad_endings
from tests.scenario import FakeBox


def left(code: int | None, signal: str | None, *, graceful: bool = True) -> list[str]:
    box = FakeBox(2).begins().passes().ends()
    box.box(ev.RankExited(0, 0, None, False, True)).box(ev.RankExited(1, code, signal, False, True))
    box.box(ev.WorldEnded("done", graceful))
    return [str(ending) for ending in bad_endings(box.timeline())]


@pytest.mark.parametrize(
    ("code", "signal", "how"),
    [
        (-6, "SIGABRT", "ended with SIGABRT"),
        (-11, "SIGSEGV", "ended with SIGSEGV"),
        (3, None, "ended with exit code 3"),
    ],
)
def test_a_rank_that_dies_while_it_leaves(code: int, signal: str | None, how: str) -> None:
    assert left(code, signal) == [f"rank 1 of world w1 {how} after its last test"]
    assert left(code, signal, graceful=False) == []  # the box ended it


@pytest.mark.parametrize(("code", "signal"), [(0, None), (-15, "SIGTERM"), (-9, "SIGKILL")])
def test_a_rank_that_leaves_or_is_made_to(code: int, signal: str | None) -> None:
    assert left(code, signal) == []


def leaves(exited: ev.RankExited) -> list[str]:
    box = FakeBox(2).begins().passes().ends().box(ev.RankExited(0, 0, None, False, True)).box(exited)
    return [str(ending) for ending in bad_endings(box.box(ev.WorldEnded("done", True)).timeline())]


@pytest.mark.parametrize(
    ("code", "signal", "oom", "how"),
    [
        (-9, "SIGKILL", False, "ended with SIGKILL"),
        (-9, "SIGKILL", None, "ended with SIGKILL"),
        (-9, "SIGKILL", True, "ended by an OOM kill"),
        (-15, "SIGTERM", False, "ended with SIGTERM"),
        (-11, "SIGSEGV", False, "ended with SIGSEGV"),
        (3, None, False, "ended with exit code 3"),
    ],
)
def test_a_kill_that_is_not_the_box_s(code: int, signal: str | None, oom: bool | None, how: str) -> None:
    """The box sends signals only to ranks that take too long to leave."""
    died = ev.RankExited(1, code, signal, oom, True, signalled=False)
    assert leaves(died) == [f"rank 1 of world w1 {how} after its last test"]


@pytest.mark.parametrize(
    ("code", "signal", "bad"),
    [(-9, "SIGKILL", False), (-15, "SIGTERM", False), (143, None, False), (1, None, False), (-11, "SIGSEGV", True)],
)
def test_after_a_signal_of_the_box_s_only_a_crash_is_a_rank_s_own(code: int, signal: str | None, bad: bool) -> None:
    assert bool(leaves(ev.RankExited(1, code, signal, False, True, signalled=True))) == bad


@pytest.mark.parametrize("signalled", [None, False, True])
def test_a_status_that_was_not_learnt_is_no_ending(signalled: bool | None) -> None:
    assert leaves(ev.RankExited(1, None, None, None, True, signalled=signalled)) == []


def test_memory_that_ended_a_rank_while_it_left_is_told_of_recordings_of_before() -> None:
    (ending,) = leaves(ev.RankExited(1, -9, "SIGKILL", True, True))
    assert ending == "rank 1 of world w1 ended by an OOM kill after its last test"


def test_ranks_that_end_alike_are_named_together() -> None:
    box = FakeBox(3).begins().passes().ends()
    for rank in range(3):
        box.box(ev.RankExited(rank, -6, "SIGABRT", False, True))
    endings = bad_endings(box.box(ev.WorldEnded("done", True)).timeline())
    assert [str(ending) for ending in endings] == ["ranks 0-2 of world w1 ended with SIGABRT after its last test"]
