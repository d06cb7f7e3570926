"""Owns the texts and fields about the compile cache that a run began and ended with; must not know where caches are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pytest_megacpp.recording.events import Json, SeedKept, SeedShort
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.shared_fields import Made

NAMED = 3


def seed_json(timeline: Timeline, test: int | None = None) -> dict[str, Json]:
    """`state`, `coverage` and so on are those at the beginning, `…_end` those at the end. `coverage` is a share, 0 to
    1, of (test, rank) pairs; null is not known. `missing` and `missed` are of one test of the plan, or of all. Of a
    test that compiled nothing those at the end are null, so that its receipt is not written again at the end.
    """
    began, ended = timeline.seed, timeline.kept
    if test is not None and not has_compiled(timeline, test):
        ended = None
    return {
        "mode": began.mode or None if began else None,
        "state": began.state if began else None,
        "id": began.id or None if began else None,
        "key": began.key if began else None,
        "run": began.made_by or None if began else None,
        "coverage": _share(began.covered, began.wanted) if began else None,
        "covered": began.covered if began else None,
        "wanted": began.wanted if began else None,
        "bytes_start": began.cache_bytes if began else None,
        "missing": _short(began.missing, timeline, test) if began else None,
        "detail": began.detail or None if began else None,
        "state_end": ended.state if ended else None,
        "coverage_end": _share(ended.covered, ended.wanted) if ended else None,
        "bytes_end": ended.cache_bytes if ended else None,
        "published": ended.id or None if ended else None,
        "promoted": ended.promoted if ended else None,
        "helped": ended.helped if ended else None,
        "missed": _short(ended.missed, timeline, test) if ended else None,
        "detail_end": ended.detail or None if ended else None,
    }


def has_compiled(timeline: Timeline, test: int) -> bool:
    """Whether a rank compiled anything in an attempt at the test, or took from a cache what it would have compiled: by
    its own word or, should it have died before that, as the box saw it.
    """
    views = (timeline.tests.get(number) for number in timeline.attempts(test))
    ranks = [rank for view in views if view is not None for rank in view.ranks.values()]
    return any(rank.has_compiled for rank in ranks) or _reported_compiles(ranks)


def _reported_compiles(ranks: Iterable[RankView]) -> bool:
    counts = (rank.compiled for rank in ranks)
    return any(c is not None and (c.graphs or c.cache_misses or c.cache_hits or any(c.keys.values())) for c in counts)


def _share(covered: int, wanted: int) -> float:
    return round(covered / wanted, 4) if wanted else 1.0


def _short(missing: Sequence[SeedShort], timeline: Timeline, test: int | None) -> list[Json]:
    wanted = missing if test is None else _BY_TEST.of((missing,), _by_test).get(test, ())
    return [{"nodeid": _nodeid(m.test, timeline), "ranks": list(m.ranks), "keys": list(m.keys)} for m in wanted]


def _by_test(missing: Sequence[SeedShort]) -> Mapping[int, Sequence[SeedShort]]:
    found: dict[int, list[SeedShort]] = defaultdict(list)
    for short in missing:
        found[short.test].append(short)
    return found


_BY_TEST: Made[Mapping[int, Sequence[SeedShort]]] = Made()  # each receipt of a run asks for its own


def _nodeid(test: int, timeline: Timeline) -> str:
    return timeline.planned[test].nodeid if test in timeline.planned else f"test {test}"


def seed_lines(timeline: Timeline) -> list[str]:
    """What the cache was worth and what became of it, in one line, and which tests it didn't help. Nothing where no
    test compiled anything, or where the run never came so far.

    `seed warm: covers 16 of 16 (test, rank) pairs, 14 at the start (run 2026…), 42.0 MB, kept as 2026…`.
    """
    began, ended = timeline.seed, timeline.kept
    ranks = (rank for test in timeline.tests.values() for rank in test.ranks.values())
    if ended is None or began is None or not _reported_compiles(ranks):
        return []
    source = f" (run {one_line(began.made_by, 60)})" if began.id and began.covered else ""
    facts = [f"seed {ended.state}: covers {ended.covered} of {ended.wanted} (test, rank) pairs"]
    facts += [f"{began.covered} at the start{source}", _size(ended.cache_bytes)]
    facts += [f"kept as {ended.id}"] if ended.id else []
    facts += [one_line(ended.detail, 300)] if ended.detail else []
    return [", ".join(facts), *_unhelpful(ended, timeline)]


def _unhelpful(ended: SeedKept, timeline: Timeline) -> list[str]:
    lines = [_did_not_help(short, timeline) for short in ended.missed[:NAMED]]
    more = len(ended.missed) - NAMED
    return [*lines, *([f"and did not help {counted(more, 'more test')}"] if more > 0 else [])]


def _did_not_help(short: SeedShort, timeline: Timeline) -> str:
    what = "warm-up" if len(timeline.attempts(short.test)) > 1 else "seed"
    keys = f"{', '.join(short.keys[:2])}{' …' if len(short.keys) > 2 else ''}"
    why = f" (missed {keys})" if short.keys else ", every key was there"
    test = one_line(_nodeid(short.test, timeline), 120)
    return f"the {what} did not help {test}: {ranks_named(short.ranks)} compiled again{why}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
