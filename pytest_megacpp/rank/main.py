"""Owns the life of one rank's process: session, worker server, pytest, a clean exit; must not know other ranks.

The environment is torchrun's plus `MEGACPP_*`: BOX (socket of the box), TOKEN (what this rank greets it with), WORKER
(where the worker server listens), ORIGIN and EPOCH (box time zero on the monotonic and the wall clock), PLAN (file),
STDERR (file), TMP, DEVICE.
"""

import atexit
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback

import pytest

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.rank.crash import CrashLine
from pytest_megacpp.rank.errors import describe, rendered, stage_of
from pytest_megacpp.rank.observers import Observers
from pytest_megacpp.rank.own_pytest import arguments
from pytest_megacpp.rank.session import RankSession, lane_fixture
from pytest_megacpp.recording.codec import from_json
from pytest_megacpp.recording.events import RankBroken, RankReady
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.texts import ending
from pytest_megacpp.recording.vocabulary import Stage

_SHOWN_CHARS = 8_000
_LOOKED_AT_BYTES = 128 << 10
_STAGES = {pytest.ExitCode.USAGE_ERROR: Stage.USAGE, pytest.ExitCode.INTERNAL_ERROR: Stage.PLUGIN}


def main() -> None:
    """Runs the rank until the box tells it to leave; never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)  # ours is no business of the test's own children
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    rank = int(os.environ["RANK"])
    origin_s, epoch_s = (float(os.environ[f"MEGACPP_{name}"]) for name in ("ORIGIN", "EPOCH"))
    box, token = os.environ["MEGACPP_BOX"], os.environ.pop("MEGACPP_TOKEN")
    stderr = os.environ["MEGACPP_STDERR"]
    agent = Agent(box, token, rank, origin_s, epoch_s)
    crash = CrashLine(box, token)
    crash.use()
    code = 0
    try:
        code = _serve(agent, crash, rank, stderr)
    except BaseException as e:
        agent.send(_broken(rank, e))
        code = 1
    _leave(code)


def _serve(agent: Agent, crash: CrashLine, rank: int, stderr: str) -> int:
    observers = Observers(agent)
    observers.start_worker_server(os.environ["MEGACPP_WORKER"])
    framed = observers.frame_native_calls()
    agent.send(RankReady(rank, os.getpid(), hex(threading.get_ident()), framed))
    observers.install()
    with open(os.environ["MEGACPP_PLAN"], encoding="utf-8") as f:
        plan = from_json(Plan, json.load(f))
    session = RankSession(agent, observers, crash, plan)
    code = pytest.main(arguments(plan), plugins=[session, lane_fixture(session)])
    if not session.collected:
        agent.send(_broken(rank, session.gave_up) if session.gave_up else _refused(rank, code, _end_of(stderr)))
    return 0 if session.released else int(code)


def _broken(rank: int, error: BaseException) -> RankBroken:
    """Returns the fact for an exception that ended pytest before it had collected."""
    broken = describe(error, rendered(error))
    return RankBroken(rank, stage_of(error), broken.type, broken.message, broken.traceback)


def _refused(rank: int, code: int | pytest.ExitCode, text: str) -> RankBroken:
    """Returns the fact for a pytest that didn't begin and wrote the reason to its error stream."""
    stage = _STAGES.get(pytest.ExitCode(code), Stage.COLLECTION)
    if "ImportError while loading conftest" in text or "ConftestImportFailure" in text:
        stage = Stage.CONFTEST
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    kind, _, message = last.removeprefix("E ").strip().partition(": ")
    return RankBroken(rank, stage, kind if message else "", message or last, text)


def _end_of(stderr: str) -> str:
    """Returns what pytest wrote before it gave up, from this rank's own log. More is read than returned, to find where
    it begins.
    """
    sys.stderr.flush()
    try:
        with open(stderr, encoding="utf-8", errors="replace") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - _LOOKED_AT_BYTES))
            return ending(f.read(), _SHOWN_CHARS)
    except OSError:
        return ""


def _leave(code: int) -> None:
    """Ends the process. Exit handlers run as in a script, where one that fails prints that and changes nothing; threads
    that are left don't keep the process alive.
    """
    try:
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
