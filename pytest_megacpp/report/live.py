"""Owns what a running run looks like at one moment: who does what, who waits for whom, which limit is near; must not
know a clock, a terminal, or why a test will have failed.

Who waits for whom, and for how long by which limit, comes in as `Counted`; here it gets words. A rank that others wait
for is described, never blamed: that is for the verdict.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView, TestView, WorldView
from pytest_megacpp.recording.vocabulary import BoxStep, TestPhase, WarmUp
from pytest_megacpp.recording.waits import Counted, Wait
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import counted, grouped
from pytest_megacpp.report.reporter import Span, Style
from pytest_megacpp.report.states import death, placed, reported, waiting_text

KEPT_STATES = 8  # groups of ranks that are in the same state
KEPT_AWAITED = 4
WHOLE_TESTS = 2  # at a time, of which all rows fit
NAMES_WIDTH = 24
KEPT_STEPS = 6
KEPT_FAILURES = 3  # the newest ones
FAR_S = 3600.0  # a limit of which this much is left is not near
SHORT_S = 1.0  # a wait that has lasted for less is worth no words; a rank that came so much later is named apart
BUDGET = "budget"  # what counts towards it is money, as seconds of the box
_STEPS = {"capacity": "queue"}  # as users call them
_NEXT = {"queue": "start", "start": "collection"}  # which are reported when they are over
_RUNNING, _COMPILING = "running", "compiling"
_UNKNOWN = "not looked at yet"
_NOT_RECORDED = "for whom isn't recorded"
_OWN_PHASES = frozenset({TestPhase.CALL})  # what every test is in


@dataclass(frozen=True, slots=True)
class Live:
    """A test that runs on a world at `now_s` (box time); `counts` is what counts towards its limits and the run's."""

    view: TestView
    counts: tuple[Counted, ...]
    now_s: float

    @property
    def elapsed_s(self) -> float:
        return max(0.0, self.now_s - self.view.started_s)

    @property
    def nearest(self) -> Counted | None:
        """What passes its limit first if nothing changes."""
        return _nearest(self.counts)

    @property
    def waits(self) -> tuple[Counted, ...]:
        """Whom ranks wait for, the longest first: all waits for the same ranks as one. Those for whom nobody is known
        to be the reason count only where there are no others, and that everybody waits, before single ones of them.
        """
        waits = [one for one in self.counts if one.wait is not None]
        awaited = [one for one in waits if one.ranks]
        everybody = [one for one in waits if not one.ranks and not one.the_wait.missing]
        known = [one for one in awaited if not one.guessed] or awaited or everybody or waits
        together = grouped((_of_whom(one), one) for one in known).values()
        return tuple(sorted(map(_merged, together), key=lambda one: (-one.waited_s, one.left_s, one.name)))

    @property
    def long_waits(self) -> tuple[Counted, ...]:
        """Those of them that have lasted long enough for words."""
        return tuple(one for one in self.waits if one.waited_s >= SHORT_S)

    def longest(self, waits: Counted) -> Wait:
        """The longest of the calls in which ranks wait for the same ones, with the ranks that came to it first."""
        alike = [one for one in self.counts if one.wait is not None and _of_whom(one) == _of_whom(waits)]
        wait = max(alike, key=lambda one: one.waited_s).the_wait
        came_s = {rank: wait.came_s.get(rank, wait.since_s) for rank in wait.waiting}
        first_s = min(came_s.values())
        return replace(wait, waiting=tuple(rank for rank, s in came_s.items() if s - first_s < SHORT_S))


def _nearest(counts: Iterable[Counted]) -> Counted | None:
    return min(counts, key=lambda one: one.left_s, default=None)


def _of_whom(waits: Counted) -> tuple[str, tuple[int, ...], bool]:
    return waits.name, waits.ranks, waits.guessed


