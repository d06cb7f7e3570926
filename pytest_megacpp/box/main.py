"""Owns the box's loop: carries out what the supervisor says and turns what happens into facts; must not judge.

One thread does everything but looking (`watch`). The box needs nobody: when the desk is gone it ends in order.
"""

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias, assert_never

from pytest_megacpp.box import supervisor as sv
from pytest_megacpp.box.data.data_sets import Fetch
from pytest_megacpp.box.event_loop import TICK_S, Pump
from pytest_megacpp.box.gpus.faults import FaultWatch, Heard, device_of, ears
from pytest_megacpp.box.host import contract, kernel, loopback, preflight, process
from pytest_megacpp.box.host.memory import Ledger, allowance
from pytest_megacpp.box.host.oom import OomWitness
from pytest_megacpp.box.logs.output import OutputMarks
from pytest_megacpp.box.logs.redaction import redact_file
from pytest_megacpp.box.look.watch import CrashWatch, ProcessTable, RankWatch
from pytest_megacpp.box.recorder import Recorder, RecordingFailed
from pytest_megacpp.box.scratch import PREFIX, lost
from pytest_megacpp.box.seed.seeding import Seeding, has_cache_of_its_own, left_to_user, shape_of
from pytest_megacpp.box.worlds import interpreters
from pytest_megacpp.box.worlds.admission import Admission
from pytest_megacpp.box.worlds.interpreters import Interpreters, hash_seeds
from pytest_megacpp.box.worlds.rank_channel import Line
from pytest_megacpp.box.worlds.world import NoTorch, RankProcess, StartFailed, World
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import CodecError, from_json
from pytest_megacpp.recording.commands import Word, read_word
from pytest_megacpp.recording.greeting import Channel
from pytest_megacpp.recording.plan import Again, Enough, Go, Leave, Plan, Stop
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.texts import beginning
from pytest_megacpp.recording.vocabulary import BoxStep, ProblemCode, Purpose, ReportOutcome, RunEnd

LEAVE_S = 8.0  # for session fixtures and exit handlers after the last test
TERM_S = 2.0  # between SIGTERM and SIGKILL
KILL_S = 5.0  # for the kernel to take a killed process down
EVIDENCE_S = 3.0  # all ranks together
LET_GO_S = 5.0  # for a copier to end, which a mount that doesn't answer may hold for ever
LOOK_EVERY_S = 1.0  # after logs and the scratch directory
NEEDED = ("box", "plan.json")  # by ranks that start, of what lies in the scratch directory
MAX_WORD_BYTES = 1 << 16  # of the desk's; what is longer is none of its words
LAST_READS = 64  # of a line whose rank is gone: all that a socket holds, though somebody goes on writing
FLOOD_SHARE = 0.03  # of the box's time, for a rank that says more than is recorded
NEEDED_OF_TORCH = ("torch", "torch.distributed")
EVERY_RANK_NEEDS = (*NEEDED_OF_TORCH, "pytest", "pytest_megacpp.rank.main")

RankKey: TypeAlias = tuple[str, int]  # world and rank
Look: TypeAlias = tuple[str, ev.Fact, float]  # of a world, what another thread saw, and when


