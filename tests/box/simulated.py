"""Owns simulated ranks for the tests of the box: programs in, what a box sees of them at any time out.

Time is a number, nobody sleeps. Must not know limits, rules or what is expected.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import TypeAlias

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import FlightOrigin, ReportOutcome, StackMethod, TestPhase
from tests.recording.digesting import digests

FOREVER = inf
MAIN_THREAD = "0x12"
FASTEST_S, SLOWEST_S = 0.1, 1.0
_C10D = "/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
_STACK = (
    'Thread 0x0000000000000012 (most recent call first):\n  File "{}", line 9 in f\n  File "/u/t.py", line 4 in t\n'
)
IMPORTING = """Thread 0x0000000000000012 (most recent call first):
  File "/lib/python3.11/enum.py", line 826 in __setattr__
  File "/lib/python3.11/site-packages/torch/_dynamo/utils.py", line 2874 in <module>
  File "/lib/python3.11/site-packages/torch/__init__.py", line 2797 in compile
  File "/u/t.py", line 4 in t
"""
_COUNTERS = {
    "compile": ("compile_inductor",),
    "stuckcompile": ("compile_inductor",),
    "lock": ("compile_inductor", "filelock.enter"),
    "asleep": ("compile_inductor",),
}
BLOCKED, AT_HOME = _STACK.format(_C10D).replace("in f", "in recv"), _STACK.format("/u/model.py")


@dataclass(frozen=True)
class Work:
    """The main thread computes."""

    seconds: float


@dataclass(frozen=True)
class Idle:
    """The main thread sleeps, reads a file, waits for a child: anything but communication."""

    seconds: float


@dataclass(frozen=True)
class Compile:
    seconds: float


@dataclass(frozen=True)
class StuckCompile:
    """The counters say compiling, and nothing moves: it is stuck, waits for another's lock, or sleeps."""

    seconds: float
    lock: bool = False
    asleep: bool = False


@dataclass(frozen=True)
class Import:
    """The main thread loads torch's compiler, of which no counter tells."""

    seconds: float


@dataclass(frozen=True)
class Receive:
    """Waits for a message; the flight recorder shows nothing of it."""

    seconds: float


@dataclass(frozen=True)
class Collect:
    """A collective of `ranks` (None: everybody). It `lasts_s` once all came; without `wait` it goes on meanwhile."""

    op: str = "gloo:all_reduce"
    group: str = "0"
    ranks: tuple[int, ...] | None = None
    numel: int = 8
    wait: bool = True
    lasts_s: float = 0.0


@dataclass(frozen=True)
class Phase:
    """The rank says that it enters a phase, or leaves it."""

    name: str
    over: bool = False


@dataclass(frozen=True)
class Fail:
    """An exception; what follows in the program is teardown."""

    error: ev.Error | None = None


@dataclass(frozen=True)
class Die:
    """The process ends."""

    code: int | None = None
    signal: str | None = "SIGKILL"


Step: TypeAlias = Work | Idle | Compile | StuckCompile | Import | Receive | Collect | Phase | Fail | Die
Program: TypeAlias = Sequence[Step]


@dataclass
class Entry:
    group: str
    seq: int
    step: Collect
    entered_s: float
    done_s: float = inf