def _merged(waits: Sequence[Counted]) -> Counted:
    longest = max(waits, key=lambda one: one.waited_s)
    waiting = {rank for one in waits for rank in one.the_wait.waiting}
    return replace(longest, wait=replace(longest.the_wait, waiting=tuple(sorted(waiting))))


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a run is. `left_s` is an estimate, None where nothing is known; `price` is what it cost so far; `failed`
    are the tests that pytest has reported so.
    """

    done: int
    total: int
    elapsed_s: float
    left_s: float | None = None
    price: str = ""
    failed: int = 0

    def __str__(self) -> str:
        parts = [f"{self.done}/{self.total} tests", *([f"{self.failed} failed"] if self.failed else [])]
        parts.append(clock(self.elapsed_s))
        if self.left_s is not None and self.left_s >= 1 and self.done < self.total:
            parts.append(f"about {clock(self.left_s)} left")
        return " · ".join([*parts, *([self.price] if self.price else [])])


@dataclass(frozen=True, slots=True)
class Now:
    """A run at one moment. `steps` are what it is at while no test runs, `failures` are tests with the headlines of
    their verdicts; the newest last. `counts` is what counts towards the limits of the run.
    """

    tally: Tally
    tests: tuple[Live, ...] = ()
    steps: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    counts: tuple[Counted, ...] = ()


def clock(seconds: float) -> str:
    """`0:41`, `12:05`, `1:02:03`; parts of a second are cut off, as in `_seconds`."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _seconds(seconds: float) -> str:
    return f"{max(0, int(seconds))} s"


# -- ranks -------------------------------------------------------------------------------------------------------------


def state(view: RankView, waits: Collection[int] = (), *, awaited: bool = False) -> str:
    """What a rank is known to do now; `waits` are the ranks that are known to wait for a peer. An `awaited` rank that
    computes is described by its last stack as well.
    """
    found = next(_states(view, view.rank in waits), _UNKNOWN)
    computes = found == _RUNNING or found == f"in {view.open_phase}"
    taken = view.stack() if awaited and computes else None
    return f"{found}, last seen {placed(taken[1])[1]}" if taken is not None else found


def _states(view: RankView, waits: bool) -> Iterator[str]:
    """The most telling first. What only a stack shows counts if the rank did not compute since."""
    if view.exit is not None:
        yield f"died ({death(view.exit)})" if not view.exit.expected else "gone"
    yield from (text for _, text in reported(view))
    if view.frozen:
        yield "stopped by a signal"
    if waits:
        yield waiting_text(view)
    if view.compiling:
        yield "waiting for another process's compile of the same" if view.awaits_file_lock else _COMPILING
    taken = view.stack() if view.looked_at() else None
    if view.imports_compiler() and taken is not None:
        yield "loading torch's compiler"
    if taken is not None:
        yield placed(taken[1])[1]
    if view.open_phase is not None and view.open_phase not in _OWN_PHASES:
        yield f"in {one_line(view.open_phase, 40)}"
    if view.sample is not None:
        yield _RUNNING if view.sample.answered else "alive, not answering"


def rank_rows(live: Live) -> list[tuple[tuple[int, ...], str, bool]]:
    """Ranks that do the same, what that is, and whether others wait for them: these first, then by rank."""
    waits = {rank: one for one in reversed(live.waits) for rank in one.the_wait.waiting}
    awaited = {rank for one in live.waits for rank in one.ranks}
    ranks_s = ((r, view, waits.get(r), r in awaited) for r, view in sorted(live.view.ranks.items()))
    texts = (((_row(view, held, live, is_awaited), is_awaited), r) for r, view, held, is_awaited in ranks_s)
    rows = [(tuple(ranks), text, is_awaited) for (text, is_awaited), ranks in grouped(texts).items()]
    return sorted(rows, key=lambda row: not row[2])


def _row(view: RankView, waits: Counted | None, live: Live, awaited: bool) -> str:
    text = state(view, () if waits is None else (view.rank,), awaited=awaited)
    if text == _COMPILING and view.compiling_since_s is not None:
        text += f" for {_seconds(live.now_s - view.compiling_since_s)}"
    if waits is not None and text.startswith("waiting"):
        text = text.removesuffix(" for a peer") + _for_whom(waits)
    phase = view.open_phase
    shown = phase is not None and not view.out and phase not in _OWN_PHASES and f"in {phase}" not in text
    return f"{one_line(phase, 30)}: {text}" if shown and phase is not None else text


def _for_whom(waits: Counted) -> str:
    if waits.guessed or not waits.ranks:
        return ""
    return f" for {ranks_named(waits.ranks)}"