@dataclass
class Box:
    """One run. `control` is the descriptor on which the desk speaks; its end means that the desk is gone."""

    plan: Plan
    directory: Path
    recorder: Recorder
    redactor: Redactor
    scratch: Path
    control: int = 0
    signals: tuple[str, ...] = ()
    worlds: dict[str, World] = field(default_factory=dict)
    watches: dict[str, list[RankWatch]] = field(default_factory=dict)
    marks: dict[str, OutputMarks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.supervisor = sv.Supervisor(self.plan, self.recorder.timeline)
        self.oom = OomWitness()
        self._pump = Pump[Look](self._keep_look, self.recorder.now_s)
        self._table = ProcessTable()
        allowed = allowance(self.plan.memory_bytes)
        self._ledger = Ledger(allowed, self._table.processes) if allowed is not None else None
        self._lines: dict[RankKey, Line] = {}
        self._control_tail = b""
        self._cache = self.scratch / "cache"
        self._settings: tuple[contract.Setting, ...] = ()
        self._bus_ids: dict[str, str] = {}  # by uuid, in the lane's order
        self._looked_s = 0.0

    # -- the run -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first fact to the last. Raises RecordingFailed."""
        plan = self.plan
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.recorder.write(
            ev.RunStarted(
                *(plan.run_id, started_at, plan.lane, plan.surface, plan.dry_run, plan.ranks, len(plan.tests)),
                cwd=plan.cwd,
                revision=plan.revision,
            )
        )
        for index, test in enumerate(plan.tests):
            self.recorder.write(ev.TestPlanned(index, test.nodeid, test.ranks, test.must_run, preset=test.preset))
        if self.signals:
            names = ", ".join(self.signals)
            self.recorder.write(
                ev.Progress(BoxStep.SIGNALS, f"{names} were ignored or blocked at the start; ranks have defaults")
            )
        self._listen_to_the_desk()
        ready = self._environment() and self._preflight() and self._warmth() and self._prepare() and self._fetch()
        if not ready:
            self.recorder.write(ev.RunFinished(RunEnd.REFUSED))
            return
        try:
            self._loop()
        except StartFailed as e:
            traceback.print_exception(e)  # in box.log
            if not self._is_scratch_lost():
                self.recorder.write(ev.ProblemFound(ProblemCode.ENVIRONMENT, e.cause, str(e), e.mend))
            self.recorder.write(ev.RunFinished(RunEnd.REFUSED))
        finally:
            for world in list(self.worlds.values()):
                self._end_world(world, "the box ends", graceful=False)
            self._close()

    def _listen_to_the_desk(self) -> None:
        if self.control >= 0:
            os.set_blocking(self.control, False)
            self._pump.register(self.control, self._hear)

    def _environment(self) -> bool:
        """Applies the contract to this process, which every rank inherits from."""
        configured = self.plan.environment
        shape = contract.LaunchShape(
            cuda=not self.plan.dry_run,
            ranks=self.plan.ranks,
            cpus=preflight.cpu_count(),
            cache_dir=str(self._cache),
            fsdp=self.plan.fsdp,
            loopback=loopback.for_gloo(),
        )
        theirs = {**os.environ, **configured}
        settings = contract.resolve(theirs, shape=shape, chosen=configured.keys())
        for s in settings:
            self.recorder.write(ev.EnvironmentSet(s.name, s.value, s.source, s.reason, s.phase))
        if refused := contract.refusals(settings):
            mend = "mend the box's image or secrets, where it comes from, or set another value in the configuration"
            self.recorder.write(ev.ProblemFound(ProblemCode.BLOCKED, "environment", " ".join(refused), mend))
            return False
        child = contract.apply(theirs, settings)
        os.environ.clear()
        os.environ.update(child)
        self._settings = settings
        return True

    def _preflight(self) -> bool:
        self._survey = survey = preflight.survey(
            self.directory, list_devices=not self.plan.dry_run, ordered_bytes=self.plan.memory_bytes
        )
        names = tuple(d.name for d in survey.devices.devices)
        image: dict[str, ev.Json] = {"image": self.plan.seed.image} if self.plan.seed.image else {}
        self.recorder.write(ev.BoxReady(survey.versions, survey.all_facts() | image, names))
        found = preflight.problems(
            survey,
            requested_gpu=self.plan.gpu,
            requested_count=self.plan.ranks if self.plan.dry_run else self.plan.devices,
            dry_run=self.plan.dry_run,
        )
        states = {state.uuid: state.bus_id for state in survey.gpus.states}
        self._bus_ids = {d.uuid: states.get(d.uuid, "") for d in survey.devices.devices}
        if found:
            told = " ".join(problem.text for problem in found)
            self.recorder.write(ev.ProblemFound(ProblemCode.ENVIRONMENT, found[0].cause, told))
        return not found

    def _warmth(self) -> bool:
        """Fills the compile cache from a seed, before anything costs time."""
        shape = shape_of(self.plan, self._survey, self._settings, os.environ)
        self._cache.mkdir(parents=True)
        theirs = left_to_user(self._settings, os.environ)
        self.seeding = Seeding(self.plan, shape, self._cache, theirs, self._say_of_seed, self._is_stopped)
        self.recorder.write(self.seeding.begin())
        refused = self.seeding.refusal()
        if refused is not None:
            self.recorder.write(refused)
            return False
        self.supervisor.begin_warm(self.seeding.reasons())
        return True

    def _say_of_seed(self, text: str) -> None:
        self.recorder.write(ev.Progress(BoxStep.SEED, text))

    def _is_stopped(self) -> bool:
        """Hears what was said meanwhile."""
        self._pump.once(0.0)
        return self.supervisor.stop is not None

    def _prepare(self) -> bool:
        """Listens for ranks, starts the interpreters that import for them."""
        self._capabilities()
        try:
            self._admission = Admission(str(self.scratch / "box"), self._pump.register, self._pump.forget)
        except OSError as e:
            detail = f"ranks can't reach the box: a unix socket in {self.scratch} failed ({e})"
            mend = "set TMPDIR to a short path on a file system that holds sockets, or allow AF_UNIX in the sandbox"
            self.recorder.write(ev.ProblemFound(ProblemCode.ENVIRONMENT, "kernel", detail, mend))
            return False
        self._listen_for_faults()
        seeds = hash_seeds(os.environ, self.plan.hash_seed)
        self.recorder.write(
            ev.Progress(BoxStep.PRELOAD, f"importing torch for all ranks, hash seeds {', '.join(seeds)}")
        )
        self._interpreters = Interpreters(seeds, (*EVERY_RANK_NEEDS, *self.plan.preload), self.scratch)
        try:
            self._interpreters.begin()
        except Exception as e:
            failed = StartFailed(self.plan.ranks, e)
            traceback.print_exception(e)  # in box.log
            self.recorder.write(ev.ProblemFound(ProblemCode.ENVIRONMENT, failed.cause, str(failed), failed.mend))
            return False
        return True

    def _fetch(self) -> bool:
        """Brings the data to where ranks read it. Whoever ends the run meanwhile is answered by the loop."""
        if not self.plan.data:
            return True
        fetch = Fetch(self.plan.data, self.plan.run_id)
        fetch.start()
        ending, over = False, False
        while not (over or ending):
            ending = self._is_to_end()
            if ending:
                fetch.cancel()
            over = self._wait_until(lambda: not fetch.is_alive(), LET_GO_S if ending else TICK_S)
            for said in fetch.news(self.recorder.now_s()):
                self.recorder.write(said)
        if fetch.problem is not None:
            self.recorder.write(fetch.problem)
        return fetch.problem is None

    def _is_to_end(self) -> bool:
        return self.supervisor.why_to_end(self.recorder.now_s()) is not None

    def _capabilities(self) -> None:
        missing = kernel.missing(self.directory)
        for interface in kernel.INTERFACES:
            why = missing.get(interface.name, "")
            self.recorder.write(ev.Capability(interface.name, not why, why))

    def _listen_for_faults(self) -> None:
        if not self._bus_ids:
            return
        found, missing = ears(tuple(self._bus_ids))
        for ear in found:
            FaultWatch(ear, self._fault_heard).start()
        self.recorder.write(ev.Capability("device_faults", bool(found), beginning("; ".join(missing.values()), 200)))

    def _fault_heard(self, heard: Heard) -> None:
        """Called from another thread."""
        device, uuid = device_of(heard, self._bus_ids)
        owner = self._owner(heard.pid) if heard.pid is not None else None
        world, rank = owner or (next(reversed(self.worlds), ""), None)
        self._look_taken(world, ev.DeviceFault(heard.kind, heard.code, device, uuid, rank, heard.text))

    def _owner(self, pid: int) -> tuple[str, int] | None:
        """(world, rank) of a rank's process or of one that it started."""
        seen = process.stat(pid)
        sessions = {pid, seen.session if seen else pid}
        ranks = [(w.name, r) for w in list(self.worlds.values()) for r in list(w.ranks.values())]
        return next(((world, r.rank) for world, r in ranks if r.pid in sessions), None)

    def _look_taken(self, world: str, fact: ev.Fact) -> None:
        """Hands over what another thread saw."""
        self._pump.hand_over((world, fact, self.recorder.now_s()))

    def _keep_look(self, look: Look) -> None:
        world, fact, at_s = look
        if world in self.worlds:
            self.recorder.write(fact, world, at_s=at_s)

    def _loop(self) -> None:
        while not self.supervisor.finished:
            actions = self.supervisor.step(self.recorder.now_s())
            for action in actions:
                self._perform(action)
            if not actions:
                self._pump.once()
                self._look_after()
            self._account()

    def _wait_until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Before tests run; the account of memory is kept meanwhile."""

        def look() -> bool:
            self._account()
            return done()

        return self._pump.until(look, limit_s)

    def _look_after(self) -> None:
        """What is to be seen to now and then while nothing happens."""
        now_s = self.recorder.now_s()
        if now_s - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now_s
            self._is_scratch_lost()
            for marks in self.marks.values():
                marks.trim()

    def _is_scratch_lost(self) -> bool:
        """Whether somebody removed what the run works in. Ranks that start then end before they can say why, and those
        that live can't be asked any more, so the run goes no further.
        """
        names = lost(str(self.scratch), NEEDED)
        if names and self.supervisor.stop is None:
            detail = f"{' and '.join(names)} in {self.scratch} were removed while the run needs them"
            place = f"{self.scratch.parent}/{PREFIX}*"
            mend = f"keep what cleans up {self.scratch.parent} from {place}, or set TMPDIR to a directory of your own"
            self.recorder.write(ev.ProblemFound(ProblemCode.ENVIRONMENT, "scratch", detail, mend))
            self.stop(RunEnd.REFUSED, detail)
        return bool(names)

    def _account(self) -> None:
        """Keeps account of memory: where it runs out, the box may be gone before anybody can say so."""
        if self._ledger is not None and (found := self._ledger.look(self.recorder.now_s(), self._processes)):
            world, used = found
            self.recorder.write(used, world)

    def _processes(self) -> dict[str, dict[int, int]]:
        """Of living ranks, by world."""
        return {name: {r.rank: r.pid for r in world.alive()} for name, world in self.worlds.items()}

    def _close(self) -> None:
        self._admission.close()
        self._pump.close()
        self.oom.close()

    # -- what the supervisor says --------------------------------------------------------------------------

    def _perform(self, action: sv.Action) -> None:
        match action:
            case sv.StartWorld():
                self._start_world(action)
            case sv.EndWorld():
                if (ending := self.worlds.get(action.name)) is not None:  # else the run ended before it was made
                    self._end_world(ending, action.reason, graceful=action.graceful)
            case sv.Write():
                self._write_own(action.world, action.fact)
            case sv.Release():
                self._release(action)
            case sv.TakeEvidence():
                self._evidence(action)
            case sv.LookAgain():
                self._look_again(action)
            case sv.ReadOutput():
                for fact in self.marks[action.world].read(action.test):
                    self.recorder.write(fact, action.world)
            case sv.Finish():
                for world in list(self.worlds.values()):
                    self._end_world(world, action.reason, graceful=False)
                self.recorder.write(self.seeding.keep(self.recorder.timeline, action.reason))
                self.recorder.write(ev.RunFinished(action.reason, action.detail))
            case _:
                assert_never(action)

    def _write_own(self, world: str, fact: ev.Fact) -> None:
        if isinstance(fact, ev.TestEnded):
            for watch in self.watches.get(world, ()):
                watch.pause()
        self.recorder.write(fact, world)

    def _start_world(self, action: sv.StartWorld) -> None:
        if self._is_scratch_lost():
            raise StartFailed(
                action.size, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.scratch))
            )
        if not self._await_interpreters(action.size):
            return
        world = World(action.name, action.size, self.directory / "ranks" / action.name, self.scratch)
        self.worlds[world.name] = world
        self.recorder.write(ev.WorldStarted(world.size, action.reason), world.name)
        world.start(self._rank_environment(), self._interpreters)
        self.marks[world.name] = OutputMarks({r.rank: r.logs for r in world.ranks.values()})
        self._watch(world)
        for rank in world.ranks.values():
            self.recorder.write(ev.RankStarted(rank.rank, rank.pid, rank.hash_seed), world.name)
            self._admission.expect(_name(world, rank), rank.token, partial(self._connect, world, rank))
            if rank.ended_fd is None:
                self._rank_ended(world, rank)
            else:
                self._pump.register(rank.ended_fd, partial(self._rank_ended, world, rank))

    def _await_interpreters(self, ranks: int) -> bool:
        """Until they have imported what ranks need; one that was killed has a successor. False where the run is to end
        first. Raises StartFailed.
        """
        if self._interpreters.are_known():
            return True
        try:
            self._interpreters.begin()
            self._wait_until(lambda: self._interpreters.are_through() or self._is_to_end(), interpreters.PRELOAD_S)
            if self._is_to_end():
                return False
            preloaded = self._interpreters.learn()
        except Exception as e:
            raise StartFailed(ranks, e) from e
        for module, why in preloaded.failed.items():
            self.recorder.write(ev.Progress(BoxStep.PRELOAD, f"{module} doesn't import: {why}"))
        if module := preloaded.spoiler:
            detail = f"importing {module} starts CUDA, so every rank imports for itself: take it out of `preload`"
            self.recorder.write(ev.Progress(BoxStep.PRELOAD, detail))
        if why := next((preloaded.failed[name] for name in NEEDED_OF_TORCH if name in preloaded.failed), ""):
            raise NoTorch(why)
        return True

    def _rank_environment(self) -> dict[str, str]:
        return {
            "MEGACPP_RUN_ID": self.plan.run_id,
            "MEGACPP_BOX": str(self.scratch / "box"),
            "MEGACPP_PLAN": str(self.scratch / "plan.json"),
            "MEGACPP_ORIGIN": repr(self.recorder.origin_s),
            "MEGACPP_EPOCH": repr(self.recorder.epoch_s),
            "MEGACPP_DEVICE": "cpu" if self.plan.dry_run else "cuda",
            **{one.variable: one.target for one in self.plan.data if one.target},
        }

    def _watch(self, world: World) -> None:
        report = partial(self._look_taken, world.name)
        nccl = not self.plan.dry_run
        targets = [world.target(r, nccl=nccl) for r in world.ranks]
        watches = [RankWatch(t, self._table, self.recorder.epoch_s, report) for t in targets]
        for watch in watches:
            watch.start()
        self.watches[world.name] = watches

    def _release(self, action: sv.Release) -> None:
        world = self.worlds[action.world]
        self.marks[world.name].begin()
        for rank in world.ranks:
            self._line(world, rank).begin()
        if not action.keep_group and not self._has_foreign_group(world.name):
            port = world.store_for(keep=False)
            world.drop_stores()
        else:
            port = world.store_for(keep=action.keep_group)
        self.oom.look()
        test, planned = action.attempt, action.attempt.planned
        world.say(
            Go(
                test=action.test,
                item=test.item,
                next_item=action.next_item,
                store_port=port,
                keep_group=action.keep_group,
                preset=planned.preset,
                limits=planned.limits,
                detail=test.purpose is Purpose.DETAIL,
                cold=has_cache_of_its_own(planned, self.plan),
            )
        )
        for watch in self.watches[world.name]:
            watch.begin(action.test)

    def _has_foreign_group(self, world: str) -> bool:
        tests = [t for t in self.recorder.timeline.tests.values() if t.world == world]
        return any(v.group_foreign for t in tests for v in t.ranks.values())

    def _evidence(self, action: sv.TakeEvidence) -> None:
        out = self._out_of_test(action.test)
        asked = self._living(action.world)
        if action.stacks_of is not None:
            asked = [w for w in asked if w.target.rank in action.stacks_of]
        self._ask_all([partial(self._ask, w, action, w.target.rank in out) for w in asked])

    def _look_again(self, action: sv.LookAgain) -> None:
        living = self._living(action.world)
        stacks = [partial(w.stack, action.test) for w in living if w.target.rank in action.stacks_of]
        self._ask_all([*(partial(w.look, action.test) for w in living), *stacks])
        self._pump.once(0.0)  # who went on to the end says so by itself

    def _living(self, world: str) -> list[RankWatch]:
        return [w for w in self.watches.get(world, ()) if not self.worlds[world].ranks[w.target.rank].exited]

    def _ask_all(self, questions: Iterable[Callable[[], None]]) -> None:
        """Asks all ranks at the same time; one that doesn't answer costs its time-out, not the others'."""
        threads = [threading.Thread(target=question, daemon=True) for question in questions]
        for thread in threads:
            thread.start()
        self._pump.until(lambda: not any(t.is_alive() for t in threads), EVIDENCE_S)
        self._pump.drain()

    @staticmethod
    def _ask(watch: RankWatch, action: sv.TakeEvidence, out: bool) -> None:
        if action.stacks_of is None:
            watch.evidence(action.test, stack=not out)
        else:
            watch.stack(action.test)

    def _out_of_test(self, test: int | None) -> set[int]:
        view = self.recorder.timeline.tests.get(test) if test is not None else None
        return {r for r, v in view.ranks.items() if v.out} if view else set()

    def _end_world(self, world: World, reason: str, *, graceful: bool) -> None:
        """Leave, SIGTERM, grace, SIGKILL; then whatever the ranks left behind. Nothing survives this."""
        world.ending = True
        for watch in self.watches.pop(world.name, ()):
            watch.stop()
        gone = lambda: not world.alive()  # noqa: E731
        if graceful:
            world.say(Leave())
            self._pump.until(gone, LEAVE_S)
        for sig, grace_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            for rank in world.alive():
                rank.signalled = True
                process.send(rank.pid, signal.SIGCONT)
                process.send(rank.pid, sig)
            if self._pump.until(gone, grace_s):
                break
        for rank in world.ranks.values():  # a group outlives its leader
            with contextlib.suppress(OSError):
                os.killpg(rank.pid, signal.SIGKILL)
        process.end_all(world.strays())
        self.recorder.write(ev.WorldEnded(reason, graceful), world.name)
        self._forget(world)

    def _forget(self, world: World) -> None:
        for rank in world.ranks.values():
            self._lines.pop((world.name, rank.rank), None)
            if rank.crash is not None:
                with contextlib.suppress(OSError):
                    rank.crash.shutdown(socket.SHUT_RDWR)
            self._admission.dismiss(_name(world, rank))
            for source in (rank.ended_fd, rank.line):
                self._pump.forget(source)
        if (marks := self.marks.pop(world.name, None)) is not None:
            marks.shorten()
        for log in (log for rank in world.ranks.values() for log in rank.logs):
            redact_file(log, self.redactor)
        world.close()
        del self.worlds[world.name]

    # -- what happens --------------------------------------------------------------------------------------

    def _connect(self, world: World, rank: RankProcess, channel: Channel, line: socket.socket) -> None:
        """One line of a rank is for what it says, another for the dump of a crash."""
        match channel:
            case Channel.FACTS:
                rank.line = line
                self._pump.register(line, partial(self._receive, world, rank))
            case Channel.CRASH:
                rank.crash = line
                for watch in self.watches.get(world.name, ()):
                    if watch.target.rank == rank.rank:
                        CrashWatch(line, watch).start()
            case _:
                assert_never(channel)

    def _line(self, world: World, rank: int) -> Line:
        return self._lines.setdefault((world.name, rank), Line(rank))

    def _receive(self, world: World, rank: RankProcess) -> bool:
        """Takes in what has arrived; never waits. A child of the rank may keep the line open after its end."""
        assert rank.line is not None
        try:
            data = rank.line.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._hang_up(rank)
            return False
        line, began_s = self._line(world, rank.rank), time.thread_time()  # also on a machine that others keep busy
        flooded = line.floods
        with self.recorder.together():
            for fact, at_s in line.feed(data, self.recorder.now_s()):
                self._heard(world.name, rank.rank, fact, at_s)
        if line.endless:
            self._hang_up(rank)
        elif flooded and line.floods and not rank.exited:
            self._pump.rest(rank.line, (time.thread_time() - began_s) / FLOOD_SHARE)
        return True

    def _hang_up(self, rank: RankProcess) -> None:
        if rank.line is not None:
            self._pump.forget(rank.line)
            rank.line.close()
            rank.line = None

    def _heard(self, world: str, rank: int, fact: ev.Fact, at_s: float) -> None:
        if isinstance(fact, ev.Muted):
            self.recorder.write(fact, world, at_s=at_s)
            return
        self.recorder.write(fact, world, f"rank {rank}", at_s)
        if isinstance(fact, ev.Finished) or (isinstance(fact, ev.Reported) and fact.outcome is ReportOutcome.FAILED):
            self._hurry(world)

    def _hurry(self, world: str) -> None:
        for watch in self.watches.get(world, ()):
            watch.hurry()

    def _rank_ended(self, world: World, rank: RankProcess) -> None:
        """Its last words first, then the exit: a report that travelled before the end came before it."""
        if rank.exited:
            return
        if not world.ending:
            self._is_scratch_lost()  # before the exits that come of it
        at_s = self.recorder.now_s()
        rank.exited = True
        self._pump.forget(rank.ended_fd)
        self._admission.catch_up()
        for _ in range(LAST_READS):
            if rank.line is None or not self._receive(world, rank):
                break
        self._hang_up(rank)
        code = rank.exit_code()
        name = process.signal_name(-code) if code is not None and code < 0 else None
        oom = self.oom.killed(rank.pid) if name == "SIGKILL" and not rank.signalled else False
        alive_s = round(self._pump.looked_s, 6)
        ended = ev.RankExited(rank.rank, code, name, oom, world.ending, alive_s, rank.signalled)
        self.recorder.write(ended, world.name, at_s=at_s)
        self._hurry(world.name)

    def _hear(self) -> None:
        """The desk's words, one a line. Its silence for good is a stop as well."""
        try:
            data = os.read(self.control, 65536)
        except BlockingIOError:
            return
        if not data:
            self._pump.forget(self.control)
            self.stop(RunEnd.INTERRUPTED, "the desk is gone")
            return
        *lines, tail = (self._control_tail + data).split(b"\n")
        self._control_tail = tail[:MAX_WORD_BYTES]
        for line in lines:
            with contextlib.suppress(CodecError):
                self._obey(read_word(line))

    def _obey(self, word: Word | None) -> None:
        now_s = self.recorder.now_s()
        match word:
            case Stop():
                self.stop(word.reason, "the desk asked for it")
            case Again():
                for action in self.supervisor.asked(word, now_s):
                    self._perform(action)
            case Enough():
                self.supervisor.settle(word.item, now_s)
            case None:
                pass
            case _:
                assert_never(word)

    def stop(self, reason: RunEnd, detail: str) -> None:
        """Ends the run in order, at the next step."""
        self.supervisor.stop = self.supervisor.stop or (reason, detail)


def _name(world: World, rank: RankProcess) -> str:
    """A rank's name among all that the box ever started."""
    return f"{world.name}.{rank.rank}"


def take_signals(box: Box) -> None:
    """SIGTERM and SIGINT end the run in order."""
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda number, _: box.stop(RunEnd.INTERRUPTED, f"the box got {process.signal_name(number)}"))


