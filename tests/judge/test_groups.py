"""Groups that not every rank shares: what is compared, who waits for whom, and ranks that mean different groups."""

import pytest

from pytest_megacpp.box.alarms import Clocks
from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.reports import is_green
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin, Stage, TestPhase
from pytest_megacpp.recording.waits import Moment, Wait, wait_graph
from tests.scenario import NODEID, FakeBox


def waits_of(view: TestView) -> tuple[Wait, ...]:
    """Who waits for whom, as the box sees it."""
    clocks = Clocks()
    clocks.advance(view, 0.0)
    return clocks.waits


def judged(box: FakeBox) -> Verdict:
    return judge_test(box.timeline(), 0).verdict


LINE = 20  # of new_group, on rank 0; on others one further each


def making(box: FakeBox, rank: int, name: str, members: tuple[int, ...], *, made: bool = False) -> FakeBox:
    member, at = not members or rank in members, ("/repo/suite/tp.py", LINE + rank)
    begun = ev.GroupBegun(rank, box.index, name, members, len(members) or 4, member, "", not members, None, *at)
    box.rank(begun)
    return box.rank(ev.GroupCreated(rank, box.index, name, members, "gloo")) if made else box


def test_a_rank_that_left_one_new_group_out() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 1, 2):
        making(box, rank, "1", (0, 1, 2), made=True)
        making(box, rank, "2", (0, 1, 2, 3))
    making(box, 3, "1", (0, 1, 2, 3))
    box.blocked((0, 1, 2, 3), "new_group").after(31.0).acts(ActReason.STALL, "", (0, 1, 2, 3), ()).aborts("stall")
    found = judged(box.done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, (3,))
    assert found.certainty is Certainty.CERTAIN
    assert "new_group" in found.summary


def test_a_rank_that_gloo_let_through_its_own_new_group() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 1, 2):
        making(box, rank, "1", (0, 1, 2), made=True)
        making(box, rank, "2", (0, 1, 2, 3))
    making(box, 3, "1", (0, 1, 2, 3), made=True).enters(3, "gloo:all_reduce", 1, group="1").after(31.0)
    found = judged(box.acts(ActReason.STALL, "", (0, 1, 2, 3), ()).aborts("stall").done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, (3,))
    assert "new_group" in found.summary


def test_a_rank_that_names_other_members() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 1, 2, 3):
        making(box, rank, "1", (0, 1) if rank == 2 else (0, 1, 2, 3))
    box.blocked((0, 1, 3), "new_group").at(2).after(31.0).acts(ActReason.STALL, "", (0, 1, 3), (2,)).aborts("stall")
    found = judged(box.done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, (2,))
    assert found.certainty is Certainty.CERTAIN
    assert "rank 2 with ranks 0,1, at tp.py:22; ranks 0,1,3 with ranks 0-3, at tp.py:20" in found.summary


def test_a_rank_that_does_not_come_to_a_new_group() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 1, 3):
        making(box, rank, "1", (0, 1, 2, 3))
    box.at(2).after(31.0).acts(ActReason.STALL, "", (0, 1, 3), (2,)).aborts("stall")
    found = judged(box.done())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.CERTAIN)
    assert "never entered new_group" in found.summary


def test_a_group_whose_making_failed_is_waited_for_by_nobody() -> None:
    box = FakeBox(2).begins()
    making(box, 0, "1", (0, 1))
    box.rank(ev.GroupCreated(0, 0, "1", (0, 1), failed=True))
    view = box.timeline().tests[0]
    assert view.ranks[0].joining(100.0) is None
    assert not view.groups.made_by("1", (0, 1))


def scoped(box: FakeBox, rank: int, scope: str, size: int) -> FakeBox:
    return box.rank(ev.GroupBegun(rank, box.index, "0", (), size, True, scope, True)).rank(
        ev.GroupCreated(rank, box.index, "0", (), "gloo")
    )


def test_worlds_in_one_launch_are_not_compared() -> None:
    box = FakeBox(4).begins()
    for rank in range(4):
        scoped(box, rank, "a" if rank < 2 else "b", 2)
    box.enters((0, 1), "gloo:all_reduce", 1).enters((2, 3), "gloo:broadcast", 1).completes()
    assert judged(box.passes().ends().done()).code is Code.PASSED


def test_within_such_a_world_they_are() -> None:
    box = FakeBox(4).begins()
    for rank in range(4):
        scoped(box, rank, "a" if rank < 2 else "b", 2)
    box.enters(0, "gloo:all_reduce", 1).enters(1, "gloo:broadcast", 1).completes()
    found = judged(box.passes().ends().done())
    assert (found.code, found.cause) == (Code.COLLECTIVE_MISMATCH, "operation")


def test_who_is_missing_in_a_world_of_its_own() -> None:
    box = FakeBox(4).begins()
    for rank in range(4):
        scoped(box, rank, "a" if rank < 2 else "b", 2)
    box.enters(2, "gloo:all_reduce", 1).at((0, 1, 3)).after(31.0).acts(ActReason.STALL, "", (2,), (3,)).aborts("stall")
    assert judged(box.done()).blamed_ranks == (3,)


