"""Owns how looks at a rank from outside are folded, in a test and between tests: samples, flight records, stacks, logs;
must not know what is done about what they show.

The box takes these, most of them at every look; a rank's own flight records before it destroys a group belong here too.
"""

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.bounded import append, newest
from pytest_megacpp.recording.fold_groups import leave
from pytest_megacpp.recording.fold_tests import in_test, keep_digests
from pytest_megacpp.recording.series import Series
from pytest_megacpp.recording.views import Phase, RankView, RunView, WorldView
from pytest_megacpp.recording.vocabulary import FlightOrigin

RUNNING = "R"  # the kernel's letter for a thread that has a core, or waits for one
DISK = "D"  # for one in uninterruptible sleep, as while it waits for a disk
RUNNING_LOOKS = 5  # so many in a row see no thread running that sleeps or polls: docs/decisions/0060
KEPT_POINTS = 128  # of the CPU time of a rank in a world
KEPT_COMPILES = 128  # the first of a rank in a test
COUNTER_CHARS = 200


def sampled(run: RunView, world: WorldView, time_s: float, fact: ev.Sampled) -> None:
    world.compile_s[fact.rank] = max(fact.compile_s, world.compile_s.get(fact.rank, 0.0))
    if fact.cpu_s > 0:  # none: nobody could ask the kernel
        world.cpu.setdefault(fact.rank, Series()).add(time_s, fact.cpu_s, KEPT_POINTS)
    if not in_test(run, world, time_s, fact, _sampled_in_test):
        world.samples[fact.rank] = fact


def _sampled_in_test(view: RankView, time_s: float, fact: ev.Sampled) -> None:
    last, by_ticks = view.sample, fact.main_runs is None
    view.running_looks = view.running_looks + 1 if by_ticks and fact.state == RUNNING else 0
    if view.tree_cpu.computes(time_s, fact.cpu_s, by_ticks=by_ticks) or (last is not None and _moved(last, fact)):
        view.progress_s = time_s
    if view.main_cpu.computes(time_s, fact.main_cpu_s, by_ticks=by_ticks):
        view.busy_s = time_s
    if view.running_looks >= RUNNING_LOOKS:
        view.busy_s = view.progress_s = time_s
    if last is not None and _uses_disk(last, fact):
        view.progress_s = time_s
        if last.state == fact.state == DISK:
            view.busy_s = time_s
    if last is not None and (fact.main_runs, fact.packets) != (last.main_runs, last.packets):
        view.ran_s = max(view.ran_s, time_s)
    view.has_compiled |= bool(fact.compiling) or fact.compile_s > view.compiled_before_s
    if fact.answered:
        view.answered_s = time_s
        if not fact.compiling:
            _compile_ended(view, time_s)
            view.compiling_since_s = None
        elif view.compiling_since_s is None:
            _begin_compile(view, ", ".join(fact.compiling)[:COUNTER_CHARS], time_s)
    view.first_sample = view.first_sample or fact
    view.sample, view.sample_s = fact, time_s


def _begin_compile(view: RankView, name: str, time_s: float) -> None:
    view.compiling_since_s = time_s
    append(view.compiles, Phase(name, time_s), KEPT_COMPILES)


def _compiles_anew(view: RankView, fact: ev.FlightRecorded) -> None:
    """What compiles after a collective is another compile than before it: looks can miss the time between them."""
    since_s = view.compiling_since_s
    last_s = max((e.entered_s for e in fact.entries if not e.p2p), default=0.0) if since_s is not None else 0.0
    if since_s is not None and last_s > since_s and view.compiles:
        _compile_ended(view, last_s)
        _begin_compile(view, view.compiles[-1].name, last_s)


def _compile_ended(view: RankView, time_s: float) -> None:
    if view.compiling_since_s is not None and view.compiles and view.compiles[-1].end_s is None:
        view.compiles[-1].end_s = time_s


def _uses_disk(last: ev.Sampled, now: ev.Sampled) -> bool:
    """Whether two looks found somebody of the rank's tree waiting for a disk, and it ran in between: it reads a file
    bit by bit, which costs less CPU time than counts as computing (docs/decisions/0012). Of the main thread it is known
    whether it was that one which ran.
    """
    ran = now.main_cpu_s > last.main_cpu_s or now.main_runs != last.main_runs
    if not last.state == now.state == DISK:
        ran |= now.cpu_s > last.cpu_s
    return ran and last.disk_waits > 0 and now.disk_waits > 0


def _moved(last: ev.Sampled, now: ev.Sampled) -> bool:
    """Whether the rank wrote or compiled something between two looks."""
    return now.output_bytes > last.output_bytes or now.compile_s > last.compile_s or now.compiling != last.compiling


def flight_recorded(run: RunView, world: WorldView, time_s: float, fact: ev.FlightRecorded) -> None:
    """Says nothing between tests, but that groups are gone. `RankCollectives` bounds what it keeps."""
    if fact.origin is FlightOrigin.DESTROY:
        for group in world.begun.pop(fact.rank, {}).values():
            leave(world, fact.rank, group)
    in_test(run, world, time_s, fact, _flight_recorded_in_test)


def _flight_recorded_in_test(view: RankView, time_s: float, fact: ev.FlightRecorded) -> None:
    if view.collectives.update(fact, time_s):
        view.progress_s = view.busy_s = view.issued_s = time_s
        _compiles_anew(view, fact)
    keep_digests(view, fact.digests)
    if fact.origin is FlightOrigin.DESTROY:
        view.collectives.restart(time_s)


KEPT_STACKS = 8  # the newest


def stack_taken(run: RunView, world: WorldView, time_s: float, fact: ev.StackTaken) -> None:
    if not in_test(run, world, time_s, fact, _stack_taken_in_test):
        world.stacks[fact.rank] = (time_s, fact)


def _stack_taken_in_test(view: RankView, time_s: float, fact: ev.StackTaken) -> None:
    before = view.stack()
    view.stacks = newest(view.stacks, (time_s, fact), KEPT_STACKS)
    now = view.stack()
    if before is None or now is None or before[1].frames != now[1].frames:
        view.same_stack_s = time_s


def output_read(run: RunView, world: WorldView, time_s: float, fact: ev.OutputRead) -> None:
    """One per stream is kept, the newest."""
    if not in_test(run, world, time_s, fact, _output_read_in_test):
        world.output[fact.rank, fact.stream] = fact


def _output_read_in_test(view: RankView, time_s: float, fact: ev.OutputRead) -> None:
    view.output[fact.stream] = fact