def _as_recorded(plan: Plan, redactor: Redactor) -> Plan:
    """The box itself needs no secret of a test's id; ranks read the plan in scratch."""
    ids = redactor.ids(test.nodeid for test in plan.tests)
    return replace(plan, tests=tuple(replace(test, nodeid=one) for test, one in zip(plan.tests, ids, strict=True)))


def _clean_plan(path: str, redactor: Redactor) -> None:
    """The run keeps a plan without the configured secrets. Where box and desk are killed before, the next desk needs
    them to know what to take out of the logs (`desk/run/leftovers.py`).
    """
    if not redact_file(path, redactor):
        with contextlib.suppress(OSError):
            os.unlink(path)


def serve(plan_path: str, directory: str, scratch: str, signals: tuple[str, ...] = ()) -> int:
    """Runs the plan in the file; returns the exit status of the box. `scratch` is removed at the end, `signals` are
    those that were ignored or blocked when the box was started.
    """
    plan = from_json(Plan, json.loads(Path(plan_path).read_text(encoding="utf-8")))
    redactor = Redactor({**os.environ, **plan.environment})
    plan = _as_recorded(plan, redactor)
    sys.path[:] = dict.fromkeys((*plan.path, *sys.path))
    multiprocessing.current_process()._config["tempdir"] = scratch  # type: ignore[attr-defined]  # for its sockets
    try:
        shutil.copyfile(plan_path, Path(scratch) / "plan.json")
        recorder = Recorder(str(Path(directory) / "recording.jsonl"), plan.run_id, redactor)
        box = Box(plan, Path(directory), recorder, redactor, Path(scratch), signals=signals)
        take_signals(box)
        box.run()
    except RecordingFailed as e:
        with contextlib.suppress(OSError):  # the log may lie on the same disk
            print(e.strerror, file=sys.stderr, flush=True)
        return os.EX_CANTCREAT
    finally:
        process.end_all(p.pid for p in process.descendants(os.getpid()))
        _clean_plan(plan_path, redactor)
        shutil.rmtree(scratch, ignore_errors=True)
    return 0
