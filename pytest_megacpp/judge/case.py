"""Owns what is known of one test at the moment that decides: failures, waits, who had left; must not blame a rank.

The moment is when the box acted, if it did. What ranks did afterwards doesn't count, because they were being ended.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import takewhile
from typing import assert_never

from pytest_megacpp.judge import messages, patience
from pytest_megacpp.judge.causes import VerdictCause, cause_of
from pytest_megacpp.judge.phrases import file_line, joined, place, plain
from pytest_megacpp.judge.verdicts import Witness
from pytest_megacpp.recording import errors
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.flight import tells_start
from pytest_megacpp.recording.operations import Signature, bare_op, signature_of
from pytest_megacpp.recording.reports import is_strict_xpass, is_xfail
from pytest_megacpp.recording.stacks import (
    Frame,
    Thread,
    communication_call,
    imports_compiler,
    seeks_store,
    threads,
    user_frame,
    waits_for_peer,
)
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import Phase, RankView, TestView, WorldView
from pytest_megacpp.recording.vocabulary import ActReason, ReportOutcome, StackMethod, Stream, TestPhase
from pytest_megacpp.recording.waits import Moment, Open, Wait, WaitGraph, open_at, other_ends, wait_graph

_CPP_LINE = re.compile(r"^\s*\[[^\]\n]{1,300}\.(?:cc|cpp|h|hpp):\d+\]:? ?")
MESSAGE_CHARS = 24_000
_PATIENCE = re.compile(r"Timed out waiting (\d{1,9})ms")
NO_OOM_WITNESS = "this box can't tell an OOM kill from a plain SIGKILL"
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP")
_ORDER = tuple(TestPhase)
_AT_FIRST_USE = re.compile(
    r"NCCL|nccl(?:UniqueId|Comm|SystemError)|connectFullMesh|socket\w{1,20}Connect|Duplicate GPU|shared memory|/dev/shm"
)
_JOINS = re.compile(r"[/\\]torch[/\\]distributed[/\\]rendezvous\.py|store_based_barrier")  # with no group announced
SAME_CALL_S = 0.001  # between a rank's clock and torch's, a moment apart
BETWEEN_COMPILES_S = 0.5  # between the parts of a model; the box looks every 0.1 s
FRESH_STACK_S = 1.0  # the box looks twice as often at a rank that imports the compiler
QUEUED_S = 1.0  # a device that has nothing to do begins what is queued at once, and looks come as rarely as that
LATE_WORDS_S = 0.5  # after the box acted on a failure, reports of other ranks may still be under way for this long


class FailureSource(StrEnum):
    """What shows that a rank failed: its own report, the end of its process, that it can't run tests, or an exception
    that it was handling when it called for its peers.
    """

    REPORT = "report"
    HANDLED = "handled"
    EXIT = "exit"
    BROKEN = "broken"

    @property
    def witness(self) -> Witness:
        match self:
            case FailureSource.REPORT | FailureSource.HANDLED:
                return Witness.REPORT
            case FailureSource.EXIT:
                return Witness.EXIT
            case FailureSource.BROKEN:
                return Witness.BOX
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class RankFailure:
    """The first thing that went wrong on one rank.

    `text` describes it briefly. `own_error` is, for a rank that lost its peer, its own error that it was handling at
    that time. The failure happened at `time_s`, or between `since_s` and `time_s` if the box noticed it late.
    """

    rank: int
    time_s: float
    source: FailureSource
    kind: Kind
    cause: str
    text: str
    place: str
    phase: TestPhase
    since_s: float = float("inf")
    message: str = ""  # in full, of one that raised
    propagates: bool = False  # an exception that was being handled, in a `finally` or an `__exit__`
    own_error: str = ""
    own_store: bool = False  # one about a store or a server is about one of the test's own
    raised_from: str = ""  # part of `text`
    gave_up: bool = False  # that a peer did not come is inferred from what it waited in; its words don't say so

    @property
    def is_secondary(self) -> bool:
        return self.kind.secondary

    @property
    def signature(self) -> tuple[str, ...]:
        """Equal for ranks to which the same happened."""
        return (self.source, self.cause, self.text.partition(":")[0], self.place, self.phase)


@dataclass(frozen=True)
class Case:
    """One test that was started, its world, and the run it is part of."""

    timeline: Timeline
    test: TestView
    world: WorldView

    @property
    def ranks(self) -> Mapping[int, RankView]:
        return self.test.ranks

    @property
    def why(self) -> ActReason | None:
        """Why the box ended the test early; None if it didn't."""
        return self.test.acted.why if self.test.acted else None

    @cached_property
    def end_s(self) -> float:
        """When the box acted, else when the test ended, else where the recording stops; seconds of box time."""
        return next((t for t in (self.test.acted_s, self.test.ended_s) if t is not None), self.timeline.last_s)

    @cached_property
    def moment_s(self) -> float:
        """The moment at which waits are examined, in box time: when the first rank gave up waiting, else the end."""
        return min([*self.gave_up_s.values(), self.end_s])

    @cached_property
    def gave_up_s(self) -> dict[int, float]:
        """When each rank that lost its peer gave up waiting for it."""
        return {t.rank: self._gave_up_s(t) for t in self.failures.values() if t.is_secondary}

    def had_given_up(self, rank: int) -> bool:
        """Returns whether the rank had given up waiting by the moment."""
        return self.gave_up_s.get(rank, float("inf")) <= self.moment_s

    def _gave_up_s(self, failure: RankFailure) -> float:
        """Returns when a rank's time-out ended its wait. On a busy machine the rank reports it much later."""
        patience = _PATIENCE.search(failure.text)
        last = self.last_entered(failure.rank, failure.time_s) if patience else None
        return min(failure.time_s, last.entered_s + int(patience[1]) / 1000) if patience and last else failure.time_s

    @property
    def acted_on_wait(self) -> bool:
        """Whether the box acted because ranks waited, before any of them gave up."""
        return self.why is not None and self.why.is_waiting and self.moment_s == self.end_s

    # -- failures ------------------------------------------------------------------------------------------

    @cached_property
    def cutoff_s(self) -> float:
        """What a rank reported later than this, it reported while it was being ended."""
        if self.test.acted is None:
            return float("inf")
        return self.end_s + (LATE_WORDS_S if self.test.acted.why.acts_on_trouble else 0.0)

    @cached_property
    def failures(self) -> dict[int, RankFailure]:
        """The first failure of each rank that has one, in order of time."""
        found = [t for view in self.ranks.values() if (t := self._first_failure(view)) is not None]
        gave_up = patience.gave_up_waiting(found, self.ranks, self.test.groups)
        found = [_of_a_victim(t) if t.rank in gave_up else t for t in found]
        return {t.rank: t for t in sorted(found, key=lambda t: (t.time_s, t.rank))}

    def _first_failure(self, view: RankView) -> RankFailure | None:
        candidates = [t for t in (self._reported(view), self._broken(view), self._exited(view)) if t is not None]
        return min(candidates, key=lambda t: t.time_s, default=None)

    def _reported(self, view: RankView) -> RankFailure | None:
        if view.failure is None or view.failure[0] > self.cutoff_s or is_strict_xpass(view.failure[1]):
            return None
        time_s, report = view.failure
        error = report.error or ev.Error("", "reported a failure without an error", "", 0, "")
        kind, own_store = self._alone(errors.classify(error)), self._uses_own_store(view.rank, time_s, error)
        if kind is Kind.RENDEZVOUS and own_store:
            kind = Kind.OWN
        where = file_line(error.file, error.line)
        return RankFailure(
            view.rank,
            time_s,
            FailureSource.REPORT,
            kind,
            cause_of(kind),
            error_text(error),
            where,
            report.when,
            message=error.message,
            raised_from=raised_from(error),
            own_store=own_store,
            own_error=_own_error(error) if kind.secondary else "",
        )

    def _broken(self, view: RankView) -> RankFailure | None:
        time_s, broken = self.world.broken.get(view.rank, (0.0, None))
        if broken is None or not self.test.started_s <= time_s <= min(self.cutoff_s, self._over_s):
            return None
        error = ev.Error(broken.type, broken.message, "", 0, broken.traceback)
        kind, own_store = self._alone(errors.classify(error)), self._uses_own_store(view.rank, time_s, error)
        text = f"{broken.stage} failed: {errors.short_type(plain(broken.type))}: {plain(broken.message)}"
        phase = self.phase_at(view.rank, time_s)
        source = FailureSource.BROKEN
        return RankFailure(view.rank, time_s, source, kind, cause_of(kind), text, "", phase, own_store=own_store)

    def _exited(self, view: RankView) -> RankFailure | None:
        time_s, exited = self.exits.get(view.rank, (0.0, None))
        if exited is None:
            return None
        kind = self._alone(_exit_kind(exited, written(view)))
        frame = crash_frame(view)
        where = file_line(frame.file, frame.line) if frame else ""
        return RankFailure(
            view.rank,
            time_s,
            FailureSource.EXIT,
            kind,
            exit_cause(exited),
            exit_text(exited),
            where,
            self.phase_at(view.rank, time_s),
            time_s if exited.alive_s is None else exited.alive_s,
        )

    @cached_property
    def handled(self) -> dict[int, RankFailure]:
        """The exceptions of their own that ranks were handling in the call for their peers in which they stayed."""
        found = [self._handled(view) for view in self.ranks.values() if self.stays_in_a_call(view)]
        return {f.rank: f for f in found if f is not None and not f.is_secondary and f.kind is not Kind.MISMATCH}

    def stays_in_a_call(self, view: RankView) -> bool:
        """Returns whether the rank is in a call for its peers, and has not failed."""
        waits = bool(view.collectives.pending()) or view.rank in self.blocked
        return waits and self.stays(view.rank)

    def _handled(self, view: RankView) -> RankFailure | None:
        time_s, handles = view.handles(self.end_s) or (0.0, None)
        error = handles.error if handles is not None else None
        entries = view.collectives.entries.values()
        if (
            handles is None
            or error is None
            or any(view.collectives.is_done(e) and e.entered_s > time_s + SAME_CALL_S for e in entries)
        ):
            return None
        kind, where = self._alone(errors.classify(error)), file_line(error.file, error.line)
        phase = self.phase_at(view.rank, time_s)
        return RankFailure(
            view.rank,
            time_s,
            FailureSource.HANDLED,
            kind,
            cause_of(kind),
            error_text(error),
            where,
            phase,
            raised_from=raised_from(error),
            propagates=handles.propagates,
        )

    def _uses_own_store(self, rank: int, time_s: float, error: ev.Error) -> bool:
        """Returns whether an error about a store or a server is about one of the test's own: the rank had a default
        group and was making no other, and it isn't NCCL or gloo that connects at the first use of a group.
        """
        view = self.ranks[rank]
        made = (j.end_s for j in view.joinings if j.call == "init_process_group" and not j.failed)
        has_one = (view.collectives.world_since_s or float("inf")) <= time_s
        had_one = any(end_s is not None and end_s <= time_s for end_s in made)
        joins = view.not_joined(time_s) is not None or _JOINS.search(f"{error.message}\n{error.traceback}")
        return (has_one or had_one) and not joins and not _AT_FIRST_USE.search(error.message)

    def _alone(self, kind: Kind) -> Kind:
        """Returns the kind of an error; in a world of one, which has no peers, every error is the rank's own."""
        return Kind.OWN if kind.secondary and self.test.size == 1 else kind

    @cached_property
    def exits(self) -> dict[int, tuple[float, ev.RankExited]]:
        """Processes that ended during this test or before it, other than by the box; by rank, with the time."""
        found = self.world.exits.items()
        latest_s = min(self.cutoff_s, self._over_s)
        return {r: (t, e) for r, (t, e) in found if not e.expected and t <= latest_s and r in self.ranks}

    @property
    def _over_s(self) -> float:
        return self.test.ended_s if self.test.ended_s is not None else float("inf")

    def phase_at(self, rank: int, time_s: float) -> TestPhase:
        """Returns the pytest phase that a rank was in at `time_s`."""
        view = self.ranks[rank]
        begun = [phase.name for phase in view.phases if phase.start_s <= time_s]
        reached = [phase for phase in TestPhase if phase in begun]
        after = [when.next for when, (t, _) in view.reports.items() if t <= time_s]
        return max([*reached, *after], key=_ORDER.index, default=TestPhase.SETUP)

    def phase_of(self, rank: int) -> TestPhase:
        """Returns the pytest phase that a rank was in at the moment."""
        return self.phase_at(rank, self.moment_s)

    # -- states at the moment ------------------------------------------------------------------------------

    def is_through(self, rank: int) -> bool:
        """Returns whether the rank had finished the test, or exited, before the box acted."""
        over_s = self.ranks[rank].finished_s
        return rank in self.exits or (over_s is not None and over_s <= self.end_s)

    def stays(self, rank: int) -> bool:
        """Returns whether the rank was still in the test in the end, without a failure."""
        return rank not in self.failures and not self.is_through(rank)

    def has_finished(self, rank: int) -> bool:
        """Returns whether the rank had finished the test without a failure by the moment."""
        over_s = self.ranks[rank].finished_s
        return rank not in self.failures and over_s is not None and over_s <= self.moment_s

    def failed_as_expected(self, rank: int) -> bool:
        """Returns whether the rank had failed by the moment as its xfail mark says."""
        return any(t <= self.moment_s for t, report in self.ranks[rank].reports.values() if is_xfail(report))

    @cached_property
    def gone_s(self) -> dict[int, float]:
        """When ranks that skipped the test, or failed as expected, went on to its teardown. A subtest that they skip is
        reported as well, and ends nothing.
        """
        found = {}
        for rank, view in self.ranks.items():
            skipped = [t for t, report in view.reports.values() if report.outcome is ReportOutcome.SKIPPED]
            over = [p.start_s for p in view.phases if p.name == TestPhase.TEARDOWN]
            if skipped and over and min(skipped) <= over[0] <= self.end_s:
                found[rank] = over[0]
        return found

    def came_through(self, rank: int) -> bool:
        """Returns whether the rank finished the test without a failure, be it while the box was ending it."""
        view = self.ranks[rank]
        return rank not in self.failures and view.finished_s is not None and view.went_on_to_the_end

    def has_left(self, rank: int) -> bool:
        """Returns whether the rank had, by the moment, finished the test, or its call while others were still in it;
        without a failure.
        """
        return self.has_finished(rank) or (self._is_past_call(rank) and bool(self._in_call))

    def _is_past_call(self, rank: int) -> bool:
        called = self.ranks[rank].reports.get(TestPhase.CALL)
        return called is not None and rank not in self.failures and called[0] <= self.moment_s

    @cached_property
    def _in_call(self) -> tuple[int, ...]:
        """Ranks whose call phase had not ended by the moment."""
        called = {r: view.reports.get(TestPhase.CALL) for r, view in self.ranks.items()}
        return tuple(r for r, report in called.items() if report is None or report[0] > self.moment_s)

    def is_frozen(self, rank: int) -> bool:
        return self.ranks[rank].frozen

    def is_compiling(self, rank: int) -> bool:
        """Returns whether the rank compiled at the moment, by the counters or, if the box acted then, by its word."""
        if self.moment_s < self.end_s:
            return self.compile_at_moment(rank) is not None or self._loads_compiler(rank)
        named = self.test.acted is not None and rank in self.test.acted.compiling
        return named or self.compiling_since_s(rank) is not None

    def compiling_since_s(self, rank: int) -> float | None:
        """Returns since when the rank had been compiling at the moment, by the counters; None if it had not."""
        if self.moment_s == self.end_s:
            return None if self.is_through(rank) else self.ranks[rank].compiling_since_s
        compiled = self.compile_at_moment(rank)
        return compiled.start_s if compiled is not None else None

    def compile_at_moment(self, rank: int) -> Phase | None:
        """Returns what the rank compiled at the moment, by the counters; between two parts of a model, the second one.
        None if it did not compile.
        """
        before_s = float("-inf")
        for span in self.ranks[rank].compiles:
            if span.end_s is None or span.end_s > self.moment_s:
                follows = span.start_s - before_s <= BETWEEN_COMPILES_S
                return span if follows or span.start_s <= self.moment_s else None
            before_s = span.end_s
        return None

    def _loads_compiler(self, rank: int) -> bool:
        """Returns whether the rank's stack at the moment shows it importing torch's compiler."""
        taken = [(time_s, taken) for time_s, taken in self.ranks[rank].stacks if time_s <= self.moment_s]
        is_fresh = bool(taken) and self.moment_s - taken[-1][0] <= FRESH_STACK_S
        return is_fresh and taken[-1][1].ok and imports_compiler(taken[-1][1].text)

    @property
    def times_devices(self) -> bool:
        """Whether the flight recorder shows which collectives a device has started."""
        setting = self.timeline.environment.get("TORCH_NCCL_ENABLE_TIMING")
        return setting is not None and setting.value == "1"

    def has_only_queued(self, rank: int) -> bool:
        """Returns whether the rank waits in a collective of NCCL that its device has not started, so an earlier kernel
        is running.

        False for backends whose recorder doesn't show when a collective starts.
        """
        entries = self._open[rank].collectives
        queued = [e for e in entries if tells_start(e.op) and not e.started and not self.has_just_queued(e)]
        return self.times_devices and bool(queued) and len(queued) == len(entries)

    def queued_since_s(self, rank: int) -> float:
        """Returns since when the rank's host had queued what its device had not begun at the moment."""
        queued = (e for e in self._open[rank].collectives if tells_start(e.op) and not e.started)
        return min((e.entered_s for e in queued), default=float("inf"))

    def has_just_queued(self, entry: ev.Collective) -> bool:
        """Returns whether the host queued it so shortly before that its device need not have begun it."""
        return 0.0 <= self.moment_s - entry.entered_s < QUEUED_S

    def is_in_something(self, rank: int) -> bool:
        """Returns whether the rank's device had begun a collective or message by the moment that is not over yet."""
        open_ = self._open[rank]
        return any(e.started for e in (*open_.collectives, *open_.messages))

    def is_behind(self, rank: int) -> bool:
        """Returns whether the rank's host has queued a collective or message that the devices of others have started,
        but its own has not.
        """
        return any(self._is_queued(rank, w) for w in self.waits if rank in w.missing)

    def _is_queued(self, rank: int, wait: Wait) -> bool:
        if wait.partner is not None:
            return wait.began and not all(map(self.has_just_queued, self._answers(wait)))
        own = self.test.entry_of(rank, wait.group, wait.seq)
        open_ = next((e for e in self._open[rank].collectives if _same(e, own)), None)
        return wait.began and open_ is not None and not open_.started and not self.has_just_queued(open_)

    def _answers(self, wait: Wait) -> Iterable[ev.Collective]:
        """Yields what the partner had open of the message that a rank waits in."""
        rank, messages_ = wait.waiting[0], {r: open_.messages for r, open_ in self._open.items()}
        for message in (m for m in messages_[rank] if (m.group, m.seq) == (wait.group, wait.seq)):
            yield from other_ends(self.test.groups, rank, message, messages_)

    def holds_gil(self, rank: int) -> bool:
        """Returns whether the worker server answers, which doesn't need the GIL, while the interpreter doesn't."""
        view = self.ranks[rank]
        taken = [fact.ok for _, fact in view.stacks if fact.method is StackMethod.TRACEBACK]
        return bool(taken) and not taken[-1] and view.sample is not None and view.sample.answered

    def answers(self, rank: int) -> bool:
        sample = self.ranks[rank].sample
        return sample is None or sample.answered

    def last_stack(self, rank: int) -> tuple[float, Thread] | None:
        """Returns the newest stack of the rank's main thread, and when it was taken: before it failed, since what a
        rank does then is pytest's.
        """
        failure = self.failures.get(rank)
        return self.ranks[rank].stack(failure.time_s if failure is not None else float("inf"))

    def calls_seen(self, rank: int) -> tuple[tuple[float, bool], ...]:
        """Returns of each stack of the rank when it was taken, and whether it shows the rank in a call for a peer."""
        if rank not in self._calls_seen:
            taken = [self.ranks[rank].stack(time_s) for time_s, _ in self.ranks[rank].stacks]
            self._calls_seen[rank] = tuple((t[0], waits_for_peer(t[1])) for t in taken if t is not None)
        return self._calls_seen[rank]

    @cached_property
    def _calls_seen(self) -> dict[int, tuple[tuple[float, bool], ...]]:
        return {}

    def location(self, rank: int) -> str | None:
        """Returns where the rank's own code was when it was last looked at: `train.py:88 (load_batch)`; None if that
        isn't known.
        """
        return _location(self.last_stack(rank))

    def location_since(self, rank: int, time_s: float) -> tuple[float, str] | None:
        """Returns where the rank's own code was in its newest stack, be it after a failure, and when that was taken;
        None if that was before this time.
        """
        taken = self.ranks[rank].stack()
        where = _location(taken)
        return (taken[0], where) if taken and where and taken[0] > time_s else None

    # -- waits ---------------------------------------------------------------------------------------------

    @cached_property
    def graph(self) -> WaitGraph:
        """Which rank waits for which at the moment."""
        gave_up = {r for r, t in self.failures.items() if t.is_secondary and t.kind is not Kind.JOIN}
        over = {r for r in self.ranks if self.has_finished(r)} | self.exits.keys() | (self.failures.keys() - gave_up)
        moment = Moment(
            self.moment_s,
            frozenset(over),
            frozenset(r for r in self.ranks if self.has_left(r)),
            {r: t.time_s for r, t in self.failures.items()},
            frozenset(gave_up - self.exits.keys()),
        )
        return wait_graph(self.test, moment)

    @cached_property
    def _open(self) -> Mapping[int, Open]:
        """What each rank had open at the moment."""
        return open_at(self.test, self.moment_s)

    @cached_property
    def waits(self) -> tuple[Wait, ...]:
        """Collectives, messages and group creations that ranks were in at the moment, oldest first."""
        return tuple(replace(wait, op=plain(wait.op, 60)) for wait in self.graph.waits)

    def last_entered(self, rank: int, until_s: float) -> ev.Collective | None:
        """Returns the newest collective that the rank had entered at `until_s`."""
        return self.ranks[rank].collectives.last(until_s)

    @cached_property
    def came_last(self) -> Mapping[tuple[str, int], tuple[float, int]]:
        """When the last rank entered each collective, and which one; groups are named as `Groups.as_named_by` does."""
        named = self.test.groups.as_named_by
        found: dict[tuple[str, int], tuple[float, int]] = {}
        for rank, view in self.ranks.items():
            for e in view.collectives.entries.values():
                number = named(rank, e.group), e.seq
                found[number] = max(found.get(number, (0.0, rank)), (e.entered_s, rank))
        return found

    @cached_property
    def alike(self) -> Mapping[tuple[str, int, Signature], int]:
        """How many ranks issued the same, by group and number; groups are named as `Groups.as_named_by` does."""
        named = self.test.groups.as_named_by
        return Counter(
            (named(rank, e.group), e.seq, signature_of(e))
            for rank, view in self.ranks.items()
            for e in view.collectives.entries.values()
        )

    @cached_property
    def waiting_in(self) -> dict[int, Wait]:
        """The oldest wait of each rank that waits, under the name by which the rank entered it."""
        return {r: self._as_entered(r, wait) for wait in reversed(self.waits) for r in wait.waiting}

    def _as_entered(self, rank: int, wait: Wait) -> Wait:
        entry = self.test.entry_of(rank, wait.group, wait.seq) if wait.partner is None else None
        op = plain(bare_op(entry.op), 60) if entry else wait.op
        return wait if op == wait.op else replace(wait, op=op)

    @cached_property
    def blocked(self) -> dict[int, str]:
        """Ranks that only their stack shows waiting for a peer (point to point, a store), and the call that they wait
        in.
        """
        return {r: call for r, (call, _) in self.graph.calls.items()}

    def seeks_store(self, rank: int) -> bool:
        """Returns whether the rank was seen while it looked for the store through which ranks meet."""
        taken = self.ranks[rank].stack()
        return taken is not None and seeks_store(taken[1])

    def knows_members(self, group: str) -> bool:
        return self.test.groups.knows(group)

    def knows_for_whom(self, wait: Wait) -> bool:
        """Returns whether all are known that a wait may be for."""
        return wait.partner is not None or wait.makes_group or self.knows_members(wait.group)

    def waited_s(self, since_s: float) -> float:
        """Returns the seconds of the longest wait, begun at `since_s`, up to the moment; by the box's own figure if it
        acted then, and no other wait is older.
        """
        return max(0.0, self.moment_s - since_s) + self._unseen_s(since_s)

    def has_waited_s(self, rank: int, wait: Wait) -> float:
        """Returns for how many seconds this rank had been in the wait; what the box saw beyond the record counts if it
        acted on this wait.
        """
        acted = self.test.acted
        unseen_s = self._unseen_s(wait.since_s) if acted and acted.missing == wait.missing else 0.0
        return max(0.0, self.moment_s - wait.came_s.get(rank, wait.since_s)) + unseen_s

    def _unseen_s(self, since_s: float) -> float:
        """Returns how much longer than recorded the oldest wait lasted, by the box; 0 for a younger one."""
        acted, is_oldest = self.test.acted, not self.waits or since_s <= self.waits[0].since_s
        if not acted or not is_oldest or self.moment_s != self.end_s:
            return 0.0
        return max(0.0, acted.waited_s - max(0.0, self.moment_s - since_s))


