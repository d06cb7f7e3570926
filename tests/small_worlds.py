"""Owns worlds of a few ranks that are simulated: programs of collectives with faults planted in some ranks, watched by
the box's own rules. Must not know verdicts.

Every rank runs the same program but for the faults planted in it, so that who is at fault is known, and no other rank
may be blamed. Time passes in steps; at each the box looks at all ranks, as the real one does, and asks `box.alarms`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import product
from typing import NamedTuple

from pytest_megacpp.box.alarms import Clocks, alarm, to_look_at, to_probe
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import FlightOrigin, ReportOutcome, SettingOrigin, TestEnd, TestPhase
from tests.scenario import C10D, PEER_CLOSED, TIMED_OUT, USER_FILE, FakeBox

STEP_S = 0.1
LIMITS = ev.Limits(stall=4.0, skew=4.0, test=40.0)
LONGEST_S = 60.0


@dataclass(frozen=True)
class Meet:
    """A collective of `group`, in which a rank waits for all `members`, unless it is asynchronous. Or, as `recv`, a
    message of gloo from the first member to the second, which no recorder shows.
    """

    op: str = "all_reduce"
    group: str = "0"
    members: tuple[int, ...] = (0, 1, 2)
    is_async: bool = False

    @property
    def is_message(self) -> bool:
        return self.op == "recv"

    def __str__(self) -> str:
        where = "" if self.group == "0" else f"({','.join(map(str, self.members))})"
        return f"{'async ' if self.is_async else ''}{self.op}{where}"


class Fault(StrEnum):
    """What a rank does in place of, or before, one step of its program."""

    RAISES = "raises before"
    DIES = "dies before"
    SLEEPS = "sleeps for ever before"
    COMPUTES = "computes for ever before"
    LATE = "comes late to"
    COMPILES = "compiles for long before"
    COMPILES_ON = "compiles for ever before"
    KERNEL = "queues an endless kernel before"
    LEAVES = "returns before"
    SKIPS = "skips the test before"
    OMITS = "omits"
    REPEATS = "repeats"
    CHANGES = "issues another operation in place of"
    GIVES_UP = "gives up early in"


class Planted(NamedTuple):
    """A fault of one rank at a step of its program; steps of the teardown count on."""

    rank: int
    fault: Fault
    step: int

    def __str__(self) -> str:
        return f"rank {self.rank} {self.fault} step {self.step}"


@dataclass(frozen=True)
class Program:
    """What all ranks run. `expects`: the test is marked xfail. `patience_s`: until a wait times out."""

    call: tuple[Meet, ...]
    teardown: tuple[Meet, ...] = ()
    expects: bool = False
    patience_s: float = float("inf")
    size: int = 3

    @property
    def steps(self) -> tuple[Meet, ...]:
        return self.call + self.teardown

    def __str__(self) -> str:
        teardown = f" | {', '.join(map(str, self.teardown))}" if self.teardown else ""
        more = (" xfail" if self.expects else "") + (f" patience {self.patience_s:g} s" if self.patience_s < 99 else "")
        return f"[{', '.join(map(str, self.call))}{teardown}]{more}"


class Ended(Exception):
    """A rank's process ends."""


class Raised(Exception):
    """A rank's code raises; `peer` is what it says of a lost peer."""

    def __init__(self, peer: str = "") -> None:
        super().__init__(peer)
        self.peer = peer


class Skipped(Exception):
    pass


class Returned(Exception):
    pass


@dataclass
class Rank:
    """One simulated rank: a generator that yields at each step of time, and what a look at it shows."""

    number: int
    busy: bool = False
    waits_in: Meet | None = None
    asleep: bool = False
    cpu_s: float = 0.0
    compiled_s: float = 0.0
    compiles: bool = False
    runs: int = 0
    seqs: dict[str, int] = field(default_factory=dict)
    shown: int = 0
    is_over: bool = False
    is_gone: bool = False


class Live(FakeBox):
    """A box whose events are folded as they come."""

    def __init__(self, size: int) -> None:
        self.live = Timeline()
        super().__init__(size, limits=LIMITS)

    def say(self, fact: ev.Fact, source: str = "box", world: str | None = None) -> "FakeBox":
        super().say(fact, source, world)
        self.live.add(self.events[-1])
        return self


