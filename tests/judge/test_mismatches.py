"""What is said about ranks that issued different collectives."""

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Code, Verdict
from pytest_megacpp.recording.vocabulary import ActReason
from tests.scenario import PEER_CLOSED, FakeBox


def verdict(box: FakeBox) -> Verdict:
    return judge_test(box.done().timeline(), 0).verdict


def places(found: Verdict) -> dict[int | None, str]:
    return {e.rank: e.text for e in found.evidence if "is called at" in e.text}


def test_where_each_kind_is_called_is_seen_in_stacks() -> None:
    box = FakeBox(4).begins().enters((0, 1, 3), seq=2).enters(2, "gloo:broadcast", 2).after(0.5)
    box.acts(ActReason.MISMATCH, "operation differs")
    box.blocked(0, "all_reduce").blocked(2, "broadcast")
    found = verdict(box.aborts("mismatch"))
    assert (found.code, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, (2,))
    assert places(found) == {
        0: "all_reduce #2 is called at train.py:52 (exchange)",
        2: "broadcast #2 is called at train.py:52 (exchange)",
    }


def test_what_the_recorder_calls_otherwise_has_both_names() -> None:
    box = FakeBox(2).begins().enters(0, "gloo:all_gather", 2).enters(1, "gloo:all_reduce", 2).after(0.5)
    box.acts(ActReason.MISMATCH, "operation differs").blocked(1, "reduce_scatter_tensor")
    found = verdict(box.aborts("mismatch"))
    assert places(found) == {1: "all_reduce #2 is called at train.py:52 (exchange) by reduce_scatter_tensor"}


def test_where_a_rank_failed_in_it_its_report_tells() -> None:
    box = FakeBox(3).begins().enters((0, 1), seq=2).enters(2, seq=2, numel=12).after(0.1)
    found = verdict(box.loses_peer(2, PEER_CLOSED).acts(ActReason.MISMATCH, "size differs").aborts("mismatch"))
    assert places(found) == {2: "all_reduce #2 is called at train.py:40"}


def test_who_went_on_is_not_said_to_be_there() -> None:
    box = FakeBox(4).begins().enters((0, 1, 3), seq=2).enters(2, "gloo:broadcast", 2).after(0.1).completes(2)
    found = verdict(box.after(0.4).acts(ActReason.MISMATCH, "operation differs").at(2).aborts("mismatch"))
    assert places(found) == {}
