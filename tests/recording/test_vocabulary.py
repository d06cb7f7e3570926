"""Closed sets of words: recordings hold their values, so these stay as they are; groups of members are properties."""

from enum import StrEnum

import pytest

from pytest_megacpp.recording import vocabulary
from pytest_megacpp.recording.vocabulary import ActReason, Purpose, SeedMode, TestPhase

# As recordings, plans and receipts have had them since the first one. A word may be added, none may change or go.
WORDS = {
    "ActReason": "exit failure-stuck mismatch skew stall compile test-limit startup-limit run-limit stop",
    "TestEnd": "finished aborted not-run",
    "NotRun": "broken exit startup-limit collection skipped unsafe-nccl unsafe-fsdp unaffordable",
    "RunEnd": "completed stopped interrupted refused broken budget run-limit",
    "Purpose": " measured warm-up diagnostic detail",
    "Preset": "full diagnostic",
    "SeedMode": "auto require cold refresh ",
    "SeedState": "absent foreign partial warm",
    "WarmUp": "explicit_warmup_allowed seed_warm user_disabled non_cuda_lane drill",
    "ProblemCode": "environment blocked box-lost not-run startup-failure",
    "ProblemCause": "seed killed cut-off connection",
    "EvidenceSource": "worker_server flight_recorder group_members wait_counters traceback thread_runs exit_code "
    "memory_events kernel_log py-spy",
    "BoxStep": "signals seed preload data collection",
    "TestPhase": "setup call teardown",
    "ReportOutcome": "passed failed skipped other",
    "Stage": "import conftest plugin collection usage rendezvous",
    "FlightOrigin": "poll evidence failure finish own destroy",
    "ForwardOrigin": "test warmup automatic",
    "SettingOrigin": "plugin user refused",
    "SettingPhase": "import group compile",
    "FaultKind": "xid ecc",
    "MemoryLimit": "ordered cgroup machine",
    "StackMethod": "traceback py-spy faulthandler",
    "Stream": "stdout stderr",
    "Lost": "extras reports",
    "WorldReason": "first next",
}
SETS = {
    name: members
    for name, members in vars(vocabulary).items()
    if isinstance(members, type) and issubclass(members, StrEnum) and members is not StrEnum
}


@pytest.mark.parametrize("name", SETS)
def test_words_stay_as_recordings_have_them(name: str) -> None:
    assert {member.value for member in SETS[name]} >= set(WORDS[name].split(" "))


GROUPS = {
    "rests_on_looks": {ActReason.FAILURE_STUCK, ActReason.SKEW, ActReason.STALL, ActReason.COMPILE},
    "is_waiting": {ActReason.FAILURE_STUCK, ActReason.SKEW, ActReason.STALL},
    "acts_on_trouble": {ActReason.EXIT, ActReason.FAILURE_STUCK, ActReason.MISMATCH},
    "is_limit": {ActReason.TEST_LIMIT, ActReason.RUN_LIMIT},
    "is_interruption": {ActReason.TEST_LIMIT, ActReason.RUN_LIMIT, ActReason.STOP},
}


@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_reasons_to_act(group: str) -> None:
    assert {reason for reason in ActReason if getattr(reason, group)} == GROUPS[group]


def test_other_groups() -> None:
    assert {purpose for purpose in Purpose if purpose.counts} == {Purpose.MEASURED, Purpose.WARM_UP}
    assert {mode for mode in SeedMode if mode.warms_up} == {SeedMode.AUTO, SeedMode.REFRESH}
    assert [phase.next for phase in TestPhase] == [TestPhase.CALL, TestPhase.TEARDOWN, TestPhase.TEARDOWN]