# -- sentences ---------------------------------------------------------------------------------------------------------


def wait_sentence(live: Live, waits: Counted) -> str:
    """`ranks 0-4,6,7 have waited 31 s for rank 5, which is compiling (all_reduce #12, limit skew 120 s)`; where they
    wait in different calls, or some have come later: `ranks 0-3 wait for rank 5, which is compiling; the longest for
    31 s (rank 0 in all_reduce #12, limit skew 120 s)`.
    """
    wait, longest, waited = waits.the_wait, live.longest(waits), _seconds(waits.waited_s)
    limit = f"limit {waits.name} {waits.limit_s:g} s"
    have_waited = f"{ranks_named(wait.waiting)} {_has(wait.waiting)} waited {waited}"
    if not waits.guessed and not (waits.ranks or wait.missing):
        return f"{have_waited} and nobody else is left: {_described(live, wait.waiting)} ({limit})"
    for_whom, call = _of_a_guess(live, waits) if waits.guessed else _of_a_record(live, waits, longest)
    if longest.waiting == wait.waiting:
        return f"{have_waited} {for_whom} ({call}{limit})"
    verb, first = "waits" if len(wait.waiting) == 1 else "wait", ranks_named(longest.waiting)
    in_call = f" in {call}" if call else ", "
    return f"{ranks_named(wait.waiting)} {verb} {for_whom}; the longest for {waited} ({first}{in_call}{limit})"


def _of_a_record(live: Live, waits: Counted, longest: Wait) -> tuple[str, str]:
    """For whom they wait, and in what."""
    return f"for {_described(live, waits.ranks or waits.the_wait.missing, which=True)}", f"{_named(longest)}, "


def _of_a_guess(live: Live, waits: Counted) -> tuple[str, str]:
    others = f"; not waiting: {_described(live, waits.ranks)}" if waits.ranks else ""
    return f"{_called(live.view, waits.the_wait)}, {_NOT_RECORDED}{others}", ""


def _called(view: TestView, wait: Wait) -> str:
    """The call that stacks show these ranks in."""
    texts = {waiting_text(view.ranks[rank]).removeprefix("waiting ") for rank in wait.waiting if rank in view.ranks}
    return texts.pop() if len(texts) == 1 else "for a peer"


def _named(wait: Wait) -> str:
    return one_line(str(wait), 80)


def _described(live: Live, ranks: Sequence[int], *, which: bool = False) -> str:
    """`rank 5, which is compiling`; several that do different things: `ranks 2,5: rank 2 finished, rank 5 …`."""
    waits = [one for one in live.counts if one.wait is not None]
    waiting = {rank for one in waits for rank in one.the_wait.waiting}
    guessed = {rank for one in waits if one.guessed for rank in one.the_wait.waiting} if which else set()
    views = live.view.ranks
    states = ((state(views[rank], waiting, awaited=which) if rank in views else _UNKNOWN, rank) for rank in ranks)
    groups = grouped(
        (f"{text}, {_NOT_RECORDED}" if rank in guessed and text.startswith("waiting") else text, rank)
        for text, rank in states
    )
    if which and len(groups) == 1:
        return f"{ranks_named(ranks)}, which {_predicate(next(iter(groups)), ranks)}"
    parts = [f"{ranks_named(who)} {_predicate(text, who)}" for text, who in list(groups.items())[:KEPT_AWAITED]]
    parts += ["…"] if len(groups) > KEPT_AWAITED else []
    listed = ", ".join(parts)
    return f"{ranks_named(ranks)}: {listed}" if which else listed


def _predicate(text: str, ranks: Sequence[int]) -> str:
    """`compiling` → `is compiling`; what happened (`raised ValueError`) stays as it is."""
    if text.startswith(("died", "raised", "failed", "lost", "finished")):
        return text
    verb = "is" if len(ranks) == 1 else "are"
    return f"was {text}" if text == "skipped" else f"{verb} {text}"


