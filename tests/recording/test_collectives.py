"""Matching collectives across ranks: who waits, who is missing, who issued something else."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording.agreement import disagreements
from pytest_megacpp.recording.collectives import KEPT_ENTRIES, RankCollectives
from pytest_megacpp.recording.events import Collective, FlightRecorded, GroupStatus
from pytest_megacpp.recording.groups import Groups, is_default
from pytest_megacpp.recording.operations import bare_op, describe
from pytest_megacpp.recording.vocabulary import FlightOrigin
from pytest_megacpp.recording.waits import Wait, late
from tests.recording.digesting import digests
from tests.recording.positions import open_waits


def entry(seq: int, at_s: float = 0.0, **changes: object) -> Collective:
    plain = Collective("0", seq, "gloo:all_reduce", 8, 8, "Float", "[[8]]", at_s or float(seq), False)
    return replace(plain, **changes)  # type: ignore[arg-type]


def poll(
    *entries: Collective, origin: FlightOrigin = FlightOrigin.POLL, status: Sequence[GroupStatus] = ()
) -> FlightRecorded:
    """What a look at a rank finds; without `status` the counters are those of its entries."""
    counted = {pg: [e for e in entries if e.pg == pg and not e.p2p] for pg in {e.pg for e in entries}}
    numbers = tuple(
        GroupStatus(pg, max(e.seq for e in of), max((e.seq for e in of if e.done), default=0))
        for pg, of in counted.items()
        if of
    )
    return FlightRecorded(0, 0, origin, entries, tuple(status) or numbers)


def seen_in(*looks: FlightRecorded, floor_s: float = 0.0) -> RankCollectives:
    rank = RankCollectives(floor_s)
    for look in looks:
        rank.update(look, 0.0)
    return rank


def done(*seqs: int) -> RankCollectives:
    return seen_in(poll(*(entry(s, done=True) for s in seqs)))


def waits_of(ranks: Sequence[RankCollectives], groups: Groups | None = None) -> tuple[Wait, ...]:
    return open_waits(dict(enumerate(ranks)), groups or Groups(len(ranks)))


# -- who waits, who is missing -----------------------------------------------------------------------------------


def test_who_holds_up_a_wait_is_found_behind_those_that_wait_too() -> None:
    near, far = Wait("1", 1, "all_reduce", (0,), (1,), 1.0), Wait("2", 1, "all_reduce", (1,), (2, 3), 2.0)
    assert late([near, far], {0, 1}) == {("1", 1): (2, 3), ("2", 1): (2, 3)}
    assert late([near, far], {0}) == {("1", 1): (1,), ("2", 1): (2, 3)}
    crossed = [Wait("1", 1, "all_reduce", (0,), (1,), 1.0), Wait("2", 1, "all_reduce", (1,), (0,), 1.0)]
    assert late(crossed, {0, 1}) == {("1", 1): (), ("2", 1): ()}


def test_ranks_wait_for_the_one_that_has_not_come() -> None:
    ranks = [seen_in(poll(entry(7, 3.0 + r))) for r in range(3)] + [done(6)]
    assert waits_of(ranks) == (Wait("0", 7, "all_reduce", (0, 1, 2), (3,), 3.0),)
    assert str(waits_of(ranks)[0]) == "all_reduce #7"


def test_a_rank_of_which_nothing_is_known_is_missing() -> None:
    assert waits_of([seen_in(poll(entry(1))), RankCollectives()])[0].missing == (1,)
    assert open_waits({0: seen_in(poll(entry(1)))}, Groups(2))[0].missing == (1,)


def test_nobody_is_missing_when_all_have_come() -> None:
    (wait,) = waits_of([seen_in(poll(entry(1))), seen_in(poll(entry(1))), done(1)])
    assert (wait.waiting, wait.missing) == ((0, 1), ())


def test_who_has_gone_on_is_not_missing() -> None:
    (old, new) = waits_of([seen_in(poll(entry(1))), seen_in(poll(entry(2)))])
    assert (old.seq, old.missing) == (1, ())
    assert (new.seq, new.missing) == (2, (0,))


def test_the_oldest_wait_comes_first() -> None:
    ranks = [seen_in(poll(entry(1, 9.0), entry(1, 4.0, group="1", pg=1))), RankCollectives()]
    assert [w.group for w in waits_of(ranks)] == ["1", "0"]


def test_only_members_of_a_subgroup_are_missing() -> None:
    groups = Groups(4)
    groups.announce("2", (1, 3))
    ranks = [RankCollectives(), seen_in(poll(entry(1, group="2", pg=1))), RankCollectives(), RankCollectives()]
    assert waits_of(ranks, groups) == (Wait("2", 1, "all_reduce", (1,), (3,), 1.0),)


def test_a_group_that_nobody_announced_has_the_members_that_use_it() -> None:
    ranks = [
        seen_in(poll(entry(3, group="tp", pg=1))),
        seen_in(poll(entry(2, group="tp", pg=1, done=True))),
        RankCollectives(),
    ]
    assert waits_of(ranks)[0].missing == (1,)


@pytest.mark.parametrize("ranks", [(), (9, 10), (-1,)])
def test_a_group_without_known_members_is_everybody(ranks: tuple[int, ...]) -> None:
    groups = Groups(3)
    groups.announce("tp", ranks)
    assert groups.of("tp", ()) == {0, 1, 2}


def test_members_outside_the_world_are_ignored() -> None:
    groups = Groups(3)
    groups.announce("tp", (1, 2, 77))
    assert groups.of("tp", ()) == {1, 2}


def test_names_of_the_default_group() -> None:
    assert all(map(is_default, ("0", "0@1", "0@12", "default_pg")))
    assert not any(map(is_default, ("1", "01", "tp", "10@1")))


# -- one rank's memory -------------------------------------------------------------------------------------------


def test_a_collective_is_done_when_a_look_says_so_or_leaves_it_out() -> None:
    said = seen_in(poll(entry(1)), poll(entry(1, done=True)))
    left_out = seen_in(poll(entry(1)), poll(entry(2)))
    assert [e.seq for e in said.pending()] == []
    assert [e.seq for e in left_out.pending()] == [2]
    assert left_out.is_done(left_out.entries["0", 1])


def test_only_a_poll_that_counts_the_group_ends_what_it_leaves_out() -> None:
    last_words = seen_in(poll(entry(1)), poll(entry(2), origin=FlightOrigin.FAILURE))
    other_group = seen_in(poll(entry(1)), poll(entry(1, group="1", pg=1)))
    assert [e.seq for e in last_words.pending()] == [1, 2]
    assert [(e.group, e.seq) for e in other_group.pending()] == [("0", 1), ("1", 1)]


def test_what_is_done_stays_done_whatever_an_older_look_says() -> None:
    rank = seen_in(poll(entry(1, 2.0, done=True)), poll(entry(1, 2.0)))
    assert rank.pending() == ()
    again = seen_in(poll(entry(1, 2.0, done=True)), poll(entry(1, 3.0)))
    assert [e.entered_s for e in again.pending()] == [3.0]


def test_counters_tell_of_collectives_that_no_look_saw() -> None:
    rank = seen_in(poll(entry(1, done=True)), poll(status=[GroupStatus(0, 40, 39)]))
    assert (rank.enqueued, rank.completed) == ({"0": 40}, {"0": 39})
    (wait,) = waits_of([seen_in(poll(entry(40))), rank])
    assert wait.missing == ()


def test_a_kept_group_goes_on_counting_and_the_test_before_is_forgotten() -> None:
    old, new = entry(9, 1.0, done=True), entry(10, 6.0)
    fast = seen_in(poll(old, new), floor_s=5.0)
    slow = seen_in(poll(old, status=[GroupStatus(0, 9, 9)]), floor_s=5.0)
    assert list(fast.entries) == [("0", 10)]
    assert (slow.entries, slow.enqueued) == ({}, {})
    assert waits_of([fast, slow]) == (Wait("0", 10, "all_reduce", (0,), (1,), 6.0),)


def test_a_wait_from_before_the_test_is_none_of_it() -> None:
    rank = seen_in(poll(entry(9, 4.9)), floor_s=5.0)
    assert rank.pending() == ()


def test_point_to_point_is_left_out() -> None:
    rank = seen_in(poll(entry(1, p2p=True), entry(1, 2.0)))
    assert [(e.p2p, e.seq) for e in rank.entries.values()] == [(False, 1)]
    assert seen_in(poll(entry(5, p2p=True))).enqueued == {}


def test_names_and_numbers_restart_when_the_default_group_is_destroyed() -> None:
    first, second = entry(1, 1.0, done=True), entry(1, 9.0, op="gloo:broadcast", pg=7)
    rank = seen_in(poll(first, origin=FlightOrigin.DESTROY))
    rank.restart(5.0)
    rank.update(poll(first, second), 0.0)
    assert list(rank.entries) == [("0", 1), ("0@1", 1)]
    assert rank.enqueued == {"0": 1, "0@1": 1}
    assert disagreements({0: rank, 1: done(1)}, Groups(2)) == ()


def test_who_destroyed_its_group_waits_in_nothing_of_it() -> None:
    rank = seen_in(poll(entry(1, 1.0)))
    rank.restart(5.0)
    assert rank.pending() == ()
    rank.restart(6.0)
    rank.update(poll(entry(1, 7.0)), 0.0)
    assert [e.group for e in rank.pending()] == ["0@2"]


def test_a_group_destroyed_on_one_rank_leaves_the_others_waiting_for_it() -> None:
    gone, here = done(1), seen_in(poll(entry(1, done=True), entry(2, 6.0)))
    gone.restart(5.0)
    assert waits_of([gone, here]) == (Wait("0", 2, "all_reduce", (1,), (0,), 6.0),)


def test_counters_of_a_destroyed_group_are_not_those_of_the_next() -> None:
    rank = seen_in(poll(entry(30, 1.0, done=True, pg=0)))
    rank.restart(5.0)
    rank.update(poll(entry(1, 9.0, pg=1), status=[GroupStatus(0, 30, 30), GroupStatus(1, 1, 0)]), 0.0)
    assert rank.enqueued["0@1"] == 1


def test_the_last_is_the_latest_by_time() -> None:
    assert RankCollectives().last() is None
    last = seen_in(poll(entry(5, 1.0), entry(2, 8.0, group="1", pg=1))).last()
    assert last is not None
    assert (last.group, last.seq) == ("1", 2)


def test_memory_is_bounded() -> None:
    rank = RankCollectives()
    for i in range(3 * KEPT_ENTRIES):
        rank.update(poll(entry(i), origin=FlightOrigin.EVIDENCE), 0.0)
        rank.update(poll(entry(1, i + 0.5, group=f"g{i}", pg=i), origin=FlightOrigin.EVIDENCE), 0.0)
    sizes = [len(d) for d in (rank.entries, rank.unfinished, rank.enqueued, rank.completed, rank.groups)]
    assert max(sizes) <= KEPT_ENTRIES
    assert set(rank.unfinished) <= set(rank.entries)


# -- who issued something else -----------------------------------------------------------------------------------


def issued(*entries: Collective) -> list[RankCollectives]:
    return [seen_in(poll(e)) for e in entries]


def test_ranks_that_agree() -> None:
    assert disagreements(dict(enumerate(issued(*[entry(1)] * 4))), Groups(4)) == ()


@pytest.mark.parametrize(
    ("odd", "aspect", "variants"),
    [
        ({"op": "gloo:broadcast"}, "operation", ("all_reduce(Float [[8]])", "broadcast(Float [[8]])")),
        ({"numel_in": 4, "sizes": "[[4]]"}, "size", ("all_reduce(Float [[8]])", "all_reduce(Float [[4]])")),
        ({"dtype": "Half"}, "dtype", ("all_reduce(Float [[8]])", "all_reduce(Half [[8]])")),
        ({"dtype": "Half", "numel_in": 4}, "dtype", ("all_reduce(Float [[8]])", "all_reduce(Half [[8]])")),
    ],
)
def test_the_majority_decides_who_is_odd(odd: dict[str, Any], aspect: str, variants: tuple[str, str]) -> None:
    ranks = issued(entry(1), entry(1), entry(1, **odd), entry(1))
    (found,) = disagreements(dict(enumerate(ranks)), Groups(4))
    assert (found.group, found.seq, found.aspect, found.odd) == ("0", 1, aspect, (2,))
    assert found.variants == ((variants[0], (0, 1, 3)), (variants[1], (2,)))


def test_nobody_is_odd_on_a_tie() -> None:
    ranks = issued(entry(1), entry(1), entry(1, op="broadcast"), entry(1, op="broadcast"))
    (found,) = disagreements(dict(enumerate(ranks)), Groups(4))
    assert found.odd == ()


def test_all_small_camps_are_odd_against_a_largest_one() -> None:
    ranks = issued(entry(1, op="barrier"), entry(1), entry(1), entry(1, op="broadcast"))
    (found,) = disagreements(dict(enumerate(ranks)), Groups(4))
    assert found.odd == (0, 3)


def test_what_reads_alike_and_differs_is_told_apart() -> None:
    """Whoever wrote these sizes: they are texts for people."""
    ranks = issued(*(entry(1, numel_in=numel) for numel in (8, 8, 4)))
    (found,) = disagreements(dict(enumerate(ranks)), Groups(3))
    assert [ranks for _, ranks in found.variants] == [(0, 1), (2,)]
    assert found.variants[1][0].endswith(", size 4")


@pytest.mark.parametrize("op", ["all_to_all", "alltoall_base", "nccl:scatter", "gloo:all_gather_v", "barrier"])
def test_sizes_of_some_operations_may_differ(op: str) -> None:
    ranks = issued(entry(1, op=op), entry(1, op=op, numel_in=4, dtype="Half"))
    assert disagreements(dict(enumerate(ranks)), Groups(2)) == ()


def test_the_same_operation_of_two_backends_is_the_same() -> None:
    ranks = issued(entry(1, op="gloo:all_reduce"), entry(1, op="nccl:all_reduce"))
    assert disagreements(dict(enumerate(ranks)), Groups(2)) == ()
    assert (bare_op("nccl:all_reduce"), bare_op("send 0->1")) == ("all_reduce", "send 0->1")


def test_who_has_not_come_disagrees_with_nobody() -> None:
    assert disagreements({0: seen_in(poll(entry(2))), 1: done(1)}, Groups(2)) == ()


def test_a_finished_culprit_is_found_as_well() -> None:
    ranks = [seen_in(poll(entry(1))), seen_in(poll(entry(1))), seen_in(poll(entry(1, op="barrier", done=True)))]
    (found,) = disagreements(dict(enumerate(ranks)), Groups(3))
    assert found.odd == (2,)


def test_strangers_have_no_vote() -> None:
    groups = Groups(3)
    groups.announce("2", (0, 1))
    ranks = issued(*(entry(1, group="2", op=op) for op in ("all_reduce", "all_reduce", "barrier")))
    assert disagreements(dict(enumerate(ranks)), groups) == ()


def test_the_lowest_number_of_a_group_comes_first() -> None:
    ours = seen_in(poll(entry(11), entry(2), origin=FlightOrigin.EVIDENCE))
    theirs = seen_in(poll(entry(11, op="barrier"), entry(2, op="barrier"), origin=FlightOrigin.EVIDENCE))
    assert [d.seq for d in disagreements({0: ours, 1: theirs}, Groups(2))] == [2, 11]


def test_descriptions() -> None:
    assert describe(entry(1)) == "all_reduce(Float [[8]])"
    assert describe(entry(1, op="nccl:barrier", dtype="", sizes="")) == "barrier()"


def test_digests_are_equal_for_equal_programs_and_differ_for_others() -> None:
    ours = digests([entry(1), entry(2, op="broadcast"), entry(1, group="1")])
    assert ours == digests([entry(1, group="1", done=True), entry(2, 77.0, op="gloo:broadcast"), entry(1, 3.0)])
    assert ours["0"] != digests([entry(1), entry(2)])["0"]
    assert ours["0"] != digests([entry(1)])["0"]
    assert digests([entry(1, p2p=True)]) == {}


def test_digests_that_begin_elsewhere_can_be_told_apart() -> None:
    whole, rest = ([entry(seq) for seq in range(first, 9)] for first in (1, 5))
    assert digests(whole)["0"].partition("-")[0] == "1"
    assert digests(rest)["0"].partition("-")[0] == "5"


# -- the truth, whatever was seen of it --------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """What all ranks would issue in this order, each the part of which it is a member; how far each one came."""

    size: int
    steps: tuple[tuple[str, frozenset[int]], ...]
    came: tuple[int, ...]

    def mine(self, rank: int) -> list[int]:
        return [i for i, (_, members) in enumerate(self.steps) if rank in members]

    def seq(self, step: int) -> int:
        return sum(name == self.steps[step][0] for name, _ in self.steps[: step + 1])

    def entered(self, rank: int) -> list[int]:
        return self.mine(rank)[: self.came[rank]]

    def looks(self, rank: int, upto: Iterable[int]) -> list[FlightRecorded]:
        """Polls of the rank when it had entered so many: the newest unfinished, all before it done."""
        seen = []
        for count in upto:
            entered = self.entered(rank)[:count]
            last_of = {self.steps[i][0]: i for i in entered}
            shown = sorted({*last_of.values(), *entered[-1:]})
            seen.append(poll(*(self.entry(i, finished=i != entered[-1]) for i in shown)))
        return seen

    def entry(self, step: int, *, finished: bool) -> Collective:
        name = self.steps[step][0]
        return entry(self.seq(step), 1.0 + step, group=name, pg=int(name), done=finished)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Some ranks stop early; no rank leaves a collective that a member has not entered."""
    size = draw(st.integers(2, 6))
    groups = [frozenset(range(size)), *draw(st.lists(st.frozensets(st.integers(0, size - 1), min_size=1), max_size=2))]
    steps = tuple((str(g), groups[g]) for g in draw(st.lists(st.integers(0, len(groups) - 1), max_size=10)))
    stops = [draw(st.integers(0, 12)) for _ in range(size)]
    came = [0] * size
    mine = [[i for i, (_, members) in enumerate(steps) if r in members] for r in range(size)]
    entered: set[tuple[int, int]] = set()
    for _ in range(len(steps) * size + 1):
        for r in range(size):
            free = came[r] == 0 or all((m, mine[r][came[r] - 1]) in entered for m in steps[mine[r][came[r] - 1]][1])
            if free and came[r] < min(stops[r], len(mine[r])):
                entered.add((r, mine[r][came[r]]))
                came[r] += 1
    return Program(size, steps, tuple(came))


