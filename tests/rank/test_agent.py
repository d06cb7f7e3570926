"""A rank's line to the box, whatever the test makes of the modules that it uses."""

import os
import socket
import time
from pathlib import Path

import pytest

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.recording.events import PhaseStarted


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


def test_a_child_that_a_test_forks_reports_nothing(line: tuple[Agent, socket.socket]) -> None:
    agent, _ = line
    child = os.fork()
    if not child:
        os._exit(3 if agent.is_forked else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert not agent.is_forked