def _same(one: ev.Collective, other: ev.Collective | None) -> bool:
    return other is not None and (one.group, one.seq, one.entered_s) == (other.group, other.seq, other.entered_s)


def _of_a_victim(failure: RankFailure) -> RankFailure:
    return replace(failure, kind=Kind.PEER, cause=cause_of(Kind.PEER), gave_up=True)


def _location(taken: tuple[float, Thread] | None) -> str | None:
    frame = (user_frame(taken[1]) or _outside_import(taken[1])) if taken else None
    return place(frame) if frame else None


def _outside_import(thread: Thread) -> Frame | None:
    """Returns the innermost frame with a file: dumps are cut at 100 frames, and imports of libraries go deeper."""
    return next((f for f in thread.frames if not f.file.startswith("<")), None)


def error_text(error: ev.Error) -> str:
    """Returns one line about an error: `ValueError: no shards`.

    The source line of torch's C++ with which gloo begins is left out. The exception from which the error was raised
    follows, unless the message contains it.
    """
    message = _short_message(error.message)
    kind = errors.short_type(plain(error.type, 80))
    text = f"{kind}: {message}" if kind and message else kind or message
    return joined((text, f"from {cause}" if (cause := raised_from(error)) else ""), ", ")


def raised_from(error: ev.Error) -> str:
    """Returns one line about the exception from which an error was raised; empty without one, and where the message
    contains it.
    """
    origin = _origin(error)
    cause = _short_message(origin.message) if origin else ""
    if origin is None or (cause and cause in _short_message(error.message)):
        return ""
    return joined((errors.short_type(plain(origin.type, 80)), cause), ": ")


