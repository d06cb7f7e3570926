"""Owns what becomes of a run's compile cache at its end: what tests needed, whether the seed helped, what is published.
Must not know how seeds are stored.

Warmth is measured: what ranks needed and compiled in the run counts, whatever a seed says of itself.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pytest_megacpp.box.seed.compiled_graphs import graph_keys, has_graph
from pytest_megacpp.box.seed.loading import LoadedSeed
from pytest_megacpp.box.seed.store import SeedStore
from pytest_megacpp.box.seed.working_copy import KEPT_KEYS, fitting
from pytest_megacpp.recording.endings import bad_endings
from pytest_megacpp.recording.events import SeedKept, SeedShort
from pytest_megacpp.recording.reports import counting, green_attempt
from pytest_megacpp.recording.seed import Manifest, RankGraphs, SeededTest, Wanted, merged
from pytest_megacpp.recording.seed_layout import SeedError
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.recording.vocabulary import RunEnd, SeedState

SLOW_S = 1.0  # compile seconds above this, and nearer to the cold ones than to the warm, show that a seed didn't help
LARGE_BYTES = 256 << 20  # packing this takes seconds, so it is reported


def keep(seed: LoadedSeed, timeline: Timeline, reason: RunEnd) -> SeedKept:
    """Publishes what the run compiled, if the run was green and it is worth keeping; returns what the cache is worth
    now. Never raises, since tests may have left anything there.
    """
    began = seed.checked
    try:
        return _Keeping(seed, timeline).keep(reason)
    except Exception as e:
        return SeedKept(began.state, "", False, began.covered, began.wanted, 0, detail=f"not kept: {e!r}")


class _Keeping:
    def __init__(self, seed: LoadedSeed, timeline: Timeline) -> None:
        self._seed = seed
        self._copy = seed.copy
        self._timeline = timeline

    def keep(self, reason: RunEnd) -> SeedKept:
        known = merged(self._seed.known, tuple(self._measured()))
        now = self._copy.coverage(known)
        state = SeedState.ABSENT if not known else SeedState.PARTIAL if now.missing else SeedState.WARM
        missed = list(self._missed())
        helped = None if self._seed.base is None or not self._seed.short.covered else not missed
        missed += self._compiled_again({short.test for short in missed})
        worth = state, "", False, now.covered, now.wanted, self._copy.size_bytes()
        kept = SeedKept(*worth, helped, fitting(missed))
        why_not = self._why_not(reason, known)
        if why_not:
            return replace(kept, detail=why_not)
        if kept.cache_bytes > LARGE_BYTES:
            self._copy.say(f"is kept for later runs, {kept.cache_bytes / 1e9:.1f} GB")
        return self._publish(kept, known)

    def _why_not(self, reason: RunEnd, known: Sequence[SeededTest]) -> str:
        """Returns why nothing is published; empty where it is."""
        plan, seed = self._copy.plan, self._seed
        if self._copy.why_unused:
            return self._copy.why_unused
        if not any(plan.seed.stores[:1]):
            return "no directory of seeds to keep it in"
        if reason is not RunEnd.COMPLETED:
            return f"not kept: the run was {reason}"
        red = [t for i, t in enumerate(plan.tests) if not t.drill and not green_attempt(self._timeline, i)]
        if red:
            return f"not kept: the run isn't green ({red[0].nodeid})"
        if endings := bad_endings(self._timeline):
            return f"not kept: {endings[0]}"
        if not known:
            return "nothing to keep"
        is_same = seed.base is not None and _needs(seed.known) == _needs(known)
        return "nothing new" if is_same and graph_keys(self._copy.directory) == seed.there else ""

    def _publish(self, kept: SeedKept, known: tuple[SeededTest, ...]) -> SeedKept:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        plan = self._copy.plan
        draft = Manifest(plan.run_id, self._copy.shape, plan.run_id, now, 0, 0, 0, "", known, plan.revision)
        store = SeedStore(Path(plan.seed.stores[0]))
        try:
            published = store.publish(draft, self._copy.directory, plan.seed.max_bytes // 2, self._copy.go_on)
            store.prune(plan.seed.keep, plan.seed.max_bytes)
        except SeedError as e:
            return replace(kept, detail=f"not kept: {e}")
        return replace(kept, id=published.manifest.id, promoted=published.promoted, detail=published.reason)

    def _measured(self) -> Iterable[SeededTest]:
        """Yields what those tests needed that passed on every rank."""
        for item, test in self._copy.wanted().items():
            last = green_attempt(self._timeline, item)
            if last is None:
                continue
            attempts = [self._timeline.tests[n] for n in counting(self._timeline, item) if n in self._timeline.tests]
            graphs = tuple(self._graphs(rank, attempts, last) for rank in range(test.world_size))
            yield SeededTest(
                test.nodeid, test.preset, test.world_size, graphs, self._copy.plan.run_id, self._copy.plan.revision
            )

    def _graphs(self, rank: int, attempts: Sequence[TestView], last: TestView) -> RankGraphs:
        """Returns the keys of all attempts. The last one's seconds are warm ones if its graphs had been compiled
        before.
        """
        views = [view.ranks[rank] for view in attempts if rank in view.ranks]
        keys: dict[str, dict[str, None]] = {}
        for view in views:
            for cache, names in view.compiled.keys.items() if view.compiled else ():
                # a test may have had a cache of its own
                kept = (name for name in names if has_graph(self._copy.directory, cache, name))
                keys.setdefault(cache, {}).update(dict.fromkeys(kept))
        cold = [_compile_s(v) for v in views if v.compiled is not None and v.compiled.cache_misses]
        warm = last.ranks[rank].compiled
        return RankGraphs(
            rank,
            "cpu" if self._copy.plan.dry_run else f"cuda:{rank}",
            {cache: tuple(names) for cache, names in keys.items()},
            cold[0] if cold else None,
            None if warm is None or warm.cache_misses else warm.seconds,
        )

    def _missed(self) -> Iterable[SeedShort]:
        """Yields (test, rank) pairs that the seed should have served, and that compiled all the same."""
        uncovered = {(m.nodeid, rank) for m in self._seed.short.missing for rank in m.ranks}
        before = {Wanted.of(test): {g.rank: g for g in test.ranks} for test in self._seed.known}
        for item, wanted in self._copy.wanted().items():
            view = self._timeline.tests.get(item)
            graphs = before.get(wanted, {})
            missed: dict[int, tuple[str, ...]] = {}
            for rank, seen in sorted(view.ranks.items()) if view is not None else ():
                if (wanted.nodeid, rank) in uncovered or seen.compiled is None or rank not in graphs:
                    continue
                keys = self._not_there(seen)
                if keys or _is_slow(_compile_s(seen), graphs[rank]):
                    missed[rank] = keys
            if missed:
                yield _short_of(item, missed)

    def _compiled_again(self, recorded: Collection[int]) -> Iterable[SeedShort]:
        """Yields tests that after their warm-up compiled what the warm-up had not; those that are `recorded` are left
        out.
        """
        for item in self._copy.wanted().keys() - recorded:
            *before, last = (self._timeline.tests.get(number) for number in counting(self._timeline, item))
            known = {key for view in before if view is not None for seen in view.ranks.values() for key in _keys(seen)}
            ranks = sorted(last.ranks.items()) if before and last is not None else ()
            lost = {rank: [key for key in self._not_there(seen) if key not in known] for rank, seen in ranks}
            if any(lost.values()):
                yield _short_of(item, {rank: keys for rank, keys in lost.items() if keys})

    def _not_there(self, seen: RankView) -> tuple[str, ...]:
        used = seen.compiled.keys if seen.compiled else {}
        return tuple(k for cache, keys in used.items() for k in keys if k not in self._seed.there.get(cache, {k}))


def _short_of(test: int, keys_of: Mapping[int, Sequence[str]]) -> SeedShort:
    """Returns what a test lacks, by rank."""
    keys = dict.fromkeys(key for keys in keys_of.values() for key in keys)
    return SeedShort(test, tuple(keys_of), tuple(keys)[:KEPT_KEYS])


def _needs(tests: Sequence[SeededTest]) -> dict[Wanted, tuple[dict[str, tuple[str, ...]], ...]]:
    """Returns the keys that each test and rank needs, whoever measured them."""
    return {Wanted.of(test): tuple(graphs.keys for graphs in test.ranks) for test in tests}


def _keys(view: RankView) -> Iterator[str]:
    for keys in view.compiled.keys.values() if view.compiled else ():
        yield from keys


def _compile_s(view: RankView) -> float:
    return view.compiled.seconds if view.compiled else 0.0


def _is_slow(seconds: float, known: RankGraphs) -> bool:
    if known.warm_s is None or seconds < SLOW_S:
        return False
    cold_s = known.cold_s if known.cold_s is not None else 4 * known.warm_s
    return seconds > SLOW_S + (known.warm_s + max(cold_s, 2 * known.warm_s)) / 2
