"""Ladders that are climbed for real: two ranks on gloo, one desk that judges while its box waits."""

from pathlib import Path

import pytest

from tests.plugin.project import LANE, Json, Project, Ran

SUITE = """
    import os
    import time
    from pathlib import Path

    import pytest
    import torch
    import torch.distributed as dist
    from torch.monitor import _WaitCounter

    pytestmark = pytest.mark.h200x8(ranks=2, stall=60, test=60)

    @pytest.mark.h200x8(skew=1.5)
    def test_rank_1_has_a_cold_cache(modal_h200x8):
        kept = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "of-rank-1"
        dist.barrier()
        if modal_h200x8.rank == 1 and not kept.exists():
            with _WaitCounter("pytorch.wait_counter.dynamo_compile").guard():  # as torch.compile itself
                time.sleep(3)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.touch()
        dist.barrier()

    @pytest.mark.h200x8(stall=1.5)
    def test_nobody_sends(modal_h200x8):
        size = modal_h200x8.pick(full=64, diagnostic=8)
        dist.all_reduce(torch.ones(size))
        dist.recv(torch.ones(size), 1 - modal_h200x8.rank)

    def test_differs(modal_h200x8):
        dist.barrier()
        if modal_h200x8.rank:
            dist.broadcast(torch.ones(4), 0)
        else:
            dist.all_reduce(torch.ones(4))

    def test_raises(modal_h200x8):
        dist.barrier()
        raise ValueError("a plain failure")

    def test_passes(modal_h200x8):
        dist.barrier()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("triage"))
    project.write("test_triage.py", SUITE)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    return project.pytest(*LANE, "--triage", "--cache-seed", "cold", "-p", "no:randomly")


def ladder(ran: Ran, name: str) -> list[tuple[str, str]]:
    attempts: list[Json] = ran.receipt(name)["attempts"]
    return [(attempt["purpose"], attempt["verdict"]["code"]) for attempt in attempts]


def test_skew_is_warmed_away(ran: Ran) -> None:
    skewed, passed = ("measured", "compile-skew"), ("warm-up", "passed")
    assert ladder(ran, "test_rank_1_has_a_cold_cache") == [skewed, passed, ("measured", "passed")]
    assert ran.outcome("test_rank_1_has_a_cold_cache") == "passed"
    said = "test_rank_1_has_a_cold_cache: compile-skew (rank 1) → warm-up passed → passed"
    assert f"test_triage.py::{said}" in ran.text
    attempts = ran.receipt("test_rank_1_has_a_cold_cache")["attempts"]
    assert [attempt["limits"]["skew"] for attempt in attempts] == [1.5, 1800.0, 1.5]


def test_what_hangs_at_any_size_is_infrastructure(ran: Ran) -> None:
    assert ladder(ran, "test_nobody_sends") == [("measured", "hang"), ("diagnostic", "hang")]
    receipt = ran.receipt("test_nobody_sends")
    verdict = receipt["verdict"]
    assert (verdict["code"], verdict["cause"], verdict["certainty"]) == ("hang", "infrastructure", "likely")
    assert [attempt["preset"] for attempt in receipt["attempts"]] == ["full", "diagnostic"]
    ticket = ran.failure("test_nobody_sends").partition("for a support ticket\n")[2]
    assert ran.directory is not None
    assert ran.directory.name in ticket
    assert "preset diagnostic" in ticket
    records = ticket.partition("flight ")[2].partition("recording ")[0].replace(",", "").split()
    assert [len(list((ran.directory.parents[2] / record).iterdir())) for record in map(Path, records)] == [2, 2]


def test_torch_itself_compares_what_differs(ran: Ran) -> None:
    assert ladder(ran, "test_differs") == [("measured", "collective-mismatch"), ("detail", "collective-mismatch")]
    verdict = ran.verdict("test_differs")
    words = [evidence["text"] for evidence in verdict["evidence"] if evidence["source"] == "report"]
    assert len([text for text in words if "Detected mismatch between collectives" in text]) == 2
    assert verdict["certainty"] == "certain"


def test_nothing_else_is_tried_again(ran: Ran) -> None:
    assert (ladder(ran, "test_raises"), ladder(ran, "test_passes")) == ([], [])
    assert (ran.outcome("test_raises"), ran.outcome("test_passes")) == ("failed", "passed")
    assert "→" not in ran.failure("test_raises")


def test_a_replay_shows_the_same_ladders(project: Project, ran: Ran) -> None:
    assert ran.directory is not None
    again = project.pytest("-m", "h200x8", "--replay", str(ran.directory / "recording.jsonl"), "-p", "no:randomly")
    assert again.outcomes() == ran.outcomes()
    for name in ("test_rank_1_has_a_cold_cache", "test_nobody_sends", "test_differs"):
        assert ladder(again, name) == ladder(ran, name)
    assert [line for line in again.text.splitlines() if "→" in line] == [
        line for line in ran.text.splitlines() if "→" in line
    ]