def _own_error(error: ev.Error) -> str:
    cause = errors.origin(error)
    return joined((errors.short_type(plain(cause.type, 80)), _short_message(cause.message)), ": ") if cause else ""


def _short_message(message: str) -> str:
    return plain(messages.short_message(_CPP_LINE.sub("", message[:MESSAGE_CHARS])))


def _origin(error: ev.Error) -> ev.Cause | None:
    """Returns the exception at the beginning of a chain of `raise … from`; None if there is no chain."""
    explicit = list(takewhile(lambda cause: cause.explicit, error.chain))
    return explicit[-1] if explicit else None


def written(view: RankView) -> str:
    """Returns the end of what the rank wrote to its error stream during the test."""
    stderr = view.output.get(Stream.STDERR)
    return stderr.text[-errors.TAIL_CHARS :] if stderr else ""


def ended_by_itself(exited: ev.RankExited) -> bool:
    """Returns whether a process ended by its own decision. Only then can its output contain the reason."""
    return not exited.oom_killed and (exited.signal == "SIGABRT" or (exited.signal is None and bool(exited.code)))


def _exit_kind(exited: ev.RankExited, text: str) -> Kind:
    return errors.classify_output(text) if ended_by_itself(exited) else Kind.OWN


def exit_cause(exited: ev.RankExited) -> str:
    """Returns the cause of a verdict: `oom-killed`, `signal:SIGSEGV`, `exit:3`."""
    if exited.oom_killed:
        return VerdictCause.OOM_KILLED
    if exited.signal:
        return f"signal:{plain(exited.signal, 20)}"
    return VerdictCause.EXIT_UNKNOWN if exited.code is None else f"exit:{exited.code}"


