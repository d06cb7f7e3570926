"""Owns the watches of all living ranks: one thread each while its world lives, asked all at once for evidence. Must not
decide when.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from functools import partial

from pytest_megacpp.box.actions import LookAgain, TakeEvidence
from pytest_megacpp.box.context import RunContext
from pytest_megacpp.box.look.watch import CrashWatch, RankWatch
from pytest_megacpp.box.worlds.world import World

EVIDENCE_S = 3.0  # all ranks together
STACKS_EVERY_S = 2.0  # between the beginnings of two looks that somebody asked for


class Watches:
    """The watches of each world, by its name. What they see is handed to the loop, which records it."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._of: dict[str, list[RankWatch]] = {}
        self._taking: list[threading.Thread] = []
        self._taken_s = float("-inf")

    def start(self, world: World) -> None:
        context = self._context
        report = partial(context.report, world.name)
        nccl = not context.plan.dry_run
        targets = [world.target(r, nccl=nccl) for r in world.ranks]
        watches = [RankWatch(t, context.processes, context.recorder.epoch_s(), report) for t in targets]
        for watch in watches:
            watch.start()
        self._of[world.name] = watches

    def stop(self, world: str) -> None:
        for watch in self._of.pop(world, ()):
            watch.stop()

    def begin(self, world: str, test: int, epoch_s: float) -> None:
        """A test begins in the world: they look at its ranks from now on. `epoch_s` as in `Go`."""
        for watch in self._of[world]:
            watch.begin(test, epoch_s)

    def pause(self, world: str) -> None:
        """No test runs in the world: they look at nothing until the next one begins."""
        for watch in self._of.get(world, ()):
            watch.pause()

    def poll_soon(self, world: str) -> None:
        """Something happened in the world: they look soon, and often again."""
        for watch in self._of.get(world, ()):
            watch.poll_soon()

    def watch_crash(self, world: str, rank: int, line: socket.socket) -> None:
        """Has the dump of a crash read from `line`, which the rank holds open until then."""
        for watch in self._of.get(world, ()):
            if watch.target.rank == rank:
                CrashWatch(line, watch).start()

    # -- evidence ------------------------------------------------------------------------------------------

    def take_evidence(self, action: TakeEvidence) -> None:
        """Asks living ranks for what they can still say, before any of them is ended."""
        out = self._out_of_test(action.test)
        asked = self._living(action.world)
        if action.stacks_of is not None:
            asked = [w for w in asked if w.target.rank in action.stacks_of]
        self._ask_all([partial(_ask, w, action, w.target.rank in out) for w in asked])

    def look_again(self, action: LookAgain) -> None:
        """Looks at living ranks now instead of when the next look is due."""
        living = self._living(action.world)
        stacks = [partial(w.stack, action.test) for w in living if w.target.rank in action.stacks_of]
        self._ask_all([*(partial(w.look, action.test) for w in living), *stacks])
        self._context.pump.once(0.0)  # ranks that went on to the end say so themselves

    def take_stacks(self) -> None:
        """Begins to ask all living ranks for their stacks, in ways that disturb none of them, and records that; not
        while the last such look goes on, nor soon after it began. It waits for no answer: nobody who looks may keep the
        loop from the limits of the run.
        """
        now_s = self._context.recorder.now_s()
        if now_s - self._taken_s < STACKS_EVERY_S or any(t.is_alive() for t in self._taking):
            return
        self._taken_s = now_s
        self._context.record_look()
        self._taking = _started(watch.stack_now for world in self._of for watch in self._living(world))

    def _living(self, world: str) -> list[RankWatch]:
        return [w for w in self._of.get(world, ()) if not self._context.worlds[world].ranks[w.target.rank].exited]

    def _out_of_test(self, test: int | None) -> set[int]:
        """Returns the ranks that are through with the test."""
        view = self._context.recorder.timeline.tests.get(test) if test is not None else None
        return {r for r, v in view.ranks.items() if v.out} if view else set()

    def _ask_all(self, questions: Iterable[Callable[[], None]]) -> None:
        """Asks all ranks at the same time; one that doesn't answer costs its time-out, not the others'."""
        threads = _started(questions)
        self._context.pump.until(lambda: not any(t.is_alive() for t in threads), EVIDENCE_S)
        self._context.pump.drain()


def _started(questions: Iterable[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=question, daemon=True) for question in questions]
    for thread in threads:
        thread.start()
    return threads


def _ask(watch: RankWatch, action: TakeEvidence, out: bool) -> None:
    if action.stacks_of is None:
        watch.evidence(action.test, stack=not out)
    else:
        watch.stack(action.test)
