"""Groups that not every rank shares: what is compared, who waits for whom, and ranks that mean different groups."""

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin
from tests.scenario import FakeBox


def judged(box: FakeBox) -> Verdict:
    return judge_test(box.timeline(), 0).verdict


def making(box: FakeBox, rank: int, name: str, members: tuple[int, ...], *, made: bool = False) -> FakeBox:
    member = not members or rank in members
    box.rank(ev.GroupBegun(rank, box.index, name, members, len(members) or 4, member, default=not members))
    return box.rank(ev.GroupCreated(rank, box.index, name, members, "gloo")) if made else box


def test_a_rank_that_left_one_new_group_out() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 1, 2):
        making(box, rank, "1", (0, 1, 2), made=True)
        making(box, rank, "2", (0, 1, 2, 3))
    making(box, 3, "1", (0, 1, 2, 3))
    box.blocked((0, 1, 2, 3), "new_group").after(31.0).acts(ActReason.STALL, "", (0, 1, 2, 3), ()).aborts("stall")
    found = judged(box.done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, "members", (3,))
    assert found.certainty is Certainty.CERTAIN
    assert "new_group" in found.summary


def test_a_rank_that_gloo_let_through_its_own_new_group() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 1, 2):
        making(box, rank, "1", (0, 1, 2), made=True)
        making(box, rank, "2", (0, 1, 2, 3))
    making(box, 3, "1", (0, 1, 2, 3), made=True).enters(3, "gloo:all_reduce", 1, group="1").after(31.0)
    found = judged(box.acts(ActReason.STALL, "", (0, 1, 2, 3), ()).aborts("stall").done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, "members", (3,))
    assert "new_group" in found.summary


def test_a_rank_that_names_other_members() -> None:
    box = FakeBox(4).begins()
    for rank in (0, 1, 2, 3):
        making(box, rank, "1", (0, 1) if rank == 2 else (0, 1, 2, 3))
    box.blocked((0, 1, 3), "new_group").at(2).after(31.0).acts(ActReason.STALL, "", (0, 1, 3), (2,)).aborts("stall")
    found = judged(box.done())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2,))  # it is no member of what it named, and went on


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
    assert len({id(members) for members in groups._announced["1"].values()}) == 1
    assert groups._announced["1"][0] is groups._made["1"][5]
