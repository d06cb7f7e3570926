"""A rank's look at its own recorders: which this torch has, and what was issued that none of them shows."""

import json
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._C import _distributed_c10d as c10d
from torch.distributed import distributed_c10d

from pytest_megacpp.rank import flight_recorders
from pytest_megacpp.rank.flight_recorders import Lookout, has_hooks, read_hooks, unrecorded
from pytest_megacpp.recording.flight import Read
from tests.recording.test_flight_hooked import dump, over, raw

NO_GROUP: dict[str, Any] = {"pg_config": {}, "pg_status": {}, "version": "2.10"}


class Backend:
    """What serves a group's devices."""

    def __init__(self, name: str, issued: int) -> None:
        self._name, self._issued = name, issued

    def name(self) -> str:
        return self._name

    def _get_sequence_number_for_group(self) -> int:
        return self._issued


class Group:
    def __init__(self, backend: Backend | None) -> None:
        self._backend = backend

    def _get_backend(self, device: torch.device) -> Backend:
        assert device.type == "cuda"
        if self._backend is None:
            raise RuntimeError("no backend for device type cuda")
        return self._backend


class Torch:
    """The recorders' functions of a torch with a recorder per backend, and its groups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **dumps: dict[str, Any]) -> None:
        self.dumps = dumps
        self._patch = monkeypatch
        monkeypatch.setattr(c10d, "_dump_fr_trace_json", self._json)
        monkeypatch.setattr(c10d, "_dump_fr_trace", self._pickle)
        monkeypatch.setattr(c10d, "_dump_nccl_trace_json", self._legacy, raising=False)
        has_hooks.cache_clear()

    def groups(self, *backends: Backend | None) -> None:
        world = SimpleNamespace(pg_map={Group(backend): None for backend in backends})
        self._patch.setattr(distributed_c10d, "_world", world)

    def _of(self, backend: str) -> dict[str, Any]:
        return self.dumps.get(backend.replace("-", "_"), NO_GROUP)

    def _json(self, collectives: bool, active: bool, *, backend: str = "gloo") -> str:
        return json.dumps(self._of(backend))

    def _pickle(self, collectives: bool, stacks: bool, active: bool, *, backend: str = "gloo") -> bytes:
        return pickle.dumps(self._of(backend))

    def _legacy(self, collectives: bool, active: bool) -> str:
        return json.dumps(self._of("legacy"))


@pytest.fixture(autouse=True)
def _afterwards() -> Any:
    yield
    has_hooks.cache_clear()


def test_the_installed_torch_says_whether_it_has_a_recorder_per_backend() -> None:
    """By the argument that its function takes, which its docstring names."""
    has_hooks.cache_clear()
    dump: Any = getattr(c10d, "_dump_fr_trace_json")  # noqa: B009  # of which torch has no stub
    assert has_hooks() == ("backend" in str(dump.__doc__))


def test_all_that_a_hook_recorded_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Torch(monkeypatch, nccl2=dump(over("all_reduce", 1, 0), raw("all_reduce", 2, 1), enqueued=1, completed=0))
    entries, status = read_hooks(0.0, 64)
    assert [(e.seq, e.done) for e in entries] == [(1, True), (2, False)]
    assert [(s.enqueued, s.completed) for s in status] == [(2, 1)]


@pytest.mark.parametrize(
    ("backends", "found"),
    [
        ((Backend("nccl2", 3),), "nccl2"),
        ((Backend("nccl-lazy", 1),), "nccl-lazy"),
        ((Backend("nccl", 3),), "nccl"),
        ((Backend("nccl2", 0),), ""),
        ((Backend("gloo", 9), None), ""),
        ((), ""),
    ],
    ids=["nccl2", "lazy", "legacy", "none-issued", "no-nccl", "no-group"],
)
def test_what_was_issued_and_not_recorded(
    backends: tuple[Backend | None, ...], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Torch(monkeypatch).groups(*backends)
    assert unrecorded() == found


@pytest.mark.parametrize("name", ["nccl", "nccl2"])
def test_a_recorder_that_counted_anything_works(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose entries are all over and forgotten."""
    counted = dump(enqueued=7, completed=7)
    Torch(monkeypatch, legacy=counted, nccl2=counted).groups(Backend(name, 8))
    assert unrecorded() == ""


def test_without_a_recorder_per_backend_nccl2_is_unrecorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in torch 2.14 with TORCH_DIST_USE_NCCL2=1."""
    fake = Torch(monkeypatch, legacy=dump(enqueued=7, completed=7))
    monkeypatch.setattr(c10d, "_dump_fr_trace_json", _without_backend)
    has_hooks.cache_clear()
    fake.groups(Backend("nccl2", 1))
    assert (has_hooks(), unrecorded()) == (False, "nccl2")


def _without_backend(collectives: bool, active: bool) -> str:
    return "{}"


@pytest.fixture
def lookout() -> tuple[Lookout, list[Read], list[str]]:
    sent: list[Read] = []
    said: list[str] = []
    keep: Callable[[Read], object] = sent.append
    return Lookout(lambda: 0.0, keep, said.append), sent, said


def test_a_lookout_sends_changes_only(
    lookout: tuple[Lookout, list[Read], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, sent, _ = lookout
    fake = Torch(monkeypatch)
    fake.groups()
    looking.look()
    fake.dumps["nccl2"] = dump(raw("all_reduce", 1, 0), enqueued=0, completed=-1)
    looking.look()
    looking.look()
    assert [e.op for entries, _ in sent for e in entries] == ["nccl2:all_reduce"]


def test_a_lookout_believes_the_second_look(
    lookout: tuple[Lookout, list[Read], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend counts a collective a moment before the recorder has it."""
    looking, _, said = lookout
    fake = Torch(monkeypatch)
    fake.groups(Backend("nccl2", 1))
    looking.look()
    assert said == []
    looking.look()
    assert said == ["nccl2"]


def test_recorders_are_read_without_a_group_as_empty() -> None:
    assert flight_recorders.read_recorders(0.0, 8) == ((), ())
