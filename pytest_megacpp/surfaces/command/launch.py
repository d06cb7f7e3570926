"""Owns the way from a command to a far program that has what it needs, step by step; must not follow the box."""

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import ProblemCode
from pytest_megacpp.surfaces.command import failures
from pytest_megacpp.surfaces.command.config import CommandConfig
from pytest_megacpp.surfaces.command.connection import POLL_S, Connection
from pytest_megacpp.surfaces.command.failures import Cancelled, Failed, Lost
from pytest_megacpp.surfaces.command.handshake import Answers, Greeting, far_words, sent_program
from pytest_megacpp.surfaces.data_config import DataConfig, here
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.remote_plan import plan_elsewhere
from pytest_megacpp.surfaces.source import Source, SourceConfig, SourceError, gather, own_package, stage, top_of

ANSWER_S = 60.0  # for a far program that has greeted
UNPACK_S = 600.0
LEAVE_S = 5.0
SAID_CHARS = 200  # of what a command says while it is waited for
DETACHED_LEASE_S = 0.0
COMPRESSION = 1  # of what is sent: most of the gain at the speed of a fast network
_NOWHERE = "/"  # in place of the far home, until that is known
_QUEUES = re.compile(r"queue|pending|waiting|allocat", re.IGNORECASE)
_ARRIVE = Path(__file__).resolve().parents[2] / "box" / "remote" / "arrive.py"


class Steps(Protocol):
    """The box that this is for: where steps are recorded, and whether the desk still wants it."""

    inbox: Inbox

    def is_cancelled(self) -> bool: ...


@dataclass
class Far:
    """A far program that has answered. `facts` are its own; `rest` came behind its last answer."""

    connection: Connection
    facts: Mapping[str, Any]
    answers: Answers

    def wait_for(self, wanted: str, limit_s: float, is_cancelled: Callable[[], bool]) -> Mapping[str, Any]:
        """Returns the facts of the answer `wanted`. Raises Lost, Cancelled, and Refused."""
        deadline, data = time.monotonic() + limit_s, b""
        while True:
            while (found := self.answers.next(data)) is not None:
                data = b""
                word, facts = found
                if word == "refused":
                    raise Refused(facts)
                if word == wanted:
                    return facts
            if is_cancelled():
                raise Cancelled
            if time.monotonic() > deadline:
                raise Lost(self.connection.how_it_ended(f"said nothing for {limit_s:g} s"))
            received = self.connection.next(POLL_S)
            if received is None:
                raise Lost(self.connection.how_it_ended(""))
            data = received


