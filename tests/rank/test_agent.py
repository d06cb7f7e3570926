"""A rank's line to the box, whatever the test makes of the modules that it uses."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import Limits, PhaseStarted
from pytest_megacpp.recording.plan import Go
from pytest_megacpp.recording.vocabulary import Preset
from pytest_megacpp.recording.wire import dump_line


@pytest.fixture
def line(tmp_path: Path) -> tuple[Agent, socket.socket]:
    path = str(tmp_path / "box")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        agent = Agent(path, "token", 1, time.monotonic(), time.time())
        return agent, listener.accept()[0]


def test_a_test_may_replace_the_process_number_and_the_clock(
    line: tuple[Agent, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, box = line
    monkeypatch.setattr(os, "getpid", lambda: 42)
    monkeypatch.setattr(time, "monotonic", iter(()).__next__)
    agent.send(PhaseStarted(1, 0, "call"))
    box.settimeout(10)
    with box, box.makefile("rb") as lines:
        assert any(b"call" in said for said in (lines.readline(), lines.readline()))


def test_a_release_tells_what_the_wall_clock_says_by_now(line: tuple[Agent, socket.socket]) -> None:
    agent, box = line
    released = Go(0, 0, None, 1, False, Preset.FULL, Limits())
    for epoch_s, then_s in ((1234.5, 1234.5), (None, 1234.5)):
        box.sendall(dump_line(to_json(replace(released, epoch_s=epoch_s))))
        assert isinstance(agent.receive(), Go)
        assert agent.epoch_s == then_s


def test_a_child_that_a_test_forks_reports_nothing(line: tuple[Agent, socket.socket]) -> None:
    agent, _ = line
    child = os.fork()
    if not child:
        os._exit(3 if agent.is_forked else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert not agent.is_forked
