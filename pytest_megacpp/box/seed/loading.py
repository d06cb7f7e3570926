"""Owns what a run begins with: it fills the working copy from a seed and says what that is worth to each test. Must not
know how seeds are stored, nor what a run compiles.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.box.seed.compiled_graphs import graph_dir, graph_keys
from pytest_megacpp.box.seed.store import SeedStore
from pytest_megacpp.box.seed.working_copy import KEPT_KEYS, WorkingCopy, fitting
from pytest_megacpp.recording.events import ProblemFound, SeedChecked, SeedShort
from pytest_megacpp.recording.plan import PlannedTest, warming_command
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.seed import Coverage, Manifest, SeededTest, Shape, Wanted
from pytest_megacpp.recording.seed_layout import Kept, SeedError
from pytest_megacpp.recording.texts import beginning
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode, SeedMode, SeedState, WarmUp


@dataclass(frozen=True, slots=True)
class LoadedSeed:
    """The working copy as the run begins with it. `base` is the seed that filled it, if there is one; `known` is what
    tests need according to it, `there` the graph keys in the cache, `short` what this run's tests lack.
    """

    copy: WorkingCopy
    checked: SeedChecked
    base: Manifest | None
    known: Sequence[SeededTest]
    there: dict[str, set[str]]
    short: Coverage

    def refusal(self) -> ProblemFound | None:
        """Returns why the launch may not begin, where a test requires a warm seed and lacks one."""
        uncovered = {missing.nodeid for missing in self.short.missing}
        unmet = [t for t in self.copy.plan.tests if not t.drill and t.cache_seed is SeedMode.REQUIRE]
        unmet = [t for t in unmet if self.base is None or t.nodeid in uncovered]
        if not unmet:
            return None
        seen = self.checked
        found = f"the seed is {seen.state}: {seen.covered} of {seen.wanted} (test, rank) pairs are covered"
        found += f" ({seen.detail})" if seen.detail else ""
        lacks = "; ".join(_named(test, self.short) for test in unmet[:3])
        more = f" and {len(unmet) - 3} more" if len(unmet) > 3 else ""
        if self.copy.why_unused:
            remedy = "unset the variable, or require no seed (--cache-seed auto, the marker's cache_seed)"
            return ProblemFound(ProblemCode.BLOCKED, "own-cache", beginning(found, 800), remedy)
        detail = beginning(f"{found}. Not warm: {lacks}{more}", 800)
        return ProblemFound(ProblemCode.BLOCKED, ProblemCause.SEED, detail, warming_command(self.copy.plan))

    def reasons(self) -> dict[int, WarmUp]:
        """Returns why each test's first attempt is a warm-up, or needs none."""
        uncovered = {missing.nodeid for missing in self.short.missing}
        return {i: self._reason(test, test.nodeid in uncovered) for i, test in enumerate(self.copy.plan.tests)}

    def _reason(self, test: PlannedTest, uncovered: bool) -> WarmUp:
        if test.drill:
            return WarmUp.DRILL
        if test.cache_seed is SeedMode.COLD or self.copy.why_unused:
            return WarmUp.USER_DISABLED
        if not uncovered and test.cache_seed is not SeedMode.REFRESH:
            return WarmUp.SEED_WARM
        return WarmUp.NON_CUDA_LANE if test.cache_seed is SeedMode.AS_IT_IS else WarmUp.RUNS


def load(copy: WorkingCopy) -> LoadedSeed:
    """Fills the working copy from a seed, if there is one, and returns what it is worth to this run's tests."""
    base, known, state, detail = _fill(copy)
    short = copy.coverage(known)
    size_bytes = copy.size_bytes()
    if base is not None and base.cache_bytes < copy.plan.seed.min_bytes:
        known, short = (), copy.coverage(())
        detail = f"the seed has {size_bytes} bytes, min_bytes asks for {copy.plan.seed.min_bytes}"
    if base is not None:
        state = SeedState.PARTIAL if short.missing else SeedState.WARM
    checked = SeedChecked(
        mode=copy.plan.seed.mode,
        state=state,
        key=copy.shape.key,
        id=base.id if base else "",
        made_by=base.run if base else "",
        covered=short.covered,
        wanted=short.wanted,
        cache_bytes=size_bytes,
        missing=_shortfall(copy, short),
        detail=detail,
    )
    return LoadedSeed(copy, checked, base, known, graph_keys(copy.directory), short)


