"""Owns how facts about a world are folded, each with its bound: its start-up, the begin and end of its tests, what its
devices report; must not know what ranks do in a test.

All functions have the same parameters, because `Timeline` looks up the world for all of them and drops facts of ranks
that the world doesn't have. What is kept by rank is therefore bounded by the world's size.
"""

from dataclasses import replace

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.bounded import append, keep
from pytest_megacpp.recording.collectives import RankCollectives, kept_entries
from pytest_megacpp.recording.fold_groups import announce, count_left
from pytest_megacpp.recording.fold_run import MAX_ATTEMPTS
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.views import RankView, RunView, TestView, WorldView
from pytest_megacpp.recording.vocabulary import TestEnd

# -- the world and its ranks -------------------------------------------------------------------------------


def world_ended(run: RunView, world: WorldView, time_s: float, fact: ev.WorldEnded) -> None:
    world.ended, world.ended_s = fact, time_s


def rank_started(run: RunView, world: WorldView, time_s: float, fact: ev.RankStarted) -> None:
    world.pids[fact.rank] = fact.pid
    if fact.hash_seed:
        world.hash_seeds[fact.rank] = fact.hash_seed


def rank_ready(run: RunView, world: WorldView, time_s: float, fact: ev.RankReady) -> None:
    world.ready[fact.rank] = (time_s, fact)


def rank_collected(run: RunView, world: WorldView, time_s: float, fact: ev.RankCollected) -> None:
    if fact.rank not in world.collected:
        world.collected[fact.rank] = (time_s, _interned(run, fact))


def _interned(run: RunView, fact: ev.RankCollected) -> ev.RankCollected:
    """The fact with one object for all that is equal on ranks and in worlds, and without texts that are too many."""
    intern = run.interned
    errors, skipped, unplanned = intern.texts(fact.errors), intern.texts(fact.skipped), intern.texts(fact.unplanned)
    run.stray += (errors is None) + (skipped is None) + (unplanned is None)
    return replace(
        fact,
        found=intern.numbers(fact.found),
        with_lane=intern.numbers(fact.with_lane),
        errors=errors or (),
        skipped=skipped or (),
        unplanned=unplanned or (),
    )


def rank_broken(run: RunView, world: WorldView, time_s: float, fact: ev.RankBroken) -> None:
    world.broken.setdefault(fact.rank, (time_s, fact))


def rank_exited(run: RunView, world: WorldView, time_s: float, fact: ev.RankExited) -> None:
    """The first exit counts."""
    world.exits.setdefault(fact.rank, (time_s, fact))
    if world.test is not None:
        view = run.tests[world.test].ranks[fact.rank]
        if view.exit is None:
            view.exit, view.exit_s = fact, time_s


def device_used(run: RunView, world: WorldView, time_s: float, fact: ev.DeviceUsed) -> None:
    world.devices[fact.rank] = fact


KEPT_FAULTS = 256


def device_fault(run: RunView, world: WorldView, time_s: float, fact: ev.DeviceFault) -> None:
    append(world.faults, (time_s, fact), KEPT_FAULTS)


# -- its tests ---------------------------------------------------------------------------------------------

# Every rank reports more than one fact of each test. With this bound memory grows with the length of a recording,
# whatever sizes of worlds a hostile one claims.
VIEWS_PER_EVENT = 4
FREE_VIEWS = 100_000


def test_started(run: RunView, world: WorldView, time_s: float, fact: ev.TestStarted) -> None:
    """A test runs once."""
    known = run.tests.get(fact.test)
    if known is not None:
        run.stray += (known.world, known.nodeid) != (world.name, fact.nodeid)
        return
    views_left = FREE_VIEWS + VIEWS_PER_EVENT * run.events - run.rank_views
    if world.size > views_left or len(run.tests) >= MAX_ATTEMPTS:
        run.stray += 1
        return
    run.rank_views += world.size
    run.tests[fact.test] = test = _new_test(world, time_s, fact)
    world.test = fact.test
    count_left(world, test)
    for begun in (group for of_rank in world.begun.values() for group in of_rank.values()):
        name = announce(test, time_s, begun)  # the group outlived the test that made it
        test.groups.made(name, begun.rank, begun.ranks)


def _new_test(world: WorldView, time_s: float, fact: ev.TestStarted) -> TestView:
    groups = Groups(world.size)
    for group, members in world.groups.items():
        groups.announce(group, members)
    ranks = {rank: _new_rank(world, rank, time_s) for rank in range(world.size)}
    return TestView(
        fact.test, fact.nodeid, world.name, world.size, fact.preset, fact.limits, time_s, groups, ranks, fact.warmup
    )


def _new_rank(world: WorldView, rank: int, time_s: float) -> RankView:
    view = RankView(
        rank,
        collectives=RankCollectives(time_s, kept_entries(world.size)),
        progress_s=time_s,
        busy_s=time_s,
        issued_s=time_s,
        compiled_before_s=world.compile_s.get(rank, 0.0),
    )
    if rank in world.ready:
        ready = world.ready[rank][1]
        view.main_thread, view.frames_native_calls = ready.main_thread, ready.frames_native_calls
    return view


def acted(run: RunView, world: WorldView, time_s: float, fact: ev.Acted) -> None:
    """The first action counts in a test; from then on only the box's own evidence ends a wait."""
    test = run.tests.get(fact.test) if fact.test is not None else None
    if test is None:
        world.acted, world.acted_s = fact, time_s
    elif test.acted is None:
        test.acted, test.acted_s = fact, time_s
        for rank in test.ranks.values():
            rank.collectives.held = True


def test_ended(run: RunView, world: WorldView, time_s: float, fact: ev.TestEnded) -> None:
    test = run.tests.get(fact.test)
    if test is not None and test.world == world.name and test.ended is None:
        test.ended, test.ended_s = fact, time_s
    if fact.reason is TestEnd.NOT_RUN:
        keep(run.unreached, fact.test, (world.name, fact), MAX_ATTEMPTS)
    if world.test == fact.test:
        world.test = None