def one_of_two() -> FakeBox:
    """Ranks 0 and 1 have a world of their own, rank 2 waits for rank 3 to come to another one."""
    box = FakeBox(4, limits=ev.Limits(stall=20, test=60)).begins()
    scoped(scoped(box, 0, "a", 2), 1, "a", 2).rank(ev.GroupBegun(2, 0, "0", (), 2, True, "b", True))
    return box.blocked(2, "init_process_group")


@pytest.mark.parametrize("pair", ["passed", "computes"])
def test_who_does_not_come_to_a_world_of_its_own(pair: str) -> None:
    box = one_of_two()
    box = box.passes((0, 1)) if pair == "passed" else box.at((0, 1))
    box.at(3).after(21).acts(ActReason.STALL, "", (2,), (3,), waited_s=20.0).aborts("stall")
    found = judged(box.done())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (3,), Certainty.LIKELY)
    assert "rank 2 waited 20 s in init_process_group" in found.summary


@pytest.mark.parametrize(("waited_s", "code", "blamed"), [(25.0, Code.STRAGGLER, (3,)), (15.0, Code.UNCLEAR, ())])
def test_who_does_not_come_to_a_world_of_its_own_until_the_test_limit(
    waited_s: float, code: Code, blamed: tuple[int, ...]
) -> None:
    """As boxes before 2026-12 saw it."""
    box = one_of_two().passes((0, 1)).at(3).after(waited_s).samples(3, cpu_s=9.0).at(3)
    found = judged(box.acts(ActReason.TEST_LIMIT).aborts("test-limit").done())
    assert (found.code, found.blamed_ranks, found.certainty) == (code, blamed, Certainty.GUESS)
    assert "rank 2 waited" in found.summary


def test_a_test_that_was_slow_elsewhere_is_still_overtime() -> None:
    box = FakeBox(4, limits=ev.Limits(stall=20, test=60)).begins().after(40)
    box.enters(range(4)).completes().after(0.1)
    box.blocked(2).at((0, 1, 3)).after(15).samples((0, 1, 3), cpu_s=19.0).at((0, 1, 3))
    found = judged(box.acts(ActReason.TEST_LIMIT).aborts("test-limit").done())
    assert (found.code, found.certainty) == (Code.OVERTIME, Certainty.CERTAIN)


def test_a_short_limit_may_have_ended_what_was_stuck() -> None:
    """The last progress was less than `stall` before the limit, and most of the test."""
    box = FakeBox(4, limits=ev.Limits(stall=120, test=2)).begins().after(0.5).samples(range(4), cpu_s=0.4)
    box.after(1.5).samples(range(4), cpu_s=0.4)
    found = judged(box.acts(ActReason.TEST_LIMIT).aborts("test-limit").done())
    assert (found.code, found.certainty) == (Code.OVERTIME, Certainty.LIKELY)
    assert "had made no progress for" in found.summary


@pytest.mark.parametrize(
    ("announced_groups", "candidates"),
    [
        (((0, "0", "a", 2), (1, "0", "a", 2), (2, "0", "b", 2)), {3}),
        (((0, "0", "b", 3), (2, "0", "b", 3)), {1, 3}),
        (((0, "0", "a", 2), (1, "0", "a", 2), (3, "0", "a", 2), (2, "0", "b", 2)), {0, 1, 3}),  # one leaves its world
        (((2, "0", "b", 0), (3, "0", "c", 0)), {0, 1, 3}),  # a store that names no world: rank 3 may be in the same
        (((0, "0", "a", 2), (1, "0", "a", 2), (2, "0", "b", 0), (3, "0", "c", 0)), {3}),
    ],
    ids=["the rest", "several", "all are in one", "not named", "not named beside another"],
)
def test_who_could_come_to_a_world_of_its_own(
    announced_groups: tuple[tuple[int, str, str, int], ...], candidates: set[int]
) -> None:
    box = FakeBox(4).begins()
    for rank, name, scope, size in announced_groups:
        box.rank(ev.GroupBegun(rank, 0, name, (), size, True, scope, True))
    assert box.timeline().tests[0].groups.could_be_lacking("0~b") == candidates


def test_who_could_come_to_a_group_in_such_a_world() -> None:
    """The others of that world, less those that made it for others only."""
    box = FakeBox(6).begins()
    for rank in range(6):
        scoped(box, rank, "a" if rank < 4 else "b", 4 if rank < 4 else 2)
    box.rank(ev.GroupBegun(0, 0, "1", (0, 1), 2, True)).rank(ev.GroupBegun(3, 0, "1", (0, 1), 2, False))
    groups = box.timeline().tests[0].groups
    assert groups.lacks_members("1~a")
    assert groups.could_be_lacking("1~a") == {1, 2}


def test_ranks_whose_store_names_no_world_lack_nobody_for_certain() -> None:
    box = FakeBox(4).begins()
    for rank in (2, 3):
        scoped(box, rank, f"{rank}-x", 0).rank(ev.GroupBegun(rank, 0, "1", (0, 1), 2, True))
        box.rank(ev.GroupCreated(rank, 0, "1", (0, 1), "gloo"))
    groups = box.timeline().tests[0].groups
    assert not groups.lacks_members("0~2-x")
    assert not groups.lacks_members("1~2-x")
    box.at((0, 1)).enters((2, 3), "gloo:all_reduce", 1, group="1")
    assert waits_of(box.timeline().tests[0])[0].missing == ()


