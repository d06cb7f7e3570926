"""Faults planted in small worlds, watched by the box's own rules: an innocent is never blamed for certain, what goes
wrong is never green, and a single fault is found. Faults are planted in programs that are listed here, or programs,
faults and conditions are drawn together (tests/small_worlds/drawn.py).

TESTS_EXAMPLES=50000 pytest -m fuzz tests/judge/test_small_worlds.py     # after a change to rules of box or judge

Without TESTS_EXAMPLES every run tries the same worlds, so that a rare one is found by who looks for it. With it, and
without `-m fuzz`, every single fault is planted in every program that is listed.
"""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording.events import Event, RankExited
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import encode, read_all
from tests.fuzzing import EXAMPLES, fuzzer
from tests.small_worlds import drawn
from tests.small_worlds.devices import BufferedWorld, DeviceWorld
from tests.small_worlds.programs import Fault, Meet, Planted, Program, faults_of
from tests.small_worlds.worlds import World

SIZE = 5
EVERYBODY = tuple(range(SIZE))
ALL, BARRIER = Meet(members=EVERYBODY), Meet("barrier", members=EVERYBODY)
QUEUED = Meet(members=EVERYBODY, is_async=True)
LEFT, RIGHT, ENDS = (Meet("all_reduce", n, m) for n, m in (("1", (0, 1, 2)), ("2", (2, 3, 4)), ("3", (0, 4))))
MAKE, USE = Meet("new_group", "4", (0, 1, 2, 3)), Meet("all_reduce", "4", (0, 1, 2, 3))
MAKE_PAIR, USE_PAIR = Meet("new_group", "5", (3, 4)), Meet("all_reduce", "5", (3, 4))
ENDLESS = frozenset({Fault.COMPUTES, Fault.COMPILES_ON})
# Who issues one collective too many can't be told from those that leave without it: all of these may be blamed.
AMBIGUOUS = frozenset({Fault.REPEATS})


def message(source: int, target: int, *, is_async: bool = False) -> Meet:
    return Meet("recv", "p2p", (source, target), is_async)


def of(
    *call: Meet,
    teardown: tuple[Meet, ...] = (),
    expects: bool = False,
    patience_s: float = float("inf"),
    strict: bool = False,
    announces: bool = True,
) -> Program:
    return Program(call, teardown, expects, patience_s, SIZE, strict, announces)


COLLECTIVES = (
    of(ALL, BARRIER),
    of(ALL, ALL, teardown=(BARRIER,)),
    of(QUEUED, ALL),
    of(LEFT, RIGHT, ALL),
    of(LEFT, ENDS, RIGHT),
    of(MAKE, USE, ALL),
)
MESSAGES = (
    of(message(1, 3), message(3, 1), ALL),
    of(ALL, message(4, 2), message(1, 3), teardown=(BARRIER,)),
    of(message(0, 1), message(1, 2), message(2, 3), message(3, 4)),
    of(message(0, 2), message(1, 2), message(3, 2), ALL),
)
RING = [message(rank, (rank + 1) % SIZE, is_async=True) for rank in range(SIZE)]
FURTHER = (
    of(*RING, LEFT, RIGHT, *RING, ALL),
    of(message(0, 1), message(0, 1), message(1, 2), message(1, 2), ALL),
    of(ENDS, RIGHT, LEFT, teardown=(BARRIER,)),
    of(MAKE, MAKE_PAIR, USE, USE_PAIR, ALL),
    of(QUEUED, QUEUED, QUEUED, LEFT, RIGHT, teardown=(LEFT, RIGHT)),
    of(LEFT, LEFT, RIGHT, RIGHT, ENDS, ENDS, teardown=(ALL,)),
    of(LEFT, RIGHT, ALL, announces=False),
)
IMPATIENT = (
    of(ALL, BARRIER, patience_s=2),
    of(LEFT, RIGHT, ALL, patience_s=2),
    of(message(4, 2), LEFT, RIGHT, patience_s=2),
    of(message(0, 2), message(1, 2), message(3, 2), ALL, teardown=(BARRIER,), patience_s=3),
    of(MAKE, USE, teardown=(BARRIER,), patience_s=3),
    of(LEFT, RIGHT, ENDS, LEFT, RIGHT, teardown=(BARRIER,), patience_s=3),
    of(QUEUED, LEFT, RIGHT, QUEUED, ENDS, patience_s=3),
)
EXPECTING = (
    of(ALL, teardown=(BARRIER,), expects=True),
    of(LEFT, RIGHT, expects=True, patience_s=2),
    of(LEFT, RIGHT, ALL, expects=True, strict=True),
)
EVERYTHING = (*COLLECTIVES, *MESSAGES, *FURTHER, *IMPATIENT, *EXPECTING)
SINGLE = [
    *((World, program) for program in COLLECTIVES),
    *((DeviceWorld, program) for program in (*COLLECTIVES, *MESSAGES)),
]


def judged(world: World) -> Verdict:
    return judge_test(world.run(), 0).verdict


