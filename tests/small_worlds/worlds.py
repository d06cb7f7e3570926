"""Owns worlds of a few ranks that are simulated: programs of collectives with faults planted in some ranks, watched by
the box's own rules. Must not know verdicts.

Every rank runs the same program but for the faults planted in it, so that who is at fault is known, and no other rank
may be blamed. Time passes in steps; at each the box looks at all ranks, as the real one does, and asks `box.alarms`.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from pytest_megacpp.box.alarms import Clocks, alarm, to_look_at, to_probe
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import FlightOrigin, ReportOutcome, TestPhase
from tests.scenario import C10D, PEER_CLOSED, USER_FILE, FakeBox
from tests.small_worlds.conditions import ORDINARY, Conditions
from tests.small_worlds.programs import Activity, CatchesTimeOut, Delay, Fault, Meet, Planted, Program, Spell
from tests.small_worlds.ranks import Ended, OwnTimeOut, Raised, Rank, Returned, Skipped, TimedOut, timed_out

STEP_S = 0.1
LIMITS = ev.Limits(stall=4.0, skew=4.0, test=40.0)
LONGEST_S = 60.0
IMPORTS_COMPILER = (
    ("<frozen importlib._bootstrap>", 1, "_find_and_load"),
    ("/usr/lib/python3.11/site-packages/torch/_inductor/graph.py", 1, "<module>"),
    ("/usr/lib/python3.11/site-packages/torch/_dynamo/eval_frame.py", 5, "compile_wrapper"),
    (USER_FILE, 88, "step"),
)


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
    """A run of one program with its faults, under some conditions."""

    def __init__(self, program: Program, planted: tuple[Planted, ...], conditions: Conditions = ORDINARY) -> None:
        self.program, self.conditions = program, conditions
        self.faults = {(p.rank, p.step): p.fault for p in planted}
        self.box = Live(program.size)
        self.ranks = [Rank(n) for n in range(program.size)]
        self.came: dict[tuple[str, int], dict[int, str]] = {}
        self.broken: set[tuple[str, int]] = set()  # groups, and ranks that gave up in them
        self.given_up: set[tuple[str, int]] = set()  # collectives that never end
        self.sent: dict[tuple[int, ...], int] = {}
        self.failed: set[int] = set()
        self.making: dict[str, set[int]] = {}  # groups, and who has come to make them
        self.reached: list[Planted] = []  # the faults that took effect
        self.patience_s = dict(enumerate(conditions.patience_s or (program.patience_s,) * program.size))
        self.random = random.Random(conditions.seed)

    def __repr__(self) -> str:
        faults = "; ".join(f"rank {rank} {fault} step {step}" for (rank, step), fault in self.faults.items())
        more = str(self.conditions)
        return f"{type(self).__name__} of {self.program.size}, {self.program}: {faults}{more and f' ({more})'}"

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
            self._passes(rank, when)
        else:
            self._passes(rank, when)

    def _ends_part(self, rank: Rank) -> Iterator[None]:
        """What a rank waits for before it reports."""
        yield from ()

    def _queues_kernel(self, rank: Rank, steps: float) -> None:
        """Ranks without a device have no kernels."""

    def _moves(self) -> None:
        """What happens in a step of time without the ranks."""

    def _prepare(self) -> None:
        """What is recorded before the test begins."""

    def _passes(self, rank: Rank, when: TestPhase) -> None:
        expects = self.program.expects and when is TestPhase.CALL
        if expects and self.program.strict:
            self.failed.add(rank.number)
            error = ev.Error("", "[XPASS(strict)] known", "", 0, "[XPASS(strict)] known")
            self.box.reports(when, rank.number, ReportOutcome.FAILED, error=error)
        elif expects:
            self.box.reports(when, rank.number, xfail="known")
        elif when is TestPhase.CALL and rank.number in self.failed:
            self.box.raises(rank.number, "Failed", "contains 1 failed subtest")
        else:
            self.box.reports(when, rank.number)

    def _fails(self, rank: Rank, error: Raised, when: TestPhase) -> None:
        self.failed.add(rank.number)
        kind, said, raised_in = error.kind, error.said, error.raised_in
        if self.program.expects and when is TestPhase.CALL:
            if self.box._entered[rank.number]:
                self.box._flight(rank.number, FlightOrigin.FAILURE, source=f"rank {rank.number}")
            found = ev.Error(kind, said, "suite/train.py", 31, f"E   {kind}: {said}", raised_in=raised_in)
            self.box.reports(when, rank.number, ReportOutcome.SKIPPED, error=found, xfail="known")
        else:
            causes = (ev.Cause("ValueError", "bad shard", USER_FILE, False),) if rank.handles and raised_in else ()
            self.box.raises(rank.number, kind, said, when=when, raised_in=raised_in, causes=causes)

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
                self._queues_kernel(rank, float("inf"))
            case Fault.LEAVES:
                raise Returned
            case Fault.SKIPS:
                raise Skipped
            case Fault.OMITS:
                return
            case Fault.SUBTEST:
                self.failed.add(rank.number)
                self.box.raises(rank.number, "ValueError", "bad shard")
                return
            case Fault.CATCHES:
                rank.handles = "except"
                return
            case Fault.FINALLY:
                yield from self._cleans_up(rank, number)
            case Fault.LATE:
                yield from self._works(rank, 25)
            case Fault.REPEATS:
                yield from self._meets(rank, meet)
            case Fault.CHANGES:
                if meet.is_message or meet.makes_group:
                    return
                meet = replace(meet, op="broadcast")
            case Fault.GIVES_UP:
                yield from self._meets(rank, meet, patience_s=2.0)
                return
            case Delay(spells):
                for spell in spells:
                    yield from self._spends(rank, spell)
            case CatchesTimeOut():
                yield from self._gives_up_on(rank, meet, fault)
                return
            case None:
                pass
        yield from self._meets(rank, meet)

    def _gives_up_on(self, rank: Rank, meet: Meet, fault: CatchesTimeOut) -> Iterator[None]:
        try:
            yield from self._meets(rank, meet, fault.patience_s)
        except Raised as error:
            if not isinstance(error, TimedOut) and not fault.lost_peers:
                raise

    def _spends(self, rank: Rank, spell: Spell) -> Iterator[None]:
        match spell.activity:
            case Activity.SLEEPS:
                yield from self._sleeps(spell.steps)
            case Activity.COMPUTES:
                yield from self._works(rank, spell.steps)
            case Activity.COMPILES:
                yield from self._compiles(rank, spell.steps)
            case Activity.IMPORTS:
                rank.imports = True
                yield from self._works(rank, spell.steps)
                rank.imports = False
            case Activity.IS_SILENT:
                rank.is_silent = True
                yield from self._works(rank, spell.steps)
                rank.is_silent = False
            case Activity.IS_STOPPED:
                rank.is_stopped = True
                yield from self._sleeps(spell.steps)
                rank.is_stopped = False
            case Activity.KERNEL:
                self._queues_kernel(rank, spell.steps)

    def _sleeps(self, steps: int) -> Iterator[None]:
        for _ in range(steps):
            yield

    def _cleans_up(self, rank: Rank, number: int) -> Iterator[None]:
        call = self.program.call
        last = [m for m in call[number + 1 :] if rank.number in m.members][-1:]
        rank.handles = "finally"
        for meet in last:
            yield from self._meets(rank, meet)
        rank.handles = ""
        raise Raised

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
        self._reports_what_it_handles(rank)
        if meet.group not in {"0", *rank.made} and any(
            m.makes_group and m.group == meet.group for m in self.program.steps
        ):
            if not meet.makes_group:
                raise Raised  # there is no such group
            yield from self._makes(rank, meet)
        elif meet.is_message:
            yield from self._message(rank, meet, patience_s or self.patience_s[rank.number])
        elif not meet.makes_group:
            yield from self._collective(rank, meet, patience_s or self.patience_s[rank.number])
        if rank.handles == "except":
            rank.handles = ""

    def _reports_what_it_handles(self, rank: Rank) -> None:
        if rank.handles:
            self.box.handles(rank.number, propagates=rank.handles == "finally")
        elif rank.has_reported:
            self.box.rank(ev.Handles(rank.number, self.box.index, None))
        rank.has_reported = bool(rank.handles)

    def _makes(self, rank: Rank, meet: Meet) -> Iterator[None]:
        """Nobody notices that a member is gone."""
        number, members = rank.number, meet.members
        came = self.making.setdefault(meet.group, set())
        came.add(number)
        place = members.index(number)
        self.box.rank(ev.GroupBegun(number, self.box.index, meet.group, members, len(members), True, number=place))
        rank.waits_in = meet
        while not came.issuperset(members):
            yield
        rank.waits_in = None
        rank.runs += 1
        rank.made.add(meet.group)
        self.box.rank(ev.GroupCreated(number, self.box.index, meet.group, members, "gloo"))
        yield

    def _collective(self, rank: Rank, meet: Meet, patience_s: float) -> Iterator[None]:
        seq = rank.seqs[meet.group] = rank.seqs.get(meet.group, 0) + 1
        came = self.came.setdefault((meet.group, seq), {})
        came[rank.number] = meet.op
        self.box.enters(rank.number, f"gloo:{meet.op}", seq, group=meet.group)
        if meet.is_async:
            yield
            return
        began_s = self.box.now_s
        rank.waits_in = meet
        try:
            while not self._is_done(meet.group, seq):
                if any(self.ranks[m].is_gone for m in meet.members) or self._is_broken(meet, rank):
                    self._drop(rank, seq)
                    raise Raised(PEER_CLOSED)
                if self.box.now_s - began_s > patience_s:
                    raise self._gives_up(rank, seq, patience_s)
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
                    raise timed_out(patience_s)
                yield
            self.sent[meet.members] -= 1
        finally:
            rank.waits_in = None
            rank.runs += 1
        yield

    def _is_done(self, group: str, seq: int) -> bool:
        came = self.came[group, seq]
        members = self.program.members(group)
        return (group, seq) not in self.given_up and {*came} == {*members} and len({*came.values()}) == 1

    def _is_broken(self, meet: Meet, rank: Rank) -> bool:
        return any((meet.group, m) in self.broken for m in meet.members if m != rank.number)

    def _gives_up(self, rank: Rank, seq: int, patience_s: float) -> TimedOut:
        """Who waited for a future leaves the collective running behind it."""
        if self.conditions.own_words:
            return OwnTimeOut()
        self._drop(rank, seq)
        return timed_out(patience_s)

    def _drop(self, rank: Rank, seq: int) -> None:
        """Its connections in a group close when it gives up in it."""
        if rank.waits_in is not None:
            self.broken.add((rank.waits_in.group, rank.number))
            self.given_up.add((rank.waits_in.group, seq))
        self.box._close(rank.number)

    # -- the box -----------------------------------------------------------------------------------------------

    def run(self) -> Timeline:
        self._prepare()
        self.box.begins()
        for group, members in self.program.announced:
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
            self.box.box(self._sample(rank))
            if not rank.is_silent:
                self._poll(rank)
        if self.conditions.looks:
            self._stacks(tuple(r.number for r in self.ranks if self.random.random() < self.conditions.looks))

    def _sample(self, rank: Rank) -> ev.Sampled:
        state = "T" if rank.is_stopped else "R" if rank.busy else "S"
        compiling = ("entire_frame_compile",) if rank.compiles else ()
        cpu_s, runs = 1 + rank.cpu_s, rank.runs if self.conditions.counts_runs else None
        answered = not rank.is_silent
        return ev.Sampled(rank.number, 0, answered, state, compiling, rank.compiled_s, cpu_s, cpu_s, 0, runs)

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
            if rank.is_silent:
                self.box.stack(number, ok=False)
            elif rank.imports:
                self.box.stack(number, *IMPORTS_COMPILER)
            elif rank.waits_in is not None:
                self.box.stack(number, (C10D, 2400, rank.waits_in.op), (C10D, 81, "wrapper"), (USER_FILE, 52, "step"))
            elif rank.is_over:
                self.box.stack(number, ("/usr/lib/python3.11/site-packages/pytest_megacpp/rank/agent.py", 9, "wait"))
            else:
                self.box.at(number)

    def _acts(self, acted: ev.Acted) -> None:
        self.box.acts(acted.why, acted.detail, acted.waiting, acted.missing, acted.compiling, acted.waited_s)
        self._stacks(tuple(r.number for r in self.ranks if not r.is_over and not r.is_gone))
        self.box.aborts(acted.why)