def test_pairs_that_give_their_groups_one_name() -> None:
    """`new_group([0, 1])` here and `new_group([2, 3])` there: each means its own."""
    box = FakeBox(4).begins()
    for rank in range(4):
        making(box, rank, "1", (0, 1) if rank < 2 else (2, 3), made=True)
    box.enters((0, 1), "gloo:all_reduce", 1, group="1").enters((2, 3), "gloo:broadcast", 1, group="1").completes()
    assert judged(box.passes().ends().done()).code is Code.PASSED


def beside(box: FakeBox, rank: int, name: str, scope: str, size: int) -> FakeBox:
    """A world that torch's helper makes beside the default group, as trainers and inference workers do."""
    box.rank(ev.GroupBegun(rank, box.index, name, (), size, True, scope))
    return box.rank(ev.GroupCreated(rank, box.index, name, (), "gloo"))


def test_a_world_beside_the_default_group_hides_nothing_in_it() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 2, 3):
        beside(box, rank, "weights", "a", 3)
    box.enters((0, 2, 3), "gloo:all_reduce", 1).enters(1, "gloo:all_reduce", 1, dtype="Int").completes()
    found = judged(box.passes().ends().done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, "dtype", (1,))


def test_who_is_missing_in_a_world_beside_the_default_group() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 2, 3):
        beside(box, rank, "weights", "a", 3)
    box.enters((0, 2), "gloo:broadcast", 1, group="weights").at((1, 3)).after(31.0)
    found = judged(box.acts(ActReason.STALL, "", (0, 2), (3,)).aborts("stall").done())
    assert (found.blamed_ranks, found.certainty) == ((3,), Certainty.CERTAIN)


def two_tests() -> FakeBox:
    return FakeBox(4, tests=("a.py::first", "a.py::second")).begins()


def test_worlds_of_an_earlier_test_are_still_worlds() -> None:
    """A module's fixture made them."""
    box = two_tests()
    for rank in range(4):
        scoped(box, rank, "a" if rank < 2 else "b", 2)
    box.passes().ends().begins(1).enters((0, 1), "gloo:all_reduce", 1).enters((2, 3), "gloo:broadcast", 1).completes()
    timeline = box.passes().ends().done().timeline()
    assert [judge_test(timeline, index).verdict.code for index in (0, 1)] == [Code.PASSED, Code.PASSED]


def test_pairs_of_an_earlier_test_wait_for_their_own() -> None:
    box = two_tests()
    for rank in range(4):
        making(box, rank, "1", (0, 1) if rank < 2 else (2, 3), made=True)
    box.passes().ends().begins(1).enters(0, "gloo:all_reduce", 1, group="1").at((1, 2, 3)).after(31.0)
    timeline = box.acts(ActReason.STALL, "", (0,), (1,)).aborts("stall").done().timeline()
    assert judge_test(timeline, 1).verdict.blamed_ranks == (1,)


def test_a_second_default_group_is_waited_for_like_the_first() -> None:
    box = FakeBox(3).begins()
    for rank in range(3):
        making(box, rank, "0", (), made=True)
        box.rank(ev.FlightRecorded(rank, 0, FlightOrigin.DESTROY, (), ()))
    for rank in (0, 1):
        making(box, rank, "0", ())
    box.at(2).after(31.0).acts(ActReason.STALL, "", (0, 1), (2,)).aborts("stall")
    found = judged(box.done())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))


def test_members_are_kept_once_however_many_ranks_announce_them() -> None:
    ranks = 64
    box = FakeBox(ranks).begins()
    for rank in range(ranks):
        making(box, rank, "1", tuple(range(ranks)), made=True)
    groups = box.timeline().tests[0].groups
    assert len({id(said.ranks) for said in groups._announced["1"].values()}) == 1
    assert groups._announced["1"][0].ranks is groups._made["1"][5]


# -- ranks that could not join -------------------------------------------------------------------------------

ADDRESS = "wait timeout after 10000ms, keys: /default_pg/0//{}//cpu//0/{}"
NCCL_ID = "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0'"
NO_MESH = "[/gloo/transport/tcp/pair.cc:144] connectFullMesh failed with Connect timeout [127.0.0.1]:1"


def gives_up(box: FakeBox, rank: int, message: str, *, late: int, passed: tuple[int, ...] = ()) -> Verdict:
    box.passes(passed).after(10).raises(rank, "DistStoreError", message).at(late).after(1)
    return judged(box.acts(ActReason.FAILURE_STUCK, "", (rank,), (late,)).aborts("failure-stuck").done())


def pair_of_two_and_three(*came: int, made: bool = False) -> FakeBox:
    """All ranks are told of group 1, of ranks 2 and 3."""
    box = FakeBox(4).begins()
    for rank in range(4):
        making(box, rank, "0", (), made=True)
    for rank in (0, 1, *came):
        making(box, rank, "1", (2, 3), made=made and rank > 1)
    return box