def may_be_oom(exits: Iterable[ev.RankExited]) -> bool:
    """Returns whether one of them was killed on a box that can't tell whether it was for memory."""
    return any(e.signal == "SIGKILL" and e.oom_killed is None for e in exits)


def exit_text(exited: ev.RankExited) -> str:
    """Returns the predicate of a sentence about a rank: `was OOM-killed`."""
    if exited.oom_killed:
        return "was OOM-killed"
    if exited.signal in _CRASHES:
        return f"crashed with {exited.signal}"
    if exited.signal:
        return f"was killed by {plain(exited.signal, 20)}"
    if exited.code is None:
        return "exited with an unknown status"
    return f"exited with code {exited.code}"


def crash_frame(view: RankView) -> Frame | None:
    """Returns the user's frame in the dump that a crashing interpreter writes."""
    crashed = next(iter(_crash_dump(view)), None)
    return user_frame(crashed) if crashed else None


def crash_call(view: RankView) -> str | None:
    """Returns the call for its peers in which that dump shows a thread of the rank."""
    return next((call for thread in _crash_dump(view) if (call := communication_call(thread)) is not None), None)


def _crash_dump(view: RankView) -> tuple[Thread, ...]:
    stderr = view.output.get(Stream.STDERR)
    text = stderr.text if stderr else ""
    at = text.rfind("Fatal Python error")
    return threads(text[at:]) if at >= 0 else ()
