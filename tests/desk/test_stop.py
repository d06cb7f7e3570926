"""Which run `megacpp stop` ends, and what it says of the end."""

import itertools
import json
import re
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
from tests.scenario import NODEID, FakeBox

RUNS = "20261121-080000-aaaa", "20261122-080000-bbbb", "20261122-090000-cccc"

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(run_id, status, surface)`, in the lane directory of where the command is typed."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest_megacpp]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stop, "REPORT_S", 0.0)

    def made(run_id: str, status: str, surface: str = "local") -> Path:
        run = tmp_path / "lane" / "runs" / run_id
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"status": status, "surface": surface, "lane": "h200x8"}))
        (run / "recording.jsonl").write_bytes(b"")
        return run

    return made


def stopped(name: str | None = None) -> int:
    """What the command does once runs whose desks are dead were marked, which those of this test would be."""
    return stop.run(Desk("lane"), Namespace(name=name))


def test_of_several_runs_none_is_guessed(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(run_id, status) for run_id, status in zip(RUNS, ("detached", "running", "passed"), strict=True)]
    (runs[1] / "recording.jsonl").write_bytes(FakeBox().begins().recording())
    with pytest.raises(CannotDo) as refused:
        stopped()
    first, *listed = str(refused.value).splitlines()
    assert first == "2 runs are not over, so name the one to stop:"
    now = rf"  megacpp stop {RUNS[1]}  \(running for \d+ \w+, h200x8, {re.escape(NODEID)}\)"
    detached = rf"  megacpp stop {RUNS[0]}  \(detached for \d+ \w+, h200x8\)"
    assert [bool(re.fullmatch(*pair)) for pair in zip((now, detached), listed, strict=True)] == [True, True], listed
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

    def processes_of(run_id: str) -> tuple[int, ...]:
        if not (run / "control" / "asked").exists():
            return (4711,)
        if finished:
            ends(run)
        return ()

    monkeypatch.setattr(sweep, "processes_of", processes_of)
    assert stopped() == 0
    out = capsys.readouterr().out
    assert f"run {RUNS[1]} is asked to end" in out
    assert f"\n{said} within" in out
    assert f"\nits pytest goes on, and says at its end what the run came to: megacpp show {RUNS[1]}\n" in out


def ends(run: Path) -> None:
    """The box records that, and its desk goes on."""
    fact = ev.RunFinished(RunEnd.INTERRUPTED, "megacpp stop asked for it")
    (run / "recording.jsonl").write_bytes(encode(ev.Event(run.name, "", "box", 0, 1.0, fact)))


@pytest.mark.parametrize("surface", ["local", "modal"])
def test_a_box_that_has_ended_is_nothing_to_stop(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], surface: str
) -> None:
    """However long its pytest goes on."""
    run = make(RUNS[1], "running", surface)
    ends(run)
    monkeypatch.setattr(sweep, "processes_of", lambda run_id: ())
    assert stopped(RUNS[1]) == 0
    out = capsys.readouterr().out
    assert f"the box of run {RUNS[1]} has ended: there is nothing to stop" in out
    assert "its pytest goes on" in out
    with pytest.raises(CannotDo, match=f"that of {RUNS[1]} has ended, and only its pytest goes on"):
        stopped()
    assert not (run / "control").exists()


def test_a_box_that_has_ended_is_not_the_one_to_stop(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(make(RUNS[2], "running"))
    make(RUNS[0], "running")
    alive = {RUNS[0]: itertools.chain([(4711,)], itertools.repeat(()))}
    monkeypatch.setattr(sweep, "processes_of", lambda run_id: next(alive[run_id]) if run_id in alive else ())
    assert stopped() == 0
    assert f"run {RUNS[0]} is asked to end" in capsys.readouterr().out


def test_a_box_elsewhere_that_its_desk_ended_is_not_asked_for_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its desk records the end, and goes on with other tests."""
    run = make(RUNS[1], "running", "modal")
    monkeypatch.setattr(sweep, "processes_of", lambda run_id: ())
    monkeypatch.setattr(stop, "ask", lambda run, word: ends(run))
    assert stopped() == 0
    out, err = capsys.readouterr()
    assert "its desk had its box end within" in out
    assert err == ""
    assert not (run / "control").exists()


def test_a_run_of_another_machine_stays_asked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(RUNS[1], "running")
    monkeypatch.setattr(sweep, "processes_of", lambda run_id: ())
    with pytest.raises(CannotDo, match="The run stays asked to end"):
        stopped()
    assert (run / "control" / "asked").exists()


def test_a_run_is_named_by_the_directory_one_is_in(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make(RUNS[0], "passed"))
    for name in (".", "recording.jsonl"):
        assert cli.main(["stop", name]) == 0
        assert f"run {RUNS[0]} is not running" in capsys.readouterr().out
