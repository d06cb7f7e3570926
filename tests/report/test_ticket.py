"""What whoever runs the machine gets: all of it, whatever is known, and no screenful of ranks."""

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ActReason, FaultKind, Purpose
from pytest_megacpp.report.ticket import KEPT_GROUPS, ticket
from tests.scenario import FakeBox

GPUS: dict[str, ev.Json] = {
    "driver": "570.124",
    "states": [{"uuid": "GPU-0", "bus_id": "0B", "remap_pending": True}],
    "topology": None,
    "xids": [{"bus_id": "0B", "code": 63, "text": "row remapper"}],
}
RENTED: dict[str, ev.Json] = {"sandbox": "sb-1", "task": "ta-1", "cloud": "oci", "region": None, "runtime": "gvisor"}
FACTS: dict[str, ev.Json] = {"gpus": GPUS, "image": "im-1", "machine": RENTED}


def hung(box: FakeBox) -> FakeBox:
    box.after(0.5).acts(ActReason.STALL, "everybody waits", range(box.ranks), (), (), 31.0)
    return box.blocked(range(box.ranks)).aborts("stall")


def ticket_of(timeline: Timeline, **known: str) -> list[str]:
    lines = ticket(judge_run(timeline).tests[0], timeline, known)
    assert lines[0] == "for a support ticket"
    return [" ".join(line.split()) for line in lines[1:]]


def test_all_that_is_known_of_the_machine() -> None:
    box = FakeBox(2, dry_run=False).box(ev.BoxReady({"torch": "2.13.0"}, FACTS, ("H200",)))
    box.begins().box(ev.DeviceFault(FaultKind.XID, 74, 0, "GPU-0", 0, "NVLink error"))
    lines = ticket_of(
        hung(hung(box).tries(Purpose.DIAGNOSTIC)).done().timeline(), app="ap-1", sandbox="sb-1", recording="r.jsonl"
    )
    for line in (
        "run run-1, began 2026-11-22T21:45:01.000Z (UTC)",
        "app ap-1",
        "sandbox sb-1",
        "image im-1",
        "machine task ta-1, cloud oci, runtime gvisor",
        "versions torch 2.13.0, driver 570.124",
        "GPUs 1 × H200",
        "GPU GPU-0, 0B, remap_pending True",
        "recording r.jsonl",
    ):
        assert line in lines
    (faults,) = [line for line in lines if line.startswith("faults")]
    assert "xid 74 on GPU-0" in faults
    assert "xid 63 in the kernel's log before" in faults
    assert sum("preset" in line for line in lines) == 2


def test_nothing_is_said_of_what_nobody_knows() -> None:
    lines = ticket_of(hung(hung(FakeBox(2).begins()).tries(Purpose.DIAGNOSTIC)).done().timeline())
    assert {line.partition(" ")[0] for line in lines} == {"run", "place", "attempt"}


def test_ranks_that_came_to_different_places_are_bounded() -> None:
    box = FakeBox(64).begins()
    for rank in range(64):
        box.enters(rank, f"gloo:op_{'x' * rank}", 3)
    lines = ticket_of(hung(hung(box).tries(Purpose.DIAGNOSTIC)).done().timeline())
    assert sum(line.startswith("attempt rank") for line in lines) == KEPT_GROUPS + 2  # and the rest, and the second's
    assert any(line.endswith("in the receipt") for line in lines)
