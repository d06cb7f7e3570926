"""Faults planted in small worlds, watched by the box's own rules: an innocent is never blamed for certain, what goes
wrong is never green, and a single fault is found.

TESTS_EXAMPLES=50000 pytest -m fuzz tests/judge/test_small_worlds.py     # after a change to rules of box or judge
"""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from tests.fuzzing import fuzzer
from tests.small_worlds.devices import DeviceWorld
from tests.small_worlds.programs import Fault, Meet, Planted, Program, faults_of
from tests.small_worlds.worlds import World

SIZE = 5
EVERYBODY = tuple(range(SIZE))
ALL, BARRIER = Meet(members=EVERYBODY), Meet("barrier", members=EVERYBODY)
QUEUED = Meet(members=EVERYBODY, is_async=True)
LEFT, RIGHT, ENDS = (Meet("all_reduce", n, m) for n, m in (("1", (0, 1, 2)), ("2", (2, 3, 4)), ("3", (0, 4))))
FIRST, ANSWER, NEXT = (Meet("recv", "p2p", members) for members in ((1, 3), (3, 1), (4, 2)))


def of(
    *call: Meet, teardown: tuple[Meet, ...] = (), expects: bool = False, patience_s: float = float("inf")
) -> Program:
    return Program(call, teardown, expects, patience_s, SIZE)


PROGRAMS = (
    of(ALL),
    of(ALL, BARRIER),
    of(ALL, ALL, teardown=(BARRIER,)),
    of(QUEUED, ALL),
    of(LEFT, RIGHT, ALL),
    of(LEFT, ENDS, RIGHT),
    of(ENDS, RIGHT, LEFT, teardown=(BARRIER,)),
    of(FIRST, ANSWER, ALL),
    of(ALL, NEXT, FIRST, teardown=(BARRIER,)),
)
IMPATIENT = (of(ALL, BARRIER, patience_s=2), of(LEFT, RIGHT, ALL, patience_s=2), of(NEXT, LEFT, RIGHT, patience_s=2))
EXPECTING = (of(ALL, teardown=(BARRIER,), expects=True), of(LEFT, RIGHT, expects=True, patience_s=2))
# Who issues one collective too many can't be told from those that leave without it: all of these may be blamed.
AMBIGUOUS = frozenset({Fault.REPEATS})


ON_DEVICES = tuple(p for p in (*PROGRAMS, *EXPECTING[:1]) if not any(meet.is_message for meet in p.steps))


def judged(world: World) -> Verdict:
    return judge_test(world.run(), 0).verdict


def goes_well(world: World) -> bool:
    return all(rank.is_over for rank in world.ranks) and not world.failed


def singles(program: Program, kind: type[World] = World) -> Iterator[tuple[Planted, World, Verdict]]:
    for planted in faults_of(program):
        world = kind(program, (planted,))
        verdict = judged(world)
        yield planted, world, verdict


@pytest.mark.parametrize("kind", [World, DeviceWorld])
@pytest.mark.parametrize("program", PROGRAMS[:7], ids=str)
def test_whoever_is_at_fault_is_found_among_collectives(program: Program, kind: type[World]) -> None:
    """What waits in vain for a rank, or is lost with it, is never blamed instead."""
    wrong = []
    for planted, world, verdict in singles(program, kind):
        if goes_well(world) or planted.fault in AMBIGUOUS:
            continue
        tie = verdict.code is Code.COLLECTIVE_MISMATCH and not verdict.blamed_ranks
        endless = verdict.code is Code.OVERTIME and planted.fault in (Fault.COMPUTES, Fault.COMPILES_ON)
        if verdict.blamed_ranks != (planted.rank,) and not tie and not endless:
            wrong.append(f"{planted}: {verdict.code} {verdict.certainty} {verdict.summary}")
    assert wrong == []


@pytest.mark.parametrize("program", [*PROGRAMS, *IMPATIENT], ids=str)
def test_only_what_goes_well_is_green(program: Program) -> None:
    for planted, world, verdict in singles(program):
        if Fault.SKIPS is not planted.fault:
            assert verdict.code.is_green == goes_well(world), (str(planted), verdict.summary)


def is_undecided(program: Program, mutated: set[int], verdict: Verdict) -> bool:
    """Whether those at fault are no minority in a group whose members are compared, so that a majority misleads."""
    half = any(2 * len(mutated & {*meet.members}) >= len(meet.members) for meet in program.steps)
    return half and (verdict.code is Code.COLLECTIVE_MISMATCH or verdict.cause == "left-early")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    kind = draw(st.sampled_from((World, DeviceWorld)))
    program = draw(st.sampled_from(ON_DEVICES if kind is DeviceWorld else (*PROGRAMS, *IMPATIENT, *EXPECTING)))
    planted = draw(st.lists(st.sampled_from(faults_of(program)), min_size=1, max_size=2, unique_by=lambda p: p[::2]))
    return kind(program, tuple(planted))


@fuzzer(examples=150)
@given(worlds())
def test_no_innocent_is_blamed_for_certain(world: World) -> None:
    verdict = judged(world)
    guilty = {planted.rank for planted in world.reached}
    if verdict.certainty is Certainty.CERTAIN and not is_undecided(world.program, guilty, verdict):
        assert guilty.issuperset(verdict.blamed_ranks), verdict.summary
    if verdict.code is Code.PASSED:
        assert goes_well(world), "red tests are never green"
