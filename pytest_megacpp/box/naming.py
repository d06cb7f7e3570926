"""Owns naming the tests of a plan that the desk could only read from their source: what the box collects takes their
place. Must not collect anything itself: a pytest in a process of its own does, before there are ranks.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_megacpp.box.context import RunContext
from pytest_megacpp.box.host import process
from pytest_megacpp.box.worlds.torchrun_env import rank_environment
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.codec import CodecError, from_json, to_json
from pytest_megacpp.recording.naming import Collected, Named, name_tests
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.plan import MAX_TESTS, Plan, PlannedTest
from pytest_megacpp.recording.texts import beginning
from pytest_megacpp.recording.vocabulary import BoxStep

KEPT_NAMES = 64
NAME_CHARS = 300


def name_planned_tests(context: RunContext) -> None:
    """Finds out which tests there are and plans those, in the file that ranks read too. Where pytest can't collect
    here, the plan stays as it was read, and ranks tell why.
    """
    plan_file = context.scratch / "plan.json"
    plan = from_json(Plan, json.loads(plan_file.read_text(encoding="utf-8")))  # with ids as pytest has them
    files = len({test.nodeid.partition("::")[0] for test in plan.read})
    context.recorder.write(ev.Progress(BoxStep.COLLECTION, f"of {files} files that the desk could only read"))
    found, problem = _collect(context, plan)
    read = {test.nodeid for test in plan.read}
    planned = [test.nodeid for test in plan.tests if test.nodeid in read]
    named = name_tests(plan.read, dict.fromkeys(planned), found) if found is not None else _as_read(planned)
    tests, numbers = _tests(plan.tests, named, read)
    if len(tests) > MAX_TESTS:
        problem = f"{len(tests)} tests are there, and a run can have at most {MAX_TESTS}"
        named = _as_read(planned)
        tests, numbers = _tests(plan.tests, named, read)
    left_out = Numbers(i for i, test in enumerate(plan.tests) if test.nodeid in set(named.left_out))
    plan = replace(plan, tests=tuple(tests))
    _write(plan_file, plan)
    context.adopt(plan)
    context.recorder.write(_fact(len(tests), len(planned), named, left_out, problem))
    for index, (test, number) in enumerate(zip(context.plan.tests, numbers, strict=True)):
        planned_fact = ev.TestPlanned(index, test.nodeid, test.ranks, test.must_run, preset=test.preset)
        context.recorder.write(replace(planned_fact, read_as=number))


def _collect(context: RunContext, plan: Plan) -> tuple[Collected | None, str]:
    """Returns what pytest collects in an environment like a rank's; None, and why, where it comes to nothing."""
    answer = context.scratch / "collected.json"
    limit_s = max(test.limits.startup for test in plan.tests)
    started = subprocess.Popen(
        [sys.executable, "-m", "pytest_megacpp.rank.naming", str(context.scratch / "plan.json"), str(answer)],
        env={**os.environ, **_environment(context, plan)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    ended = context.wait_until(lambda: started.poll() is not None or context.is_to_end(), limit_s)
    if not ended or started.poll() is None:
        process.send(started.pid, signal.SIGKILL)
        started.wait()
        return None, "the run was stopped" if context.is_to_end() else "pytest took longer than the limit for a start"
    try:
        return from_json(Collected, json.loads(answer.read_text(encoding="utf-8"))), ""
    except (OSError, ValueError, CodecError):
        return None, f"pytest could not collect here (exit status {started.returncode}, see box.log)"


def _environment(context: RunContext, plan: Plan) -> dict[str, str]:
    """Returns what a rank has, as far as test files may look at it while they are imported."""
    temporary = context.scratch / "naming"
    temporary.mkdir()
    as_rank = rank_environment(
        rank=0,
        world_size=plan.ranks,
        master_addr="127.0.0.1",
        master_port=0,
        run_id=plan.run_id,
        inherited=os.environ,
    )
    return {
        **as_rank,
        "MEGACPP_RUN_ID": plan.run_id,
        "MEGACPP_DEVICE": "cpu" if plan.dry_run else "cuda",
        "MEGACPP_TMP": str(temporary),
        **{one.variable: one.target for one in plan.data if one.target},
    }


def _as_read(planned: Sequence[str]) -> Named:
    return Named({}, (), tuple(planned), (), ())


def _tests(
    asked: Sequence[PlannedTest], named: Named, read: frozenset[str] | set[str]
) -> tuple[list[PlannedTest], list[int]]:
    """Returns the tests that are there, in the desk's order, each with the number of the one that it was read as."""
    tests: list[PlannedTest] = []
    numbers: list[int] = []
    kept = set(named.missing)
    for number, test in enumerate(asked):
        is_as_read = test.nodeid not in read or test.nodeid in kept
        names = (test.nodeid,) if is_as_read else named.cases.get(test.nodeid, ())
        tests += [replace(test, nodeid=name) for name in names]
        numbers += [number] * len(names)
    return tests, numbers


def _fact(tests: int, read: int, named: Named, left_out: Numbers, problem: str) -> ev.SourceRead:
    return ev.SourceRead(
        tests=tests,
        read=read,
        cases=sum(map(len, named.cases.values())),
        left_out=left_out,
        missing=0 if problem else len(named.missing),
        differing=_kept(named.differing),
        differing_count=len(named.differing),
        more=_kept(named.more),
        more_count=len(named.more),
        problem=problem,
    )


def _kept(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(beginning(name, NAME_CHARS) for name in names[:KEPT_NAMES])


def _write(file: Path, plan: Plan) -> None:
    """Ranks may read the plan at any time: it is there as a whole or not at all."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(to_json(plan)), encoding="utf-8")
    new.replace(file)