class World:
    """A run of one program with its faults."""

    def __init__(self, program: Program, planted: tuple[Planted, ...]) -> None:
        self.program = program
        self.faults = {(p.rank, p.step): p.fault for p in planted}
        self.box = Live(program.size)
        self.ranks = [Rank(n) for n in range(program.size)]
        self.came: dict[tuple[str, int], dict[int, str]] = {}
        self.broken: set[tuple[str, int]] = set()  # groups, and ranks that gave up in them
        self.given_up: set[tuple[str, int]] = set()  # collectives that never end
        self.sent: dict[tuple[int, ...], int] = {}
        self.failed: set[int] = set()
        self.reached: list[Planted] = []  # the faults that took effect

    def __repr__(self) -> str:
        return f"{self.program}: {'; '.join(f'rank {r} {fault} step {n}' for (r, n), fault in self.faults.items())}"

    # -- ranks -------------------------------------------------------------------------------------------------

    def life(self, rank: Rank) -> Iterator[None]:
        """What one rank does in the test, a yield for each step of time."""
        steps = list(enumerate(self.program.steps))
        try:
            yield from self._part(rank, steps[: len(self.program.call)], TestPhase.CALL)
            self.box.phase("teardown", rank.number)
            yield from self._part(rank, steps[len(self.program.call) :], TestPhase.TEARDOWN)
        except Ended:
            rank.is_gone = True
            self.box.exits(rank.number, 3)
            return
        rank.is_over = True
        self.box.rank(ev.Finished(rank.number, self.box.index, True))

    def _part(self, rank: Rank, steps: list[tuple[int, Meet]], when: TestPhase) -> Iterator[None]:
        try:
            for number, meet in steps:
                if rank.number in meet.members:
                    yield from self._step(rank, number, meet)
            yield from self._works(rank, 2)
            yield from self._ends_part(rank)
        except Raised as error:
            self._fails(rank, error, when)
        except Skipped:
            self.box.skips(rank.number, when=when)
        except Returned:
            self.box.reports(when, rank.number)
        else:
            self.box.reports(when, rank.number)

    def _ends_part(self, rank: Rank) -> Iterator[None]:
        """What a rank waits for before it reports."""
        yield from ()

    def _hangs_on_device(self, rank: Rank) -> None:
        """Ranks without a device have no kernels."""

    def _moves(self) -> None:
        """What happens in a step of time without the ranks."""

    def _prepare(self) -> None:
        """What is recorded before the test begins."""

    def _fails(self, rank: Rank, error: Raised, when: TestPhase) -> None:
        self.failed.add(rank.number)
        kind, said = ("RuntimeError", error.peer) if error.peer else ("ValueError", "no shards")
        raised_in = C10D if error.peer else ""
        if self.program.expects and when is TestPhase.CALL:
            if self.box._entered[rank.number]:
                self.box._flight(rank.number, FlightOrigin.FAILURE, source=f"rank {rank.number}")
            found = ev.Error(kind, said, "suite/train.py", 31, f"E   {kind}: {said}", raised_in=raised_in)
            self.box.reports(when, rank.number, ReportOutcome.SKIPPED, error=found, xfail="known")
        else:
            self.box.raises(rank.number, kind, said, when=when, raised_in=raised_in)

    def _step(self, rank: Rank, number: int, meet: Meet) -> Iterator[None]:
        yield from self._works(rank, 2)
        if fault := self.faults.get((rank.number, number)):
            self.reached.append(Planted(rank.number, fault, number))
        match fault:
            case Fault.RAISES:
                raise Raised
            case Fault.DIES:
                raise Ended
            case Fault.SLEEPS:
                rank.asleep = True
                while True:
                    yield
            case Fault.COMPUTES:
                while True:
                    yield from self._works(rank, 1)
            case Fault.COMPILES:
                yield from self._compiles(rank, 25)
            case Fault.COMPILES_ON:
                yield from self._compiles(rank, 10_000)
            case Fault.KERNEL:
                self._hangs_on_device(rank)
            case Fault.LEAVES:
                raise Returned
            case Fault.SKIPS:
                raise Skipped
            case Fault.OMITS:
                return
            case Fault.LATE:
                yield from self._works(rank, 25)
            case Fault.REPEATS:
                yield from self._meets(rank, meet)
            case Fault.CHANGES:
                if meet.is_message:
                    return
                meet = replace(meet, op="broadcast")
            case Fault.GIVES_UP:
                yield from self._meets(rank, meet, patience_s=1.0)
                return
            case None:
                pass
        yield from self._meets(rank, meet)

    def _compiles(self, rank: Rank, steps: int) -> Iterator[None]:
        rank.compiles = True
        for _ in range(steps):
            rank.compiled_s += STEP_S
            yield from self._works(rank, 1)
        rank.compiles = False

    def _works(self, rank: Rank, steps: int) -> Iterator[None]:
        rank.busy = True
        for _ in range(steps):
            rank.cpu_s += STEP_S
            rank.runs += 3
            yield
        rank.busy = False

    def _meets(self, rank: Rank, meet: Meet, patience_s: float | None = None) -> Iterator[None]:
        if meet.is_message:
            yield from self._message(rank, meet, patience_s or self.program.patience_s)
            return
        seq = rank.seqs[meet.group] = rank.seqs.get(meet.group, 0) + 1
        came = self.came.setdefault((meet.group, seq), {})
        came[rank.number] = meet.op
        self.box.enters(rank.number, f"gloo:{meet.op}", seq, group=meet.group)
        if meet.is_async:
            yield
            return
        began_s, patience_s = self.box.now_s, patience_s or self.program.patience_s
        rank.waits_in = meet
        try:
            while not self._is_done(meet.group, seq):
                if any(self.ranks[m].is_gone for m in meet.members) or self._is_broken(meet, rank):
                    self._drop(rank, seq)
                    raise Raised(PEER_CLOSED)
                if self.box.now_s - began_s > patience_s:
                    self._drop(rank, seq)
                    raise Raised(TIMED_OUT.replace("6000ms", f"{patience_s * 1000:.0f}ms"))
                yield
        finally:
            rank.waits_in = None
            rank.runs += 1
        yield

    def _message(self, rank: Rank, meet: Meet, patience_s: float) -> Iterator[None]:
        source = meet.members[0]
        if rank.number == source:
            self.sent[meet.members] = self.sent.get(meet.members, 0) + 1
            yield
            return
        began_s, rank.waits_in = self.box.now_s, meet
        try:
            while not self.sent.get(meet.members, 0):
                if self.ranks[source].is_gone:
                    raise Raised(PEER_CLOSED)
                if self.box.now_s - began_s > patience_s:
                    raise Raised(TIMED_OUT.replace("6000ms", f"{patience_s * 1000:.0f}ms"))
                yield
            self.sent[meet.members] -= 1
        finally:
            rank.waits_in = None
            rank.runs += 1
        yield

    def _is_done(self, group: str, seq: int) -> bool:
        came = self.came[group, seq]
        members = next(m.members for m in self.program.steps if m.group == group)
        return (group, seq) not in self.given_up and {*came} == {*members} and len({*came.values()}) == 1

    def _is_broken(self, meet: Meet, rank: Rank) -> bool:
        return any((meet.group, m) in self.broken for m in meet.members if m != rank.number)

    def _drop(self, rank: Rank, seq: int) -> None:
        """Its connections in a group close when it gives up in it."""
        if rank.waits_in is not None:
            self.broken.add((rank.waits_in.group, rank.number))
            self.given_up.add((rank.waits_in.group, seq))
        self.box._close(rank.number)

    # -- the box -----------------------------------------------------------------------------------------------

    def run(self) -> Timeline:
        self.box.begins()
        for group, members in sorted(
            {(m.group, m.members) for m in self.program.steps if m.group != "0" and not m.is_message}
        ):
            self.box.announces(group, members)
        lives = [self.life(rank) for rank in self.ranks]
        clocks, looked_again = Clocks(), False
        while True:
            for life in lives:
                next(life, None)
            self._moves()
            self.box.after(STEP_S)
            self._look()
            view = self.box.live.tests[0]
            if not view.unfinished() and not any(v.gone for v in view.ranks.values()):
                self.box.ends()
                break
            acted = alarm(view, clocks, self.box.now_s)
            if acted is not None and acted.why.rests_on_looks and not looked_again:
                looked_again = True
                self._stacks(to_look_at(view, acted))
                continue
            looked_again = False
            if acted is not None:
                self._acts(acted)
                break
            self._stacks(to_probe(view, clocks, self.box.now_s))
            assert self.box.now_s < LONGEST_S, "the box lets it go on"
        self.box.done()
        return self.box.live

    def _look(self) -> None:
        for rank in self.ranks:
            if rank.is_gone:
                continue
            state, compiling = "R" if rank.busy else "S", ("entire_frame_compile",) if rank.compiles else ()
            n, cpu_s = rank.number, 1 + rank.cpu_s
            self.box.box(ev.Sampled(n, 0, True, state, compiling, rank.compiled_s, cpu_s, cpu_s, 0, rank.runs))
            self._poll(rank)

    def _poll(self, rank: Rank) -> None:
        entries = self.box._entered[rank.number]
        ended = [key for key, entry in entries.items() if not entry.done and self._is_done(*key)]
        for key in ended:
            entries[key] = replace(entries[key], done=True)
        if ended:
            self.box._flight(rank.number, FlightOrigin.POLL)

    def _stacks(self, ranks: tuple[int, ...]) -> None:
        for number in ranks:
            rank = self.ranks[number]
            if rank.is_gone:
                continue
            if rank.waits_in is not None:
                self.box.stack(number, (C10D, 2400, rank.waits_in.op), (C10D, 81, "wrapper"), (USER_FILE, 52, "step"))
            elif rank.is_over:
                self.box.stack(number, ("/usr/lib/python3.11/site-packages/pytest_megacpp/rank/agent.py", 9, "wait"))
            else:
                self.box.at(number)

    def _acts(self, acted: ev.Acted) -> None:
        self.box.acts(acted.why, acted.detail, acted.waiting, acted.missing, acted.compiling, acted.waited_s)
        self._stacks(tuple(r.number for r in self.ranks if not r.is_over and not r.is_gone))
        self.box.after(0.1).box(ev.TestEnded(0, TestEnd.ABORTED, acted.why))
        for rank in self.ranks:
            if not rank.is_gone:
                self.box.box(ev.RankExited(rank.number, None, "SIGTERM", False, True))
        self.box.after(0.1).box(ev.WorldEnded(f"after {acted.why}"))
        self.box.world = ""