def _fill(copy: WorkingCopy) -> tuple[Manifest | None, Sequence[SeededTest], SeedState, str]:
    """Unpacks the first good seed of the stores. Returns it and what tests need according to it. Where there is no such
    seed, the state is `absent` or `foreign`, and the text says why, or what is wrong with the one that is there.
    """
    if copy.why_unused or copy.plan.seed.mode is SeedMode.COLD:
        return None, (), SeedState.ABSENT, copy.why_unused or "a cold start was requested"
    reasons: list[str] = []
    others: list[Kept] = []
    for store in (SeedStore(Path(directory)) for directory in copy.plan.seed.stores if directory):
        try:
            found = store.good(copy.shape.key)
            if found is None:
                others += store.seeds()
            elif found.shape == copy.shape:
                store.unpack(found, copy.directory, copy.go_on)
                is_renewed = copy.plan.seed.mode is SeedMode.REFRESH
                return found, _without_wanted(copy, found.tests) if is_renewed else found.tests, SeedState.WARM, ""
        except (SeedError, OSError) as e:
            reasons.append(str(e))
    reasons += _passed_over(copy.shape, others)
    nearest = "" if reasons else _nearest(copy.shape, others)
    return None, (), SeedState.FOREIGN if nearest else SeedState.ABSENT, nearest or "; ".join(reasons)


def _passed_over(shape: Shape, others: Sequence[Kept]) -> Iterator[str]:
    """Yields why seeds of this very shape are not used: they are damaged, or none is marked good."""
    for seed in others:
        if seed.key == shape.key and seed.good:
            yield f"seed {seed.id} is refused: {seed.damage}"
    idle = next((s.id for s in others if s.key == shape.key and s.manifest is not None), None)
    if idle is not None:
        yield f"seed {idle} matches but is not marked good: megacpp seed promote {idle}"


def _nearest(mine: Shape, others: Sequence[Kept]) -> str:
    """Returns how the seed of the most similar launch of this project's lane differs; empty where there is none."""
    projects = ("", mine.project)
    shapes = [seed.manifest.shape for seed in others if seed.manifest is not None]
    differing = [mine.differences(s) for s in shapes if s.lane == mine.lane and s.project in projects]
    nearest = min(filter(None, differing), key=len, default=None)
    return beginning(f"only seeds for other launch shapes were found: {'; '.join(nearest)}", 400) if nearest else ""


def _without_wanted(copy: WorkingCopy, known: Sequence[SeededTest]) -> Sequence[SeededTest]:
    """Drops from the cache what tests of this run need; returns what other tests need, which stays, or the new seed
    would lack it.
    """
    wanted = set(copy.wanted().values())
    others = tuple(test for test in known if Wanted.of(test) not in wanted)
    if not others:
        shutil.rmtree(copy.directory)
        copy.directory.mkdir()
        return ()
    kept = {(c, k) for test in others for rank in test.ranks for c, keys in rank.keys.items() for k in keys}
    for cache, keys in graph_keys(copy.directory).items():
        for key in keys:
            if (cache, key) not in kept and (place := graph_dir(copy.directory, cache, key)) is not None:
                shutil.rmtree(place, ignore_errors=True)
    return others


def _shortfall(copy: WorkingCopy, short: Coverage) -> tuple[SeedShort, ...]:
    by_nodeid = {wanted.nodeid: i for i, wanted in copy.wanted().items()}
    return fitting([SeedShort(by_nodeid[m.nodeid], m.ranks, m.keys[:KEPT_KEYS]) for m in short.missing])


def _named(test: PlannedTest, short: Coverage) -> str:
    missing = next((m for m in short.missing if m.nodeid == test.nodeid), None)
    if missing is None or not missing.known:
        return f"{test.nodeid} (unknown to it)"
    return f"{test.nodeid} ({ranks_named(missing.ranks)})"
