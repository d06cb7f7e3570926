"""Owns what counts towards a test's limits at a moment, for who watches it; must not know when the box acts, or a
terminal.

The clocks are those that alarms go by, so what is shown is what ends a test. Whom ranks are shown to wait for is what
the judge would say, which is less than what the clocks go by.
"""

from collections.abc import Iterator

from pytest_megacpp.box.alarms import Clocks, all_compile, compile_rest_s, compiles, everybody, skew_s, spent_s
from pytest_megacpp.recording.collectives import Number
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.waits import NO_NUMBER, Counted, Wait, late, young_since

REST_S = 10.0  # a compile in which nothing moves for less is not shown as near the limit for that


def counting(view: TestView, clocks: Clocks, now_s: float) -> tuple[Counted, ...]:
    """Returns what counts towards the limits of this test now, for who watches it; the clocks have been advanced to
    `now_s`.
    """
    limits, found = view.limits, [Counted("test", view.limits.test, spent_s(view, clocks, now_s))]
    known = _known_late(view, clocks, now_s)
    for wait in clocks.waits:
        if wait.number in clocks.late:
            found += _counting_of(view, clocks, wait, known.get(wait.number), now_s)
    if (wait_of_all := everybody(view, now_s)) is not None:
        waited_s = clocks.since(wait_of_all.since_s, now_s)
        found.append(Counted("stall", limits.stall, waited_s, wait_of_all, waited_s=waited_s))
    for rank in view.unfinished():
        if rank.compiling_since_s is not None:
            compiled_s = clocks.since(rank.compiling_since_s, now_s)
            found.append(Counted("compile", limits.compile, compiled_s, ranks=(rank.rank,)))
    return tuple(found)


def _known_late(view: TestView, clocks: Clocks, now_s: float) -> dict[Number, tuple[int, ...]]:
    """Returns per wait the ranks that are known to be late, as the judge sees it: none behind a rank that is on its
    way, or of which only a stack shows that it waits. Limits count by those that hold it up at the moment, and by
    guesses as well (`Clocks.late`).
    """

    def is_end(wait: Wait, rank: int) -> bool:
        return clocks.graph.is_on_its_way(rank, young_since(wait.since_s, now_s, view.limits.stall))

    recorded = [w for w in clocks.waits if w.number in clocks.late and w.number != NO_NUMBER]
    return late(recorded, clocks.waiting, is_end)


def _counting_of(
    view: TestView, clocks: Clocks, wait: Wait, known: tuple[int, ...] | None, now_s: float
) -> Iterator[Counted]:
    """Yields the limits whose time runs for this wait; one for peers that compile does so only while they do."""
    held_up_by, limits = clocks.late[wait.number], view.limits
    ranks, guessed = (held_up_by, True) if known is None else (known, False)
    open_s = clocks.since(wait.since_s, now_s)  # who looks rarely counted what was before it, too
    compiling_s, plain_s, lasted_s = (min(open_s, clock.get(wait.number, 0.0)) for clock in clocks.all)
    if compiling_s and any(compiles(view.ranks[r], now_s) for r in held_up_by):
        yield Counted("skew", skew_s(view, held_up_by), compiling_s, wait, ranks, guessed, lasted_s)
        rest_s = min(compiling_s, compile_rest_s(view, clocks, wait.number, now_s))
        if rest_s > min(REST_S, limits.stall / 2):
            yield Counted("stall", limits.stall, rest_s, ranks=ranks)
    if plain_s and not all_compile(view, held_up_by, now_s):
        yield Counted("stall", limits.stall, plain_s, wait, ranks, guessed, lasted_s)