def test_a_number_in_a_group_is_not_the_launch_s() -> None:
    found = gives_up(pair_of_two_and_three(2), 2, ADDRESS.format("1", 1), late=3, passed=(0, 1))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STARTUP_FAILURE, Stage.RENDEZVOUS, (3,))
    assert found.certainty is Certainty.CERTAIN


def test_a_making_that_failed_is_still_the_group_that_was_sought() -> None:
    box = pair_of_two_and_three(2)
    box.rank(ev.GroupCreated(2, 0, "1", (2, 3), failed=True))
    assert gives_up(box, 2, ADDRESS.format("1", 1), late=3, passed=(0, 1)).blamed_ranks == (3,)


def test_without_a_number_only_members_can_be_missing() -> None:
    found = gives_up(pair_of_two_and_three(2), 2, NO_MESH, late=3, passed=(0, 1))
    assert (found.blamed_ranks, found.certainty) == ((3,), Certainty.LIKELY)


def test_nccl_looks_for_its_peers_at_the_first_collective_of_a_group_that_is_made() -> None:
    """Which group that is follows from the number that the rank has in it."""
    found = gives_up(pair_of_two_and_three(2, 3, made=True), 3, NCCL_ID, late=2, passed=(0, 1))
    assert (found.code, found.blamed_ranks) == (Code.STARTUP_FAILURE, (2,))


def test_the_key_names_the_group_of_nccl() -> None:
    key = "wait timeout after 10000ms, keys: /default_pg/0//1//cuda//0"
    found = gives_up(pair_of_two_and_three(2, 3, made=True), 3, key, late=2, passed=(0, 1))
    assert found.blamed_ranks == (2,)


def test_nobody_is_named_where_the_members_are_not_known() -> None:
    """Two worlds of two: number 1 of the second is none of those that passed."""
    box = FakeBox(4).begins()
    scoped(scoped(box, 0, "a", 2), 1, "a", 2)
    box.rank(ev.GroupBegun(2, 0, "0", (), 2, True, "b", True))
    found = gives_up(box, 2, "wait timeout after 10000ms, keys: /default_pg/0//cpu//0/1", late=3, passed=(0, 1))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STARTUP_FAILURE, (), Certainty.LIKELY)


def test_who_found_a_world_of_its_own_is_not_missing_in_another() -> None:
    """Rank 2 got no further than the store of its world."""
    box = FakeBox(4).begins()
    scoped(scoped(box, 0, "a", 2), 1, "a", 2)
    for rank in (0, 1):
        box.rank(ev.FlightRecorded(rank, 0, FlightOrigin.DESTROY, (), ()))
    found = gives_up(box, 2, "client socket has timed out after 10000ms", late=3, passed=(0, 1))
    assert found.blamed_ranks == (3,)


def test_ranks_that_number_themselves_in_another_order() -> None:
    """`init_process_group(rank=3 - RANK)`: number 0 is rank 3, which is known once the others said who they are."""
    box = FakeBox(4).begins()
    for rank in (0, 1, 2):
        box.rank(ev.GroupBegun(rank, 0, "0", (), 4, True, default=True, number=3 - rank))
    box.after(10).raises((0, 1, 2), "DistStoreError", "wait timeout after 9ms, keys: /default_pg/0//cpu//0/0")
    found = judged(box.at(3).after(1).acts(ActReason.FAILURE_STUCK, "", (0, 1, 2), (3,)).aborts("failure-stuck").done())
    assert found.blamed_ranks == (3,)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_number_that_is_used_twice_is_the_launch_s_own(order: tuple[int, int]) -> None:
    """Rank 1 joined as number 0, whoever of them said so first."""
    box = FakeBox(2).begins()
    for rank in order:
        box.rank(ev.GroupBegun(rank, 0, "0", (), 2, True, default=True, number=0))
    box.after(2).raises((0, 1), "DistStoreError", ADDRESS.format("0", 1))
    assert judged(box.ends().done()).blamed_ranks == (1,)


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_a_number_that_is_used_twice_in_a_world_of_its_own_is_nobody_s(order: tuple[int, int]) -> None:
    box = FakeBox(4).begins()
    for rank in order:
        box.rank(ev.GroupBegun(rank, 0, "0", (), 2, True, "b", default=True, number=0))
    assert box.timeline().tests[0].groups.in_order("0~b", 2) == ()


def test_groups_that_are_made_one_within_another_are_made_once() -> None:
    """By two threads, or by a backend that makes one while it is made."""
    box = FakeBox(4).begins()
    for rank in range(4):
        making(box, rank, "1", (0, 1, 2, 3))
        making(box, rank, "2", (0, 1, 2, 3))
        for name in ("1", "2") if rank == 0 else ("2", "1"):
            box.rank(ev.GroupCreated(rank, box.index, name, (0, 1, 2, 3), "gloo"))
    views = box.timeline().tests[0].ranks.values()
    assert {(v.collectives.named("1"), v.collectives.named("2")) for v in views} == {("1", "2")}
    assert not any(v.joining(box.now_s) for v in views)


# -- a group that is made again under its name ---------------------------------------------------------------

