"""What is kept of a test's collectives is what torch's own analyser takes, and it finds there what the judge found."""

import gc
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ActReason
from pytest_megacpp.report.flight_dump import KEPT, flight_dumps
from tests.golden.drills.cases import HERE
from tests.golden.drills.distil import read
from tests.scenario import FakeBox

Analyse = Callable[[Timeline], Any]


def same(text: str) -> str:
    return text


def dumps(timeline: Timeline) -> list[Any]:
    return flight_dumps(timeline.tests[0], timeline, same)


@pytest.fixture
def analyse(tmp_path: Path) -> Iterator[Analyse]:
    """The collectives of torch's own analyser, by files as `torchfrtrace` reads them."""
    from torch.distributed.flight_recorder.components.builder import build_db
    from torch.distributed.flight_recorder.components.config_manager import JobConfig
    from torch.distributed.flight_recorder.components.loader import read_dir

    def stock(timeline: Timeline) -> Any:
        for rank, dump in enumerate(dumps(timeline)):
            (tmp_path / f"rank_{rank}").write_bytes(pickle.dumps(dump))
        args = JobConfig().parse_args([str(tmp_path), "-p", "rank_"])
        details, version = read_dir(args)
        in_order = {name: details[name] for name in sorted(details)}  # it believes whichever it reads first
        try:
            return build_db(in_order, args, version).collectives
        except AssertionError as e:
            if "gloo != 'nccl'" in str(e):
                pytest.skip("the analyser of this torch reads NCCL's names only")
            raise

    yield stock
    gc.enable()  # the analyser switches it off


@pytest.mark.parametrize(
    ("drill", "rank", "error"),
    [
        ("mismatches-wrong-operation", 2, "COLLECTIVE_TYPE_MISMATCH"),
        ("mismatches-wrong-operation-after-thousands", 3, "COLLECTIVE_TYPE_MISMATCH"),
        ("mismatches-wrong-size-in-a-late-step", 4, "SIZE_OR_SYNTAX_MISMATCH"),
        ("mismatches-wrong-dtype-of-equal-width", 1, "COLLECTIVE_DTYPE_MISMATCH"),
    ],
)
def test_a_mismatch_is_found(analyse: Analyse, drill: str, rank: int, error: str) -> None:
    found = next(c for c in analyse(read((HERE / f"{drill}.jsonl").read_bytes())) if not c.pass_check)
    assert list(found.mismatch_collectives) == [rank]
    assert found.mismatch_collectives[rank].type_of_mismatch.state.name == error


@pytest.mark.parametrize(
    ("drill", "ranks"),
    [
        ("stalls-endless-loop", {2}),
        ("stalls-two-ranks-are-elsewhere", {0, 2}),
        ("stalls-one-loader-is-shorter", {7}),
        ("stalls-subgroup-with-a-member-too-few", {2}),
        ("deaths-rank-zero-is-killed-while-others-wait", {0}),
    ],
)
def test_missing_ranks_are_found(analyse: Analyse, drill: str, ranks: set[int]) -> None:
    collectives = analyse(read((HERE / f"{drill}.jsonl").read_bytes()))
    assert [c.missing_ranks for c in collectives if c.missing_ranks] == [ranks]


def hanging() -> FakeBox:
    """Rank 1 stays away; the stacks of the others were taken."""
    box = FakeBox(3).begins().enters(range(3)).after(0.1).completes().enters((0, 2), seq=2).after(5)
    return box.acts(ActReason.STALL, "", (0, 2), (1,)).blocked((0, 2), "all_reduce").at(1).aborts()


def test_a_waiting_rank_has_its_stack_where_it_waits() -> None:
    first, second, third = dumps(hanging().timeline())
    assert [entry["frames"] for entry in second["entries"]] == [[]]
    for dump in (first, third):
        *_, last = dump["entries"]
        assert [(f["name"], f["line"]) for f in last["frames"]] == [
            ("all_reduce", 2400),
            ("wrapper", 81),
            ("exchange", 52),
        ]
        assert (last["state"], last["retired"], last["collective_seq_id"]) == ("scheduled", False, 2)
    assert first["pg_config"] == {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2]"}}
    assert first["pg_status"]["0"] | {"last_started_collective": -1} == {
        "last_enqueued_collective": 2,
        "last_started_collective": -1,
        "last_completed_collective": 1,
    }


def test_what_one_rank_forgot_is_left_out_for_all(analyse: Analyse) -> None:
    box = FakeBox(2).begins()
    for seq in range(1, 201):
        box.after(0.01).enters(0, seq=seq, done=True)
        if seq not in (5, 150):  # two that no look saw
            box.enters(1, seq=seq, done=True)
    seen = box.timeline()
    assert [[e["collective_seq_id"] for e in dump["entries"]] for dump in dumps(seen)] == [list(range(151, 201))] * 2
    assert all(c.pass_check for c in analyse(seen))


def test_as_much_is_kept_as_a_ring_holds() -> None:
    box = FakeBox(1).begins()
    for seq in range(1, 201):
        box.after(0.01).enters(0, seq=seq, done=True)
    (dump,) = dumps(box.timeline())
    assert len(dump["entries"]) == KEPT


def test_time_is_the_clock_s() -> None:
    first, *_ = dumps(hanging().timeline())
    began_ns = 1763847901 * 10**9  # 2025-11-22T21:45:01Z
    assert 0 < first["entries"][0]["time_created_ns"] - began_ns - 365 * 86_400 * 10**9 < 10**9


def test_secrets_in_frames_are_hidden_and_nothing_but_plain_values_is_written() -> None:
    seen = hanging().timeline()
    written = flight_dumps(seen.tests[0], seen, lambda text: text.replace("exchange", "[redacted]"))
    data = pickle.dumps(written)
    assert b"exchange" not in data
    assert b"[redacted]" in data
    assert b"pytest_megacpp" not in data
