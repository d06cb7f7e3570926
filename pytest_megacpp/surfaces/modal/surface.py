"""Owns a box in a Modal sandbox: from the order to the last byte of its recording; must not know tests or judge.

One thread does it all, in order: it launches a sandbox or finds one, follows it, takes what is left of it and
releases it. The desk only reads what has arrived. No output of the box is unpickled, imported or executed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.vocabulary import ProblemCause
from pytest_megacpp.surfaces.followed_box import FollowedBox, Stay
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.modal import client, failures
from pytest_megacpp.surfaces.modal.config import RUNS_DIR, ModalConfig, VolumeConfig
from pytest_megacpp.surfaces.modal.conversation import GIVEN_BACK_S, Conversation
from pytest_megacpp.surfaces.modal.launch import Launch
from pytest_megacpp.surfaces.modal.remains import Remains
from pytest_megacpp.surfaces.protocol import Address
from pytest_megacpp.surfaces.source import SourceConfig

RECORDS = VolumeConfig(RUNS_DIR, "megacpp-runs", made=True)


@dataclass(frozen=True)
class ModalSurface:
    """See `Surface`. `never` are directories of the desk that aren't source; `tags` go to the app and the sandbox.
    `rates` remembers what the account pays.
    """

    config: ModalConfig
    source: SourceConfig
    never: Sequence[Path] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    detached: bool = False
    rates: Path | None = None

    @property
    def _kept(self) -> ModalConfig:
        """The configuration with a records volume, by default the plugin's: without one no run could be attached to."""
        return replace(self.config, runs_volume=self.config.runs_volume or RECORDS)

    def start(self, plan: Plan, run: Path) -> "ModalBox":
        """Returns at once; a failure of the launch ends the box."""
        box = ModalBox(plan.run_id, run, self._kept)
        launch = Launch(plan, self._kept, self.source, self.never, self.tags, self.detached, self.rates, box)
        box.begin(launch.sandbox, Stay.LEAVING if self.detached else Stay.OWNER)
        return box

    def attach(self, run_id: str, run: Path) -> "ModalBox":
        """Follows a run from its beginning, whether it is still running or only its records are left."""
        box = ModalBox(run_id, run, self._kept)
        box.begin(box.find, Stay.VISITOR)
        return box


class ModalBox(FollowedBox[Any]):
    """See `RunningBox`; follows a sandbox. None: everything has been taken already."""

    given_back_s = GIVEN_BACK_S + 2 * client.POLL_S + client.ENDED_S

    def __init__(self, run_id: str, run: Path, config: ModalConfig) -> None:
        super().__init__(Inbox(run_id, run))
        self._run_id = run_id
        self._config = config
        self._remains = Remains(run_id, config, self.inbox)
        self._address = Address()
        self._sandbox: Any = None
        self._conversation: Conversation | None = None

    def address(self) -> Address:
        return self._address

    def _follow(self, found: Any) -> None:
        self._sandbox = found
        if found is not None:
            self.knows(sandbox=str(found.object_id))
            if self._stay is not Stay.LEAVING:
                self._converse()

    def _problem_of(self, error: Exception) -> ProblemFound | None:
        match error:
            case failures.Cancelled():
                return None
            case failures.SurfaceError():
                return error.problem
            case _:
                return failures.given_up(error) if self._is_reached() else failures.surface_error(error).problem

    def find(self) -> Any:
        """Returns the run's sandbox if it is running, else takes what is left. Raises SurfaceError or Cancelled."""
        self.inbox.phase("connect", lambda: client.connect(self.is_cancelled))
        app, environment = self._config.app, self._config.environment
        sandbox = self.inbox.phase("look-up", lambda: client.find(app, self._run_id, environment))
        if sandbox is not None:
            return sandbox
        self._remains.replay_records()
        if self.inbox.has_box_events():
            return None
        sandbox = client.find(app, self._run_id, environment, ended_too=True)
        if sandbox is not None:
            self.knows(sandbox=str(sandbox.object_id))
        return self._remains.look_back(sandbox)

    def _converse(self) -> None:
        arguments = (self._config, self.inbox, self._words, self.is_cancelled)
        self._conversation = Conversation(self._run_id, self._sandbox, *arguments)
        code = self._conversation.follow()
        if code is not None:
            self._problem = self._remains.of_the_ended(self._sandbox, code)

    def knows(self, app: str | None = None, sandbox: str | None = None) -> None:
        self._address = Address(app or self._address.app, sandbox or self._address.sandbox)

    def _is_reached(self) -> bool:
        return self._conversation is not None and self._conversation.is_reached

    def _give_back(self) -> None:
        """Ends the sandbox, which costs money until then. After its box it exits by itself, else it is terminated."""
        complete = self._conversation is not None and self._conversation.is_complete
        visiting = self._stay is Stay.VISITOR and not complete
        if self._sandbox is None or self._stay is Stay.LEAVING or visiting or self._left_to_itself():
            return
        if complete and self._conversation is not None and self._conversation.ends_by_itself():
            return
        if not client.terminate(self._sandbox):
            why = "Modal has not confirmed the sandbox's end: a run that starts now may see older volumes"
            self.inbox.report("end", why)

    def _left_to_itself(self) -> bool:
        """Returns whether the connection is lost: such a box ends by its lease or never, and `--attach` finds it."""
        return self._problem is not None and self._problem.cause == ProblemCause.CONNECTION