HASHED = "8f14e45fce"  # torch names a group by its ranks (use_local_synchronization, split_group), and by nothing else


def issues(box: FakeBox, rank: int, *issued: tuple[int, str, float, bool]) -> FakeBox:
    """Collectives of two groups of that name: (process group, operation, when, done), each number 1."""
    entries = tuple(ev.Collective(HASHED, 1, op, 8, 8, "Float", "[[8]]", t, over, pg=pg) for pg, op, t, over in issued)
    status = tuple(ev.GroupStatus(e.pg, 1, int(e.done)) for e in entries)
    return box.say(ev.FlightRecorded(rank, 0, FlightOrigin.POLL, entries, status))


def made_again(*, announced: bool = True) -> tuple[FakeBox, float, float]:
    """Two ranks broadcast in a group, destroy it and make it again; the times of both lives."""
    box, times = FakeBox(2).begins(), []
    for _ in range(2):
        for rank in (0, 1):
            if announced:
                making(box, rank, HASHED, (0, 1), made=True)
            else:  # split_group
                box.rank(ev.GroupCreated(rank, 0, HASHED, (0, 1), "nccl"))
        times.append(box.after(0.1).now_s)
        if len(times) == 1:
            issues(issues(box, 0, (3, "gloo:broadcast", times[0], True)), 1, (3, "gloo:broadcast", times[0], True))
        box.after(0.4)
    return box, times[0], times[1]


@pytest.mark.parametrize("announced", [True, False])
def test_numbers_start_again_in_a_group_that_is_made_again(announced: bool) -> None:
    box, first_s, second_s = made_again(announced=announced)
    issues(box, 0, (3, "gloo:broadcast", first_s, True), (4, "gloo:all_reduce", second_s, False))
    view = box.timeline().tests[0]
    assert not view.disagreements()
    (wait,) = waits_of(view)
    assert (wait.waiting, wait.missing) == ((0,), (1,))  # what rank 1 did in the first one is no arrival
    issues(box.after(1), 1, (3, "gloo:broadcast", first_s, True), (4, "gloo:all_reduce", box.now_s, True))
    issues(box, 0, (3, "gloo:broadcast", first_s, True), (4, "gloo:all_reduce", second_s, True))
    assert judged(box.passes().ends().done()).code is Code.PASSED


def test_a_mismatch_in_a_group_that_was_made_again_is_seen() -> None:
    box, first_s, second_s = made_again()
    issues(box, 0, (3, "gloo:broadcast", first_s, True), (4, "gloo:all_reduce", second_s, True))
    issues(box, 1, (3, "gloo:broadcast", first_s, True), (4, "gloo:broadcast", second_s, True))
    found = judged(box.passes().ends().done())
    assert (found.code, found.cause) == (Code.COLLECTIVE_MISMATCH, "operation")


def test_who_does_not_come_to_a_group_that_was_made_again() -> None:
    box, first_s, second_s = made_again()
    issues(box, 0, (3, "gloo:broadcast", first_s, True), (4, "gloo:all_reduce", second_s, False)).at(1).after(31.0)
    found = judged(box.acts(ActReason.STALL, "", (0,), (1,)).aborts("stall").done())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.CERTAIN)


def test_what_was_left_open_in_a_destroyed_group_is_nothing_to_wait_in() -> None:
    """Its completion came too late for the box to see."""
    box = FakeBox(2).begins()
    for _ in range(2):
        for rank in (0, 1):
            making(box, rank, HASHED, (0, 1), made=True)
            issues(box, rank, (3, "gloo:broadcast", box.now_s, False))
        box.after(0.5)
    assert {len(view.collectives.pending()) for view in box.timeline().tests[0].ranks.values()} == {1}


def test_a_rank_that_failed_to_make_a_group_and_tries_again_makes_the_same() -> None:
    """It gave up before the other came, who never knew."""
    box = FakeBox(2).begins()
    making(box, 0, HASHED, (0, 1)).rank(ev.GroupCreated(0, 0, HASHED, (0, 1), failed=True))
    making(making(box, 0, HASHED, (0, 1)), 1, HASHED, (0, 1))
    (wait,) = waits_of(box.timeline().tests[0])
    assert (wait.waiting, wait.missing) == ((0, 1), ())


def test_a_default_group_that_was_aborted_and_made_again() -> None:
    """Nobody says that it is gone; the next one begins from 1 as well."""
    box = FakeBox(2).begins()
    for op in ("gloo:broadcast", "gloo:all_reduce"):
        for rank in (0, 1):
            making(box, rank, "0", (), made=True)
        box.after(0.5).enters((0, 1) if op == "gloo:broadcast" else 0, op, 1).after(0.5)
    view = box.timeline().tests[0]
    assert not view.disagreements()
    assert [(w.group, w.waiting, w.missing) for w in waits_of(view)] == [("0@1", (0,), (1,))]


def test_a_default_group_that_failed_is_the_same_when_it_is_made() -> None:
    box = FakeBox(2).begins()
    making(box, 0, "0", ()).rank(ev.GroupCreated(0, 0, "0", (), failed=True))
    making(making(box, 0, "0", ()), 1, "0", ())
    (wait,) = waits_of(box.timeline().tests[0])
    assert (wait.waiting, wait.missing) == ((0, 1), ())


