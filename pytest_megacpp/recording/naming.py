"""Owns what desk and box say of tests that the desk could only read from their source: the desk what it read, the box
what there is. Must not know how either finds out.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

PLANNING_MARKS = ("expect_verdict", "timeout")
"""Beside those of lanes, marks whose arguments decide how a test is run."""


class Mark(Protocol):
    """As pytest has it."""

    @property
    def name(self) -> str: ...
    @property
    def args(self) -> Sequence[object]: ...
    @property
    def kwargs(self) -> Mapping[str, object]: ...


@dataclass(frozen=True, slots=True)
class ReadTest:
    """A lane test as the desk read it. `is_open`: the source doesn't tell its cases. `marks` as `spelt_marks` has
    them.
    """

    nodeid: str
    marks: str = ""
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class CollectedTest:
    """A lane test that the box has."""

    nodeid: str
    marks: str = ""


@dataclass(frozen=True, slots=True)
class Collected:
    """Lane tests that the box has in files that the desk read: those that the user's options select there, and node
    ids of those that they leave out.
    """

    tests: tuple[CollectedTest, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """What became of the tests that were read. `cases`: the collected tests that each planned one stands for, by its
    node id. `left_out` are planned ones of which the user's options select nothing there, `missing` those that are not
    there, `differing` cases with other marks than were read, and `more` tests that nobody read; both are not run.
    """

    cases: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    differing: tuple[str, ...]
    more: tuple[str, ...]


def spelt_marks(marks: Iterable[Mark], lane: str) -> str:
    """Returns the marks of a test that decide how it is run, closest first, as one would write them."""
    names = (lane, *PLANNING_MARKS)
    return " ".join(_spelt(mark) for mark in marks if mark.name in names and (mark.args or mark.kwargs))


def _spelt(mark: Mark) -> str:
    named = [f"{name}={value!r}" for name, value in sorted(mark.kwargs.items())]
    return f"{mark.name}({', '.join([*map(repr, mark.args), *named])})"


def name_tests(read: Sequence[ReadTest], planned: Collection[str], found: Collected) -> Named:
    """Returns which collected tests the planned ones are. A test that was read exactly is that one; an open one has all
    cases of its name that no other is. `planned` are those of `read` that are to be run.
    """
    exact = {test.nodeid: test for test in read if not test.is_open}
    opened = {test.nodeid: test for test in read if test.is_open}
    cases: dict[str, list[str]] = {}
    differing: list[str] = []
    more: list[str] = []
    for test in found.tests:
        known = exact.get(test.nodeid) or opened.get(opened_around(test.nodeid, opened))
        if known is None:
            more.append(test.nodeid)
        elif known.nodeid in planned and known.marks != test.marks:
            differing.append(test.nodeid)
            cases.setdefault(known.nodeid, [])
        elif known.nodeid in planned:
            cases.setdefault(known.nodeid, []).append(test.nodeid)
    out = {nodeid if nodeid in exact else opened_around(nodeid, opened) for nodeid in found.left_out}
    absent = [nodeid for nodeid in planned if nodeid not in cases]
    return Named(
        cases={nodeid: tuple(names) for nodeid, names in cases.items()},
        left_out=tuple(nodeid for nodeid in absent if nodeid in out),
        missing=tuple(nodeid for nodeid in absent if nodeid not in out),
        differing=tuple(differing),
        more=tuple(more),
    )


def opened_around(nodeid: str, opened: Container[str]) -> str:
    """Returns which of the open tests one is a case of: the innermost function or class around it; empty: none."""
    name = nodeid.partition("[")[0]
    while name and name not in opened:
        name = name.rpartition("::")[0]
    return name


def is_case_of(nodeid: str, opened: str) -> bool:
    """Returns whether a test may be a case of one that is open, by their node ids."""
    return nodeid == opened or nodeid.startswith((f"{opened}[", f"{opened}::"))
