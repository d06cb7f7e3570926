"""Which run `megacpp stop` ends, and what it says of the end."""

import itertools
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands import cli, stop
from pytest_megacpp.desk.commands.command import CannotDo, Desk
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.recording.wire import encode
from pytest_megacpp.surfaces import sweep

RUNS = "20261121-080000-aaaa", "20261122-080000-bbbb", "20261122-090000-cccc"

Make = Callable[[str, str], Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(run_id, status)`, in the lane directory of where the command is typed."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest_megacpp]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stop, "REPORT_S", 0.0)

    def made(run_id: str, status: str) -> Path:
        run = tmp_path / "lane" / "runs" / run_id
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"status": status, "surface": "local", "lane": "h200x8"}))
        (run / "recording.jsonl").write_bytes(b"")
        return run

    return made


def stopped(name: str | None = None) -> int:
    """What the command does once runs whose desks are dead were marked, which those of this test would be."""
    return stop.run(Desk("lane"), Namespace(name=name))


def test_of_several_runs_none_is_guessed(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(run_id, status) for run_id, status in zip(RUNS, ("detached", "running", "passed"), strict=True)]
    listed = rf"2 runs are not over, so name the one .* RUN: {RUNS[1]} \(running\), {RUNS[0]} \(detached\)$"
    with pytest.raises(CannotDo, match=listed):
        stopped()
    assert capsys.readouterr().out == ""
    assert not [run for run in runs if (run / "control").exists()]


def test_without_a_running_run_the_newest_is_left_alone(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make(RUNS[0], "passed")
    assert cli.main(["stop", "--lane-dir", "lane"]) == 2
    assert "is running or detached: there is nothing to stop" in capsys.readouterr().err
    assert stopped("last") == 0
    assert f"run {RUNS[0]} is not running (passed)" in capsys.readouterr().out


@pytest.mark.parametrize(("finished", "said"), [(True, "its box ended in order"), (False, "its processes ended")])
def test_an_end_in_order_is_one_that_was_recorded(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: bool, said: str
) -> None:
    """A box that is killed meanwhile vanishes as well."""
    run = make(RUNS[1], "running")
    make(RUNS[2], "passed")
    if finished:
        fact = ev.RunFinished(RunEnd.INTERRUPTED, "megacpp stop asked for it")
        (run / "recording.jsonl").write_bytes(encode(ev.Event(run.name, "", "box", 0, 1.0, fact)))
    alive = itertools.chain([(4711,)], itertools.repeat(()))
    monkeypatch.setattr(sweep, "processes_of", lambda run_id: next(alive))
    stopped()
    out = capsys.readouterr().out
    assert f"run {RUNS[1]} is asked to end" in out
    assert f"\n{said} within" in out
    assert (run / "control" / "asked").exists()


def test_a_run_is_named_by_the_directory_one_is_in(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make(RUNS[0], "passed"))
    for name in (".", "recording.jsonl"):
        assert cli.main(["stop", name]) == 0
        assert f"run {RUNS[0]} is not running" in capsys.readouterr().out