def _has(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def heartbeat_lines(now: Now) -> list[str]:
    """A line per test that runs, or one about what the run is at."""
    if not now.tests:
        return [" · ".join([str(now.tally), *_at(now)])]
    return [" · ".join([str(now.tally), *_parts(live)]) for live in now.tests]


def _at(now: Now) -> list[str]:
    """What the run is at, with the limit that ends it, if that is near."""
    near = _near(_nearest(now.counts))
    return [*now.steps[-KEPT_STEPS:], *([near] if near else [])]


def _parts(live: Live) -> Iterator[str]:
    yield f"{_test(live)}{_warming(live.view)}"
    if live.long_waits:
        yield wait_sentence(live, live.long_waits[0])
    else:
        rows = rank_rows(live)
        yield from (f"{ranks_named(ranks)} {text}" for ranks, text, _ in rows[:KEPT_AWAITED])
        yield from _others(rows[KEPT_AWAITED:])
    near = limit_text(live)
    yield from [near] if near else []


def whole_lines(live: Live) -> Iterator[str]:
    """The test, then all that is known of its waits, the limit that is near, and its ranks: for who looks once."""
    yield f"{_test(live)} on {counted(live.view.size, 'rank')}{_warming(live.view)}"
    yield from (wait_sentence(live, waits) for waits in live.long_waits[:KEPT_AWAITED])
    yield from filter(None, [limit_text(live)])
    rows = rank_rows(live)
    yield from (f"{'> ' if awaited else ''}{ranks_named(ranks)} {text}" for ranks, text, awaited in rows[:KEPT_STATES])
    yield from _others(rows[KEPT_STATES:])


def _test(live: Live) -> str:
    return f"{one_line(live.view.nodeid, 160)} for {clock(live.elapsed_s)}"


def _others(rows: Sequence[tuple[tuple[int, ...], str, bool]]) -> list[str]:
    left = sum(len(ranks) for ranks, _, _ in rows)
    return [f"{counted(left, 'rank')} in other states"] if left else []


def _warming(view: TestView) -> str:
    return ", warming up" if view.warmup is WarmUp.RUNS else ""


def limit_text(live: Live) -> str:
    """`1:28 of limit skew left`; empty while every limit is far."""
    return _near(live.nearest)


def _near(nearest: Counted | None) -> str:
    if nearest is None or nearest.left_s > FAR_S:
        return ""
    return f"{clock(nearest.left_s)} of {'the' if nearest.name == BUDGET else 'limit'} {nearest.name} left"


# -- the board ---------------------------------------------------------------------------------------------------------


def board_rows(now: Now, lane: str) -> list[list[Span]]:
    """A row on the run and on each of its last failures, then for each test that runs one on the test, one on who is
    waited for, and its ranks in groups that do the same, those first that others wait for. Of many tests at a time each
    has two rows.
    """
    rows = [[Span(f"{one_line(lane, 40)} ", Style.STRONG), Span(str(now.tally))]]
    rows += [_failure_row(nodeid, headline) for nodeid, headline in now.failures[-KEPT_FAILURES:]]
    for live in now.tests:
        found = [_test_row(live), *_sentence_row(live), *_rank_spans(live)]
        rows += found if len(now.tests) <= WHOLE_TESTS else found[:2]
    if not now.tests and now.steps:
        rows.append([Span("  "), Span(" · ".join(_at(now)), cut=True)])
    return rows


def _failure_row(nodeid: str, headline: str) -> list[Span]:
    """The test's own name, without its file, leaves room for the cause."""
    return [Span(f"✗ {one_line(nodeid.partition('::')[2] or nodeid, 40)}  ", Style.FAILED), Span(headline)]


def _test_row(live: Live) -> list[Span]:
    near = limit_text(live)
    nodeid = Span(one_line(live.view.nodeid, 400), Style.STRONG, cut=True)
    about = f"{_warming(live.view)}{f' · {near}' if near else ''}"
    return [Span(f"{clock(live.elapsed_s)}  "), nodeid, Span(about, Style.FAINT)]


def _sentence_row(live: Live) -> list[list[Span]]:
    waits = live.long_waits
    return [[Span("  "), Span(wait_sentence(live, waits[0]), Style.AWAITED)]] if waits else []


def _rank_spans(live: Live) -> Iterator[list[Span]]:
    rows = rank_rows(live)
    kept = [(rank_names(ranks), text, awaited) for ranks, text, awaited in rows[:KEPT_STATES]]
    width = max((len(ranks) for ranks, _, _ in kept), default=0)
    for ranks, text, awaited in kept:
        style = Style.AWAITED if awaited else Style.PLAIN
        yield [Span(f"{'> ' if awaited else '  '}{ranks:>{width}}  ", style), Span(text, style)]
    left = sum(len(ranks) for ranks, _, _ in rows[KEPT_STATES:])
    if left:
        yield [Span(f"  … {counted(left, 'rank')} in other states", Style.FAINT)]


def rank_names(ranks: Sequence[int]) -> str:
    """`0-4,6,7`, of many a part and how many."""
    return ranks_named(ranks, NAMES_WIDTH).partition(" ")[2]


# -- before and between tests ------------------------------------------------------------------------------------------


def steps(timeline: Timeline, now_s: float, since_s: float, *, is_through: bool = False) -> tuple[str, ...]:
    """What a run without a running test is at, the newest last: steps on the way to its box with their seconds, then
    the world that is being started. `now_s` is box time, `since_s` the seconds since the newest step was reported.
    `is_through`: all tests are over.
    """
    worlds = [world for world in timeline.worlds.values() if world.ended is None and world.test is None]
    if is_through and timeline.tests:
        return (_ending(timeline, len(worlds), now_s),)
    if worlds:
        return tuple(_starting(world, now_s) for world in worlds[-KEPT_STEPS:])
    if timeline.tests:
        return ("between tests",)
    known: dict[str, str] = {}
    for _, progress in timeline.progress:
        name, detail = _STEPS.get(progress.phase, one_line(progress.phase, 40)), one_line(progress.detail, 60)
        took = known.pop(name, "")
        known[name] = took if _is_time(took) else detail  # a step that is over may have something to add
    if not known:
        return (f"starting the box for {clock(since_s)}",)
    *before, newest = known.items()
    return (*(f"{name} {detail}" for name, detail in before if _is_time(detail)), _newest(*newest, since_s))


def _ending(timeline: Timeline, worlds: int, now_s: float) -> str:
    """A box ends its worlds, keeps what they compiled, and goes."""
    is_kept = timeline.kept is not None or timeline.finished is not None
    does = f"ending {counted(worlds, 'world')}" if worlds else "ending" if is_kept else "keeping what was compiled"
    over_s = max((test.ended_s for test in timeline.tests.values() if test.ended_s is not None), default=now_s)
    return f"the box is {does}, {clock(now_s - over_s)} after the last test"


def _is_time(detail: str) -> bool:
    """Whether a step is over: then it has its seconds for a detail."""
    return detail.endswith(" s") and detail[:-2].replace(".", "", 1).isdigit()


def _newest(name: str, detail: str, since_s: float) -> str:
    """A step that goes on has what it is about."""
    if _is_time(detail):
        following = f"{_NEXT[name]} for" if name in _NEXT else "then nothing for"
        return f"{name} {detail} · {following} {clock(since_s)}" if since_s >= 1 else f"{name} {detail}"
    about = detail.partition(",")[0]
    return " ".join(part for part in (name, about and f"({about})", f"for {clock(since_s)}") if part)


def _starting(world: WorldView, now_s: float) -> str:
    ranks, name = ranks_named(range(world.size)), f"world {one_line(world.name, 40)}"
    if len(world.collected) == world.size:
        return f"{name} ({ranks}): ready"
    lacking = sorted(set(range(world.size)) - world.collected.keys())
    if world.collected:
        return f"{name}: {BoxStep.COLLECTION}, {ranks_named(lacking)} of {world.size} not yet through"
    ready = len(world.ready)
    what = f"{ready} of {world.size} ranks are up" if ready < world.size else str(BoxStep.COLLECTION)
    return f"{name}: {what} for {clock(now_s - world.started_s)}"


def estimated_s(remaining: Iterable[str], known: Mapping[str, float], elapsed: Mapping[str, float]) -> float | None:
    """The seconds that tests still take: `known` says how long some took, the others count as their mean. `elapsed` is
    how long tests have run that run now. None where nothing is known.
    """
    if not known:
        return None
    mean_s = sum(known.values()) / len(known)
    return sum(max(0.0, known.get(nodeid, mean_s) - elapsed.get(nodeid, 0.0)) for nodeid in remaining)
