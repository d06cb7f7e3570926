"""Owns what went wrong on the way to a box that a command reaches, as problems with a remedy; must not run anything."""

import re
from collections.abc import Mapping

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode
from pytest_megacpp.surfaces.command.config import CommandConfig
from pytest_megacpp.surfaces.protocol import NO_SUCH_RUN

WORDS_CHARS = 300
WORDS_LINES = 3
GONE = "gone"
_NOT_FOUND = re.compile(r"not found|no such file", re.IGNORECASE)


class Cancelled(Exception):
    """The desk has no more use for what it waited for."""


class Lost(Exception):
    """A connection ended before everything was said; the text says how."""


class Failed(Exception):
    """There is no box, or none any more; `problem` says why."""

    def __init__(self, problem: ProblemFound) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def words_of(text: str) -> str:
    """The last lines of what a command said, in one: `: srun: error: …`; empty where it said nothing."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    told = " / ".join([line for line in lines if line][-WORDS_LINES:])
    return f": {told[-WORDS_CHARS:]}" if told else ""


def table(config: CommandConfig) -> str:
    return f"[tool.pytest_megacpp.surfaces.{config.name}]"


def not_started(config: CommandConfig, error: OSError) -> ProblemFound:
    """Of a command that this machine can't run."""
    detail = f"{config.command[0]}: {error.strerror or error}"
    return ProblemFound(ProblemCode.BLOCKED, "command", detail, f"install it, or correct command in {table(config)}")


def refused(config: CommandConfig, how: str, words: str) -> ProblemFound:
    """Of a command that ended before the far program answered: a scheduler or a login that said no, or no Python."""
    missed = [line for line in words.splitlines() if config.python in line and _NOT_FOUND.search(line)]
    if missed:
        detail = f"{config.name} has no {config.python}{words_of(missed[-1])}"
        remedy = f"install Python 3.11 or newer there, or name it with python in {table(config)}"
        return ProblemFound(ProblemCode.ENVIRONMENT, "python", detail, remedy)
    said = words_of(words)
    remedy = f"try it by hand: {config.shown} …; then megacpp doctor --surface {config.name}"
    return ProblemFound(ProblemCode.BLOCKED, "refused", f"{how} before the box answered{said}", remedy)


def no_answer(config: CommandConfig, words: str) -> ProblemFound:
    """Of a command that waited too long: in a scheduler's queue, or for a host that is down."""
    detail = f"no answer from {config.name} within {config.capacity_s:g} s{words_of(words)}"
    return ProblemFound(ProblemCode.BLOCKED, "capacity", detail, f"rerun later, or raise capacity_s in {table(config)}")


def a_terminal(config: CommandConfig) -> ProblemFound:
    """Of a command that puts a terminal between both sides, which changes bytes."""
    detail = f"{config.shown} gives the far program a terminal, which changes what is sent"
    remedy = f"leave out its option for one (-t, --tty, --pty) in {table(config)}"
    return ProblemFound(ProblemCode.BLOCKED, "terminal", detail, remedy)


def far_refusal(config: CommandConfig, facts: Mapping[str, object]) -> ProblemFound:
    """What the far side said in place of a box."""
    cause, detail, remedy = (str(facts.get(key, "")) for key in ("cause", "detail", "remedy"))
    code = ProblemCode.BLOCKED if cause == NO_SUCH_RUN else ProblemCode.ENVIRONMENT
    return ProblemFound(code, cause or "refused", detail, f"{remedy} in {table(config)}" if remedy else "")


def lost(config: CommandConfig, how: str, words: str) -> ProblemFound:
    """Of a box whose connection is gone for good."""
    then = "; the box ends with it" if not config.attach else f"; without a desk it ends within {config.lease_s:g} s"
    detail = f"the connection to the box was lost: {how}{then}{words_of(words)}"
    return ProblemFound(ProblemCode.BOX_LOST, ProblemCause.CONNECTION, detail, "rerun")


def unreachable(config: CommandConfig, run_id: str, lost_s: float, how: str, words: str) -> ProblemFound:
    """Of a box that was connected and has not been for `lost_s`, however often it was tried."""
    then = f"without a desk it ends within {config.lease_s:g} s"
    detail = f"no connection to the box for {lost_s:.0f} s ({how}); {then}{words_of(words)}"
    remedy = f"see what it recorded (pytest --attach {run_id}), or rerun"
    return ProblemFound(ProblemCode.BOX_LOST, ProblemCause.CONNECTION, detail, remedy)


def ended_from_outside(why: str, words: str) -> ProblemFound:
    """Of a box that ended in order though this desk had not asked for it, as at a job's time limit."""
    detail = f"the box was ended from outside{f' ({why})' if why else ''}{words_of(words)}"
    remedy = "rerun; where a scheduler's time limit ended it, ask for more time in command"
    return ProblemFound(ProblemCode.BOX_LOST, "terminated", detail, remedy)


def given_up(error: BaseException) -> ProblemFound:
    detail = f"following the box failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return ProblemFound(ProblemCode.BOX_LOST, ProblemCause.CUT_OFF, detail[:600], "rerun")


def is_an_end(problem: ProblemFound) -> bool:
    """Returns whether a problem is how a run ended, and not why its machine cannot be asked."""
    return problem.code is ProblemCode.BOX_LOST


def nothing_left(config: CommandConfig) -> ProblemFound:
    detail = f"the box is gone and left no records on {config.name}"
    return ProblemFound(ProblemCode.BOX_LOST, GONE, detail, "rerun")
