"""Owns what a run does with compile caches: which seed it begins with, what that is worth to its tests, which tests
warm up, what is kept at the end. Must not know a process, nor how seeds are stored.

Warmth is measured: what ranks needed and compiled in the run counts, whatever a seed says of itself.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

from pytest_megacpp.box.host.contract import CACHE_KEY_TAG, Setting
from pytest_megacpp.box.host.preflight import Survey, cpu_model
from pytest_megacpp.box.seed.compiled_graphs import graph_dir, graph_keys, has_graph
from pytest_megacpp.box.seed.store import SeedStore, lacking
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.endings import bad_endings
from pytest_megacpp.recording.events import ProblemFound, SeedChecked, SeedKept, SeedShort
from pytest_megacpp.recording.plan import Plan, PlannedTest, warming_command
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.reports import counting, green_attempt
from pytest_megacpp.recording.seed import (
    Coverage,
    Manifest,
    RankGraphs,
    SeededTest,
    Shape,
    Wanted,
    coverage,
    merged,
)
from pytest_megacpp.recording.seed_layout import Kept, SeedError
from pytest_megacpp.recording.texts import beginning
from pytest_megacpp.recording.timeline import RankView, TestView, Timeline
from pytest_megacpp.recording.vocabulary import (
    ProblemCause,
    ProblemCode,
    RunEnd,
    SeedMode,
    SeedState,
    SettingOrigin,
    WarmUp,
)

CACHE_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_SWITCHES = {"TORCHINDUCTOR_FX_GRAPH_CACHE": "0", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # values that end caching
_OF_COMPILERS = ("TORCHINDUCTOR_", "TRITON_", "TORCH_COMPILE")
_NOT_IN_KEYS = (*CACHE_VARIABLES, "TORCHINDUCTOR_COMPILE_THREADS", "TORCHINDUCTOR_WORKER_START")
_VERSIONS = ("python", "torch", "triton", "cuda")
SLOW_S = 1.0  # compile seconds above this, and nearer to the cold ones than to the warm, tell of no help
KEPT_KEYS = 8  # of those that a test lacks, in the recording
SHORTFALL_BYTES = 512 << 10  # of what tests lack: one line of the recording takes no more than twice as much
LARGE_BYTES = 256 << 20  # packing that takes seconds, so that somebody who waits is told


def shape_of(plan: Plan, survey: Survey, settings: Iterable[Setting], environ: Mapping[str, str]) -> Shape:
    """Returns the launch shape. `settings` is the resolved contract, `environ` what ranks inherit."""
    ranks = plan.seed.ranks or plan.ranks  # of the lane: a selection of smaller tests has the same shape
    devices = tuple(device.name for device in survey.devices.devices)[:ranks] or (cpu_model(),)
    versions = {name: survey.versions[name] for name in _VERSIONS if name in survey.versions}
    if survey.devices.devices:
        versions["driver"] = survey.devices.devices[0].driver
    theirs = {name: value for name, value in environ.items() if name.startswith(_OF_COMPILERS)}
    ours = {s.name: s.value for s in settings if s.name.startswith(_OF_COMPILERS) and s.value is not None}
    return Shape(
        lane=plan.lane,
        gpu="cpu" if plan.dry_run else plan.gpu,
        devices=devices,
        ranks=ranks,
        preset=plan.seed.preset,
        image=plan.seed.image,
        versions=versions,
        settings={n: v for n, v in sorted({**theirs, **ours}.items()) if n not in _NOT_IN_KEYS},
        project=plan.seed.project,
    )


@dataclass
class Seeding:
    """The compile cache of one run: a working copy in `cache`, empty at first. `why_unused` is not empty where the
    operator's own variables keep seeds from filling or reading it. Large caches take minutes to unpack and to pack:
    `say` reports that, and `is_stopped` is asked meanwhile.
    """

    plan: Plan
    shape: Shape
    cache: Path
    why_unused: str = ""
    say: Callable[[str], object] = lambda text: None
    is_stopped: Callable[[], bool] = lambda: False
    base: Manifest | None = None
    checked: SeedChecked | None = None
    _known: Sequence[SeededTest] = ()
    _there: dict[str, set[str]] = field(default_factory=dict)  # graph keys in the cache at the beginning
    _short: Coverage = field(default_factory=lambda: Coverage(0, 0))

    # -- the beginning -------------------------------------------------------------------------------------

    def begin(self) -> SeedChecked:
        """Fills the working copy from a seed, if there is one, and returns what it is worth to this run's tests."""
        state, detail = self._fill()
        self._there = graph_keys(self.cache)
        self._short = self._coverage(self._known)
        size_bytes = _bytes_of(self.cache)
        base = self.base
        too_small = base is not None and base.cache_bytes < self.plan.seed.min_bytes
        if too_small:
            self._known, self._short = (), self._coverage(())
            detail = f"the seed has {size_bytes} bytes, min_bytes asks for {self.plan.seed.min_bytes}"
        if base is not None:
            state = SeedState.PARTIAL if self._short.missing else SeedState.WARM
        self.checked = SeedChecked(
            mode=self.plan.seed.mode,
            state=state,
            key=self.shape.key,
            id=base.id if base else "",
            made_by=base.run if base else "",
            covered=self._short.covered,
            wanted=self._short.wanted,
            cache_bytes=size_bytes,
            missing=self._shortfall(self._short),
            detail=detail,
        )
        return self.checked

    def _fill(self) -> tuple[SeedState, str]:
        """Unpacks the first good seed of the stores. Returns the state and, where there is no such seed (`absent`,
        `foreign`), why, or what is wrong with the one that is there.
        """
        if self.why_unused or self.plan.seed.mode is SeedMode.COLD:
            return SeedState.ABSENT, self.why_unused or "a cold start was requested"
        reasons: list[str] = []
        others: list[Kept] = []
        for store in (SeedStore(Path(directory)) for directory in self.plan.seed.stores if directory):
            try:
                found = store.good(self.shape.key)
                if found is None:
                    others += store.seeds()
                elif found.shape == self.shape:
                    self._begin_with(found, store)
                    return SeedState.WARM, ""
            except (SeedError, OSError) as e:
                reasons.append(str(e))
        reasons += self._passed_over(others)
        nearest = "" if reasons else self._nearest(others)
        return SeedState.FOREIGN if nearest else SeedState.ABSENT, nearest or "; ".join(reasons)

    def _passed_over(self, others: Sequence[Kept]) -> Iterator[str]:
        """Yields why seeds of this very shape are not used: they are damaged, or none is marked good."""
        for seed in others:
            if seed.key == self.shape.key and seed.good:
                yield f"seed {seed.id} is refused: {seed.damage}"
        idle = next((s.id for s in others if s.key == self.shape.key and s.manifest is not None), None)
        if idle is not None:
            yield f"seed {idle} matches but is not marked good: megacpp seed promote {idle}"

    def _begin_with(self, seed: Manifest, store: SeedStore) -> None:
        store.unpack(seed, self.cache, self._go_on)
        self.base, self._known = seed, seed.tests
        if self.plan.seed.mode is SeedMode.REFRESH:
            self._forget_wanted()

    def _nearest(self, others: Sequence[Kept]) -> str:
        """Returns how the seed of the most similar launch of this project's lane differs; empty where there is none."""
        mine, projects = self.shape, ("", self.shape.project)
        shapes = [seed.manifest.shape for seed in others if seed.manifest is not None]
        differing = [mine.differences(s) for s in shapes if s.lane == mine.lane and s.project in projects]
        nearest = min(filter(None, differing), key=len, default=None)
        return beginning(f"only seeds for other launch shapes were found: {'; '.join(nearest)}", 400) if nearest else ""

    def _forget_wanted(self) -> None:
        """Drops from the cache what tests of this run need, and keeps what other tests need: the new seed would else
        lack it.
        """
        wanted = set(self._wanted().values())
        self._known = tuple(test for test in self._known if Wanted.of(test) not in wanted)
        if not self._known:
            shutil.rmtree(self.cache)
            self.cache.mkdir()
            return
        kept = {(c, k) for test in self._known for rank in test.ranks for c, keys in rank.keys.items() for k in keys}
        for cache, keys in graph_keys(self.cache).items():
            for key in keys:
                if (cache, key) not in kept and (place := graph_dir(self.cache, cache, key)) is not None:
                    shutil.rmtree(place, ignore_errors=True)

    def _wanted(self) -> dict[int, Wanted]:
        """Returns what is to be kept warm, by index in the plan. A drill is meant to fail, so
        nothing is kept for it.
        """
        tests = [(i, t) for i, t in enumerate(self.plan.tests) if not (t.drill or has_cache_of_its_own(t, self.plan))]
        return {i: Wanted(test.nodeid, test.preset, test.ranks) for i, test in tests}

    def _coverage(self, known: Sequence[SeededTest]) -> Coverage:
        return coverage(known, self._wanted().values(), lacking(known, self.cache))

    def _shortfall(self, short: Coverage) -> tuple[SeedShort, ...]:
        by_nodeid = {wanted.nodeid: i for i, wanted in self._wanted().items()}
        return _fitting([SeedShort(by_nodeid[m.nodeid], m.ranks, m.keys[:KEPT_KEYS]) for m in short.missing])

    def refusal(self) -> ProblemFound | None:
        """Returns why the launch may not begin, where a test requires a warm seed and lacks one."""
        uncovered = {missing.nodeid for missing in self._short.missing}
        unmet = [t for t in self.plan.tests if not t.drill and t.cache_seed is SeedMode.REQUIRE]
        unmet = [t for t in unmet if self.base is None or t.nodeid in uncovered]
        if not unmet or self.checked is None:
            return None
        seen = self.checked
        found = f"the seed is {seen.state}: {seen.covered} of {seen.wanted} pairs of test and rank are covered"
        found += f" ({seen.detail})" if seen.detail else ""
        lacks = "; ".join(_named(test, self._short) for test in unmet[:3])
        more = f" and {len(unmet) - 3} more" if len(unmet) > 3 else ""
        if self.why_unused:
            mend = "unset the variable, or require no seed (--cache-seed auto, the marker's cache_seed)"
            return ProblemFound(ProblemCode.BLOCKED, "own-cache", beginning(found, 800), mend)
        detail = beginning(f"{found}. Not warm: {lacks}{more}", 800)
        return ProblemFound(ProblemCode.BLOCKED, ProblemCause.SEED, detail, warming_command(self.plan))

    def reasons(self) -> dict[int, WarmUp]:
        """Returns why each test's first attempt is a warm-up, or needs none."""
        uncovered = {missing.nodeid for missing in self._short.missing}
        return {i: self._reason(test, test.nodeid in uncovered) for i, test in enumerate(self.plan.tests)}

    def _reason(self, test: PlannedTest, uncovered: bool) -> WarmUp:
        if test.drill:
            return WarmUp.DRILL
        if test.cache_seed is SeedMode.COLD or self.why_unused:
            return WarmUp.USER_DISABLED
        if not uncovered and test.cache_seed is not SeedMode.REFRESH:
            return WarmUp.SEED_WARM
        return WarmUp.NON_CUDA_LANE if test.cache_seed is SeedMode.AS_IT_IS else WarmUp.RUNS

    # -- the end -------------------------------------------------------------------------------------------

    def keep(self, timeline: Timeline, reason: RunEnd) -> SeedKept:
        """Publishes what the run compiled, if the run was green and it is worth keeping; returns what the cache is
        worth now. Never raises, since tests may have left anything there.
        """
        began = self.checked
        assert began is not None
        try:
            return self._keep(timeline, reason)
        except Exception as e:
            return SeedKept(began.state, "", False, began.covered, began.wanted, 0, detail=f"not kept: {e!r}")

    def _keep(self, timeline: Timeline, reason: RunEnd) -> SeedKept:
        measured = tuple(self._measured(timeline))
        known = merged(self._known, measured)
        now = self._coverage(known)
        state = SeedState.ABSENT if not known else SeedState.PARTIAL if now.missing else SeedState.WARM
        missed = list(self._missed(timeline))
        helped = None if self.base is None or not self._short.covered else not missed
        missed += self._compiled_again(timeline, {short.test for short in missed})
        worth = state, "", False, now.covered, now.wanted, _bytes_of(self.cache)
        kept = SeedKept(*worth, helped, _fitting(missed))
        why_not = self._why_not(timeline, reason, known)
        if why_not:
            return replace(kept, detail=why_not)
        if kept.cache_bytes > LARGE_BYTES:
            self.say(f"is kept for later runs, {kept.cache_bytes / 1e9:.1f} GB")
        return self._publish(kept, known)

    def _why_not(self, timeline: Timeline, reason: RunEnd, known: Sequence[SeededTest]) -> str:
        if self.why_unused:
            return self.why_unused
        if not any(self.plan.seed.stores[:1]):
            return "no directory of seeds to keep it in"
        if reason is not RunEnd.COMPLETED:
            return f"not kept: the run was {reason}"
        red = [t for i, t in enumerate(self.plan.tests) if not t.drill and not green_attempt(timeline, i)]
        if red:
            return f"not kept: the run isn't green ({red[0].nodeid})"
        if endings := bad_endings(timeline):
            return f"not kept: {endings[0]}"
        if not known:
            return "nothing to keep"
        if self.base is not None and _needs(self._known) == _needs(known) and graph_keys(self.cache) == self._there:
            return "nothing new"
        return ""

    def _go_on(self) -> None:
        if self.is_stopped():
            raise SeedError("the run was interrupted")

    def _publish(self, kept: SeedKept, known: tuple[SeededTest, ...]) -> SeedKept:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        plan = self.plan
        draft = Manifest(plan.run_id, self.shape, plan.run_id, now, 0, 0, 0, "", known, plan.revision)
        store = SeedStore(Path(plan.seed.stores[0]))
        try:
            published = store.publish(draft, self.cache, plan.seed.max_bytes // 2, self._go_on)
            store.prune(plan.seed.keep, plan.seed.max_bytes)
        except SeedError as e:
            return replace(kept, detail=f"not kept: {e}")
        return replace(kept, id=published.manifest.id, promoted=published.promoted, detail=published.reason)

    def _measured(self, timeline: Timeline) -> Iterable[SeededTest]:
        """Yields what those tests needed that passed on every rank."""
        for item, test in self._wanted().items():
            last = green_attempt(timeline, item)
            if last is None:
                continue
            attempts = [timeline.tests[n] for n in counting(timeline, item) if n in timeline.tests]
            graphs = tuple(self._graphs(rank, attempts, last) for rank in range(test.world_size))
            yield SeededTest(test.nodeid, test.preset, test.world_size, graphs, self.plan.run_id, self.plan.revision)

    def _graphs(self, rank: int, attempts: Sequence[TestView], last: TestView) -> RankGraphs:
        """Returns the keys of all attempts. The last one's seconds are warm ones if its graphs had been compiled
        before.
        """
        views = [view.ranks[rank] for view in attempts if rank in view.ranks]
        keys: dict[str, dict[str, None]] = {}
        for view in views:
            for cache, names in view.compiled.keys.items() if view.compiled else ():
                # a test may have had a cache of its own
                kept = (name for name in names if has_graph(self.cache, cache, name))
                keys.setdefault(cache, {}).update(dict.fromkeys(kept))
        cold = [_compile_s(v) for v in views if v.compiled is not None and v.compiled.cache_misses]
        warm = last.ranks[rank].compiled
        return RankGraphs(
            rank,
            "cpu" if self.plan.dry_run else f"cuda:{rank}",
            {cache: tuple(names) for cache, names in keys.items()},
            cold[0] if cold else None,
            None if warm is None or warm.cache_misses else warm.seconds,
        )

    def _missed(self, timeline: Timeline) -> Iterable[SeedShort]:
        """Yields pairs of test and rank that the seed should have served, and that compiled all the same."""
        uncovered = {(m.nodeid, rank) for m in self._short.missing for rank in m.ranks}
        before = {Wanted.of(test): {g.rank: g for g in test.ranks} for test in self._known}
        for item, wanted in self._wanted().items():
            view = timeline.tests.get(item)
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

    def _compiled_again(self, timeline: Timeline, recorded: Collection[int]) -> Iterable[SeedShort]:
        """Yields tests that after their warm-up compiled what the warm-up had not; those that are `recorded` are left
        out.
        """
        for item in self._wanted().keys() - recorded:
            *before, last = (timeline.tests.get(number) for number in counting(timeline, item))
            known = {key for view in before if view is not None for seen in view.ranks.values() for key in _keys(seen)}
            ranks = sorted(last.ranks.items()) if before and last is not None else ()
            lost = {rank: [key for key in self._not_there(seen) if key not in known] for rank, seen in ranks}
            if any(lost.values()):
                yield _short_of(item, {rank: keys for rank, keys in lost.items() if keys})

    def _not_there(self, seen: RankView) -> tuple[str, ...]:
        used = seen.compiled.keys if seen.compiled else {}
        return tuple(k for cache, keys in used.items() for k in keys if k not in self._there.get(cache, {k}))


def _short_of(test: int, keys_of: Mapping[int, Sequence[str]]) -> SeedShort:
    """Returns what a test lacks, by rank."""
    keys = dict.fromkeys(key for keys in keys_of.values() for key in keys)
    return SeedShort(test, tuple(keys_of), tuple(keys)[:KEPT_KEYS])


def _fitting(short: Sequence[SeedShort]) -> tuple[SeedShort, ...]:
    """Returns as many as fit into one line of the recording."""
    sizes_bytes = accumulate(len(json.dumps(to_json(one))) for one in short)
    return tuple(one for one, total_bytes in zip(short, sizes_bytes, strict=True) if total_bytes <= SHORTFALL_BYTES)


def _needs(tests: Sequence[SeededTest]) -> dict[Wanted, tuple[dict[str, tuple[str, ...]], ...]]:
    """Returns the keys that each test and rank needs, whoever measured them."""
    return {Wanted.of(test): tuple(graphs.keys for graphs in test.ranks) for test in tests}


def has_cache_of_its_own(test: PlannedTest, plan: Plan) -> bool:
    """Returns whether a test gets an empty cache: it is to run cold, while others aren't."""
    return test.cache_seed is SeedMode.COLD and plan.seed.mode is not SeedMode.COLD


def left_to_user(settings: Iterable[Setting], environ: Mapping[str, str]) -> str:
    """Returns why seeds have no part in a run: the operator decides where the compile cache lies, or that there is
    none. Empty where they have.
    """
    settings = tuple(settings)
    moved = next((s.name for s in settings if s.name in CACHE_VARIABLES and s.source is not SettingOrigin.PLUGIN), None)
    if moved is not None:
        return f"{moved} is set by you: no seed fills or reads that cache"
    if any(s.name == CACHE_KEY_TAG and not s.value for s in settings):
        return f"{CACHE_KEY_TAG} is set empty by you: keys don't tell ranks apart, and a seed is shared by all"
    off = next((f"{name}={value}" for name, value in _SWITCHES.items() if environ.get(name) == value), None)
    return f"{off} is set by you: without that cache there is nothing to keep" if off else ""


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


def _named(test: PlannedTest, short: Coverage) -> str:
    missing = next((m for m in short.missing if m.nodeid == test.nodeid), None)
    if missing is None or not missing.known:
        return f"{test.nodeid} (unknown to it)"
    return f"{test.nodeid} ({ranks_named(missing.ranks)})"


def _bytes_of(directory: Path) -> int:
    """Returns the bytes of all files below a directory that can be seen. Files may vanish meanwhile."""
    total_bytes = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total_bytes += os.lstat(os.path.join(folder, name)).st_size
    return total_bytes
