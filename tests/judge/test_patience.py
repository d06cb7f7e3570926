"""Ranks that gave up waiting for a peer by a time-out of the test's own, in words that name no peer."""

import pytest

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import USER_FILE, FakeBox, timed_devices

FUTURES = "/usr/lib/python3.11/concurrent/futures/_base.py"
HTTP = "/usr/lib/python3.11/http/client.py"
LIMITS = ev.Limits(stall=5, test=60)


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def waiting(op: str = "gloo:barrier", ranks: tuple[int, ...] = (0, 2, 3), waited_s: float = 2.0) -> FakeBox:
    """Rank 1 is elsewhere."""
    return FakeBox(4, limits=LIMITS).begins().enters(ranks, op, 1).at(1).after(waited_s)


@pytest.mark.parametrize(("kind", "raised_in"), [("TimeoutError", FUTURES), ("_queue.Empty", USER_FILE)])
def test_who_was_waited_for_is_blamed(kind: str, raised_in: str) -> None:
    box = waiting().raises((0, 2, 3), kind, "", raised_in=raised_in).finishes((0, 2, 3)).after(6)
    found = verdict(box.enters(1, "gloo:barrier", 1).completes().passes(1).ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.LIKELY)


@pytest.mark.parametrize(
    "message",
    [
        "assert False\n +  where False = <built-in method is_completed of Work object at 0x7f>()",
        "barrier not done in 2 s\nassert 12.3 < 10.1",
    ],
)
def test_ranks_that_assert_together_that_a_peer_came_are_victims(message: str) -> None:
    box = waiting().raises((0, 2, 3), "AssertionError", message, raised_in=USER_FILE).finishes((0, 2, 3))
    found = verdict(box.after(58).at(1).acts(ActReason.TEST_LIMIT, "").aborts("test-limit"))
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (1,), Certainty.LIKELY)


def test_one_future_that_timed_out_is_a_guess() -> None:
    box = waiting(ranks=(0, 2, 3)).raises(0, "TimeoutError", "", raised_in=FUTURES).finishes(0).after(1)
    found = verdict(box.enters(1, "gloo:barrier", 1).completes().passes((1, 2, 3)).ends())
    assert failed(found) == (Code.STRAGGLER, (1,), Certainty.GUESS)


@pytest.mark.parametrize(
    ("ranks", "kind", "message", "raised_in"),
    [
        ((0, 2, 3), "AssertionError", "loss is nan", USER_FILE),
        ((0,), "TimeoutError", "GET /shard timed out", USER_FILE),
        ((0,), "_queue.Empty", "", "/usr/lib/python3.11/multiprocessing/queues.py"),
    ],
    ids=["an assertion about a loss", "a download", "a loader that died"],
)
def test_errors_that_may_be_about_anything_blame_no_peer(
    ranks: tuple[int, ...], kind: str, message: str, raised_in: str
) -> None:
    box = waiting().raises(ranks, kind, message, raised_in=raised_in).finishes(ranks).after(1)
    found = verdict(box.enters(1, "gloo:barrier", 1).completes().passes(tuple({0, 1, 2, 3} - {*ranks})).ends())
    assert (found.code, found.blamed_ranks) == (Code.TEST_FAILED, ranks)
    assert found.certainty is not Certainty.CERTAIN


@pytest.mark.parametrize("later_s", [1.0, -1.0])
def test_the_error_of_the_rank_that_did_not_come_is_the_cause(later_s: float) -> None:
    box = waiting(waited_s=3.0)
    if later_s < 0:
        box.after(later_s).raises(1, "ValueError", "bad shard").finishes(1).after(-later_s)
    box.raises((0, 2, 3), "TimeoutError", "", raised_in=FUTURES).finishes((0, 2, 3))
    if later_s > 0:
        box.after(later_s).raises(1, "ValueError", "bad shard").finishes(1)
    found = verdict(box.ends())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.RANK_DEATH, (1,), Certainty.LIKELY)


def failed(found: Verdict) -> tuple[Code, tuple[int, ...], Certainty]:
    return found.code, found.blamed_ranks, found.certainty


def test_one_ranks_assertion_is_its_own_and_only_in_doubt() -> None:
    box = waiting(ranks=(0,)).raises(0, "AssertionError", "assert loss < 1").finishes(0)
    found = verdict(box.enters((1, 2, 3), "gloo:barrier", 1).completes().passes((1, 2, 3)).ends())
    assert failed(found) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)
    assert any("barrier #1, which ranks 1-3 had not entered" in e.text for e in found.evidence)


@pytest.mark.parametrize(
    "box",
    [
        waiting(waited_s=0.2).raises((0, 2, 3), "AssertionError", "assert x").finishes((0, 2, 3)),
        waiting(ranks=(0, 1, 2, 3)).completes().raises((0, 2, 3), "AssertionError", "").finishes((0, 2, 3)),
        waiting(ranks=(0, 1, 2, 3)).completes().after(1).raises((0, 2, 3), "TimeoutError", "").finishes((0, 2, 3)),
    ],
    ids=["open for a moment", "over just before", "over for longer than a report takes"],
)
def test_who_waited_for_nobody_failed_by_itself(box: FakeBox) -> None:
    found = verdict(box.completes().passes(1).ends())
    assert failed(found) == (Code.TEST_FAILED, (0, 2, 3), Certainty.CERTAIN)


