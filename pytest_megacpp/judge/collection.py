"""Owns tests that ranks did not collect: files that don't import on some, skips, other parameters; must not know why a
world never got ready.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from pytest_megacpp.judge.aftermath import first_few
from pytest_megacpp.judge.findings import Finding, Source
from pytest_megacpp.judge.phrases import plain
from pytest_megacpp.judge.verdicts import Code, Evidence, Witness
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import WorldView
from pytest_megacpp.recording.vocabulary import Stage, TestPhase

KEPT_NODEIDS = 10
_CONFTEST = re.compile(r"^\S*conftest\.py(?=:\d+: in )", re.MULTILINE)


def find(timeline: Timeline, world: WorldView, index: int, lacking_of: Callable[[WorldView], str]) -> Finding | None:
    """Why ranks of this world lack the test; None where none does. `lacking_of`: see `what_is_lacking`."""
    item = timeline.test_of(index)
    lacking = tuple(r for r, (_, seen) in sorted(world.collected.items()) if item not in seen.found)
    if not lacking:
        return None
    nodeid = timeline.planned[item].nodeid if item in timeline.planned else ""
    failed = {r: e for r in lacking if (e := _error_for(world.collected[r][1], nodeid)) is not None}
    times = [world.collected[r][0] for r in lacking]
    if failed:
        return _not_imported(world, failed, min(times))
    skipped = {r: e.text for r in lacking if (e := world.collected[r][1].skip_of(nodeid)) is not None}
    if len(skipped) == world.size:
        return _skipped(world, skipped, nodeid)
    why = f" (the file is skipped there: {_reason(skipped)})" if len(skipped) == len(lacking) else ""
    return Finding(
        Code.STARTUP_FAILURE,
        f"{ranks_named(lacking)} did not collect this test{why}, {_others(world, lacking)} did"
        f"{_in_its_place(world, lacking, nodeid)}",
        lacking,
        Stage.COLLECTION,
        TestPhase.SETUP,
        (
            Evidence(None, max(times), Witness.REPORT, lacking_of(world)),
            *_digests(world),
            *first_few(lacking, lambda r: _instead(world, r, nodeid)),
        ),
        relies=frozenset({Source.REPORTS}),
        time_s=min(times),
    )


def _reason(skipped: dict[int, str]) -> str:
    return plain(skipped[min(skipped)]).removeprefix("Skipped: ")


def _skipped(world: WorldView, skipped: dict[int, str], nodeid: str) -> Finding:
    """Returns the finding where all ranks skip the whole file, which the desk did not: the box lacks a library."""
    return Finding(
        Code.SKIPPED,
        _reason(skipped) or f"skipped on all {world.size} ranks",
        relies=frozenset({Source.REPORTS}),
        time_s=max(time_s for time_s, _ in world.collected.values()),
    )


def _instead(world: WorldView, rank: int, nodeid: str) -> Evidence | None:
    """Evidence that the rank has the same test with other parameters: values that differ from process to process."""
    time_s, other = world.collected[rank][0], _other(world, rank, nodeid)
    return Evidence(rank, time_s, Witness.REPORT, f"has {plain(other, 160)} instead") if other else None


def _other(world: WorldView, rank: int, nodeid: str) -> str:
    """The node id of a test that only this rank has, of the same function; empty where there is none."""
    name = nodeid.partition("[")[0]
    return next((n for n in world.collected[rank][1].unplanned if n.partition("[")[0] == name), "")


def _in_its_place(world: WorldView, lacking: Sequence[int], nodeid: str) -> str:
    """Returns `; in its place: test_a[x] on rank 0 …`, where these ranks have the test with other parameters; else
    empty.
    """
    others: dict[str, list[int]] = defaultdict(list)
    for rank in lacking:
        if other := _other(world, rank, nodeid):
            others[other.partition("::")[2]].append(rank)
    found = ", ".join(f"{plain(other, 60)} on {ranks_named(ranks)}" for other, ranks in list(others.items())[:2])
    return f"; in its place: {found} (parameters that differ by process, as the order of a set does)" if found else ""


def _others(world: WorldView, lacking: Sequence[int]) -> str:
    """Returns the ranks that did collect the test, as text."""
    others = [r for r in world.collected if r not in lacking]
    return ranks_named(others) if others else "only the desk"


def _error_for(seen: ev.RankCollected, nodeid: str) -> ev.CollectError | None:
    """The collection error of this rank that took the test along: of its file or a directory above."""
    return next((e for e in seen.errors if e.nodeid == "." or nodeid.startswith(e.nodeid)), None)


def _not_imported(world: WorldView, failed: dict[int, ev.CollectError], time_s: float) -> Finding:
    blamed = tuple(sorted(failed))
    error = failed[blamed[0]]
    conftest = _conftest_in(error)
    what = f"{conftest or plain(error.nodeid)} does not import on {ranks_named(blamed)}: {_exception(error.text)}"
    return Finding(
        Code.STARTUP_FAILURE,
        what,
        blamed,
        Stage.CONFTEST if conftest else Stage.IMPORT,
        TestPhase.SETUP,
        first_few(blamed, lambda r: Evidence(r, world.collected[r][0], Witness.REPORT, _exception(failed[r].text))),
        relies=frozenset({Source.REPORTS}),
        time_s=time_s,
    )


def _conftest_in(error: ev.CollectError) -> str:
    """The conftest.py that a directory's collection failed in; pytest reports it under the directory's name."""
    if error.nodeid.endswith(".py"):
        return ""
    named = _CONFTEST.search(error.text)
    return plain(named[0], 120) if named else ""


def _exception(text: str) -> str:
    """The line of a collection error that names the exception."""
    lines = [line[1:].strip() for line in text[-8_000:].splitlines() if line.startswith("E ")]
    lines = lines or [line for line in text[-8_000:].splitlines() if line.strip()]
    return plain(lines[-1]) if lines else "no reason given"


def _digests(world: WorldView) -> tuple[Evidence, ...]:
    """Which ranks collected the same tests, where not all did."""
    groups: dict[str, list[int]] = defaultdict(list)
    for rank, (_, seen) in sorted(world.collected.items()):
        groups[seen.digest].append(rank)
    listed = ", ".join(f"{ranks_named(ranks)} {plain(digest, 16)}" for digest, ranks in list(groups.items())[:4])
    return (Evidence(None, None, Witness.REPORT, f"digest of what was collected: {listed}"),) if len(groups) > 1 else ()


def what_is_lacking(timeline: Timeline, world: WorldView) -> str:
    """What ranks lack of the plan: `rank 1 lacks 2 of 12 tests: a.py::b, a.py::c`."""
    planned = timeline.planned
    everything = frozenset(number for number, test in planned.items() if test.of is None)
    groups: dict[frozenset[int], list[int]] = defaultdict(list)
    for rank, (_, seen) in sorted(world.collected.items()):
        if absent := frozenset(number for number in everything if number not in seen.found):
            groups[absent].append(rank)
    parts = []
    for absent, ranks in list(groups.items())[:3]:
        names = [plain(planned[i].nodeid, 120) for i in sorted(absent)[:KEPT_NODEIDS]]
        more = ", …" if len(absent) > KEPT_NODEIDS else ""
        verb = "lacks" if len(ranks) == 1 else "lack"
        parts.append(f"{ranks_named(ranks)} {verb} {len(absent)} of {len(everything)} tests: {', '.join(names)}{more}")
    return "; ".join(parts)
