"""Owns how facts of a rank in a test are folded, each with its bound; must not know looks from outside or waits.

What counts as progress of the rank: phases, reports, first forwards, groups that were made (`fold_groups`), and what
looks show (`fold_looks`).
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.bounded import append, keep, newest
from pytest_megacpp.recording.groups import KEPT_GROUPS
from pytest_megacpp.recording.views import Phase, RankView, RunView, TestView, WorldView
from pytest_megacpp.recording.vocabulary import Lost, ReportOutcome


class OfATest(Protocol):
    """A fact of a rank in a test; `test` None: in the one that its world runs."""

    @property
    def rank(self) -> int: ...
    @property
    def test(self) -> int | None: ...


F = TypeVar("F", bound=OfATest)


def in_test(run: RunView, world: WorldView, time_s: float, fact: F, fold: Callable[[RankView, float, F], None]) -> bool:
    """Folds the fact into its rank's view, unless the test has ended: what ranks say while the box ends them is no
    evidence. Returns whether the fact belongs to a test of this world at all.
    """
    number = world.test if fact.test is None else fact.test
    test = run.tests.get(number) if number is not None else None
    if test is None or test.world != world.name:
        return False
    if test.ended is None:
        _fold(test, test.ranks[fact.rank], time_s, fact, fold)
    return True


def _fold(test: TestView, view: RankView, time_s: float, fact: F, fold: Callable[[RankView, float, F], None]) -> None:
    progress_s, busy_s, issued_s, ran_s = view.progress_s, view.busy_s, view.issued_s, view.ran_s
    fold(view, time_s, fact)
    if test.acted is not None:  # taking evidence moves a rank, that is no progress
        view.progress_s, view.busy_s, view.issued_s, view.ran_s = progress_s, busy_s, issued_s, ran_s
    else:  # sources don't arrive in order of time
        view.progress_s, view.busy_s = max(progress_s, view.progress_s), max(busy_s, view.busy_s)


# -- phases and results ------------------------------------------------------------------------------------

KEPT_PHASES = 1024


def phase_started(view: RankView, time_s: float, fact: ev.PhaseStarted) -> None:
    append(view.phases, Phase(fact.name, time_s), KEPT_PHASES)
    view.progress_s = view.busy_s = time_s


def phase_ended(view: RankView, time_s: float, fact: ev.PhaseEnded) -> None:
    begun = next((p for p in reversed(view.phases) if p.name == fact.name and p.end_s is None), None)
    if begun is not None:
        begun.end_s = time_s
    view.progress_s = time_s


def reported(view: RankView, time_s: float, fact: ev.Reported) -> None:
    """Of several reports of a phase (reruns, subtests) a failure stays, else the newest counts."""
    known = view.reports.get(fact.when)
    if known is None or known[1].outcome is not ReportOutcome.FAILED:
        view.reports[fact.when] = (time_s, fact)
    view.progress_s = view.busy_s = time_s


def finished(view: RankView, time_s: float, fact: ev.Finished) -> None:
    view.finished_s = time_s
    view.group_clean, view.group_foreign, view.counted = fact.group_clean, fact.group_foreign, fact
    keep_digests(view, fact.digests.items())


def keep_digests(view: RankView, digests: Iterable[tuple[str, str]]) -> None:
    """Keeps digests by the names under which all members know the groups at this moment."""
    for group, digest in digests:
        keep(view.digests, view.collectives.named(group), digest, KEPT_GROUPS)


KEPT_THREADS = 8


def thread_raised(view: RankView, time_s: float, fact: ev.ThreadRaised) -> None:
    append(view.threads, (time_s, fact), KEPT_THREADS)


KEPT_TURNS = 4096  # of a debugger: one for each step


def debugged(view: RankView, time_s: float, fact: ev.Debugged) -> None:
    if fact.is_open:
        append(view.debugger, Phase("debugger", time_s), KEPT_TURNS)
    elif view.debugger and view.debugger[-1].end_s is None:
        view.debugger[-1].end_s = time_s
        view.quit_debugger = view.quit_debugger or fact.quit
    view.progress_s = view.busy_s = time_s


KEPT_HANDLED = 8  # the newest


def handles(view: RankView, time_s: float, fact: ev.Handles) -> None:
    view.handled = newest(view.handled, (time_s, fact), KEPT_HANDLED)


KEPT_WARNINGS = 256


def warned(run: RunView, world: WorldView, time_s: float, fact: ev.Warned) -> None:
    """Also before any test."""
    if fact.test is None:
        keep(world.warnings.setdefault(fact.rank, {}), fact, None, KEPT_WARNINGS)
    elif not in_test(run, world, time_s, fact, _warned_in_test):
        run.stray += 1


def _warned_in_test(view: RankView, time_s: float, fact: ev.Warned) -> None:
    keep(view.warnings, fact, None, KEPT_WARNINGS)


def muted(run: RunView, world: WorldView, time_s: float, fact: ev.Muted) -> None:
    """Says nothing between tests."""
    in_test(run, world, time_s, fact, _muted_in_test)


def _muted_in_test(view: RankView, time_s: float, fact: ev.Muted) -> None:
    if fact.lost is Lost.REPORTS or not view.muted:
        view.muted = fact.lost


# -- what the test says of itself --------------------------------------------------------------------------


def recorded(view: RankView, time_s: float, fact: ev.Recorded) -> None:
    keep(view.records, fact.key, fact.value, ev.KEPT_RECORDS)


KEPT_DATA_SETS = 64


def bucket_read(view: RankView, time_s: float, fact: ev.BucketRead) -> None:
    """The first read is kept, with the largest count."""
    first_s, first = view.bucket_reads.get(fact.name, (time_s, fact))
    counted = replace(first, reads=max(first.reads, fact.reads))
    keep(view.bucket_reads, fact.name, (first_s, counted), KEPT_DATA_SETS)


# -- compiling ---------------------------------------------------------------------------------------------

KEPT_FIRST_FORWARDS = 256


def first_forward(view: RankView, time_s: float, fact: ev.FirstForward) -> None:
    append(view.first_forwards, (time_s, fact), KEPT_FIRST_FORWARDS)
    view.progress_s = time_s


def warmup_skipped(view: RankView, time_s: float, fact: ev.WarmupSkipped) -> None:
    view.warmup_skipped = fact.reason


def compiled(view: RankView, time_s: float, fact: ev.Compiled) -> None:
    view.compiled = fact


KEPT_DROPPED = 64


def configs_dropped(view: RankView, time_s: float, fact: ev.ConfigsDropped) -> None:
    keep(view.dropped, fact, None, KEPT_DROPPED)