@given(programs(), st.data())
def test_waits_are_what_truly_holds_ranks_however_often_one_looked(program: Program, data: st.DataObject) -> None:
    groups = Groups(program.size)
    for name, members in program.steps:
        groups.announce(name, tuple(sorted(members)))
    ranks = {}
    for r in range(program.size):
        earlier = data.draw(st.lists(st.integers(1, max(1, program.came[r])), max_size=4).map(sorted))
        ranks[r] = seen_in(*program.looks(r, [*earlier, program.came[r]])) if program.came[r] else RankCollectives()
    waits = open_waits(ranks, groups)
    held: dict[int, list[int]] = {}
    for r in range(program.size):
        for step in program.entered(r)[-1:]:
            held.setdefault(step, []).append(r)
    expected = {
        (program.steps[step][0], program.seq(step)): (
            tuple(waiting),
            tuple(m for m in sorted(program.steps[step][1]) if step not in program.entered(m)),
        )
        for step, waiting in held.items()
    }
    assert {(w.group, w.seq): (w.waiting, w.missing) for w in waits} == expected
    assert disagreements(ranks, groups) == ()


@given(programs(), st.data())
def test_one_who_issues_something_else_is_found(program: Program, data: st.DataObject) -> None:
    places = [(r, i) for r in range(program.size) for i in program.entered(r)]
    shared = [(r, i) for r, i in places if sum(i in program.entered(m) for m in program.steps[i][1]) > 2]
    if not shared:
        return
    culprit, step = data.draw(st.sampled_from(shared))
    ranks = {}
    for r in range(program.size):
        entries = [program.entry(i, finished=True) for i in program.entered(r)]
        if r == culprit:
            wrong = program.entered(r).index(step)
            entries[wrong] = replace(entries[wrong], op="gloo:broadcast")
        ranks[r] = seen_in(poll(*entries, origin=FlightOrigin.EVIDENCE))
    groups = Groups(program.size)
    for name, members in program.steps:
        groups.announce(name, tuple(sorted(members)))
    (found,) = disagreements(ranks, groups)
    assert (found.group, found.seq, found.odd) == (program.steps[step][0], program.seq(step), (culprit,))