def test_the_names_of_a_group_that_is_made_again_and_again_are_bounded() -> None:
    box = FakeBox(2).begins()
    for _ in range(300):
        making(box.after(0.001), 0, HASHED, (0, 1), made=True)
    seen = box.timeline().tests[0].ranks[0].collectives
    assert len(seen.lives[HASHED]) <= 128
    assert seen.named(HASHED) == f"{HASHED} (300)"


# -- contradicting lists, whatever gloo makes of them --------------------------------------------------------

FOUR, THREE = (0, 1, 2, 3), (0, 1, 2)


def lists_differ(*through: int, odd: tuple[int, ...] = (1,)) -> FakeBox:
    """Rank 1 leaves rank 3 out of a group of all. `through`: who got it from gloo."""
    box = FakeBox(4).begins()
    for rank in FOUR:
        making(box, rank, "0", (), made=True)
    for rank in FOUR:
        making(box, rank, "1", THREE if rank in odd else FOUR, made=rank in through)
    return box.after(0.01)


def stalls(box: FakeBox, *missing: int) -> Verdict:
    return judged(box.after(31.0).acts(ActReason.STALL, "", (), missing).aborts("stall").done())


def says_that_rank_1_differs(found: Verdict) -> None:
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, (1,))
    assert found.certainty is Certainty.CERTAIN
    assert "rank 1 called new_group for group 1 with different members" in found.summary
    assert "rank 1 with ranks 0-2, at tp.py:21; ranks 0,2,3 with ranks 0-3" in found.summary
    assert "new_group on every rank" in found.next_step


def test_some_get_through_and_an_innocent_rank_waits_in_the_making() -> None:
    box = lists_differ(0, 1, 2).enters(THREE, "gloo:all_reduce", 1).blocked(3, "new_group")
    says_that_rank_1_differs(stalls(box))


def test_all_wait_in_the_making() -> None:
    says_that_rank_1_differs(stalls(lists_differ().blocked(FOUR, "new_group")))


def test_the_rank_that_differs_waits_in_the_making() -> None:
    box = lists_differ(0, 2, 3).enters((0, 2, 3), "gloo:all_reduce", 1).blocked(1, "new_group")
    says_that_rank_1_differs(stalls(box))


@pytest.mark.parametrize("said", ["vector::_M_range_check", NO_MESH, ADDRESS.format("1", 3)])
def test_an_innocent_rank_fails_in_the_making(said: str) -> None:
    box = lists_differ(0, 1, 2).enters(THREE, "gloo:all_reduce", 1)
    box.rank(ev.GroupCreated(3, 0, "1", FOUR, failed=True)).raises(3, "RuntimeError", said).after(1.0)
    says_that_rank_1_differs(judged(box.acts(ActReason.FAILURE_STUCK, "", THREE, (3,)).aborts("failure-stuck").done()))


def test_an_innocent_process_aborts_in_the_making() -> None:
    box = lists_differ(0, 1, 2).enters(THREE, "gloo:all_reduce", 1).after(0.5).exits(3, -6, "SIGABRT").after(0.2)
    says_that_rank_1_differs(judged(box.acts(ActReason.EXIT, "", THREE, (3,)).aborts("exit").done()))


def test_the_group_is_made_and_waited_in() -> None:
    box = lists_differ(*FOUR).enters(FOUR, "gloo:all_reduce", 1, group="1")
    says_that_rank_1_differs(stalls(box))


def test_the_group_is_made_and_breaks_in_use() -> None:
    box = lists_differ(*FOUR).enters(FOUR, "gloo:all_reduce", 1, group="1").after(0.5).loses_peer((0, 3)).after(0.5)
    says_that_rank_1_differs(judged(box.acts(ActReason.FAILURE_STUCK, "", (1, 2), (0,)).aborts("failure-stuck").done()))


def test_the_group_is_made_and_used_and_nobody_notices() -> None:
    box = lists_differ(*FOUR).enters(FOUR, "gloo:broadcast", 1, group="1").completes()
    says_that_rank_1_differs(judged(box.passes().ends().done()))


def test_a_test_that_came_through_by_chance_is_not_green() -> None:
    """Seen with gloo, where all addresses were there in time; the group was never used."""
    box = lists_differ(*FOUR).enters(FOUR, "gloo:all_reduce", 1).completes().passes().ends().done()
    says_that_rank_1_differs(judged(box))
    assert "it may hang next time" in judged(box).summary
    timeline = box.timeline()
    assert not is_green(timeline, timeline.tests[0])


@pytest.mark.parametrize("used", [False, True])
def test_a_later_test_has_only_to_answer_for_what_it_uses(used: bool) -> None:
    box = two_tests()
    for rank in FOUR:
        making(box, rank, "1", THREE if rank == 1 else FOUR, made=True)
    box.passes().ends().begins(1)
    if used:
        box.enters(FOUR, "gloo:broadcast", 1, group="1").completes()
    found = judge_test(box.passes().ends().done().timeline(), 1).verdict
    assert (found.code is Code.PASSED) is not used


