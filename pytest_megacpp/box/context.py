"""Owns what a box has from the first moment of a run to the last: plan, recording, supervisor, pump, account of memory,
living worlds. Must not know how a run is prepared, nor how worlds start and end.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from pytest_megacpp.box.event_loop import Pump
from pytest_megacpp.box.host import process
from pytest_megacpp.box.host.memory import Ledger, allowance
from pytest_megacpp.box.look.watch import ProcessTable
from pytest_megacpp.box.recorder import Recorder
from pytest_megacpp.box.scratch import PREFIX, lost
from pytest_megacpp.box.supervisor import Supervisor
from pytest_megacpp.box.worlds.world import World
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.texts import beginning
from pytest_megacpp.recording.vocabulary import ProblemCode, RunEnd

MAX_ASKERS = 16  # of one look: whoever can write into the run's directory can ask
ASKER_CHARS = 40
NEEDED = ("box", "plan.json")  # by ranks that start, of what lies in the scratch directory

Observation: TypeAlias = tuple[str, ev.Fact, float]  # world, what another thread saw there, and when


def as_recorded(plan: Plan, redactor: Redactor) -> Plan:
    """Returns the plan with secrets taken out of test ids. Ranks read the original one in the scratch directory."""
    ids = redactor.ids(test.nodeid for test in plan.tests)
    return replace(plan, tests=tuple(replace(test, nodeid=one) for test, one in zip(plan.tests, ids, strict=True)))


class RunContext:
    """One run, from its first event. `worlds` are those that live, by name: `ranks` adds and removes them. `on_step` is
    called many times a second whatever the box does; `askers` wait for a look at the stacks of all ranks.
    """

    def __init__(self, plan: Plan, directory: Path, scratch: Path, recorder: Recorder, redactor: Redactor) -> None:
        self.plan = plan
        self.directory = directory
        self.scratch = scratch
        self.recorder = recorder
        self.redactor = redactor
        self.supervisor = Supervisor(plan, recorder.timeline)
        self.pump = Pump[Observation](self._record_observation, recorder.now_s)
        self.processes = ProcessTable()
        self.worlds: dict[str, World] = {}
        self.on_step: Callable[[], object] = lambda: None
        self.askers: dict[str, None] = {}
        allowed = allowance(plan.memory_bytes)
        self._ledger = Ledger(allowed, self.processes.processes) if allowed is not None else None

    def adopt(self, plan: Plan) -> None:
        """Takes a plan whose tests are named, in place of the one that the desk read, before any attempt is made."""
        self.plan = as_recorded(plan, self.redactor)
        self.supervisor.adopt(self.plan)

    # -- the end of the run --------------------------------------------------------------------------------

    def stop(self, reason: RunEnd, detail: str) -> None:
        """Ends the run in order, at the next step. Of several reasons the first one counts."""
        self.supervisor.stop = self.supervisor.stop or (reason, detail)

    def is_to_end(self) -> bool:
        """Whether the run must go no further."""
        return self.supervisor.why_to_end(self.recorder.now_s()) is not None

    def is_scratch_lost(self) -> bool:
        """Whether somebody removed what the run works in. Ranks that start then end before they can say why, and those
        that live can't be asked any more, so the run goes no further.
        """
        names = lost(str(self.scratch), NEEDED)
        if names and self.supervisor.stop is None:
            detail = f"{' and '.join(names)} in {self.scratch} were removed while the run needs them"
            place = f"{self.scratch.parent}/{PREFIX}*"
            remedy = f"keep what cleans up {self.scratch.parent} from {place}, or set TMPDIR to a directory of your own"
            self.recorder.write(ev.ProblemFound(ProblemCode.ENVIRONMENT, "scratch", detail, remedy))
            self.stop(RunEnd.REFUSED, detail)
        return bool(names)

    # -- waiting -------------------------------------------------------------------------------------------

    def wait_until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Handles what happens until `done`, keeping account of memory; returns whether it was in time."""

        def look() -> bool:
            self.on_step()
            self.account_for_memory()
            return done()

        return self.pump.until(look, limit_s)

    def account_for_memory(self) -> None:
        """Records what is used, if that has changed. Where memory runs out, the box may be killed without a word."""
        if self._ledger is not None and (found := self._ledger.look(self.recorder.now_s(), self._living_pids)):
            world, used = found
            self.recorder.write(used, world)

    def _living_pids(self) -> dict[str, dict[int, int]]:
        """Returns the process ids of living ranks, by world and rank."""
        return {name: {r.rank: r.pid for r in world.alive()} for name, world in self.worlds.items()}

    # -- stacks that somebody asks for ---------------------------------------------------------------------

    def ask_for_stacks(self, asker: str) -> None:
        """Has the stacks of all ranks taken soon; where nobody lives, none is all there is."""
        if len(self.askers) < MAX_ASKERS:
            self.askers[beginning(asker, ASKER_CHARS)] = None
        if not self.worlds:
            self.record_look()

    def record_look(self) -> None:
        """Records that a look begins, and who waits for it."""
        self.recorder.write(ev.StacksAsked(tuple(self.askers)))
        self.askers.clear()

    # -- other threads -------------------------------------------------------------------------------------

    def report(self, world: str, fact: ev.Fact) -> None:
        """Has the loop record what another thread saw in a world. Called from that thread."""
        self.pump.hand_over((world, fact, self.recorder.now_s()))

    def _record_observation(self, observation: Observation) -> None:
        world, fact, at_s = observation
        if world in self.worlds:
            self.recorder.write(fact, world, at_s=at_s)

    def newest_world(self) -> str:
        """Returns its name, or nothing where none lives. May be called from another thread."""
        return next(reversed(self.worlds), "")

    def owner_of(self, pid: int) -> tuple[str, int] | None:
        """Returns world and rank of a rank's process, or of one that it started. May be called from another thread."""
        seen = process.stat(pid)
        sessions = {pid, seen.session if seen else pid}
        ranks = [(w.name, r) for w in list(self.worlds.values()) for r in list(w.ranks.values())]
        return next(((world, r.rank) for world, r in ranks if r.pid in sessions), None)
