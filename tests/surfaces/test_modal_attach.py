"""Attaching to a sandbox that Modal names only among those that may have ended."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.surfaces.modal import client
from pytest_megacpp.surfaces.modal.config import ModalConfig
from pytest_megacpp.surfaces.modal.surface import ModalSurface
from pytest_megacpp.surfaces.source import SourceConfig

RUN = "20261129-233000-0a0b"


class Modal:
    """A Modal that finds the sandbox late, has no records of it, and lets nobody follow it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int | None, stderr: bytes = b"") -> None:
        self.sandbox, self.asked = SimpleNamespace(object_id="sb-1"), 0
        monkeypatch.setattr(client, "connect", lambda cancelled: None)
        monkeypatch.setattr(client, "find", lambda *_, ended_too=False: self.sandbox if ended_too else None)
        monkeypatch.setattr(client, "exit_code", lambda sandbox: code)
        monkeypatch.setattr(client, "stored", self._nothing)
        monkeypatch.setattr(client, "output", lambda sandbox, stream, limit: stderr if stream == "stderr" else b"")
        monkeypatch.setattr(client, "how_it_ended", lambda sandbox: "exit")
        monkeypatch.setattr(client, "terminate", lambda sandbox: True)
        for name in ("follower", "Following"):
            monkeypatch.setattr(client, name, self._refuse)

    def _nothing(self, *_: Any) -> Iterator[tuple[str, bytes]]:
        return iter(())

    def _refuse(self, *_: Any) -> Any:
        self.asked += 1
        raise TimeoutError


def attach(run: Path) -> ProblemFound:
    (run / "recording.jsonl").touch()
    box = ModalSurface(ModalConfig(capacity_s=0.3), SourceConfig()).attach(RUN, run)
    deadline = time.monotonic() + 30
    while (ended := box.ended()) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ended is not None
    assert ended.problem is not None
    return ended.problem


def test_one_that_still_runs_is_followed_and_never_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modal = Modal(monkeypatch, None)
    problem = attach(tmp_path)
    assert (problem.code, problem.cause) == ("box-lost", "connection")
    assert modal.asked > 0


def test_one_that_has_ended_without_a_word_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modal = Modal(monkeypatch, 137)
    problem = attach(tmp_path)
    assert (problem.code, problem.cause) == ("box-lost", "gone")
    assert "it ended with exit 137" in problem.detail
    assert modal.asked == 0


def test_one_that_could_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Modal(monkeypatch, 1, b"ModuleNotFoundError: No module named 'torch'\n")
    problem = attach(tmp_path)
    assert (problem.code, problem.cause) == ("box-lost", "gone")
    assert "No module named 'torch'" in problem.detail
    assert "megacpp doctor --surface modal" in problem.remedy