def test_a_world_that_was_left_between_tests_is_left_on_all_ranks_alike() -> None:
    """One rank's last word of its default group came when the test was over already."""
    box = two_tests()
    for rank in FOUR:
        making(box, rank, "0", (), made=True)
    for rank in (0, 1):
        box.rank(ev.FlightRecorded(rank, 0, FlightOrigin.DESTROY, (), ()))
    box.passes().ends()
    for rank, test in ((2, 0), (3, None)):
        box.rank(ev.FlightRecorded(rank, test, FlightOrigin.DESTROY, (), ()))
    box.begins(1)
    for rank in FOUR:
        making(box, rank, "0", (), made=True)
    assert {view.collectives.named("0") for view in box.timeline().tests[1].ranks.values()} == {"0"}


def test_a_straggler_beside_a_group_that_nobody_uses() -> None:
    found = stalls(lists_differ(*FOUR).enters(THREE, "gloo:all_reduce", 1).at(3), 3)
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def test_an_error_of_a_rank_s_own_beside_it() -> None:
    box = lists_differ(*FOUR).enters((0, 1, 3), "gloo:all_reduce", 1).raises(2).after(1.0)
    found = judged(box.acts(ActReason.FAILURE_STUCK, "", (0, 1, 3), (2,)).aborts("failure-stuck").done())
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (2,))


def test_a_rank_that_was_killed_in_the_making_was_killed() -> None:
    box = lists_differ(0, 1, 2).enters(THREE, "gloo:all_reduce", 1).after(0.5).exits(3, -9, "SIGKILL").after(0.2)
    found = judged(box.acts(ActReason.EXIT, "", THREE, (3,)).aborts("exit").done())
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (3,))


def test_two_against_two_blame_nobody() -> None:
    found = stalls(lists_differ(odd=(1, 2)).blocked(FOUR, "new_group"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, ())
    assert "ranks called new_group for group 1 with different members" in found.summary


def test_a_majority_of_the_few_that_came_is_no_certain_one() -> None:
    box = FakeBox(8).begins()
    for rank in range(4):
        making(box, rank, "1", THREE if rank == 1 else tuple(range(8)))
    found = stalls(box.blocked(range(4), "new_group").at(range(4, 8)), 4, 5, 6, 7)
    assert (found.cause, found.blamed_ranks, found.certainty) == (VerdictCause.MEMBERS, (1,), Certainty.LIKELY)


def test_a_rank_that_takes_the_groups_in_another_order() -> None:
    """gloo lets the first one through on some; in the second an innocent rank waits."""
    box = FakeBox(4).begins()
    for rank in FOUR:
        lists = [FOUR, (0, 1)] if rank != 1 else [(0, 1), FOUR]
        making(box, rank, "1", lists[0], made=True)
        making(box, rank, "2", lists[1], made=rank > 1 and rank in lists[1])
    found = stalls(box.enters((2, 3), "gloo:all_reduce", 1).blocked((0, 1), "new_group"))
    assert (found.cause, found.blamed_ranks, found.certainty) == (VerdictCause.MEMBERS, (1,), Certainty.CERTAIN)


def test_a_rank_that_left_one_new_group_out_and_went_on() -> None:
    """gloo let its group through, which the others count as another one; it never used it."""
    box = FakeBox(4).begins()
    for rank in THREE:
        making(box, rank, "1", THREE, made=True)
        making(box, rank, "2", FOUR)
    making(box, 3, "1", FOUR, made=True).at(3).blocked(THREE, "new_group")
    found = stalls(box, 3)
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, (3,))


def test_pairs_beside_a_rank_that_means_all() -> None:
    """Two pairs contradict each other in nothing: the one that names everybody is the odd one."""
    box = FakeBox(5).begins()
    for rank, members in enumerate([(0, 1), (0, 1), (2, 3), (2, 3), (0, 1, 2, 3, 4)]):
        making(box, rank, "1", members, made=rank < 4)
    found = stalls(box.blocked(4, "new_group"))
    assert (found.cause, found.blamed_ranks) == (VerdictCause.MEMBERS, (4,))


# -- a collective here, new_group there ----------------------------------------------------------------------


@pytest.mark.parametrize(("first", "blamed"), [((0,), (0,)), ((0, 1), ())])
def test_a_collective_before_or_after_making_a_group(first: tuple[int, ...], blamed: tuple[int, ...]) -> None:
    box = FakeBox(4).begins()
    for rank in FOUR:
        making(box, rank, "0", (), made=True)
    others = box.others(*first)
    for rank in others:
        making(box, rank, "1", FOUR)
    found = stalls(box.enters(first, "gloo:all_reduce", 1).blocked(others, "new_group"))
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, "group-order", blamed)
    assert "in all_reduce #1 of group 0" in found.summary
    assert "in new_group of group 1" in found.summary


def test_who_failed_in_the_making_had_come() -> None:
    """Seen with gloo: rank 2 found an address of the group before, and nobody listened there any more."""
    box = FakeBox(4).begins()
    for rank in FOUR:
        making(box, rank, "0", (), made=True)
    box.enters(FOUR).completes()
    for rank in FOUR:
        box.rank(ev.FlightRecorded(rank, 0, FlightOrigin.DESTROY, (), ()))
    for rank in (0, 2, 3):
        making(box, rank, "0", ())
    box.rank(ev.GroupCreated(2, 0, "0", (), failed=True)).raises(2, "RuntimeError", NO_MESH)
    found = stalls(box.at(1).blocked((0, 3), "init_process_group"), 1, 2)
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (1,))