@pytest.mark.parametrize(
    ("op", "ranks"),
    [("gloo:all_reduce", (0, 1, 2, 3)), ("gloo:broadcast", (0, 2, 3))],
    ids=["all had come", "a broadcast ends at its root before others come"],
)
def test_a_time_out_during_what_completed_since_is_in_doubt(op: str, ranks: tuple[int, ...]) -> None:
    box = waiting(op, ranks=ranks).raises((0, 2, 3), "TimeoutError", "", raised_in=FUTURES).finishes((0, 2, 3))
    found = verdict(box.completes().passes(1).ends())
    assert failed(found) == (Code.TEST_FAILED, (0, 2, 3), Certainty.LIKELY)
    assert any("#1, which may not have completed" in e.text for e in found.evidence)


def test_where_most_are_missing_a_time_out_may_be_of_the_ranks_own() -> None:
    box = waiting(ranks=(0,)).raises(0, "TimeoutError", "", raised_in=FUTURES).finishes(0)
    found = verdict(box.enters((1, 2, 3), "gloo:barrier", 1).completes().passes((1, 2, 3)).ends())
    assert failed(found) == (Code.TEST_FAILED, (0,), Certainty.LIKELY)


def test_a_time_out_in_the_network_is_the_ranks_own() -> None:
    box = waiting().raises((0, 2, 3), "TimeoutError", "timed out", raised_in=HTTP).finishes((0, 2, 3))
    found = verdict(box.enters(1, "gloo:barrier", 1).completes().passes(1).ends())
    assert failed(found) == (Code.TEST_FAILED, (0, 2, 3), Certainty.LIKELY)


def test_ranks_that_all_fail_alike_failed_by_themselves() -> None:
    box = waiting().raises((0, 2, 3), "AssertionError", "assert x").finishes((0, 2, 3)).after(3)
    found = verdict(
        box.enters(1, "gloo:barrier", 1).completes().raises(1, "AssertionError", "assert x").finishes(1).ends()
    )
    assert (found.code, found.blamed_ranks) == (Code.TEST_FAILED, (0, 1, 2, 3))


def test_a_broadcast_that_never_came_is_a_doubt() -> None:
    box = waiting("gloo:broadcast").raises((0, 2, 3), "TimeoutError", "", raised_in=FUTURES).finishes((0, 2, 3))
    found = verdict(box.after(58).at(1).acts(ActReason.TEST_LIMIT, "").aborts("test-limit"))
    assert failed(found) == (Code.TEST_FAILED, (0, 2, 3), Certainty.LIKELY)
    assert any("broadcast #1, which may not have completed" in e.text for e in found.evidence)


def test_a_missing_rank_that_fails_later_stays_a_doubt() -> None:
    box = waiting().raises((0, 2, 3), "Failed", "not done in 2 s", raised_in=USER_FILE).finishes((0, 2, 3)).after(1)
    found = verdict(box.raises(1, "ValueError", "bad shard").finishes(1).ends())
    assert (found.code, found.certainty) == (Code.TEST_FAILED, Certainty.LIKELY)


def test_what_a_blamed_rank_reported_is_in_doubt_once() -> None:
    """Another one's time-out may be its own, and then came later."""
    box = waiting().raises(1, "KeyError", "7").finishes(1).after(1)
    found = verdict(box.raises(0, "TimeoutError", "", raised_in=FUTURES).acts(ActReason.STALL, "waits").aborts("stall"))
    assert failed(found) == (Code.RANK_DEATH, (1,), Certainty.LIKELY)


def test_a_time_out_of_unknown_origin_is_no_wait_of_the_tests_own() -> None:
    box = waiting().raises((0, 2, 3), "TimeoutError", "", raised_in="").finishes((0, 2, 3))
    found = verdict(box.enters(1, "gloo:barrier", 1).completes().passes(1).ends())
    assert failed(found)[:2] == (Code.TEST_FAILED, (0, 2, 3))


def test_a_time_out_while_the_device_receives_is_in_doubt() -> None:
    box = timed_devices().enters(1, "nccl:recv 1<-3", 8, started=True).after(3).at(3).after(3)
    box.raises(1, "TimeoutError", "", raised_in=FUTURES).after(0.5).at(3).passes((0, 2)).after(0.5)
    found = judge_test(box.acts(ActReason.FAILURE_STUCK).aborts("stuck").done().timeline(), 0).verdict
    assert failed(found) == (Code.TEST_FAILED, (1,), Certainty.LIKELY)
    assert any("rank 1 was in recv 1<-3, which may not have completed" in e.text for e in found.evidence)


def test_a_time_out_that_a_busy_machine_reports_late_is_in_doubt() -> None:
    box = waiting().enters(1, "gloo:barrier", 1).completes().after(0.2)
    box.raises((0, 2, 3), "TimeoutError", "", raised_in=FUTURES).finishes((0, 2, 3)).passes(1)
    assert failed(verdict(box.ends())) == (Code.TEST_FAILED, (0, 2, 3), Certainty.LIKELY)
