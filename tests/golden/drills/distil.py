"""Owns cutting one test out of a recording so that it can be kept: nothing of other tests, of this machine or of great
length, and judged as before. Must not know where cases are kept or what a drill expects.
"""

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.events import Event, Fact
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.texts import cut_middle
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.recording.wire import decode_fact, encode, encode_fact

MAX_CASE_BYTES = 48_000
# Characters of a text, collectives of a look, looks of a kind at a rank: as much as fits.
ATTEMPTS = ((1_200, 32, 8), (1_200, 32, 1_000), (600, 8, 1_000), (600, 16, 6), (400, 4, 2))
KEPT_VERSIONS = ("python", "torch", "pytest")
OTHER_FRAMES = 12
WORLD_STARTS_S = 0.5
RUN, CWD, STARTED_AT = "drill", "/repo", "2026-01-01T00:00:00.000Z"
PLACES = (
    "/repo",
    "/usr/lib/python3",
    "/tmp/megacpp",
    "/elsewhere",
    "/pytorch",
    "/__w/pytorch",
    "/dev",
    "/proc",
    "/sys",
)
_PATH = re.compile(r"(?<![\w./<>-])(?:/[\w.+@=-]+){2,}")
_INSTALLED = re.compile(r"(?:\.{1,2}|)(?:/[\w.+@=-]+|/\.\.)*/lib/(python3\.\d+)/")
_RUNNER = re.compile(r"^  File \"[^\"]*/(?:_pytest|pluggy)/.*\n?", re.MULTILINE)

Text = Callable[[str], str]


class Changed(Exception):
    """The case would not be what the recording is that it comes from."""


def distilled(events: Sequence[Event], index: int, text: Text) -> bytes:
    """The recording of one test alone, as test 0 of a run of its own; `text` makes texts fit to be kept.

    Raises:
        Changed: it is too large, or judged otherwise, without what was left out.
    """
    whole = fold(list(events))
    belonging = list(_belonging(events, whole, index))
    before, changes = judge_test(whole, index).verdict, ""
    wanted = (*essence(before), text(before.summary))
    for chars, collectives, looks in ATTEMPTS:
        kept = (_cut(event, text, chars, collectives) for event in _without_looks(belonging, looks))
        case = b"".join(map(encode, _numbered(kept)))
        after = judge_test(read(case), 0).verdict
        found = (*essence(after), after.summary)
        if len(case) <= MAX_CASE_BYTES and found == wanted:
            return case
        changes += f"\n  {len(case)} bytes: {wanted} became {found}"
    raise Changed(f"no way to cut it down:{changes}")


def read(case: bytes) -> Timeline:
    from pytest_megacpp.recording.wire import read_all

    return fold(read_all(case))


def essence(verdict: Verdict) -> tuple[str, list[int], str | None, str]:
    return str(verdict.code), list(verdict.blamed_ranks), verdict.cause, str(verdict.certainty)


# -- which events -----------------------------------------------------------------------------------------------


def _belonging(events: Sequence[Event], whole: Timeline, index: int) -> Iterator[Event]:
    """What belongs to the test: the run's head, its world up to the next test, its end."""
    test = whole.tests.get(index)
    world = test.world if test is not None else whole.unreached.get(index, ("", None))[0]
    start_s = whole.worlds[world].started_s if world in whole.worlds else 0.0
    last_s, over = WORLD_STARTS_S, False
    for event in events:
        if event.world == "":
            if not isinstance(event.fact, ev.RunFinished) and (head := _of_head(event.fact, index)) is not None:
                yield replace(event, time_s=0.0, fact=head)
        elif event.world == world and not over:
            over = isinstance(event.fact, ev.TestStarted) and test is not None and _follows(event, test.ended_s)
            fact = None if over else _of_world(event.fact, index, start_s - WORLD_STARTS_S)
            if fact is not None:
                last_s = _later(event.time_s, start_s)
                yield replace(event, time_s=last_s, fact=fact)
    if whole.finished is not None:
        yield Event(RUN, "", "box", 0, last_s + 0.1, whole.finished)


def _follows(event: Event, ended_s: float | None) -> bool:
    return ended_s is not None and event.time_s > ended_s


def _later(time_s: float, world_started_s: float) -> float:
    return round(max(0.0, time_s - world_started_s + WORLD_STARTS_S), 4)


def _of_head(fact: Fact, index: int) -> Fact | None:
    match fact:
        case ev.RunStarted():
            return replace(fact, run_id=RUN, started_at=STARTED_AT, tests=1, cwd=CWD)
        case ev.TestPlanned():
            return replace(fact, test=0) if fact.test == index else None
        case ev.BoxReady():
            return ev.BoxReady({n: v for n, v in fact.versions.items() if n in KEPT_VERSIONS}, {}, fact.devices)
        case ev.Capability() | ev.ProblemFound():
            return fact
        case _:
            return None