def faults_of(program: Program) -> tuple[Planted, ...]:
    """Returns every single fault that can be planted in this program."""
    return tuple(
        Planted(rank, fault, step)
        for rank, fault, (step, meet) in product(range(program.size), Fault, enumerate(program.steps))
        if rank in meet.members
    )


@dataclass
class Device:
    """What a rank's host has queued and its device has not come through: kernels, by the steps of time that are left of
    them, and collectives.
    """

    queue: list[float | tuple[str, int]] = field(default_factory=list)
    begun: set[tuple[str, int]] = field(default_factory=set)


class DeviceWorld(World):
    """Ranks with a device each: hosts queue collectives and go on, devices come to them one after the other. A host
    waits, and burns CPU, in barriers and at the end of each part. Nobody notices that a peer is gone.
    """

    def __init__(self, program: Program, planted: tuple[Planted, ...]) -> None:
        super().__init__(program, planted)
        self.devices = [Device() for _ in self.ranks]
        self.done: set[tuple[str, int]] = set()

    def _prepare(self) -> None:
        self.box.box(ev.EnvironmentSet("TORCH_NCCL_ENABLE_TIMING", "1", SettingOrigin.PLUGIN, "who began"))

    def _ends_part(self, rank: Rank) -> Iterator[None]:
        yield from self._synchronizes(rank)

    def _meets(self, rank: Rank, meet: Meet, patience_s: float | None = None) -> Iterator[None]:
        seq = rank.seqs[meet.group] = rank.seqs.get(meet.group, 0) + 1
        self.came.setdefault((meet.group, seq), {})[rank.number] = meet.op
        self.box.enters(rank.number, f"nccl:{meet.op}", seq, group=meet.group)
        self.devices[rank.number].queue += [1, (meet.group, seq)]
        yield
        if meet.op == "barrier":
            rank.waits_in = meet
            yield from self._synchronizes(rank)
            rank.waits_in = None

    def _synchronizes(self, rank: Rank) -> Iterator[None]:
        rank.busy = True
        while self.devices[rank.number].queue:
            rank.cpu_s += STEP_S
            yield
        rank.busy = False

    def _hangs_on_device(self, rank: Rank) -> None:
        self.devices[rank.number].queue.append(float("inf"))

    def _moves(self) -> None:
        """Devices go on by one step of time."""
        for rank, device in zip(self.ranks, self.devices, strict=True):
            if rank.is_gone or not device.queue:
                continue
            first = device.queue[0]
            if isinstance(first, tuple):
                device.begun.add(first)
                self._marks(rank, first)
            elif first > 0:
                device.queue[0] = first - 1
            else:
                device.queue.pop(0)
        for number, came in self.came.items():
            members = next(m.members for m in self.program.steps if m.group == number[0])
            begun = all(number in self.devices[m].begun and not self.ranks[m].is_gone for m in members)
            if number not in self.done and begun and len({*came.values()}) == 1:
                self._completes(number, members)

    def _completes(self, number: tuple[str, int], members: tuple[int, ...]) -> None:
        self.done.add(number)
        for member in members:
            self.devices[member].queue.pop(0)
            self._marks(self.ranks[member], number, done=True)

    def _marks(self, rank: Rank, number: tuple[str, int], *, done: bool = False) -> None:
        """What its device has begun or come through, in the recorder."""
        entry = self.box._entered[rank.number][number]
        if not entry.started or entry.done != done:
            self.box._entered[rank.number][number] = replace(entry, started=True, done=done)
            self.box._flight(rank.number, FlightOrigin.POLL)

    def _poll(self, rank: Rank) -> None:
        pass