@given(st.permutations(range(4)), st.sampled_from(["all_reduce", "barrier"]))
def test_the_order_of_ranks_does_not_matter(order: list[int], op: str) -> None:
    ranks = dict(enumerate(issued(entry(1), entry(1, op=op), entry(1), entry(1, numel_in=3))))
    shuffled = {r: ranks[r] for r in order}
    assert disagreements(shuffled, Groups(4)) == disagreements(ranks, Groups(4))
    assert open_waits(shuffled, Groups(4)) == open_waits(ranks, Groups(4))


def test_work_grows_with_what_is_seen_only() -> None:
    """A thousand ranks with full memories are matched in one pass."""
    full = seen_in(*(poll(entry(i, done=True)) for i in range(KEPT_ENTRIES)))
    ranks = dict(enumerate(itertools.repeat(full, 64)))
    assert disagreements(ranks, Groups(64)) == ()
    assert open_waits(ranks, Groups(64)) == ()


def test_members_are_disputed_only_by_another_rank() -> None:
    groups = Groups(4)
    groups.announce("5", (0, 1))  # of an earlier test
    groups.announce("5", (2, 3), by=2)
    groups.announce("5", (2, 3), by=3)
    groups.announce("6", (0, 1), by=0)
    groups.announce("6", (0, 2), by=0)  # made anew
    assert not groups.disputed
    groups.announce("5", (2,), by=3)
    groups.announce("6", (), by=1)
    assert groups.disputed.keys() == {"6"}
    assert groups.disputes("6")
    for name in range(1000):
        groups.announce(f"x{name}", (0, 1), by=0)
    assert not groups.disputed
