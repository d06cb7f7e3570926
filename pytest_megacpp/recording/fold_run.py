"""Owns how facts about a whole run are folded, each with its bound; must not know worlds' insides, tests or ranks."""

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.bounded import append, keep, newest
from pytest_megacpp.recording.plan import MAX_TESTS
from pytest_megacpp.recording.series import Series
from pytest_megacpp.recording.views import RunView, WorldView


def run_started(run: RunView, fact: ev.RunStarted) -> None:
    run.run_id, run.started = fact.run_id, fact


def box_ready(run: RunView, fact: ev.BoxReady) -> None:
    run.ready = fact


def seed_checked(run: RunView, fact: ev.SeedChecked) -> None:
    run.seed = fact


def seed_kept(run: RunView, fact: ev.SeedKept) -> None:
    run.kept = fact


KEPT_SETTINGS = 4_096  # a hundred times as many as the environment contract has


def environment_set(run: RunView, fact: ev.EnvironmentSet) -> None:
    keep(run.environment, fact.name, fact, KEPT_SETTINGS)


KEPT_CAPABILITIES = 65_536


def capability(run: RunView, world: str, fact: ev.Capability) -> None:
    view = run.worlds.get(world)
    if fact.rank is None or (view is not None and 0 <= fact.rank < view.size):
        keep(run.capabilities, (fact.name, fact.rank), fact, KEPT_CAPABILITIES)


KEPT_PROBLEMS = 256  # the first, of which the very first is judged


def problem_found(run: RunView, time_s: float, fact: ev.ProblemFound) -> None:
    append(run.problems, (time_s, fact), KEPT_PROBLEMS)


KEPT_PROGRESS = 64  # the newest


def progress(run: RunView, time_s: float, fact: ev.Progress) -> None:
    run.progress = newest(run.progress, (time_s, fact), KEPT_PROGRESS)


KEPT_POINTS = 128  # of the memory of the box, and of each rank in a world


def memory_used(run: RunView, world: str, time_s: float, fact: ev.MemoryUsed) -> None:
    run.memory = (time_s, fact)
    run.box_memory.add(time_s, fact.total_bytes, KEPT_POINTS)
    if (view := run.worlds.get(world)) is not None:
        for used in fact.ranks:
            if 0 <= used.rank < view.size:
                view.memory.setdefault(used.rank, Series()).add(time_s, used.used_bytes, KEPT_POINTS)
    if run.exceeded_s is None and fact.total_bytes > fact.limit_bytes:
        run.exceeded_s = time_s


def run_finished(run: RunView, time_s: float, fact: ev.RunFinished) -> None:
    run.finished, run.finished_s = fact, time_s


# -- what the reader found in the bytes --------------------------------------------------------------------

KEPT_DAMAGE = 10_000  # gaps, and damaged lines


def gap(run: RunView, world: str, fact: ev.Gap) -> None:
    append(run.gaps, fact, KEPT_DAMAGE)
    known = world if world in run.worlds else ""
    run.lost[known] = run.lost.get(known, 0) + fact.last - fact.first + 1


def damaged(run: RunView, fact: ev.Damaged) -> None:
    append(run.damaged, fact, KEPT_DAMAGE)


def unknown(run: RunView) -> None:
    run.unknown += 1


def source_read(run: RunView, fact: ev.SourceRead) -> None:
    run.source = fact


# -- the plan ----------------------------------------------------------------------------------------------

KEPT_ATTEMPTS = 64  # at one test, after the first
MAX_ATTEMPTS = 2 * MAX_TESTS  # at all tests
MAX_WORLD_SIZE = 8_192


def test_planned(run: RunView, fact: ev.TestPlanned) -> None:
    if not (0 < fact.ranks <= MAX_WORLD_SIZE and _fits_the_plan(run, fact)):
        run.stray += 1
        return
    if fact.of is not None and fact.test not in run.planned:
        run.further.setdefault(fact.of, []).append(fact.test)
    run.planned[fact.test] = fact


def _fits_the_plan(run: RunView, fact: ev.TestPlanned) -> bool:
    """A number is planned once, and a further attempt is one at the same test: on as many ranks, no less wanted."""
    if run.planned.get(fact.test, fact) != fact:
        return False
    if fact.test not in run.planned and len(run.planned) >= (MAX_TESTS if fact.of is None else MAX_ATTEMPTS):
        return False
    return fact.of is None or _may_follow(run, fact, fact.of)


def _may_follow(run: RunView, fact: ev.TestPlanned, number: int) -> bool:
    """Whether the plan has room for a further attempt at test `number`, and that is the same test."""
    first = run.planned.get(number)
    if first is None or first.of is not None or number >= fact.test:
        return False
    is_same_test = (fact.nodeid, fact.ranks, fact.must_run) == (first.nodeid, first.ranks, first.must_run)
    return is_same_test and len(run.further.get(number, ())) < KEPT_ATTEMPTS


# -- the worlds --------------------------------------------------------------------------------------------

MAX_WORLDS = 131_072  # more than a run has tests


def world_started(run: RunView, name: str, time_s: float, fact: ev.WorldStarted) -> None:
    known = run.worlds.get(name)
    if known is None and 0 < fact.size <= MAX_WORLD_SIZE and len(run.worlds) < MAX_WORLDS:
        run.worlds[name] = WorldView(name, fact.size, time_s, fact.reason)
    elif known is None or (known.size, known.reason) != (fact.size, fact.reason):
        run.stray += 1
