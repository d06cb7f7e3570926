"""Owns the ranks of all living worlds: starts them, takes in what they send, notices their exits, ends them. Must not
decide when, nor what facts mean.
"""

import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import assert_never

from pytest_megacpp.box.actions import Release, StartWorld
from pytest_megacpp.box.context import RunContext
from pytest_megacpp.box.host import process
from pytest_megacpp.box.host.oom import OomWitness
from pytest_megacpp.box.logs.output import OutputMarks
from pytest_megacpp.box.logs.redaction import redact_file
from pytest_megacpp.box.prepare import Prepared
from pytest_megacpp.box.seed.working_copy import has_cache_of_its_own
from pytest_megacpp.box.watches import Watches
from pytest_megacpp.box.worlds import interpreters
from pytest_megacpp.box.worlds.interpreters import NEEDED_OF_TORCH
from pytest_megacpp.box.worlds.world import NoTorch, RankProcess, StartFailed, World
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.greeting import Channel
from pytest_megacpp.recording.plan import Go, Leave
from pytest_megacpp.recording.vocabulary import BoxStep, Purpose, ReportOutcome

LEAVE_S = 8.0  # for session fixtures and exit handlers after the last test
TERM_S = 2.0  # between SIGTERM and SIGKILL
KILL_S = 5.0  # for the kernel to take a killed process down
LAST_READS = 64  # of a line whose rank is gone: all that its socket holds, though a child may go on writing
FLOOD_SHARE = 0.03  # of the box's time, for a rank that sends more than is recorded (decision 0010)