@dataclass
class Life:
    """What truly happens to one rank. A span is (start, end, kind); `spin` is a wait that burns CPU."""

    clock_s: float
    spans: list[tuple[float, float, str]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    phases: list[tuple[float, Phase]] = field(default_factory=list)
    failed_s: float | None = None
    failure: Fail = Fail()
    finished_s: float | None = None
    died: tuple[float, Die] | None = None
    position: int = 0

    @property
    def end_s(self) -> float:
        return min(inf if self.finished_s is None else self.finished_s, inf if self.died is None else self.died[0])

    def spend(self, seconds: float, kind: str) -> None:
        self.spans.append((self.clock_s, self.clock_s + seconds, kind))
        self.clock_s += seconds

    def spent_s(self, until_s: float, *kinds: str) -> float:
        return sum(max(0.0, min(until_s, b) - a) for a, b, kind in self.spans if kind in kinds)

    def doing(self, at_s: float) -> str:
        return next((kind for a, b, kind in reversed(self.spans) if a <= at_s < b), "")


class Kernel(Enum):
    """How CPU time is reported: exactly, with the number of runs, or by ticks."""

    LINUX = "linux"
    GVISOR = "gvisor"


_MAIN_COMPUTES = ("work", "spin", "import")
_COMMUNICATES = ("receive", "wait")


class Ranks:
    """A world running one program per rank since `start_s`, all worlds of a test on one `kernel`."""

    kernel = Kernel.LINUX

    def __init__(self, programs: Sequence[Program], start_s: float = 0.0) -> None:
        self.programs = programs
        self.start_s = start_s
        self.lives = [Life(start_s) for _ in programs]
        self._arrived: dict[tuple[str, int], dict[int, Entry]] = defaultdict(dict)
        while any(self._advance(r) for r in range(len(programs))):
            pass
        for life in self.lives:
            for entry in life.entries:
                entry.done_s = self._done_s(entry)
            if life.end_s == inf and life.clock_s < inf:
                life.spans.append((life.clock_s, inf, _waiting(life.entries[-1].step)))

    @property
    def ended(self) -> bool:
        """Whether all finish, none dies."""
        return all(life.finished_s is not None for life in self.lives)

    def _advance(self, rank: int) -> bool:
        """Takes one step; false when there is none or it can't be ended yet."""
        life = self.lives[rank]
        if life.clock_s == inf or life.end_s < inf:
            return False
        if life.position == len(self.programs[rank]):
            life.finished_s = life.clock_s
            return True
        step = self.programs[rank][life.position]
        match step:
            case Collect():
                if not self._collect(rank, life, step):
                    return False
            case Fail():
                if life.failed_s is None:
                    life.failed_s, life.failure = life.clock_s, step
            case Phase():
                life.phases.append((life.clock_s, step))
            case Die():
                life.died = life.clock_s, step
            case StuckCompile(lock=True):
                life.spend(step.seconds, "lock")
            case StuckCompile(asleep=True):
                life.spend(step.seconds, "asleep")
            case Import():
                life.spend(step.seconds, "import")
            case _:
                life.spend(step.seconds, type(step).__name__.lower())
        life.position += 1
        return True

    def _collect(self, rank: int, life: Life, step: Collect) -> bool:
        entry = life.entries[-1] if life.entries and life.entries[-1].step is step else None
        if entry is None or entry.done_s == -1:
            seq = 1 + sum(e.group == step.group for e in life.entries)
            entry = Entry(step.group, seq, step, life.clock_s)
            life.entries.append(entry)
            self._arrived[step.group, seq][rank] = entry
        if step.wait:
            done_s = self._done_s(entry)
            if done_s == inf:
                return False
            life.spend(max(0.0, done_s - life.clock_s), _waiting(step))
        entry.done_s = -1  # left behind: the same step again is the next collective
        return True

    def _done_s(self, entry: Entry) -> float:
        """When all members had come with the same collective."""
        members = entry.step.ranks or range(len(self.lives))
        arrived = self._arrived[entry.group, entry.seq]
        issued = {(e.step.op, e.step.numel) for e in arrived.values()}
        whole = len(issued) == 1 and all(m in arrived for m in members)
        return max(arrived[m].entered_s for m in members) + entry.step.lasts_s if whole else inf

    # -- what can be seen ----------------------------------------------------------------------------------

    def sample(self, rank: int, test: int, at_s: float) -> ev.Sampled:
        life = self.lives[rank]
        if life.died is not None and at_s >= life.died[0]:
            return ev.Sampled(rank, test, False, "?", (), 0.0, 0.0)
        compiling = _COUNTERS.get(life.doing(at_s), ())
        return ev.Sampled(
            rank=rank,
            test=test,
            answered=True,
            state="R" if self.kernel is Kernel.GVISOR and life.doing(at_s) in _MAIN_COMPUTES else "S",
            compiling=compiling,
            compile_s=0.0,
            cpu_s=self._charged_s(life, at_s, *_MAIN_COMPUTES, "compile"),
            main_cpu_s=self._charged_s(life, at_s, *_MAIN_COMPUTES),
            main_runs=None if self.kernel is Kernel.GVISOR else sum(a <= at_s for a, _, _ in life.spans),
            packets=self._packets(at_s) if self.kernel is Kernel.GVISOR else None,
        )

    def _packets(self, at_s: float) -> int:
        """Each message that came, and each collective that ended, for whichever rank."""
        return sum(b <= at_s for life in self.lives for _, b, kind in life.spans if kind in _COMMUNICATES)

    def _charged_s(self, life: Life, at_s: float, *kinds: str) -> float:
        """gVisor charges a thread that sleeps 10 ms at a time for up to 65 % of the time, in ticks of 10 ms."""
        spent_s = life.spent_s(at_s, *kinds)
        if self.kernel is Kernel.GVISOR:
            return round(0.95 * spent_s + 0.65 * life.spent_s(at_s, "idle"), 2)
        return round(spent_s, 2)

    def flight(self, rank: int, test: int, at_s: float, origin: FlightOrigin) -> ev.FlightRecorded | None:
        entered = [e for e in self.lives[rank].entries if e.entered_s <= at_s]
        if not entered or not self._alive(rank, at_s):
            return None
        newest = {e.group: e for e in entered}.values()
        shown = [e for e in entered if origin != "poll" or e.done_s > at_s or any(e is n for n in newest)]
        groups = sorted({e.group for e in entered})
        counts = [[e for e in entered if e.group == g] for g in groups]
        status = [ev.GroupStatus(i, len(c), sum(e.done_s <= at_s for e in c)) for i, c in enumerate(counts)]
        entries = tuple(
            ev.Collective(
                group=e.group,
                seq=e.seq,
                op=e.step.op,
                numel_in=e.step.numel,
                numel_out=e.step.numel,
                dtype="Float",
                sizes=f"[[{e.step.numel}]]",
                entered_s=e.entered_s,
                done=e.done_s <= at_s,
                pg=groups.index(e.group),
            )
            for e in shown
        )
        return ev.FlightRecorded(rank, test, origin, entries, tuple(status))

    def stack(self, rank: int, test: int, at_s: float) -> ev.StackTaken:
        doing = self.lives[rank].doing(at_s)
        text = BLOCKED if doing in ("receive", "wait", "spin") else IMPORTING if doing == "import" else AT_HOME
        line = "os.waitpid(pid, 0)" if doing == "stuckcompile" else "time.sleep(1)"
        return ev.StackTaken(rank, test, StackMethod.TRACEBACK, True, text, line)

    def _alive(self, rank: int, at_s: float) -> bool:
        died = self.lives[rank].died
        return died is None or at_s < died[0]

    def spoken(self, test: int) -> Iterator[tuple[float, str, ev.Fact]]:
        """What ranks say by themselves, and their ends, with time and source."""
        for rank, life in enumerate(self.lives):
            source = f"rank {rank}"
            for group, members in self._groups(rank).items():
                yield self.start_s, source, ev.GroupCreated(rank, test, group, members)
            yield self.start_s, source, ev.Reported(rank, test, TestPhase.SETUP, ReportOutcome.PASSED, 0.0)
            yield self.start_s, source, ev.PhaseStarted(rank, test, "call")
            for at_s, phase in life.phases:
                yield at_s, source, (ev.PhaseEnded if phase.over else ev.PhaseStarted)(rank, test, phase.name)
            if life.failed_s is not None:
                yield from self._last_look(rank, test, life.failed_s, FlightOrigin.FAILURE)
                reported = ev.Reported(rank, test, TestPhase.CALL, ReportOutcome.FAILED, 1.0, error=life.failure.error)
                yield life.failed_s, source, reported
            if life.finished_s is not None:
                if life.failed_s is None:
                    yield life.finished_s, source, ev.Reported(rank, test, TestPhase.CALL, ReportOutcome.PASSED, 1.0)
                yield life.finished_s, source, ev.Reported(rank, test, TestPhase.TEARDOWN, ReportOutcome.PASSED, 0.0)
                yield from self._last_look(rank, test, life.finished_s, FlightOrigin.FINISH)
                flight = self.flight(rank, test, life.finished_s, FlightOrigin.FINISH)
                hashed = digests(flight.entries) if flight is not None else {}
                yield life.finished_s, source, ev.Finished(rank, test, True, False, len(life.entries), 0, hashed)
            if life.died is not None:
                yield life.died[0], "box", ev.RankExited(rank, life.died[1].code, life.died[1].signal)

    def _last_look(
        self, rank: int, test: int, at_s: float, origin: FlightOrigin
    ) -> Iterator[tuple[float, str, ev.Fact]]:
        flight = self.flight(rank, test, at_s, origin)
        if flight is not None:
            yield at_s, f"rank {rank}", flight

    def _groups(self, rank: int) -> Mapping[str, tuple[int, ...]]:
        return {s.group: s.ranks for s in self.programs[rank] if isinstance(s, Collect) and s.ranks}


def _waiting(step: Collect) -> str:
    return "spin" if step.op.startswith("nccl") else "wait"


Tell: TypeAlias = Callable[[float, str, ev.Fact], None]


class Watching:
    """Looks at simulated ranks as the box's watch does, and hands on what they say: facts in order of time."""

    def __init__(self, ranks: Ranks, test: int, tell: Tell, offsets: Sequence[float] = (0.0,)) -> None:
        self.ranks = ranks
        self.test = test
        self._tell = tell
        self._seen: dict[int, tuple[object, object]] = {}
        self._since_s = ranks.start_s
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        for at_s, source, fact in sorted(ranks.spoken(test), key=lambda said: said[0]):
            self._plan(at_s, lambda t, s=source, f=fact: self._say(t, s, f))  # type: ignore[misc]
        self._offsets = offsets
        self._look_soon(ranks.start_s)

    def advance(self, until_s: float) -> None:
        while self._due and self._due[0][0] <= until_s:
            at_s, _, do = heapq.heappop(self._due)
            do(at_s)

    def evidence(self, at_s: float, stacks_of: tuple[int, ...] | None = None) -> None:
        """Everything of everybody, or only the stacks of some."""
        for rank, life in enumerate(self.ranks.lives):
            if (life.died is not None and at_s >= life.died[0]) or (stacks_of is not None and rank not in stacks_of):
                continue
            if stacks_of is None:
                self._tell(at_s, "box", self.ranks.sample(rank, self.test, at_s))
                flight = self.ranks.flight(rank, self.test, at_s, FlightOrigin.EVIDENCE)
                if flight is not None:
                    self._tell(at_s, "box", flight)
            self._tell(at_s, "box", self.ranks.stack(rank, self.test, at_s))

    def _plan(self, at_s: float, do: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), do))

    def _say(self, at_s: float, source: str, fact: ev.Fact) -> None:
        self._tell(at_s, source, fact)
        if isinstance(fact, ev.Finished | ev.RankExited) or getattr(fact, "outcome", "") == "failed":
            self._look_soon(at_s)

    def _look_soon(self, at_s: float) -> None:
        self._since_s = at_s
        for rank in range(len(self.ranks.lives)):
            first_s = at_s + FASTEST_S + self._offsets[rank % len(self._offsets)]
            self._plan(first_s, lambda t, r=rank: self._look_on(r, t, at_s))  # type: ignore[misc]

    def look_again(self, at_s: float, stacks_of: tuple[int, ...] = ()) -> None:
        for rank in range(len(self.ranks.lives)):
            self._look(rank, at_s)
        self.evidence(at_s, stacks_of)

    def _look(self, rank: int, at_s: float) -> None:
        sample = self.ranks.sample(rank, self.test, at_s)
        flight = self.ranks.flight(rank, self.test, at_s, FlightOrigin.POLL)
        last_sample, last_flight = self._seen.get(rank, (None, None))
        self._seen[rank] = sample, flight
        if sample != last_sample:
            self._tell(at_s, "box", sample)
        if flight is not None and flight != last_flight:
            self._tell(at_s, "box", flight)

    def _look_on(self, rank: int, at_s: float, since_s: float) -> None:
        """One of a row of looks, until something happens."""
        if since_s == self._since_s:
            self._look(rank, at_s)
            pause_s = min(SLOWEST_S, max(FASTEST_S, 0.05 * (at_s - since_s)))
            self._plan(at_s + pause_s, lambda t: self._look_on(rank, t, since_s))
