"""Owns a box that a command reaches: from the first connection to the last byte of its recording; must not know tests
or judge.

One thread does it all, in order; the desk only reads what has arrived. No output of the box is executed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Plan, Stop
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import ProblemCause, RunEnd
from pytest_megacpp.surfaces.command import failures
from pytest_megacpp.surfaces.command.config import CommandConfig
from pytest_megacpp.surfaces.command.conversation import GIVEN_BACK_S, Conversation, reached
from pytest_megacpp.surfaces.command.launch import Caller, Far, Launch, Refused
from pytest_megacpp.surfaces.data_config import DataConfig
from pytest_megacpp.surfaces.followed_box import STOP_S, FollowedBox, Stay
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.protocol import NO_SUCH_RUN, Address, SurfaceFailed
from pytest_megacpp.surfaces.source import SourceConfig

STOP_COMMAND_S = 60.0
VISIT_S = 60.0


def _keep_status_of_children() -> None:
    """A desk that was started with SIGCHLD ignored would not get the status of its command."""
    if sys.platform == "linux":
        from pytest_megacpp.box.host import process

        process.keep_status_of_children()


def caller_of(config: CommandConfig, run_id: str, environment: Mapping[str, str]) -> Caller:
    """`environment` are the variables configured for the run."""
    return Caller(config, run_id, Redactor({**os.environ, **config.environment, **environment}))


@dataclass(frozen=True)
class CommandSurface:
    """See `Surface`. `data` are the configured data sets, `never` directories of the desk that aren't source."""

    config: CommandConfig
    source: SourceConfig
    data: Sequence[DataConfig] = ()
    never: Sequence[Path] = ()
    detached: bool = False

    def start(self, plan: Plan, run: Path) -> "CommandBox":
        """Returns at once; a failure of the launch ends the box."""
        _keep_status_of_children()
        box = CommandBox(caller_of(self.config, plan.run_id, plan.environment), run)
        launch = Launch(plan, box.caller, self.source, self.data, self.never, self.detached, box)
        box.begin(launch.far, Stay.LEAVING if self.detached else Stay.OWNER)
        return box

    def attach(self, run_id: str, run: Path) -> "CommandBox":
        """Follows a run from its beginning, whether it is still running or only its records are left."""
        _keep_status_of_children()
        box = CommandBox(caller_of(self.config, run_id, {}), run)
        box.begin(box.find, Stay.VISITOR)
        return box


class CommandBox(FollowedBox[Far]):
    """See `RunningBox`; follows a far program that runs or follows the box."""

    given_back_s = GIVEN_BACK_S + STOP_COMMAND_S

    def __init__(self, caller: Caller, run: Path) -> None:
        super().__init__(Inbox(caller.run_id, run))
        self.caller = caller
        self._has_met_the_box = False

    def address(self) -> Address:
        return Address()

    def _is_reached(self) -> bool:
        return self._has_met_the_box

    def _follow(self, found: Far) -> None:
        if self._stay is Stay.LEAVING:
            found.connection.leave(STOP_S)
        else:
            self._has_met_the_box = True
            self._problem = Conversation(self.caller, self.inbox, self._words, self.is_cancelled).follow(found)

    def _problem_of(self, error: Exception) -> ProblemFound | None:
        match error:
            case failures.Cancelled():
                return None
            case failures.Failed():
                return error.problem
            case _:
                return self.caller.clean(failures.given_up(error))

    def find(self) -> Far:
        """Raises Failed and Cancelled."""
        with self.caller.failing():
            return self.inbox.phase("connect", lambda: reached(self.caller, self.is_cancelled), self.caller.config.name)

    def _give_back(self) -> None:
        """What a scheduler holds for a box that can't be reached any more is given back; one that can be attached to
        is left to its lease.
        """
        is_lost = self._problem is not None and self._problem.cause == ProblemCause.CONNECTION
        if self._stay is Stay.OWNER and (self._cancelled.is_set() or (is_lost and not self.caller.config.attach)):
            run_stop(self.caller)


# -- a run that no desk follows --------------------------------------------------------------------------------------


def run_stop(caller: Caller) -> str | None:
    """Runs the configured `stop`. Returns why that failed; None where it didn't, or there is none."""
    words = caller.config.stop_words(caller.run_id)
    if not words:
        return None
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=STOP_COMMAND_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{words[0]} took longer than {STOP_COMMAND_S:g} s"
    except OSError as e:
        return f"{words[0]}: {e.strerror or e}"
    if done.returncode == 0:
        return None
    said = failures.words_of((done.stderr or done.stdout).decode(errors="replace"))
    return caller.redactor.text(f"{words[0]} ended with status {done.returncode}{said}")


def visit(caller: Caller, into: Path, words: Sequence[Word], is_over: Callable[[bool], bool]) -> bool:
    """See `Attaching.visit`."""
    deadline = time.monotonic() + VISIT_S
    conversation = Conversation(
        caller, Inbox(caller.run_id, into), words, is_cancelled=lambda: is_over(conversation.is_up_to_date)
    )
    try:
        far = reached(caller, lambda: time.monotonic() > deadline)
        problem = conversation.follow(far)
    except failures.Cancelled:
        return True
    except Refused as e:
        if e.facts.get("cause") == NO_SUCH_RUN:
            return False
        raise SurfaceFailed(caller.redactor.text(str(e))) from e
    except (failures.Failed, failures.Lost) as e:
        raise SurfaceFailed(caller.redactor.text(str(e))) from e
    if problem is not None and problem.cause == ProblemCause.CONNECTION:
        raise SurfaceFailed(problem.detail)
    return True


def stop(caller: Caller) -> str | None:
    """See `Attaching.stop`: a box that can be reached is asked to end in order; one that doesn't is ended by `stop`."""
    deadline = time.monotonic() + VISIT_S
    words, name = (Stop(RunEnd.INTERRUPTED, by_command=True),), caller.config.name
    try:
        with tempfile.TemporaryDirectory(prefix="megacpp-stop-") as directory:
            conversation = Conversation(
                caller, Inbox(caller.run_id, Path(directory)), words, lambda: time.monotonic() > deadline
            )
            conversation.follow(reached(caller, lambda: time.monotonic() > deadline))
        if conversation.is_complete:
            return f"its box on {name} ended in order"
        why = f"its box on {name} did not end in order within {VISIT_S:.0f} s"
    except Refused as e:
        if e.facts.get("cause") == NO_SUCH_RUN:
            return None
        why = str(e)
    except (failures.Failed, failures.Lost) as e:
        why = f"its box on {name} could not be reached ({e})"
    except failures.Cancelled:
        why = f"its box on {name} could not be reached within {VISIT_S:.0f} s"
    if not caller.config.stop:
        raise SurfaceFailed(f"{caller.redactor.text(why)}; without a desk it ends within {caller.config.lease_s:g} s")
    if (problem := run_stop(caller)) is not None:
        raise SurfaceFailed(f"{caller.redactor.text(why)}, and {problem}")
    return f"{caller.redactor.text(why)}, and was ended by {caller.config.stop[0]}"
