"""Stores and servers of a test's own: who has joined the default group fails to join nothing."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason, FlightOrigin, TestPhase
from tests.scenario import FakeBox

C10D = "/usr/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
IN_USE = (
    "The server socket has failed to listen on any local network address. port: 29501, useIpv6: false, code: -98, "
    "name: EADDRINUSE, message: address already in use"
)
NO_SERVER = "The client socket has timed out after 2000ms while trying to connect to (127.0.0.1, 9)."
NO_KEY = "wait timeout after 1000ms, keys: /default_pg/0//w0"
NOT_ALL_CAME = "Timed out after 4 seconds waiting for clients. 3/4 clients joined."


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def joined() -> FakeBox:
    """All four ranks have the default group, and are in the call."""
    box = FakeBox(4).begins()
    for rank in range(4):
        box.rank(ev.GroupBegun(rank, box.index, "0", (), 4, True, "", True))
        box.rank(ev.GroupCreated(rank, box.index, "0", (), "gloo"))
    return box.after(0.1)


def fails(box: FakeBox, message: str, *ranks: int) -> FakeBox:
    type_name = "DistStoreError" if message in (NO_KEY, NOT_ALL_CAME) else "DistNetworkError"
    return box.raises(ranks, f"torch.distributed.{type_name}", message, raised_in="/repo/suite/train.py")


@pytest.mark.parametrize("ranks", [(2,), (0, 1, 2, 3)])
def test_a_port_of_its_own_that_is_in_use(ranks: tuple[int, ...]) -> None:
    box = fails(joined(), IN_USE, *ranks).finishes(ranks)
    found = verdict(box.passes(tuple({0, 1, 2, 3} - {*ranks})).ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, ranks, Certainty.CERTAIN)


@pytest.mark.parametrize("message", [NO_SERVER, NO_KEY])
def test_a_server_or_a_key_that_others_do_without(message: str) -> None:
    found = verdict(fails(joined().passes((0, 2, 3)).after(2), message, 1).finishes(1).ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.TEST_FAILED, (1,), Certainty.LIKELY)
    assert "lost contact" not in found.summary


def test_a_key_that_a_late_rank_has_not_set() -> None:
    """The others are in a barrier meanwhile."""
    box = fails(joined().enters((2, 3), "gloo:barrier", 1).at(0).after(2), NO_KEY, 1).after(0.5).at(0)
    found = verdict(box.acts(ActReason.FAILURE_STUCK, "", (2, 3), (0,)).aborts("stuck"))
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (0,))


def test_a_client_that_does_not_come_to_a_store_of_the_tests_own() -> None:
    box = fails(joined().passes((1, 2)).at(3).after(4), NOT_ALL_CAME, 0).finishes(0).after(1).at(3)
    found = verdict(box.passes(3).ends())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (3,))


def test_who_has_no_group_yet_did_not_join() -> None:
    box = FakeBox(4).begins().after(0.1)
    for rank in (1, 2, 3):
        box.rank(ev.GroupBegun(rank, box.index, "0", (), 4, True, "", True))
    fails(box.at(0).after(2), NO_SERVER, 1, 2, 3).finishes((1, 2, 3)).after(1).at(0)
    found = verdict(box.reports(TestPhase.CALL, 0).finishes(0).ends())
    assert (found.code, found.blamed_ranks) == (Code.STARTUP_FAILURE, (0,))


def key_of(rank: int, prefix: str = "run-1") -> str:
    return f"wait timeout after 3000ms, keys: /{prefix}/0//cpu//0/{rank}"


def joining() -> FakeBox:
    """All four ranks make the default group, each by a store of the test's own."""
    box = FakeBox(4).begins().after(0.1)
    for rank in range(4):
        box.rank(ev.GroupBegun(rank, box.index, "0", (), 4, True, "", True))
    return box.after(3)


def test_a_rank_in_a_namespace_of_its_own_lacks_the_others_as_they_lack_it() -> None:
    box, error = joining(), "torch.distributed.DistStoreError"
    for rank in range(4):
        box.raises(rank, error, key_of(0, "run-2") if rank == 2 else key_of(2), raised_in=C10D)
    found = verdict(box.finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STARTUP_FAILURE, (2,), Certainty.LIKELY)
    assert any("rank 2 came as well, but to another store" in e.text for e in found.evidence)


def test_a_store_in_a_file_says_no_more_than_that_it_waited() -> None:
    box = FakeBox(4).begins().after(0.1)
    for rank in (0, 1, 3):
        box.rank(ev.GroupBegun(rank, box.index, "0", (), 4, True, "", True))
    box.at(2).after(3).raises((0, 1, 3), "RuntimeError", "Wait timeout", raised_in=C10D).finishes((0, 1, 3))
    found = verdict(box.after(5).passes(2).ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STARTUP_FAILURE, (2,), Certainty.LIKELY)


@pytest.mark.parametrize(
    "message",
    ["NCCL error: Duplicate GPU detected : rank 2 and rank 0 both on CUDA device 1000", "ncclCommInitRank failed: 2"],
)
def test_nccl_connects_at_the_first_use_of_a_group(message: str) -> None:
    box = joined().raises((0, 2), "DistBackendError", f"{message}, ncclSystemError", raised_in=C10D).finishes((0, 2))
    found = verdict(box.passes((1, 3)).ends())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.STARTUP_FAILURE, "rendezvous", (0, 2))


