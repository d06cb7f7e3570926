"""What a rank announces of a process group before it is made."""

import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed import distributed_c10d as c10d

from pytest_megacpp.rank.observers import Observers
from pytest_megacpp.recording.events import Capability, GroupBegun


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("WORLD_SIZE", "4")
    return []


def begin(sent: list[Any], *args: Any, **kwargs: Any) -> GroupBegun | None:
    agent: Any = SimpleNamespace(rank=3, send=sent.append)
    return Observers(agent)._begin_group(inspect.signature(c10d._new_process_group_helper), args, kwargs)


def without_place(begun: GroupBegun | None) -> GroupBegun:
    assert begun is not None
    return replace(begun, file="", line=0)


def test_a_rank_that_is_no_member_names_the_members_too(sent: list[Any]) -> None:
    """torch gives it no place in the group."""
    begun = begin(sent, 3, None, [0, 1, 2], "gloo", HashStore(), "1")
    assert without_place(begun) == GroupBegun(3, None, "1", (0, 1, 2), 3, False)
    assert not any(isinstance(fact, Capability) for fact in sent)


def test_what_was_heard_of_a_group_is_none_of_the_next_of_its_name(sent: list[Any]) -> None:
    agent: Any = SimpleNamespace(rank=3, send=sent.append)
    observers = Observers(agent)
    hearing, group = observers.issued.hearing, SimpleNamespace(group_name="0")
    for _ in range(2):
        asked: tuple[Any, ...] = (4, 3, [], "gloo", HashStore(), "0")
        observers._begin_group(inspect.signature(c10d._new_process_group_helper), asked, {"group_desc": "default_pg"})
        works = [type("Work", (), {})() for _ in range(3)]
        for work in works:
            hearing.issued(group, "allreduce", work)
        assert not hearing.of("0", 3)
        hearing.succeeded(works[-1])
        assert hearing.of("0", 3)


def test_the_default_group_of_the_launch_has_no_scope(sent: list[Any]) -> None:
    begun = begin(sent, 4, 3, [], "gloo", HashStore(), "0", group_desc="default_pg")
    assert without_place(begun) == GroupBegun(3, None, "0", (), 4, True, "", True, 3)


def test_where_the_user_s_code_asked_for_it(sent: list[Any]) -> None:
    begun = begin(sent, 3, 0, [0, 1, 2], "gloo", HashStore(), "1")
    assert begun is not None
    assert begun.file == __file__
    assert "Observers(agent)._begin_group" in Path(__file__).read_text(encoding="utf-8").splitlines()[begun.line - 1]


def test_a_smaller_default_group_is_named_by_its_store(sent: list[Any]) -> None:
    store = HashStore()
    first = begin(sent, 2, 1, [], "gloo", store, "0", group_desc="default_pg")
    again = begin(sent, 2, 0, [], "gloo", store, "0", group_desc="default_pg")
    other = begin(sent, 2, 0, [], "gloo", HashStore(), "0", group_desc="default_pg")
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.scope
    assert first.scope == again.scope != other.scope


class ListedStore(Store):
    """One of the user's, which knows no `compare_set`."""


def test_a_store_that_names_no_world_says_nothing_of_who_else_comes(sent: list[Any]) -> None:
    begun = begin(sent, 2, 1, [], "gloo", ListedStore(), "0", group_desc="default_pg")
    assert begun is not None
    assert (bool(begun.scope), begun.size, begun.default) == (True, 0, True)


def test_a_world_beside_the_default_group_is_no_default_one(sent: list[Any]) -> None:
    begun = begin(sent, 3, 1, [], "gloo", HashStore(), "weights")
    assert begun is not None
    assert (begun.default, bool(begun.scope), begun.ranks) == (False, True, ())
