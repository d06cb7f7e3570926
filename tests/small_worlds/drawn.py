"""Owns how small worlds are drawn by Hypothesis: their size, program, faults and conditions. Must not know verdicts.

No rank's patience is a multiple of a step of time, so that rounding doesn't decide when it ends.
"""

from hypothesis import strategies as st

from tests.small_worlds.conditions import Conditions
from tests.small_worlds.programs import Activity, AnyFault, CatchesTimeOut, Delay, Fault, Meet, Planted, Program, Spell
from tests.small_worlds.worlds import World

FOR_EVER = float("inf")
SIZES = (2, 3, 4, 5, 6)
MADE = "9"  # the group that is made in the test, if there is one


def seldom(one_in: int) -> st.SearchStrategy[bool]:
    return st.sampled_from([False] * (one_in - 1) + [True])


def members(size: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Two ranks or more."""
    ranks = st.lists(st.integers(0, size - 1), min_size=2, max_size=most, unique=True)
    return ranks.map(lambda found: tuple(sorted(found)))


def meets(size: int, groups: dict[str, tuple[int, ...]]) -> st.SearchStrategy[Meet]:
    """Collectives of everybody or of a group, and messages; some are asynchronous."""
    everybody, ops = st.just(tuple(range(size))), st.sampled_from(("all_reduce", "all_reduce", "barrier"))
    of_all = st.builds(Meet, ops, st.just("0"), everybody, seldom(4))
    pairs = st.permutations(range(size)).map(lambda ranks: (ranks[0], ranks[1]))
    messages = st.builds(Meet, st.just("recv"), st.just("p2p"), pairs, seldom(3))
    if not groups:
        return st.one_of(of_all, of_all, messages)
    named = st.sampled_from(sorted(groups.items()))
    of_group = st.builds(lambda named, queued: Meet("all_reduce", named[0], named[1], queued), named, seldom(5))
    return st.one_of(of_all, of_group, messages)


@st.composite
def programs(draw: st.DrawFn, size: int) -> Program:
    found = draw(st.lists(members(size, max(2, size - 1)), max_size=3))
    step = meets(size, {str(number): ranks for number, ranks in enumerate(found, 1)})
    call = draw(st.lists(step, min_size=1, max_size=6))
    if draw(seldom(5)):
        made, at = draw(members(size, size)), draw(st.integers(0, len(call)))
        call[at:at] = [Meet("new_group", MADE, made), Meet("all_reduce", MADE, made)]
    teardown = draw(st.lists(step, max_size=2))
    expects = draw(seldom(8))
    strict, is_unannounced = expects and draw(st.booleans()), draw(seldom(12))
    return Program(tuple(call), tuple(teardown), expects, FOR_EVER, size, strict, not is_unannounced)


def faults() -> st.SearchStrategy[AnyFault]:
    spells = st.builds(Spell, st.sampled_from(Activity), st.integers(2, 70))
    delays = st.lists(spells, min_size=1, max_size=3).map(lambda found: Delay(tuple(found)))
    catches = st.builds(CatchesTimeOut, st.sampled_from((1.53, 2.53, 4.03, 6.53)), st.booleans())
    return st.one_of(st.sampled_from(Fault), delays, delays, catches)


@st.composite
def planted(draw: st.DrawFn, program: Program) -> Planted:
    step, meet = draw(st.sampled_from([*enumerate(program.steps)]))
    return Planted(draw(st.sampled_from(meet.members)), draw(faults()), step)


@st.composite
def conditions(draw: st.DrawFn, size: int, own_words: bool) -> Conditions:
    """Ranks wait for ever, all equally long, or each as long as it likes."""
    one = st.sampled_from((2.03, 2.53, 3.03, 3.77, 4.53, 6.03))
    each = st.tuples(*[one | st.just(FOR_EVER)] * size)
    patience_s = draw(st.one_of(st.just(()), one.map(lambda s: (s,) * size), st.tuples(*[one] * size), each))
    looks, seed = draw(st.sampled_from((0, 0, 0.02, 0.1, 0.3))), draw(st.integers(0, 999))
    return Conditions(patience_s, own_words, not draw(seldom(7)), looks, seed)


@st.composite
def worlds(draw: st.DrawFn, kind: type[World], own_words: bool, most: int = 2) -> World:
    """A world of that kind with one fault or more, whose ranks give up in words of their own or in the library's."""
    size = draw(st.sampled_from(SIZES))
    program = draw(programs(size))
    found = draw(st.lists(planted(program), min_size=1, max_size=most, unique_by=lambda p: p[::2]))
    return kind(program, tuple(found), draw(conditions(size, own_words)))
