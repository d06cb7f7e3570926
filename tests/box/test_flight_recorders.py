"""Which recorders of a rank are asked, by what its worker server offers, and what is made of the answers."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from pytest_megacpp.box.look import flight_recorders
from pytest_megacpp.box.look.flight_recorders import Recorders
from pytest_megacpp.box.look.watch import ProcessTable, RankWatch, Target
from pytest_megacpp.recording.events import Fact, FlightRecorded
from tests.recording.test_flight_hooked import dump, raw

CPU = ("ping", "fr_trace_json", "wait_counter_values")
CUDA = (*CPU, "dump_nccl_trace_json", "dump_nccl_trace_pickle")
TODAY = (*CUDA, "fr_dump_file")

Answers = Callable[[str, str], dict[str, Any]]
EMPTY: dict[str, Any] = {"pg_config": {}, "pg_status": {}, "version": "2.10"}
GLOO = dump(raw("", 1, 1, profiling_name="gloo:barrier"), enqueued=1, completed=0)
LEGACY = dump(raw("", 3, 1, profiling_name="nccl:all_reduce"), enqueued=3, completed=2)


class Server:
    """Answers like torch's. `ignores` which backend is asked for, as up to torch 2.14."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, ignores: bool = False, **dumps: dict[str, Any]) -> None:
        self.asked: list[tuple[str, str]] = []
        self._dumps = dumps
        self._ignores = ignores
        monkeypatch.setattr(flight_recorders, "ask", self.ask)

    def ask(self, path: str, handler: str, **arguments: str) -> bytes:
        backend = arguments.get("backend", "")
        self.asked.append((handler, backend))
        if handler == "dump_nccl_trace_json":
            assert arguments == {"includecollectives": "true", "onlyactive": "false"}
            return json.dumps(self._dumps.get("legacy", EMPTY)).encode()
        name = "gloo" if self._ignores or not backend else backend
        return json.dumps(self._dumps.get(name, EMPTY)).encode()


def test_without_a_device_only_gloo_s_recorder_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, gloo=GLOO)
    seen = Recorders("ws", False, 0.0)
    assert seen.learn(CPU) == ""
    assert [e.group for e in seen.read()[0]] == ["0"]
    assert server.asked == [("fr_trace_json", "")]


def test_up_to_torch_2_14_the_legacy_recorder_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, gloo=GLOO, legacy=LEGACY, ignores=True)
    seen = Recorders("ws", True, 0.0)
    assert seen.learn(CUDA) == ""
    assert {e.op for e in seen.read()[0]} == {"gloo:barrier", "nccl:all_reduce"}
    assert sorted(server.asked) == [("dump_nccl_trace_json", ""), ("fr_trace_json", "")]


def test_the_recorder_of_nccl2_is_read_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch, gloo=GLOO, nccl2=dump(raw("all_reduce", 2, 1), enqueued=1, completed=0))
    seen = Recorders("ws", True, 0.0)
    assert seen.learn(TODAY) == ""
    entries, status = seen.read()
    assert {e.op for e in entries} == {"gloo:barrier", "nccl2:all_reduce"}
    assert len({s.pg for s in status}) == 2


def test_a_server_that_ignores_the_backend_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gloo's collectives aren't taken for NCCL's."""
    server = Server(monkeypatch, gloo=GLOO, legacy=LEGACY, ignores=True)
    seen = Recorders("ws", True, 0.0)
    seen.learn(TODAY)
    for _ in range(2):
        assert {e.op for e in seen.read()[0]} == {"gloo:barrier", "nccl:all_reduce"}
    assert server.asked.count(("fr_trace_json", "nccl2")) == 1


def test_a_device_without_any_recorder_is_a_missing_source() -> None:
    assert "no recorder of NCCL" in Recorders("ws", True, 0.0).learn(CPU)
    assert Recorders("ws", False, 0.0).learn(CPU) == ""


def test_stamps_are_read_by_what_the_wall_clock_said_when_the_test_began(monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch, gloo=GLOO)
    facts: list[Fact] = []
    looking = RankWatch(Target(0, os.getpid(), "ws", ("", "")), ProcessTable(), 0.0, facts.append)
    for epoch_s in (0.0, 100.0):
        looking.begin(0, epoch_s)
        looking._look_at_collectives(0)
    before, after = (fact.entries[0].entered_s for fact in facts if isinstance(fact, FlightRecorded))
    assert after == pytest.approx(before - 100)
