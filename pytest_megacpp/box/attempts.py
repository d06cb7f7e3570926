"""Owns the attempts at a run's tests: which are planned, in which order, which tests failed or are settled; must not
know worlds, when an attempt runs, or why the desk orders one.

The first attempts have the numbers of the plan's tests. Further ones are ordered by the desk (decision 0050), or follow
from a warm-up that compiled something.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from pytest_megacpp.box.actions import Attempt, Write
from pytest_megacpp.recording.events import Limits, TestEnded, TestPlanned
from pytest_megacpp.recording.plan import Again, Plan
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import NotRun, Preset, Purpose, TestEnd, WarmUp

MAX_ATTEMPTS = 4  # at one test, whoever orders them


def warm_up_limits(limits: Limits) -> Limits:
    """Returns the limits of a warm-up: peers are waited for as long as a compile may take, and the test may take longer
    by as much.
    """
    return replace(limits, skew=max(limits.skew, limits.compile), test=limits.test + limits.compile)


class Attempts:
    """All attempts of a run, by number. `queue` has those that have not begun, in order. `failed` has the tests whose
    last attempt that counts failed, `settled` those at which the desk wants no further attempt.
    """

    def __init__(self, plan: Plan, timeline: Timeline) -> None:
        self.queue = list(range(len(plan.tests)))
        self.failed: set[int] = set()
        self.settled: set[int] = set()
        self._plan = plan
        self._timeline = timeline
        self._all = [Attempt(i, Purpose.MEASURED, test) for i, test in enumerate(plan.tests)]

    def __getitem__(self, number: int) -> Attempt:
        return self._all[number]

    def is_further(self, number: int) -> bool:
        """Returns whether this is not the first attempt at its test."""
        return number >= len(self._plan.tests)

    # -- planning ------------------------------------------------------------------------------------------

    def plan_warm_ups(self, reasons: Mapping[int, WarmUp]) -> None:
        """Plans the first attempts: for each test of the plan, whether it is a warm-up, or why it is none."""
        for item, reason in reasons.items():
            purpose = Purpose.WARM_UP if reason is WarmUp.RUNS else Purpose.MEASURED
            self._all[item] = self._attempt(item, purpose, reason)

    def request(self, order: Again) -> tuple[Write, ...]:
        """Plans the attempt that the desk orders and returns what to record. An order that is not valid is ignored; one
        that is unsafe is planned and declined, so that the recording shows both.
        """
        if not self._is_valid(order):
            return ()
        planned, why = self.plan_further(order), self._why_unsafe(order)
        return (*planned, self.declined(self.queue.pop(), why)) if why is not None else planned

    def _is_valid(self, order: Again) -> bool:
        """Returns whether the order follows from the newest attempt at the test, which must have ended. So the second
        of two equal orders is ignored.
        """
        numbers = [n for n, attempt in enumerate(self._all) if attempt.item == order.item]
        view = self._timeline.tests.get(order.after)
        follows = numbers[-1:] == [order.after] and view is not None and view.ended is not None
        is_open = self._plan.triage and order.item not in self.settled
        return is_open and follows and len(numbers) < MAX_ATTEMPTS and order.purpose is not Purpose.FIRST

    def _why_unsafe(self, order: Again) -> NotRun | None:
        """Returns why torch may not compare the collectives of the test; None where it may, or where the order doesn't
        ask for it.
        """
        if order.purpose is not Purpose.DETAIL:
            return None
        if not self._plan.dry_run:
            return NotRun.UNSAFE_NCCL
        return NotRun.UNSAFE_FSDP if self._plan.tests[order.item].shards else None

    def plan_further(self, order: Again) -> tuple[Write, ...]:
        """Puts one more attempt at the end of the queue and returns what to record."""
        number = len(self._all)
        self.queue.append(number)
        self._all.append(replace(self._attempt(order.item, order.purpose), after=order.after))
        test, of = self._all[number].planned, order.item
        fact = TestPlanned(number, test.nodeid, test.ranks, test.must_run, of, order.purpose, test.preset)
        return (Write("", fact),)

    def _attempt(self, item: int, purpose: Purpose, reason: WarmUp | None = None) -> Attempt:
        test = self._plan.tests[item]
        match purpose:
            case Purpose.WARM_UP:
                return Attempt(item, purpose, replace(test, limits=warm_up_limits(test.limits)), WarmUp.RUNS)
            case Purpose.DIAGNOSTIC:
                return Attempt(item, purpose, replace(test, preset=Preset.DIAGNOSTIC))
            case Purpose.DETAIL:
                return Attempt(item, purpose, replace(test, fresh=True), reason)
            case Purpose.MEASURED | Purpose.FIRST:
                return Attempt(item, purpose, test, reason)
            case _:
                assert_never(purpose)

    def declined(self, number: int, why: NotRun) -> Write:
        """Returns the end of a further attempt that never began."""
        after = self._all[number].after
        assert after is not None
        return Write(self._timeline.tests[after].world, TestEnded(number, TestEnd.NOT_RUN, why))

    def prefer_further(self) -> bool:
        """Moves further attempts to the head of the queue; returns whether there is one."""
        self.queue.sort(key=lambda number: not self.is_further(number))
        return self.is_further(self.queue[0])

    def exceeds_budget(self, number: int, now_s: float) -> bool:
        """Returns whether a further attempt that takes as long as the attempt it follows from would outlast the run."""
        attempt, ends_s = self._all[number], [s for s in (self._plan.run_s, self._plan.budget_s) if s]
        if attempt.after is None or attempt.purpose is Purpose.MEASURED or not ends_s:
            return False
        before = self._timeline.tests[attempt.after]
        return now_s + (before.ended_s or now_s) - before.started_s > min(ends_s)

    # -- counting ------------------------------------------------------------------------------------------

    def settle(self, item: int) -> None:
        """Takes note that the desk wants no further attempt at a test of the plan."""
        if 0 <= item < len(self._plan.tests):
            self.settled.add(item)

    def are_settled(self) -> bool:
        """Returns whether the desk wants no further attempt at any test."""
        return len(self.settled) == len(self._plan.tests)

    def count_failure(self, number: int) -> None:
        """Counts a failed attempt, unless it is a drill's or one that doesn't count, such as a warm-up."""
        attempt = self._all[number]
        if attempt.purpose.counts and not attempt.planned.drill:
            self.failed.add(attempt.item)
