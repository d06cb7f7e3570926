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


def test_ranks_that_end_alike_are_named_together() -> None:
    box = FakeBox(3).begins().passes().ends()
    for rank in range(3):
        box.box(ev.RankExited(rank, -6, "SIGABRT", False, True))
    endings = bad_endings(box.box(ev.WorldEnded("done", True)).timeline())
    assert [str(ending) for ending in endings] == ["ranks 0-2 of world w1 ended with SIGABRT after its last test"]
