"""When a run speaks of its compile cache, and what it says."""

import pytest

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import SeedMode, SeedState
from pytest_megacpp.report.seed import seed_lines
from tests.report.story import Story

BEGAN = ev.SeedChecked(SeedMode.AUTO, SeedState.PARTIAL, "key", "seed-1", "run-0", 2, 4, 1_000_000)
KEPT = ev.SeedKept(SeedState.WARM, "seed-2", True, 4, 4, 2_000_000)


def lines(compiled: ev.Compiled | None, *facts: ev.Fact) -> list[str]:
    story = Story(2)
    if compiled is not None:
        story.rank(11.0, compiled)
    for fact in facts:
        story.box(12.0, fact, world="")
    return seed_lines(story.timeline)


MISSED = ev.Compiled(1, 0, 2.0, 1, 0, 1, {"inductor": ("a",)})
HIT = ev.Compiled(1, 0, 0.1, 1, 1, 0, {"inductor": ("a",)})
NOTHING = ev.Compiled(1, 0, 0.0, 0, 0, 0)


@pytest.mark.parametrize("compiled", [MISSED, HIT])
def test_one_line_says_what_the_cache_was_worth(compiled: ev.Compiled) -> None:
    assert lines(compiled, BEGAN, KEPT) == [
        "seed warm: covers 4 of 4 (test, rank) pairs, 2 at the start (run run-0), 2.0 MB, kept as seed-2"
    ]


@pytest.mark.parametrize("compiled", [None, NOTHING])
def test_no_line_if_nothing_was_compiled(compiled: ev.Compiled | None) -> None:
    assert lines(compiled, BEGAN, KEPT) == []


def test_no_line_of_a_run_that_never_came_so_far() -> None:
    assert lines(MISSED, BEGAN) == lines(MISSED, KEPT) == []


def test_why_nothing_was_kept_is_said() -> None:
    red = ev.SeedKept(SeedState.PARTIAL, "", False, 2, 4, 0, detail="not kept: the run isn't green (a.py)")
    began = ev.SeedChecked(SeedMode.AUTO, SeedState.ABSENT, "key", "", "", 0, 4, 0)
    assert lines(MISSED, began, red) == [
        "seed partial: covers 2 of 4 (test, rank) pairs, 0 at the start, 0.0 MB, not kept: the run isn't green (a.py)"
    ]