def test_who_lacks_a_member_of_another_group_is_held_up_by_that() -> None:
    """Ranks 0,3 lack rank 1, which lacks rank 2, which sleeps."""
    box = FakeBox(4).begins().after(0.1)
    for name, members, ranks in (("1", (0, 1, 3), (0, 3)), ("2", (1, 2), (1,))):
        for rank in ranks:
            box.rank(ev.GroupBegun(rank, box.index, name, members, len(members), True))
    error = "torch.distributed.DistStoreError"
    box.at(2).after(3).raises((0, 3), error, "wait timeout after 3000ms, keys: /default_pg/1//cpu//1/1", raised_in=C10D)
    box.raises(1, error, "wait timeout after 3000ms, keys: /default_pg/2//cpu//2/1", raised_in=C10D)
    found = verdict(box.finishes((0, 1, 3)).after(3).passes(2).ends())
    assert (found.code, found.blamed_ranks) == (Code.STARTUP_FAILURE, (2,))


def makes(box: FakeBox, name: str, members: tuple[int, ...], *ranks: int) -> FakeBox:
    for rank in ranks:
        box.rank(ev.GroupBegun(rank, box.index, name, members, len(members), True))
    return box


def test_who_makes_groups_in_another_order_is_not_told_apart_from_one_at_another_store() -> None:
    """Rank 1 makes the smaller group first: it lacks rank 2, which lacks rank 1 as all others do."""
    box = makes(makes(FakeBox(4).begins().after(0.1), "a", (0, 1, 2, 3), 0, 2, 3), "b", (1, 2), 1).after(3)
    for name, number, ranks in (("a", 1, (0, 2, 3)), ("b", 1, (1,))):
        said = f"wait timeout after 3000ms, keys: /default_pg/0//{name}//cpu//0/{number}"
        box.raises(ranks, "torch.distributed.DistStoreError", said, raised_in=C10D)
    found = verdict(box.finishes().ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STARTUP_FAILURE, (1,), Certainty.LIKELY)


@pytest.mark.parametrize("first", ["a", "b"])
def test_one_at_another_store_is_lacked_in_more_than_one_group(first: str) -> None:
    """Rank 1 came with another prefix; whose word is the last makes no difference."""
    box = FakeBox(4).begins().after(0.1)
    for name, members, ranks in sorted((("a", (0, 1, 2), (0, 1)), ("b", (1, 3), (3,))), key=lambda g: g[0] != first):
        makes(box, name, members, *ranks)
        for rank in ranks:
            number = members.index(1 if rank != 1 else 2)
            said = f"wait timeout after 3000ms, keys: /default_pg/0//{name}//cpu//0/{number}"
            box.raises(rank, "torch.distributed.DistStoreError", said, raised_in=C10D)
    found = verdict(box.finishes((0, 1, 3)).after(3).passes(2).ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STARTUP_FAILURE, (1,), Certainty.LIKELY)


RENDEZVOUS = (
    f"{C10D}:1802: in init_process_group\n{C10D.replace('distributed_c10d', 'rendezvous')}:232: in _tcp_rendezvous"
)


def destroys(box: FakeBox, ranks: tuple[int, ...] = (0, 1, 2, 3)) -> FakeBox:
    for rank in ranks:
        box.rank(ev.FlightRecorded(rank, box.index, FlightOrigin.DESTROY, (), ()))
    return box.after(0.1)


def test_a_second_default_group_is_joined_as_the_first_one() -> None:
    """Before torch's helper announces the group, its ranks look for the store."""
    box = destroys(joined()).after(3)
    box.raises(range(4), "torch.distributed.DistNetworkError", NO_SERVER, raised_in=C10D, traceback=RENDEZVOUS)
    found = verdict(box.finishes().ends())
    assert (found.code, found.cause) == (Code.STARTUP_FAILURE, "rendezvous")


@pytest.mark.parametrize("destroyed", [True, False])
def test_collectives_of_a_default_group_that_is_gone_say_nothing_of_the_next_one(destroyed: bool) -> None:
    """Two ranks use the number 2 in it. With the first one, the group is a further one of a test that is under way."""
    box = joined().enters(range(4), "gloo:barrier", 1).after(0.1).completes()
    if destroyed:
        destroys(box)
    for rank, number in enumerate((0, 1, 2, 2)):
        if destroyed:
            box.rank(ev.GroupBegun(rank, box.index, "0", (), 4, True, "", True, number))
        else:
            box.rank(ev.GroupBegun(rank, box.index, "1", (0, 1, 2, 3), 4, True))
    said = f"wait timeout after 3000ms, keys: /{'' if destroyed else '0//'}{0 if destroyed else 1}//cpu//0/3"
    box.after(3).raises(range(4), "torch.distributed.DistStoreError", said, raised_in=C10D)
    found = verdict(box.finishes().ends())
    joining = (Code.STARTUP_FAILURE, (3,)) if destroyed else (Code.TEST_FAILED, (0, 1, 2, 3))
    assert (found.code, found.blamed_ranks) == joining


def test_the_barrier_after_the_making_of_a_group_belongs_to_it() -> None:
    """With TORCH_DIST_INIT_BARRIER. Rank 3 does not come."""
    said = "wait timeout after 3000ms, keys: /default_pg/0//store_based_barrier_key:1:last_worker"
    box = joined().at(3).after(3).raises((0, 1, 2), "torch.distributed.DistStoreError", said, raised_in=C10D)
    found = verdict(box.finishes((0, 1, 2)).after(3).passes(3).ends())
    assert (found.code, found.blamed_ranks) == (Code.STARTUP_FAILURE, (3,))


@pytest.mark.parametrize("destroyed_first", [True, False])
def test_a_group_that_is_destroyed_around_the_failure_was_there(destroyed_first: bool) -> None:
    """In a `finally` of the test, or in its teardown."""
    box = destroys(joined()) if destroyed_first else joined()
    box = fails(box, IN_USE, 2).after(0.1)
    found = verdict((box if destroyed_first else destroys(box)).finishes(2).passes((0, 1, 3)).ends())
    assert (found.code, found.blamed_ranks) == (Code.TEST_FAILED, (2,))