def goes_well(world: World) -> bool:
    return all(rank.is_over for rank in world.ranks) and not world.failed


def singles(kind: type[World], program: Program) -> Iterator[tuple[Planted, World, Verdict]]:
    """Every seventh fault that can be planted, others with devices than without; with TESTS_EXAMPLES, all of them."""
    found = faults_of(program)
    for planted in found if EXAMPLES else found[kind is DeviceWorld :: 7]:
        world = kind(program, (planted,))
        yield planted, world, judged(world)


@pytest.mark.parametrize(("kind", "program"), SINGLE, ids=str)
def test_whoever_is_at_fault_is_found_where_waits_are_recorded(kind: type[World], program: Program) -> None:
    """What waits in vain for a rank, or is lost with it, is never blamed instead."""
    wrong = []
    for planted, world, verdict in singles(kind, program):
        if goes_well(world) or planted.fault in AMBIGUOUS:
            continue
        tie = verdict.code is Code.COLLECTIVE_MISMATCH and not verdict.blamed_ranks
        endless = verdict.code is Code.OVERTIME and planted.fault in ENDLESS
        if verdict.blamed_ranks != (planted.rank,) and not tie and not endless:
            wrong.append(f"{planted}: {verdict.code} {verdict.certainty} {verdict.summary}")
    assert wrong == []


@pytest.mark.parametrize("program", [*MESSAGES, *IMPATIENT], ids=str)
def test_only_what_goes_well_is_green(program: Program) -> None:
    for planted, world, verdict in singles(World, program):
        if Fault.SKIPS is not planted.fault:
            assert verdict.code.is_green == goes_well(world), (str(planted), verdict.summary)


def is_undecided(program: Program, guilty: set[int], verdict: Verdict) -> bool:
    """Whether those at fault are the majority of a group whose members are compared."""
    groups = (meet.members for meet in program.steps if not meet.is_message)
    most = any(2 * len(guilty & {*members}) > len(members) for members in groups)
    return most and (verdict.code is Code.COLLECTIVE_MISMATCH or verdict.cause == VerdictCause.LEFT_EARLY)


def blames_an_innocent_for_certain(world: World, verdict: Verdict) -> bool:
    guilty = {planted.rank for planted in world.reached}
    if verdict.certainty is not Certainty.CERTAIN or is_undecided(world.program, guilty, verdict):
        return False
    everybody = {*range(world.program.size)}
    if verdict.code is Code.HANG and type(world) is World and {*verdict.blamed_ranks} == everybody:
        return False  # who did not send what all receive is not recorded, and that all hang is certain
    return verdict.cause != VerdictCause.XPASSED_STRICT and not guilty.issuperset(verdict.blamed_ranks)


def judges_fairly(world: World) -> None:
    verdict = judged(world)
    assert not blames_an_innocent_for_certain(world, verdict), verdict.summary
    if verdict.code.is_green and verdict.code is not Code.XFAILED:
        assert goes_well(world), "red tests are never green"


@st.composite
def worlds(draw: st.DrawFn, most: int = 3) -> World:
    kind, program = draw(st.sampled_from((World, DeviceWorld, BufferedWorld))), draw(st.sampled_from(EVERYTHING))
    faults = st.sampled_from(faults_of(program))
    return kind(program, tuple(draw(st.lists(faults, min_size=1, max_size=most, unique_by=lambda p: p[::2]))))


@fuzzer(examples=150, derandomize=not EXAMPLES)
@given(worlds())
def test_no_innocent_is_blamed_for_certain(world: World) -> None:
    judges_fairly(world)


@pytest.mark.parametrize("own_words", [False, True], ids=["words of the library", "words of its own"])
@pytest.mark.parametrize("kind", [World, DeviceWorld, BufferedWorld])
@fuzzer(examples=25, derandomize=not EXAMPLES)
@given(st.data())
def test_nor_in_worlds_that_are_drawn_as_a_whole(kind: type[World], own_words: bool, data: st.DataObject) -> None:
    """Those with time-outs in words of the test's own apart, so that what one half finds doesn't hide the other."""
    judges_fairly(data.draw(drawn.worlds(kind, own_words)))


def without(events: list[Event], rank: int, lost: list[int]) -> list[Event]:
    """Without some of what a rank said, or was seen of it while it lived."""
    of_it = [e for e in events if getattr(e.fact, "rank", None) == rank and not isinstance(e.fact, RankExited)]
    dropped = {id(of_it[number % len(of_it)]) for number in lost}
    return [e for e in events if id(e) not in dropped]


@fuzzer(examples=50, derandomize=not EXAMPLES)
@given(worlds(most=2), st.sampled_from(EVERYBODY), st.lists(st.integers(0, 999), min_size=1, max_size=4))
def test_nor_where_lines_of_a_rank_are_lost(world: World, rank: int, lost: list[int]) -> None:
    world.run()
    recorded = b"".join(encode(event) for event in without(world.box.events, rank, lost))
    verdict = judge_test(fold(read_all(recorded)), 0).verdict
    assert not blames_an_innocent_for_certain(world, verdict), verdict.summary
