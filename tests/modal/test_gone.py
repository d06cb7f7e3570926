"""Attaching to runs of which Modal has less than a recording: each has its `run.json`, nothing is green by absence."""

import json
import os
import shutil
import signal

import pytest

from tests.modal.test_desk import LANE as ANY_ORDER
from tests.modal.test_desk import Site, site, started
from tests.modal_emulator.control import Result
from tests.plugin.project import Ran

__all__ = ["site"]
LANE = (*ANY_ORDER, "-p", "no:randomly")


def attach(site: Site, run_id: str, *more: str) -> Ran:
    return site.run("-m", "h200x8", "--attach", run_id, *more)


def submitted(site: Site) -> str:
    """A run that this desk left in its slow test."""
    left = site.run(*LANE, "--detach")
    assert left.run is not None
    return str(left.run["run_id"])


def forget(site: Site, run_id: str, *, records: bool = True) -> None:
    """Modal ends the sandbox and knows nothing of it any more; `records` stay or go with it."""
    for sandbox in site.emulator.sandboxes:
        site.emulator.kill(sandbox, Result.GENERIC_STATUS_INTERNAL_FAILURE)
    site.emulator.control.sandboxes.clear()
    place = site.emulator.volume("megacpp-runs") / run_id
    shutil.rmtree(place)
    if records:
        place.mkdir()


def has_printed(site: Site, words: bytes) -> bool:
    """Whether the sandbox's own output has them; it comes a moment after what a follower says."""
    sandboxes = site.emulator.sandboxes
    main = sandboxes[0].container.main if sandboxes and sandboxes[0].container else None
    return main is not None and words in main.stdout.data


def judged(site: Site, run_id: str, lane_dir: str = ".megacpp") -> dict[str, str]:
    """`CODE/CAUSE` of every test of the run, by its name, as `run.json` and receipts have them."""
    run = site.root / lane_dir / "runs" / run_id
    found = {}
    for test in json.loads((run / "run.json").read_text())["tests"]:
        verdict = json.loads((run / test["receipt"]).read_text())["verdict"]
        found[test["nodeid"].rpartition("::")[2]] = f"{verdict['code']}/{verdict['cause']}"
    return found


GONE = {"test_first": "box-lost/gone", "test_slow": "box-lost/gone", "test_wrong": "box-lost/gone"}


def test_a_run_that_left_nothing(site: Site) -> None:
    """Another desk doesn't know its tests, so those that it asks for count; that the run was there, its place in the
    volume says. The desk that submitted it knows them all.
    """
    run_id = submitted(site)
    sandbox = site.sandbox.id
    forget(site, run_id)
    ran = attach(site, run_id, "--lane-dir", "elsewhere", "-k", "first or slow")
    document = json.loads((site.root / "elsewhere" / "runs" / run_id / "run.json").read_text())
    assert judged(site, run_id, "elsewhere") == {name: GONE[name] for name in ("test_first", "test_slow")}, ran.text
    assert document["started_at"].startswith(f"{run_id[:4]}-{run_id[4:6]}-{run_id[6:8]}T")
    (site.emulator.volume("megacpp-runs") / run_id).rmdir()
    ran = attach(site, run_id, "-k", "first or slow")
    assert ran.outcomes() == {"test_first": "error", "test_slow": "error"}, ran.text
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert judged(site, run_id) == GONE, "also what was not asked for here"
    document = json.loads((site.lane_dir / "runs" / run_id / "run.json").read_text())
    assert (document["status"], document["ids"]["sandbox"]) == ("error", sandbox)
    assert "this desk last knew it as detached" in ran.failure("test_slow")
    assert sandbox in ran.failure("test_slow")


def test_a_run_that_never_was(site: Site) -> None:
    ran = attach(site, "20200101-000000-0000")
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "Modal has no sandbox and no stored records of run 20200101-000000-0000" in ran.text
    assert not (site.lane_dir / "runs" / "20200101-000000-0000").exists()
    assert not (site.lane_dir / "latest").exists()


def test_what_this_desk_heard_before_is_not_lost(site: Site) -> None:
    """Nor when Modal can't be asked."""
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: started(desk.directory, "test_slow"))
        run_id = site.sandbox.name
        os.kill(desk.child.pid, signal.SIGKILL)
        forget(site, run_id, records=False)
    recording = site.lane_dir / "runs" / run_id / "recording.jsonl"
    before = recording.read_bytes()
    site.emulator.faults.reject_credentials = True
    assert attach(site, run_id).code == pytest.ExitCode.USAGE_ERROR
    assert recording.read_bytes() == before
    site.emulator.faults.reject_credentials = False
    ran = attach(site, run_id)
    assert judged(site, run_id) == GONE | {"test_first": "passed/None"}, ran.text
    assert ran.outcome("test_first") == "passed"
    again = attach(site, run_id)
    assert judged(site, run_id) == GONE | {"test_first": "passed/None"}, again.text


def test_the_output_of_an_ended_sandbox_stands_in_for_its_records(site: Site) -> None:
    with site.desk(*LANE) as desk:
        desk.wait_until(lambda: has_printed(site, b'"kind":"test-started","test":1'))
        run_id = site.sandbox.name
        os.kill(desk.child.pid, signal.SIGKILL)
        site.emulator.kill(site.sandbox, Result.GENERIC_STATUS_INTERNAL_FAILURE)
        shutil.rmtree(site.emulator.volume("megacpp-runs") / run_id)
    ran = attach(site, run_id, "--lane-dir", "elsewhere")
    found = judged(site, run_id, "elsewhere")
    assert found == {"test_first": "passed/None", **dict.fromkeys(("test_slow", "test_wrong"), "box-lost/killed")}
    assert ran.outcome("test_first") == "passed"


def test_a_launch_that_was_refused_stays_refused(site: Site) -> None:
    refused = site.run(*LANE, "--lane-budget", "0.000001")
    assert refused.run is not None
    run_id = str(refused.run["run_id"])
    ran = attach(site, run_id)
    assert set(judged(site, run_id).values()) == {"blocked/budget"}, ran.text
