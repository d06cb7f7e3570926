"""Owns the nodes of a file that is read: pytest's own for what the source says, and items for what only the box knows.

Must not know why the file is read.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.source.reader import Stub, read


class SourceModule(pytest.Module):
    """A test file that was read instead of imported. `why`: what is missing here."""

    why = ""
    _stub: Stub | None = None

    @property
    def stub(self) -> Stub:
        if self._stub is None:
            self._stub = read(self.path, self.path.stem)
        return self._stub

    def _getobj(self) -> object:
        return self.stub.module


class SourceItem(pytest.Item):
    """A test that pytest would not name so from the source alone. `is_open`: the box finds its cases, one or more;
    `reading` says why they are not known. Else it is one case, named by the user or by the box.
    """

    def __init__(
        self, *, like: "pytest.Function | pytest.Class | SourceItem", is_open: bool, reading: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self.like = like
        self.is_open = is_open
        self.reading = reading
        self.fixturenames: Sequence[str] = getattr(like, "fixturenames", ())
        self.function = getattr(like, "function", None)
        self.own_markers.extend(mark for mark in like.own_markers if mark.name != "parametrize" or not is_open)
        self.keywords.update({mark.name: mark for mark in self.own_markers})

    @classmethod
    def of(
        cls,
        like: "pytest.Function | pytest.Class | SourceItem",
        name: str,
        *,
        parent: pytest.Collector | None = None,
        is_open: bool,
        reading: str = "",
    ) -> "SourceItem":
        """An item beside `like`, or inside of `parent`, with its marks and place."""
        owner = parent or like.parent
        assert owner is not None
        made: SourceItem = cls.from_parent(
            owner, name=name, nodeid=f"{owner.nodeid}::{name}", like=like, is_open=is_open, reading=reading
        )
        return made

    def __repr__(self) -> str:
        cases = f", cases are found by the box: {self.reading}" if self.is_open else ""
        return f"<{type(self).__name__} {self.name}{cases}>"

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        like = self.like
        inner = self.nodeid.partition("::")[2].replace("::", ".")
        if isinstance(like, pytest.Class):
            line = module_of(like).stub.lines.get(like.obj)  # type: ignore[union-attr]
            return self.path, None if line is None else line - 1, inner
        path, line, _ = like.reportinfo()
        return path, line, inner

    def runtest(self) -> None:
        raise RuntimeError("this test was read from its source: it has no body here")


def as_case(item: pytest.Item, nodeid: str) -> pytest.Item:
    """Returns the item that stands for a case of one: itself, unless the box has another name for it."""
    if nodeid == item.nodeid or not isinstance(item, SourceItem):
        return item
    assert item.parent is not None
    before = f"{item.parent.nodeid}::"
    if not nodeid.startswith(before):
        return item
    return SourceItem.of(item.like, nodeid.removeprefix(before), parent=item.parent, is_open=False)


def module_of(node: pytest.Item | pytest.Collector) -> SourceModule | None:
    """The module of a test that was read; None for any other."""
    return node.getparent(SourceModule)


def is_open(item: pytest.Item) -> bool:
    """Whether only the box knows which cases a test has."""
    return isinstance(item, SourceItem) and item.is_open


def with_open_items(
    collector: pytest.Collector, found: Sequence[pytest.Item | pytest.Collector], asked: Mapping[str, bool]
) -> Iterator[pytest.Item | pytest.Collector]:
    """Yields what pytest found in a module that was read, or in a class of it, with one open item in place of tests
    whose cases the source doesn't tell. `asked` are names in it that were asked for; true where something inside was.
    """
    module = module_of(collector)
    assert module is not None
    groups: dict[str, list[pytest.Item | pytest.Collector]] = {}
    for node in found:
        groups.setdefault(getattr(node, "originalname", None) or node.name, []).append(node)
    for name, nodes in groups.items():
        first = nodes[0]
        reading = _why_open(first, module.stub)
        if not reading or (isinstance(first, pytest.Class) and asked.get(name)):
            yield from nodes
            continue
        assert isinstance(first, pytest.Class | pytest.Function)
        for one in asked:
            if one.startswith(f"{name}["):
                yield SourceItem.of(first, one, is_open=False)
        yield SourceItem.of(first, name, is_open=True, reading=reading)
    if isinstance(collector, pytest.Class) and _is_unread(collector, module.stub):
        for name in asked:
            if name.partition("[")[0] not in groups:
                yield SourceItem.of(collector, name, parent=collector, is_open=False)


def _why_open(node: pytest.Item | pytest.Collector, stub: Stub) -> str:
    why = stub.unread.get(stub.module, "")
    if isinstance(node, pytest.Class):
        return why or stub.unread.get(node.obj, "")
    if not isinstance(node, pytest.Function):
        return ""
    around = (parent.obj for parent in node.listchain() if isinstance(parent, pytest.Class))
    why = why or stub.unread.get(node.function, "")
    return why or next(filter(None, (stub.unread.get(one, "") for one in around)), "") or _why_fixtures(node, stub)


def _is_unread(node: pytest.Class, stub: Stub) -> bool:
    return bool(stub.unread.get(stub.module) or stub.unread.get(node.obj))


def _why_fixtures(item: pytest.Function, stub: Stub) -> str:
    """A fixture that isn't known here may have parameters, each of which makes a case."""
    known = item._fixtureinfo.name2fixturedefs
    given = item.callspec.params if hasattr(item, "callspec") else {}
    for name in item.fixturenames:
        if name not in known and name not in given and name != "request":
            return f"fixture {name}"
        for definition in known.get(name, ()):
            function = getattr(definition.func, "__func__", definition.func)
            if function in stub.unread:
                return f"params of fixture {name}"
    return ""


def marks_without_arguments(item: pytest.Item) -> set[str]:
    """Names of the marks of a test that was read whose arguments the source does not tell."""
    module = module_of(item)
    if module is None:
        return set()
    around = [parent.obj for parent in item.listchain() if isinstance(parent, pytest.Class)]
    if isinstance(item, SourceItem) and isinstance(item.like, pytest.Class):
        around.append(item.like.obj)
    places = (None, *around, getattr(item, "function", None) or module)
    return set().union(*(module.stub.without_arguments.get(place, ()) for place in places))


def names_asked_for(collector: pytest.Collector, nodeids: Sequence[str]) -> dict[str, bool]:
    """Returns the names directly in a module or class that these node ids lead to; true where they lead on."""
    found: dict[str, bool] = {}
    for nodeid in nodeids:
        if nodeid.startswith(f"{collector.nodeid}::"):
            path, bracket, parameters = nodeid[len(collector.nodeid) + 2 :].partition("[")
            name, more, _ = path.partition("::")
            name = name if more else f"{name}{bracket}{parameters}"
            found[name] = found.get(name, False) or bool(more)
    return found


def nodeids_in(arguments: Sequence[str], directory: Path, module: pytest.Collector) -> list[str]:
    """Returns the node ids in a module that are among pytest's arguments, which name files from `directory`."""
    found = []
    for argument in arguments:
        base, bracket, parameters = argument.partition("[")
        path, colons, inner = base.partition("::")
        if colons and (directory / path).resolve() == module.path.resolve():
            found.append(f"{module.nodeid}::{inner}{bracket}{parameters}")
    return found