class Ranks:
    """The ranks of all worlds that live. Only the loop's thread calls this."""

    def __init__(self, context: RunContext, prepared: Prepared, watches: Watches) -> None:
        self._context = context
        self._admission = prepared.admission
        self._interpreters = prepared.interpreters
        self._watches = watches
        self._oom = OomWitness()
        self._output: dict[str, OutputMarks] = {}  # by world

    # -- start ---------------------------------------------------------------------------------------------

    def start(self, action: StartWorld) -> None:
        """Starts a world, unless the run is to end before. Raises StartFailed."""
        context = self._context
        if context.is_scratch_lost():
            gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(context.scratch))
            raise StartFailed(action.size, gone)
        if not self._await_interpreters(action.size):
            return
        world = World(action.name, action.size, context.directory / "ranks" / action.name, context.scratch)
        context.worlds[world.name] = world
        context.recorder.write(ev.WorldStarted(world.size, action.reason), world.name)
        world.start(self._environment(), self._interpreters)
        self._output[world.name] = OutputMarks({r.rank: r.logs for r in world.ranks.values()})
        self._watches.start(world)
        for rank in world.ranks.values():
            context.recorder.write(ev.RankStarted(rank.rank, rank.pid, rank.hash_seed), world.name)
            self._admission.expect(_name(world, rank), rank.token, partial(self._connect, world, rank))
            if rank.ended_fd is None:
                self._record_exit(world, rank)
            else:
                context.pump.register(rank.ended_fd, partial(self._record_exit, world, rank))

    def _await_interpreters(self, ranks: int) -> bool:
        """Waits until they have imported what ranks need; one that was killed has a successor. Returns False where the
        run is to end first. Raises StartFailed.
        """
        if self._interpreters.are_known():
            return True
        context = self._context
        try:
            self._interpreters.begin()
            is_over = lambda: self._interpreters.are_through() or context.is_to_end()  # noqa: E731
            context.wait_until(is_over, interpreters.PRELOAD_S)
            if context.is_to_end():
                return False
            preloaded = self._interpreters.learn()
        except Exception as e:
            raise StartFailed(ranks, e) from e
        for module, why in preloaded.failed.items():
            context.recorder.write(ev.Progress(BoxStep.PRELOAD, f"{module} doesn't import: {why}"))
        if module := preloaded.spoiler:
            detail = f"importing {module} starts CUDA, so every rank imports for itself: take it out of `preload`"
            context.recorder.write(ev.Progress(BoxStep.PRELOAD, detail))
        if why := next((preloaded.failed[name] for name in NEEDED_OF_TORCH if name in preloaded.failed), ""):
            raise NoTorch(why)
        return True

    def _environment(self) -> dict[str, str]:
        """Returns what every rank gets beside torchrun's own variables."""
        context = self._context
        return {
            "MEGACPP_RUN_ID": context.plan.run_id,
            "MEGACPP_BOX": str(context.scratch / "box"),
            "MEGACPP_PLAN": str(context.scratch / "plan.json"),
            "MEGACPP_ORIGIN": repr(context.recorder.origin_s),
            "MEGACPP_EPOCH": repr(context.recorder.epoch_s()),
            "MEGACPP_DEVICE": "cpu" if context.plan.dry_run else "cuda",
            **{one.variable: one.target for one in context.plan.data if one.target},
        }

    # -- a test --------------------------------------------------------------------------------------------

    def release(self, action: Release) -> None:
        """Lets all ranks of a world begin a test. Raises StartFailed."""
        world = self._context.worlds[action.world]
        self._output[world.name].begin()
        for rank in world.ranks.values():
            rank.channel.begin()
        if not action.keep_group and not self._has_foreign_group(world.name):
            port = world.store_for(keep=False)
            world.drop_stores()
        else:
            port = world.store_for(keep=action.keep_group)
        self._oom.look()
        test, planned, epoch_s = action.attempt, action.attempt.planned, self._context.recorder.epoch_s()
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
                cold=has_cache_of_its_own(planned, self._context.plan),
                epoch_s=epoch_s,
            )
        )
        self._watches.begin(world.name, action.test, epoch_s)

    def _has_foreign_group(self, world: str) -> bool:
        tests = [t for t in self._context.recorder.timeline.tests.values() if t.world == world]
        return any(v.group_foreign for t in tests for v in t.ranks.values())

    def output(self, world: str, test: int | None) -> Iterator[ev.Fact]:
        """Returns what the ranks wrote since the test began."""
        yield from self._output[world].read(test)

    def trim_logs(self) -> None:
        for marks in self._output.values():
            marks.trim()

    # -- what ranks say ------------------------------------------------------------------------------------

    def _connect(self, world: World, rank: RankProcess, channel: Channel, line: socket.socket) -> None:
        """Takes a connection that a rank opened: one is for what it reports, another for the dump of a crash."""
        match channel:
            case Channel.FACTS:
                rank.line = line
                self._context.pump.register(line, partial(self._receive, world, rank))
            case Channel.CRASH:
                rank.crash = line
                self._watches.watch_crash(world.name, rank.rank, line)
            case _:
                assert_never(channel)

    def _receive(self, world: World, rank: RankProcess) -> bool:
        """Records what has arrived, without waiting; returns whether there was something. A child of the rank may keep
        the line open after the rank's end.
        """
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
        channel, began_s = rank.channel, time.thread_time()  # also on a machine that others keep busy
        flooded, recorder = channel.floods, self._context.recorder
        with recorder.together():
            for fact, at_s in channel.feed(data, recorder.now_s()):
                self._record(world.name, rank.rank, fact, at_s)
        if channel.endless:
            self._hang_up(rank)
        elif flooded and channel.floods and not rank.exited:
            self._context.pump.rest(rank.line, (time.thread_time() - began_s) / FLOOD_SHARE)
        return True

    def _hang_up(self, rank: RankProcess) -> None:
        if rank.line is not None:
            self._context.pump.forget(rank.line)
            rank.line.close()
            rank.line = None

    def _record(self, world: str, rank: int, fact: ev.Fact, at_s: float) -> None:
        if isinstance(fact, ev.Muted):
            self._context.recorder.write(fact, world, at_s=at_s)
            return
        self._context.recorder.write(fact, world, f"rank {rank}", at_s)
        if isinstance(fact, ev.Finished) or (isinstance(fact, ev.Reported) and fact.outcome is ReportOutcome.FAILED):
            self._watches.poll_soon(world)

    def _record_exit(self, world: World, rank: RankProcess) -> None:
        """Records that a rank's process ended, after all that it sent before: reports that left before the end must be
        recorded before it.
        """
        if rank.exited:
            return
        if not world.ending:
            self._context.is_scratch_lost()  # recorded before the exits that come of it
        recorder, pump = self._context.recorder, self._context.pump
        at_s = recorder.now_s()
        rank.exited = True
        pump.forget(rank.ended_fd)
        self._admission.catch_up()
        for _ in range(LAST_READS):
            if rank.line is None or not self._receive(world, rank):
                break
        self._hang_up(rank)
        code = rank.exit_code()
        name = process.signal_name(-code) if code is not None and code < 0 else None
        oom = self._oom.killed(rank.pid) if name == "SIGKILL" and not rank.signalled else False
        alive_s = round(pump.looked_s, 6)
        ended = ev.RankExited(rank.rank, code, name, oom, world.ending, alive_s, rank.signalled)
        recorder.write(ended, world.name, at_s=at_s)
        self._watches.poll_soon(world.name)

    # -- end -----------------------------------------------------------------------------------------------

    def end_all(self, reason: str) -> None:
        for world in list(self._context.worlds):
            self.end(world, reason, graceful=False)

    def end(self, name: str, reason: str, *, graceful: bool) -> None:
        """Ends a world: asks its ranks to leave where `graceful`, then SIGTERM, then SIGKILL, then whatever they left
        behind. No process survives this. Does nothing for a world that was never started because the run was about to
        end.
        """
        world = self._context.worlds.get(name)
        if world is None:
            return
        world.ending = True
        self._watches.stop(name)
        pump = self._context.pump
        gone = lambda: not world.alive()  # noqa: E731
        if graceful:
            world.say(Leave())
            pump.until(gone, LEAVE_S)
        for sig, grace_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            for rank in world.alive():
                rank.signalled = True
                process.send(rank.pid, signal.SIGCONT)
                process.send(rank.pid, sig)
            if pump.until(gone, grace_s):
                break
        for rank in world.ranks.values():  # a process group outlives its leader
            with contextlib.suppress(OSError):
                os.killpg(rank.pid, signal.SIGKILL)
        process.end_all(world.strays())
        self._context.recorder.write(ev.WorldEnded(reason, graceful), name)
        self._forget(world)

    def _forget(self, world: World) -> None:
        for rank in world.ranks.values():
            if rank.crash is not None:
                with contextlib.suppress(OSError):
                    rank.crash.shutdown(socket.SHUT_RDWR)
            self._admission.dismiss(_name(world, rank))
            for source in (rank.ended_fd, rank.line):
                self._context.pump.forget(source)
        if (marks := self._output.pop(world.name, None)) is not None:
            marks.shorten()
        for log in (log for rank in world.ranks.values() for log in rank.logs):
            redact_file(log, self._context.redactor)
        world.close()
        del self._context.worlds[world.name]

    def close(self) -> None:
        self._admission.close()
        self._oom.close()


def _name(world: World, rank: RankProcess) -> str:
    """Returns a rank's name among all that the box ever started."""
    return f"{world.name}.{rank.rank}"