def after_a_leak(limits: ev.Limits | None = None) -> FakeBox:
    """Rank 0 destroyed its default group in the test before, the plugin drops the others' in this one."""
    box = FakeBox(4, (NODEID, NODEID + "_2"), limits=limits).begins()
    for rank in range(4):
        making(box, rank, "0", (), made=True)
    box.rank(ev.FlightRecorded(0, 0, FlightOrigin.DESTROY, (), ())).passes().ends().begins(1)
    for rank in (1, 2, 3):
        box.rank(ev.FlightRecorded(rank, 1, FlightOrigin.DESTROY, (), ()))
    for rank in range(4):
        making(box, rank, "0", (), made=True)
    return box.after(0.1)


def test_a_group_that_outlived_a_test_on_some_ranks_does_not_part_them() -> None:
    box = after_a_leak().enters((1, 2, 3)).enters(0, dtype="Int").completes().passes().ends()
    found = judge_test(box.done().timeline(), 1).verdict
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, "dtype", (0,))


def test_nor_is_the_plugins_own_cleaning_up_held_against_a_rank() -> None:
    box = after_a_leak(ev.Limits(stall=20, test=60)).enters((0, 1, 3)).at(2).after(31.0)
    found = judge_test(box.acts(ActReason.STALL, "", (0, 1, 3), (2,)).aborts("stall").done().timeline(), 1).verdict
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.CERTAIN)
    assert "destroyed" not in found.summary


def test_a_rank_whose_leaving_is_not_on_record_has_left_nothing() -> None:
    box = FakeBox(4, (NODEID, NODEID + "_2")).begins()
    for rank in (1, 2, 3):  # what rank 0 said is lost
        making(box, rank, "0", (), made=True)
    box.passes().ends().begins(1).enters((0, 1, 2, 3))
    view = box.done().timeline().tests[1]
    assert {next(iter(r.collectives.entries)) for r in view.ranks.values()} == {("0", 1)}


def through(digests_of: dict[int, dict[str, str]]) -> Verdict:
    """Ranks pass, with these digests."""
    box = FakeBox(4).begins().reports(TestPhase.CALL).phase("teardown").reports(TestPhase.TEARDOWN)
    for rank in range(4):
        box.rank(ev.Finished(rank, 0, True, digests=digests_of.get(rank, {})))
    return judged(box.ends().done())


@pytest.mark.parametrize(
    ("digests_of", "group"),
    [
        ({rank: {"0": "1-4:bb|1-3:aa"} for rank in (0, 2, 3)} | {1: {"0": "1-3:aa"}}, " of group 0"),
        ({rank: {"0@1" if rank else "0": "1-3:aa"} for rank in range(4)}, " of group 0"),
        ({rank: {"0": "1-3:aa"} for rank in (0, 2, 3)}, " of group 0"),
        ({rank: {"0": "1-1023:aa" + " 1024-1024:bb" * (not rank)} for rank in range(4)}, " of group 0"),
        ({rank: {"": "1-2:aa" if rank < 2 else "1-1:bb"} for rank in range(4)}, ""),
    ],
    ids=["a-time-out-handled", "names-apart", "one-tells-none", "one-stretch-more", "groups-without-names"],
)
def test_digests_that_can_not_be_compared_are_a_doubt(digests_of: dict[int, dict[str, str]], group: str) -> None:
    found = through(digests_of)
    assert (found.code, found.certainty) == (Code.PASSED, Certainty.LIKELY)
    said = f"less certain: ranks issued collectives{group} that could not be compared with other ranks'"
    assert [e.text for e in found.evidence] == [said]


def test_before_what_did_not_complete_they_are_compared() -> None:
    digests_of = {rank: {"0": "1-4:bb|1-3:aa"} for rank in (0, 2, 3)} | {1: {"0": "1-3:cc"}}
    found = through(digests_of)
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (1,))


@pytest.mark.parametrize("added", ["", "@1"])
def test_who_is_in_a_group_without_a_name_is_not_known(added: str) -> None:
    """Ranks 0 and 1 have one, 2 and 3 another, and nobody can tell: only stacks show that rank 0 waits."""
    box = FakeBox(4, limits=ev.Limits(stall=20, test=60)).begins()
    if added:
        for rank in range(4):
            box.rank(ev.FlightRecorded(rank, 0, FlightOrigin.DESTROY, (), ()))
    box.enters((0, 1, 2, 3), group="").completes().after(1.0).enters(0, seq=2, group="").blocked(0, "wait").at(1)
    view = box.passes((2, 3)).timeline().tests[0]
    assert {group for group, _ in view.ranks[0].collectives.entries} == {added}
    assert wait_graph(view, Moment()).waits == ()
    found = judged(box.after(31.0).acts(ActReason.STALL, "", (0,), ()).aborts("stall").done())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.LIKELY)