class Refused(Exception):
    """The far program can't do what was asked for; `facts` say why."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(str(facts.get("detail", "")))
        self.facts = facts


@dataclass(frozen=True)
class Caller:
    """Makes connections to far programs of one run. `redactor` cleans what a command says."""

    config: CommandConfig
    run_id: str
    redactor: Redactor

    def call(self, wish: Mapping[str, Any], box: Steps | None, is_cancelled: Callable[[], bool]) -> Far:
        """Runs the command (`attach` to follow a box), and returns the far program once it has said what it is. Raises
        Failed, Lost, Cancelled and Refused; nothing of the command is left then.
        """
        greeting, config = Greeting(), self.config
        far = far_words(config.python, self.run_id, greeting.token)
        words = config.attach_words if wish["wish"] == "follow" else config.start_words
        try:
            connection = Connection(words(self.run_id, far), self.run_id)
        except OSError as e:
            raise Failed(failures.not_started(config, e)) from e
        try:
            self._wait_for_greeting(connection, greeting, box, is_cancelled)
            request = {
                "run": self.run_id,
                "directory": config.directory,
                "tied": not config.attach,
                "offset": 0,
                **wish,
            }
            connection.send(sent_program(_ARRIVE.read_bytes(), request), is_cancelled)
            found = Far(connection, {}, Answers(greeting.rest))
            found.facts = found.wait_for("here", ANSWER_S, is_cancelled)
        except Lost as e:
            connection.end(LEAVE_S)
            raise Lost(f"{e}{failures.words_of(connection.errors())}") from e
        except BaseException:
            connection.end(LEAVE_S)
            raise
        return found

    def _wait_for_greeting(
        self, connection: Connection, greeting: Greeting, box: Steps | None, is_cancelled: Callable[[], bool]
    ) -> None:
        deadline = time.monotonic() + self.config.capacity_s
        while not greeting.is_heard:
            data = connection.next(POLL_S)
            if data:
                greeting.feed(data)
            said = failures.words_of(connection.new_errors()).removeprefix(": ")
            if said and box is not None:
                step = "queue" if _QUEUES.search(said) else "connect"
                box.inbox.report(step, self.redactor.text(said)[:SAID_CHARS])
            if is_cancelled():
                raise Cancelled
            has_ended = data is None or (not data and connection.status() is not None)
            if has_ended and not greeting.is_heard:
                how = connection.how_it_ended("")
                raise Failed(self.clean(failures.refused(self.config, how, connection.errors() or greeting.noise)))
            if time.monotonic() > deadline:
                words = connection.errors() or greeting.noise
                raise Failed(self.clean(failures.no_answer(self.config, words)))
        connection.forget_errors()
        if greeting.is_terminal:
            raise Failed(failures.a_terminal(self.config))

    @contextlib.contextmanager
    def failing(self, connection: Connection | None = None) -> Iterator[None]:
        """Raises what comes to no box as Failed, with the words of the command."""
        try:
            yield
        except Lost as e:
            words = connection.errors() if connection is not None else ""
            raise Failed(self.clean(failures.lost(self.config, str(e), words))) from e
        except Refused as e:
            raise Failed(self.clean(failures.far_refusal(self.config, e.facts))) from e

    def clean(self, problem: ProblemFound) -> ProblemFound:
        return replace(problem, detail=self.redactor.text(problem.detail))


@dataclass(frozen=True)
class Launch:
    """`never` are directories of the desk that aren't source. `data` are the configured data sets."""

    plan: Plan
    caller: Caller
    source: SourceConfig
    data: Sequence[DataConfig]
    never: Sequence[Path]
    detached: bool
    box: Steps

    def far(self) -> Far:
        """Returns a far program that runs the plan. Raises Failed and Cancelled."""
        phase, report, cancelled = self.box.inbox.phase, self.box.inbox.report, self.box.is_cancelled
        config = self.caller.config
        source = phase("source", self._gather)
        report("source", source.notice)
        lease_s = DETACHED_LEASE_S if self.detached else config.lease_s
        wish, shown = {"wish": "start", "lease_s": lease_s}, self.caller.redactor.text(config.shown)
        with self.caller.failing():
            far = phase("connect", lambda: self.caller.call(wish, self.box, cancelled), shown)
        report("connect", f"{far.facts['host']}, Python {far.facts['python']}")
        try:
            plan = self._plan_there(source, far.facts)
            with self.caller.failing(far.connection):
                phase("upload", lambda: self._send(far, plan, source))
                far.wait_for("started", ANSWER_S, cancelled)
        except BaseException:
            far.connection.leave(LEAVE_S)
            raise
        return far

    def _gather(self) -> Source:
        try:
            return gather(top_of(Path(self.plan.cwd)), self.source, _NOWHERE, self.never)
        except SourceError as e:
            raise Failed(ProblemFound(ProblemCode.BLOCKED, "source", str(e))) from e

    def _plan_there(self, source: Source, facts: Mapping[str, Any]) -> Plan:
        """The plan with the box's paths and variables."""
        home, cache = str(facts["home"]), str(facts["cache"])
        config = self.caller.config
        layout = replace(source.layout, home=f"{home}/source")
        try:
            return plan_elsewhere(
                self.plan,
                layout,
                stores=(f"{cache}/seeds", *self.plan.seed.stores[1:]),
                image=self.plan.seed.image,
                run_s=self.plan.run_s,
                variables=config.environment,
                data=here(self.data, Path(cache) / "data", {**config.environment, **self.plan.environment}),
                environ=os.environ,
            )
        except SourceError as e:
            raise Failed(ProblemFound(ProblemCode.BLOCKED, "source", str(e))) from e

    def _send(self, far: Far, plan: Plan, source: Source) -> None:
        """Raises Lost, Cancelled and Refused."""
        cancelled = self.box.is_cancelled
        try:
            self._upload(far, plan, source)
        except Lost:
            with contextlib.suppress(Lost):
                far.wait_for("unpacked", LEAVE_S, cancelled)  # the far side may have said why it takes no more
            raise
        far.wait_for("unpacked", UNPACK_S, cancelled)

    def _upload(self, far: Far, plan: Plan, source: Source) -> None:
        """Raises Lost and Cancelled."""
        cancelled = self.box.is_cancelled
        with _staged(plan, source) as directory:
            pieces = _Pieces(lambda data: far.connection.send(data, cancelled))
            with (
                gzip.GzipFile(mode="wb", compresslevel=COMPRESSION, fileobj=pieces, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w|") as archive,
            ):
                archive.add(directory, arcname=".", filter=_nobody_s)
            pieces.end()


@contextlib.contextmanager
def _staged(plan: Plan, source: Source) -> Iterator[Path]:
    """Yields a directory laid out like the far home. It is a temporary one, so that a desk that is killed meanwhile
    leaves none of it among a run's artefacts.
    """
    directory = Path(tempfile.mkdtemp(prefix="megacpp-stage-"))
    try:
        stage(source.files, directory / "source")
        (directory / "source").mkdir(exist_ok=True)
        stage(own_package(), directory / "package")
        (directory / "plan.json").write_text(json.dumps(to_json(plan)), encoding="utf-8", newline="\n")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _nobody_s(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner, who is somebody else there."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


class _Pieces(io.RawIOBase):
    """What is written goes out in pieces, each behind a line with its size (`box.remote.arrive.Pieces`)."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        if piece:
            self._send(b"%d\n%s" % (len(piece), piece))
        return len(piece)

    def end(self) -> None:
        self._send(b"0\n")
