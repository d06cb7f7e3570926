"""Owns the box's loop: carries out what the supervisor says, from the first event of a run to the last; must not judge.

One thread does everything but looking (`watches`). The box needs nobody: when the desk is gone it ends in order.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from pytest_megacpp.box.actions import (
    Action,
    EndWorld,
    Finish,
    LookAgain,
    ReadOutput,
    Release,
    StartWorld,
    TakeEvidence,
    Write,
)
from pytest_megacpp.box.context import RunContext, as_recorded
from pytest_megacpp.box.desk_commands import DeskCommands
from pytest_megacpp.box.host import process
from pytest_megacpp.box.logs.redaction import redact_file
from pytest_megacpp.box.prepare import Prepared, Refused, prepare
from pytest_megacpp.box.ranks import Ranks
from pytest_megacpp.box.recorder import Recorder, RecordingFailed
from pytest_megacpp.box.seed.keeping import keep
from pytest_megacpp.box.watches import Watches
from pytest_megacpp.box.worlds.world import StartFailed
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import from_json
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import BoxStep, ProblemCode, RunEnd

CONTROL = 0  # the descriptor on which the desk gives commands
LOOK_EVERY_S = 1.0  # after logs and the scratch directory


class Box:
    """The loop of a run that is prepared."""

    def __init__(self, context: RunContext, prepared: Prepared) -> None:
        self._context = context
        self._seed = prepared.seed
        self._watches = Watches(context)
        self._ranks = Ranks(context, prepared, self._watches)
        self._looked_s = 0.0

    def run(self) -> None:
        """Runs all tests of the plan and records the end of the run. Raises RecordingFailed."""
        recorder = self._context.recorder
        try:
            self._loop()
        except StartFailed as e:
            traceback.print_exception(e)  # in box.log
            if not self._context.is_scratch_lost():
                recorder.write(ev.ProblemFound(ProblemCode.ENVIRONMENT, e.cause, str(e), e.remedy))
            recorder.write(ev.RunFinished(RunEnd.REFUSED))
        finally:
            self._ranks.end_all("the box ends")
            self._ranks.close()

    def _loop(self) -> None:
        supervisor, recorder = self._context.supervisor, self._context.recorder
        while not supervisor.finished:
            actions = supervisor.step(recorder.now_s())
            for action in actions:
                self._perform(action)
            if not actions:
                self._context.pump.once()
                self._look_after()
            self._context.on_step()
            self._context.account_for_memory()
            if self._context.askers:
                self._watches.take_stacks()

    def _look_after(self) -> None:
        """Checks, while nothing happens, what has to be asked for: the scratch directory and the sizes of logs."""
        now_s = self._context.recorder.now_s()
        if now_s - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now_s
            self._context.is_scratch_lost()
            self._ranks.trim_logs()

    # -- what the supervisor says --------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        match action:
            case StartWorld():
                self._ranks.start(action)
            case EndWorld():
                self._ranks.end(action.name, action.reason, graceful=action.graceful)
            case Write():
                self._write(action.world, action.fact)
            case Release():
                self._ranks.release(action)
            case TakeEvidence():
                self._watches.take_evidence(action)
            case LookAgain():
                self._watches.look_again(action)
            case ReadOutput():
                for fact in self._ranks.output(action.world, action.test):
                    self._context.recorder.write(fact, action.world)
            case Finish():
                self._finish(action)
            case _:
                assert_never(action)

    def _write(self, world: str, fact: ev.Fact) -> None:
        if isinstance(fact, ev.TestEnded):
            self._watches.pause(world)
        self._context.recorder.write(fact, world)

    def _finish(self, action: Finish) -> None:
        recorder = self._context.recorder
        self._ranks.end_all(action.reason)
        recorder.write(keep(self._seed, recorder.timeline, action.reason))
        recorder.write(ev.RunFinished(action.reason, action.detail))


# -- a run -------------------------------------------------------------------------------------------------


def run(context: RunContext, *, control: int | None, signals: tuple[str, ...]) -> None:
    """Records a run, from the first event to the last. Raises RecordingFailed. `control` is the descriptor on which the
    desk gives commands, `signals` are those that were ignored or blocked when the box was started.
    """
    try:
        _record_plan(context, signals)
        if control is not None:
            DeskCommands(context, control)
        Box(context, prepare(context)).run()
    except Refused as e:
        if not context.recorder.timeline.planned:
            _record_tests(context)
        context.recorder.write(e.problem)
        context.recorder.write(ev.RunFinished(RunEnd.REFUSED))
    finally:
        context.pump.close()


def _record_plan(context: RunContext, signals: tuple[str, ...]) -> None:
    plan, recorder = context.plan, context.recorder
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    recorder.write(
        ev.RunStarted(
            *(plan.run_id, started_at, plan.lane, plan.surface, plan.dry_run, plan.ranks, len(plan.tests)),
            cwd=plan.cwd,
            revision=plan.revision,
            limit_s=plan.run_s,
            read=bool(plan.read),
        )
    )
    if not plan.read:
        _record_tests(context)
    if signals:
        detail = f"{', '.join(signals)} were ignored or blocked at the start; ranks have defaults"
        recorder.write(ev.Progress(BoxStep.SIGNALS, detail))


def _record_tests(context: RunContext) -> None:
    for index, test in enumerate(context.plan.tests):
        context.recorder.write(ev.TestPlanned(index, test.nodeid, test.ranks, test.must_run, preset=test.preset))


def install_signal_handlers(context: RunContext) -> None:
    """Has SIGTERM, SIGINT and SIGHUP end the run in order."""
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda number, _: _stop(context, number))


def _stop(context: RunContext, signal_number: int) -> None:
    context.stop(RunEnd.INTERRUPTED, f"the box got {process.signal_name(signal_number)}")


def _clean_plan(path: str, redactor: Redactor) -> None:
    """Takes the configured secrets out of the plan that the run keeps. Where box and desk are killed before, the next
    desk needs them to know what to take out of the logs (`desk/run/leftovers.py`).
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
    plan = as_recorded(plan, redactor)
    sys.path[:] = dict.fromkeys((*plan.path, *sys.path))
    multiprocessing.current_process()._config["tempdir"] = scratch  # type: ignore[attr-defined]  # for its sockets
    try:
        shutil.copyfile(plan_path, Path(scratch) / "plan.json")
        recorder = Recorder(str(Path(directory) / "recording.jsonl"), plan.run_id, redactor)
        context = RunContext(plan, Path(directory), Path(scratch), recorder, redactor)
        install_signal_handlers(context)
        run(context, control=CONTROL, signals=signals)
    except RecordingFailed as e:
        with contextlib.suppress(OSError):  # the log may lie on the same disk
            print(e.strerror, file=sys.stderr, flush=True)
        return os.EX_CANTCREAT
    finally:
        process.end_all(p.pid for p in process.descendants(os.getpid()))
        _clean_plan(plan_path, redactor)
        shutil.rmtree(scratch, ignore_errors=True)
    return 0