def _of_world(fact: Fact, index: int, earlier_s: float) -> Fact | None:
    """The fact with the test's new number and times that begin with the world's; None for another test's."""
    if getattr(fact, "test", None) not in (None, index) and not isinstance(fact, ev.GroupCreated):
        return None
    match fact:
        case ev.RankStarted() | ev.RankReady():
            return replace(fact, pid=1000 + fact.rank)
        case ev.RankCollected():
            errors = tuple(e for e in fact.errors if index not in fact.found)
            found, with_lane = (Numbers((0,) if index in of else ()) for of in (fact.found, fact.with_lane))
            return replace(fact, found=found, with_lane=with_lane, errors=errors)
        case ev.FlightRecorded():
            entries = tuple(replace(e, entered_s=round(e.entered_s - earlier_s, 4)) for e in fact.entries)
            return replace(fact, test=_renumbered(fact.test), entries=entries)
        case _:
            other: Any = fact
            return replace(other, test=_renumbered(other.test)) if hasattr(other, "test") else fact


def _renumbered(test: int | None) -> int | None:
    return None if test is None else 0


def _without_looks(events: Sequence[Event], most: int) -> Iterator[Event]:
    """Of the box's looks at each rank only the first ones and the last ones, `most` of each kind."""
    seen = Counter(kind for event in events if (kind := _look(event.fact)) is not None)
    so_far: Counter[tuple[str, int]] = Counter()
    for event in events:
        kind = _look(event.fact)
        if kind is None or so_far[kind] < most // 2 or seen[kind] - so_far[kind] <= most - most // 2:
            yield event
        if kind is not None:
            so_far[kind] += 1


def _look(fact: Fact) -> tuple[str, int] | None:
    match fact:
        case ev.Sampled() | ev.FlightRecorded(origin="poll") | ev.StackTaken(method="traceback"):
            return type(fact).__name__, fact.rank
        case _:
            return None


def _numbered(events: Iterable[Event]) -> Iterator[Event]:
    numbers: Counter[tuple[str, str]] = Counter()
    for event in events:
        key = event.world, event.source
        yield replace(event, run=RUN, seq=numbers[key])
        numbers[key] += 1


# -- their texts -------------------------------------------------------------------------------------------------


def _cut(event: Event, text: Text, chars: int, collectives: int) -> Event:
    """Stacks down to the runner, looks with the newest collectives only, every text without this machine and, but for
    stacks, no longer than `chars`.
    """
    fact = event.fact
    if isinstance(fact, ev.StackTaken):
        fact, chars = replace(fact, text=_stack(fact.text)), MAX_CASE_BYTES
    if isinstance(fact, ev.FlightRecorded):
        fact = replace(fact, entries=fact.entries[-collectives:])
    data = _each_text(encode_fact(fact), lambda said: text(cut_middle(said, chars)))
    return replace(event, fact=decode_fact(data))


def _stack(dump: str) -> str:
    """Of each thread what the runner called; of threads that it didn't start the innermost frames."""
    threads = re.split(r"^(?=(?:Current thread|Thread) )", dump, flags=re.MULTILINE)
    return "\n".join(_thread(thread) for thread in threads if thread.strip())


def _thread(text: str) -> str:
    called, runner, _ = text.partition(found[0]) if (found := _RUNNER.search(text)) else (text, "", "")
    lines = called.splitlines()
    return "\n".join(lines if runner else lines[: 1 + OTHER_FRAMES])


def _each_text(value: Any, change: Text) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(item, change) for key, item in value.items()}
    return [_each_text(item, change) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Neutral:
    """Takes this machine out of a text: what lies below `root` or in an installation of Python keeps its name there,
    other absolute paths keep their last part only.
    """

    root: Path
    lane_dir: Path
    host: str = field(default_factory=socket.gethostname)

    def __call__(self, text: str) -> str:
        text = text.replace(str(self.lane_dir), f"{CWD}/.megacpp").replace(str(self.root), CWD)
        text = _INSTALLED.sub(r"/usr/lib/\1/", text)
        text = re.sub(r"/tmp/megacpp-\w+", "/tmp/megacpp", text)
        text = _PATH.sub(lambda match: _known(match[0]), text)
        return re.sub(rf"\b{re.escape(self.host)}\b", "box", text) if len(self.host) > 3 else text


def _known(path: str) -> str:
    return path if path.startswith(PLACES) else f"/elsewhere/{path.rpartition('/')[2]}"


def strange_paths(text: str) -> set[str]:
    """Absolute paths in a text that say something about a machine."""
    return {path for path in _PATH.findall(text) if not path.startswith(PLACES)}
