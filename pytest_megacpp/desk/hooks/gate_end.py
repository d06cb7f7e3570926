"""Owns what a gate does at the end of a session: its last checks, the exit code, its part of `run.json`."""

import os
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from pytest_megacpp.desk.config.git import look, named
from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.gate.enforce import Gatekeeper
from pytest_megacpp.desk.hooks.launcher import Launcher
from pytest_megacpp.desk.run.directory import iso, utc_now
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.run_json import RunMeta, RunStatus, run_json


def close_gate(
    keeper: Gatekeeper,
    session: pytest.Session,
    launcher: Launcher,
    options: Options,
    unreported: Sequence[pytest.Item],
    reported: Collection[pytest.Item],
    *,
    finished: bool,
) -> None:
    """A gate that got less than it wants is red; one that rightly ran nothing is green. `finished`: the session came to
    its end in order.
    """
    if finished:
        _check(keeper, launcher, options, unreported, reported)
    for run in launcher.runs:
        run.meta = replace(run.meta, gate=keeper.as_json())
    if keeper.complaints and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif keeper.ran_nothing_rightly and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
    if not launcher.runs and (keeper.complaints or keeper.ran_nothing_rightly):
        _record_alone(keeper, launcher, options)


def _check(
    keeper: Gatekeeper,
    launcher: Launcher,
    options: Options,
    unreported: Sequence[pytest.Item],
    reported: Collection[pytest.Item],
) -> None:
    keeper.check_collected()
    selected = tuple(dict.fromkeys((*launcher.placed, *unreported)))
    if selected and not options.detach:
        keeper.check_results(selected, reported)
    if launcher.existing is not None:
        here = named(look(options.project))
        for run in launcher.runs:
            keeper.check_run(run.plan.run_id, run.timeline.started, here, dry=options.dry_run)


def _record_alone(keeper: Gatekeeper, launcher: Launcher, options: Options) -> None:
    """A gate without a launch leaves a `run.json`, too: what it decided, and why."""
    lane, now = keeper.lanes[0], iso(utc_now())
    with launcher.new_directory() as directory:
        gpu = options.lanes[lane].gpu
        plan = Plan(
            directory.run_id, lane, options.surface, gpu, 0, 0, options.dry_run, fsdp=False, tests=(), args=(), cwd=""
        )
        meta = RunMeta(plan, now, now, git=look(options.project), gate=keeper.as_json())
        status = RunStatus.FAILED if keeper.complaints else RunStatus.PASSED
        redact = Redactor(os.environ).text
        directory.write_json("run.json", run_json(meta, status, [], {}, {}, Timeline(), redact=redact))
