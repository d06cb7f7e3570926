"""Owns failures of worlds of any size, by the fake box: many ranks alike, a few that are not."""

from collections.abc import Callable

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason, NotRun, Stream
from tests.golden.build import died, in_step, others_wait
from tests.scenario import PEER_CLOSED, FakeBox

CASES: dict[str, Callable[[int], FakeBox]] = {}
ODD_ONES = 16


def case(build: Callable[[int], FakeBox]) -> Callable[[int], FakeBox]:
    CASES[build.__name__.replace("_", "-")] = build
    return build


def some(ranks: int) -> tuple[int, ...]:
    """Sixteen ranks here and there."""
    return tuple(range(3, ranks, ranks // ODD_ONES))


def stalled(ranks: int, missing: tuple[int, ...]) -> FakeBox:
    box = in_step(ranks)
    waiting = box.others(*missing)
    box.enters(waiting, seq=2).after(31.0)
    return box.acts(ActReason.STALL, "", waiting, missing, (), 31.0)


@case
def rank_death_victims(ranks: int) -> FakeBox:
    """The others' texts differ by a port each."""
    box = others_wait(in_step(ranks), 3).raises(3).finishes(3).after(0.04)
    for rank in box.others(3):
        box.loses_peer(rank, PEER_CLOSED.replace("31337", str(30_000 + rank)))
    return box.finishes(box.others(3)).ends().done()


@case
def rank_death_oom_killed(ranks: int) -> FakeBox:
    box = others_wait(in_step(ranks), 3).writes(3, "loading shard 7\n")
    for rank in box.others(3):
        box.writes(rank, f"step 12, loss {rank / 10}\n", Stream.STDOUT)
    return died(box.exits(3, None, "SIGKILL", True), 3)


@case
def rank_death_of_every_second(ranks: int) -> FakeBox:
    box, dead = in_step(ranks), tuple(range(0, ranks, 2))
    box.enters(box.others(*dead), seq=2).after(2.0)
    for rank in dead:
        box.writes(rank, f"an error on rank {rank}\n").exits(rank, None, "SIGABRT")
    return box.after(0.2).acts(ActReason.EXIT, "", box.others(*dead), dead, (), 2.2).aborts("exit").done()


@case
def test_failed_everywhere(ranks: int) -> FakeBox:
    box = in_step(ranks)
    for rank in range(ranks):
        box.raises(rank, "AssertionError", f"assert {rank}.0 == 4.0", 12)
    return box.finishes().ends().done()


@case
def straggler_the_last(ranks: int) -> FakeBox:
    return stalled(ranks, (ranks - 1,)).at(ranks - 1).aborts("stall").done()


@case
def straggler_here_and_there(ranks: int) -> FakeBox:
    """Each at a line of its own."""
    box = stalled(ranks, some(ranks))
    for number, rank in enumerate(some(ranks)):
        box.at(rank, 80 + number)
    return box.aborts("stall").done()


@case
def straggler_of_every_pair(ranks: int) -> FakeBox:
    """A group for every two ranks, and one of each two waits."""
    box, waiting = in_step(ranks), tuple(range(0, ranks, 2))
    for rank in waiting:
        box.announces(f"{rank // 2 + 1}", (rank, rank + 1)).enters(rank, group=f"{rank // 2 + 1}")
    missing = box.others(*waiting)
    return box.after(31.0).acts(ActReason.STALL, "", waiting, missing, (), 31.0).at(missing).aborts("stall").done()


@case
def compile_skew_of_some(ranks: int) -> FakeBox:
    box, slow = in_step(ranks), some(ranks)
    box.samples(slow, compiling=("dynamo_compile",)).enters(box.others(*slow), seq=7).after(31.0)
    return box.acts(ActReason.SKEW, "", box.others(*slow), slow, slow, 31.0).aborts("skew").done()


@case
def collective_mismatch_of_many_sizes(ranks: int) -> FakeBox:
    box, odd = in_step(ranks), some(ranks)
    box.enters(box.others(*odd), seq=2)
    for rank in odd:
        box.enters(rank, seq=2, numel=16 + rank)
    return box.after(0.4).acts(ActReason.MISMATCH, "size differs").aborts("mismatch").done()


@case
def startup_failure_import_on_every_second(ranks: int) -> FakeBox:
    box = FakeBox(ranks).starts_world().readies()
    for rank in range(ranks):
        missing = ("suite/test_step.py", f"E   ModuleNotFoundError: No module named 'fast{rank % 10}'")
        box.collects(rank, (), missing) if rank % 2 == 0 else box.collects(rank)
    return box.gives_up(NotRun.COLLECTION).done()


@case
def startup_failure_too_slow(ranks: int) -> FakeBox:
    box = FakeBox(ranks).starts_world().readies(range(0, ranks, 3)).collects(range(0, ranks, 6)).after(60)
    return box.acts(ActReason.STARTUP_LIMIT, "not ready").gives_up(NotRun.STARTUP_LIMIT).done()


@case
def startup_failure_exits(ranks: int) -> FakeBox:
    box = FakeBox(ranks).starts_world()
    for rank in range(ranks):
        box.exits(rank, 1 if rank % 3 else 3)
    return box.acts(ActReason.EXIT).gives_up(NotRun.EXIT).done()


@case
def hang_point_to_point(ranks: int) -> FakeBox:
    box = in_step(ranks).blocked(range(ranks)).after(31.0)
    return box.acts(ActReason.STALL, "", range(ranks), (), (), 31.0).aborts("stall").done()


@case
def overtime(ranks: int) -> FakeBox:
    box = in_step(ranks).after(100.0)
    for rank in range(ranks):
        box.box(ev.Sampled(rank, 0, True, "R", (), 0.0, 90.0, 90.0))
    return box.acts(ActReason.TEST_LIMIT, "100 s").aborts("test-limit").done()
