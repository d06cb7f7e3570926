"""From `pytest` at a desk through the modal client and the emulator to a box and ranks under gVisor, and back."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("modal", reason="the modal client isn't installed: pip install -e '.[test]'")

import pytest_megacpp
from pytest_megacpp.recording import events as ev
from tests.gvisor.builds import Build
from tests.modal.test_desk import LANE, SETTINGS, TESTS, facts, started
from tests.modal.test_desk import Site as ModalSite
from tests.modal_emulator import Emulator
from tests.modal_emulator.control import Result
from tests.plugin.project import Desk, Ran

LEASE_S = 15
START_S = 240.0
"""A box imports torch in 30 s here when nothing else runs, and in 150 s beside ten other processes."""
GREEN = """
    import os
    import pytest
    import torch
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2, stall=30)

    def test_sum(modal_h200x8):
        assert os.uname().nodename == "box", "this is not a sandbox"
        ones = torch.ones(1)
        dist.all_reduce(ones)
        assert ones.item() == 2

    def test_killed(modal_h200x8):
        if modal_h200x8.rank == 1:
            os.kill(os.getpid(), 9)
        dist.barrier()

    def test_next(modal_h200x8):
        dist.barrier()
"""


class Site(ModalSite):
    """Its desks take the tests in the file's order."""

    def desk(self, *args: str) -> Desk:
        return super().desk("-p", "no:randomly", *args)


@pytest.fixture
def site(build: Build, tmp_path: Path) -> Iterator[Site]:
    package = Path(pytest_megacpp.__file__ or "").parent
    shared = tmp_path / "shared"
    shared.mkdir()
    with Emulator(hide=[tmp_path, package], runsc=build, shared=[shared]) as emulator:
        site = Site(tmp_path / "project")
        site.emulator = emulator
        site.gate = shared / "gate"
        site.write("pyproject.toml", SETTINGS.replace("lease_s = 3", f"lease_s = {LEASE_S}"))
        site.write("test_it.py", TESTS.replace("{gate}", str(site.gate)))
        yield site


def in_the_slow_test(site: Site, desk: Desk, directory: Path | None = None) -> None:
    desk.wait_until(lambda: started(directory or desk.directory, "test_slow"), limit_s=START_S)


def finished(desk: Desk, directory: Path | None = None) -> Ran:
    code = desk.wait(START_S)
    return Ran(code, desk.text, desk._reports(), desk._run_json(), directory or desk.directory, 0.0)


def test_ranks_report_and_a_killed_one_is_named(site: Site) -> None:
    site.write("test_it.py", GREEN)
    with site.desk(*LANE) as desk:
        ran = finished(desk)
    assert ran.outcomes() == {"test_sum": "passed", "test_killed": "failed", "test_next": "passed"}, ran.text
    verdict = ran.verdict("test_killed")
    assert (verdict["code"], verdict["blamed_ranks"], verdict["cause"]) == ("rank-death", [1], "signal:SIGKILL")
    said = facts(ran.directory)
    assert [fact for fact in said if isinstance(fact, ev.Gap | ev.Damaged)] == []
    assert sum(isinstance(fact, ev.RunFinished) for fact in said) == 1
    assert ran.directory is not None
    assert (ran.directory / "ranks" / "w1" / "1" / "stdout.log").exists()
    site.assert_given_back()


def test_a_killed_sandbox(site: Site) -> None:
    with site.desk(*LANE) as desk:
        in_the_slow_test(site, desk)
        assert site.sandbox.container is not None
        assert site.sandbox.container.processes() != []
        site.emulator.kill(site.sandbox, Result.GENERIC_STATUS_FAILURE)
        ran = finished(desk)
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "error", "test_wrong": "error"}, ran.text
    assert ran.verdict("test_slow")["code"] == "box-lost"
    site.assert_given_back()


def test_a_desk_that_dies_takes_its_box_along(site: Site) -> None:
    """By the lease: the box ends in order, and what the run came to can still be had."""
    with site.desk(*LANE) as desk:
        in_the_slow_test(site, desk)
        run_id = site.sandbox.name
        os.kill(desk.child.pid, signal.SIGKILL)
        site.assert_given_back(limit_s=LEASE_S + 60)
    ran = site.run("-m", "h200x8", "--attach", run_id)
    assert ran.outcomes() == {"test_first": "passed", "test_slow": "error", "test_wrong": "error"}, ran.text
    document = json.loads((site.lane_dir / "runs" / run_id / "run.json").read_text())
    assert [test["verdict"] for test in document["tests"]] == ["passed", "not-run", "not-run"]


def test_detach_and_attach(site: Site) -> None:
    """Left at once, followed live from another place, and read again when only the records are there."""
    left = site.run(*LANE, "--detach")
    assert left.code == pytest.ExitCode.OK, left.text
    assert left.run is not None
    run_id = left.run["run_id"]
    with site.desk("-m", "h200x8", "--attach", run_id, "--lane-dir", "elsewhere") as desk:
        directory = site.root / "elsewhere" / "runs" / run_id
        in_the_slow_test(site, desk, directory)
        time.sleep(1.0)
        site.go()
        live = finished(desk, directory)
    wanted = {"test_first": "passed", "test_slow": "passed", "test_wrong": "failed"}
    assert live.outcomes() == wanted, live.text
    site.assert_given_back(limit_s=60)
    again = site.run("-m", "h200x8", "--attach", run_id)
    assert again.outcomes() == wanted, again.text
