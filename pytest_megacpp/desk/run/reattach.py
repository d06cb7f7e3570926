"""Owns what this desk remembers of a run that it submitted or followed before; must not know how a box is asked.

Attaching writes a run's recording anew. So the earlier one is put aside. Where the box doesn't speak any more it is put
back, since then it is all the evidence there is; where the box or its records fall silent early, what only the earlier
one has is added.
"""

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.run.directory import LATEST, RECORDING, iso, read_run_json, replace_file
from pytest_megacpp.desk.run.runs import read_timeline
from pytest_megacpp.recording.events import Event, Fact, ProblemFound, RunStarted, TestPlanned
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ProblemCode
from pytest_megacpp.recording.wire import encode
from pytest_megacpp.report.run_json import Git, Ids
from pytest_megacpp.surfaces.protocol import NO_SUCH_RUN
from pytest_megacpp.surfaces.unseen import Unseen

ASIDE = f".{RECORDING}.before"
_OF_A_DESK = re.compile(rb'\{"v":\d+,"run":"[^"]*","world":"[^"]*","src":"desk"')
_OF_THE_WAY = re.compile(_OF_A_DESK.pattern.replace(b"desk", b"surface"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What the session that attaches asks for: all that is known of a run that another desk submitted. `nothing_left`
    is what its `surface` says of a run that was there.
    """

    surface: str
    nothing_left: ProblemFound
    lane: str
    options: Options
    nodeids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Account:
    """A run by what is known of it. `problem` is what the tests without an end get, None where the earlier recording
    says enough; `own_facts` is how many facts of a desk are in the recording.
    """

    timeline: Timeline
    problem: ProblemFound | None
    own_facts: int


@dataclass(frozen=True)
class Recollection:
    """The run's directory as it was before this session; `document` is its `run.json`, empty without one."""

    path: Path
    document: dict[str, Any]
    is_new: bool
    latest: bytes | None

    @classmethod
    def of(cls, lane_dir: Path, run_id: str) -> "Recollection":
        path, latest = lane_dir / "runs" / run_id, None
        with contextlib.suppress(OSError):
            latest = (lane_dir / LATEST).read_bytes()
        return cls(path, read_run_json(path) or {}, not path.exists(), latest)

    # -- what the document says ----------------------------------------------------------------------------

    @property
    def surface(self) -> str | None:
        return _text(self.document.get("surface")) or None

    @property
    def ids(self) -> Ids:
        ids = _object(self.document.get("ids"))
        return Ids(_text(ids.get("app")) or None, _text(ids.get("sandbox")) or None)

    @property
    def git(self) -> Git:
        git = _object(self.document.get("git"))
        dirty = git.get("dirty")
        return Git(_text(git.get("revision")) or None, dirty if isinstance(dirty, bool) else None)

    def nodeids(self) -> list[str]:
        tests = self.document.get("tests")
        found = [_text(_object(test).get("nodeid")) for test in tests] if isinstance(tests, list) else []
        return [nodeid for nodeid in found if nodeid]

    def was_there(self, problem: ProblemFound) -> bool:
        """Whether this desk knows that the run was there, though its surface knows nothing of it any more."""
        return problem.cause == NO_SUCH_RUN and bool(self.nodeids())

    # -- the earlier recording -----------------------------------------------------------------------------

    def put_aside(self) -> None:
        """Where a desk died while it followed, one is aside already: the longer one is kept."""
        recording, aside = self.path / RECORDING, self.path / ASIDE
        with contextlib.suppress(OSError):
            if _size(aside) > _size(recording):
                recording.unlink(missing_ok=True)
            else:
                recording.replace(aside)

    def put_back(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / ASIDE).replace(self.path / RECORDING)

    def rejoin(self) -> bytes:
        """Adds what only the earlier recording has of the box to the new one, which is complete, and removes the
        earlier one. Returns what was added; if that fails, both stay.
        """
        recording, aside = self.path / RECORDING, self.path / ASIDE
        with contextlib.suppress(OSError):
            earlier, unseen = aside.read_bytes(), Unseen()
            unseen.mark_seen(recording.read_bytes())
            lines = (
                line for line in earlier.splitlines(keepends=True) if line.endswith(b"\n") and _is_of_the_box(line)
            )
            added = b"".join(line for line in lines if unseen.is_new(line))
            if added:
                with recording.open("ab") as file:
                    file.write(b"\n" + added)
            aside.unlink()
            return added
        return b""

    def leave_no_trace(self) -> None:
        """Of a run that isn't there."""
        if self.is_new:
            shutil.rmtree(self.path, ignore_errors=True)
        lane_dir = self.path.parent.parent
        with contextlib.suppress(OSError):
            if self.latest is None:
                (lane_dir / LATEST).unlink()
            else:
                replace_file(lane_dir / LATEST, self.latest)

    # -- what they come to ---------------------------------------------------------------------------------

    def account(self, asked: Asked, problem: ProblemFound) -> Account:
        """The run as far as it is known, in its recording too. An earlier recording of a launch that was refused, or of
        a run that was followed to its end, has the last word.
        """
        recording = self.path / RECORDING
        earlier = read_timeline(recording) if recording.exists() else Timeline()
        refused = bool(earlier.problems) and earlier.problems[0][1].code is not ProblemCode.BOX_LOST
        if earlier.started is not None and (earlier.finished is not None or refused):
            return Account(earlier, None, 0)
        _without_words_of_desks(recording)
        earlier = read_timeline(recording)
        lost = self._in_words(asked.nothing_left if problem.cause == NO_SUCH_RUN else problem)
        if earlier.started is not None:
            return Account(earlier, lost, 0)
        words = self._beginning(asked)
        with recording.open("ab") as file:
            for number, fact in enumerate(words):
                file.write(encode(Event(self.path.name, "", "desk", number, 0.0, fact)))
        return Account(read_timeline(recording), lost, len(words))

    def _in_words(self, problem: ProblemFound) -> ProblemFound:
        """With what the desk knows of the run beside that."""
        document, sandbox = self.document, self.ids.sandbox
        parts = [
            f"this desk last knew it as {_text(document.get('status'))}" if self.nodeids() else "",
            f"sandbox {sandbox}" if sandbox else "",
            f"begun {_text(document.get('started_at'))}" if document.get("started_at") else "",
        ]
        known = ", ".join(part for part in parts if part) or "another desk submitted it, the tests are those asked for"
        return replace(problem, detail=f"{problem.detail}; {known}")

    def _beginning(self, asked: Asked) -> list[Fact]:
        """The beginning of a recording, in place of a box whose own is lost."""
        document, mine = self.document, self.nodeids()
        nodeids = mine or list(asked.nodeids)
        lane = _text(document.get("lane")) or asked.lane
        shape = asked.options.lanes.get(lane)
        ranks = document.get("ranks")
        ranks = ranks if type(ranks) is int and ranks > 0 else asked.options.ranks or (shape.ranks if shape else 1)
        dry_run = document.get("dry_run") is True if mine else asked.options.dry_run
        started_at = _text(document.get("started_at")) or _time_in(self.path.name)
        started = RunStarted(self.path.name, started_at, lane, asked.surface, dry_run, ranks, len(nodeids))
        return [started, *(TestPlanned(index, nodeid, ranks) for index, nodeid in enumerate(nodeids))]


def _is_of_the_box(line: bytes) -> bool:
    return not (_OF_A_DESK.match(line) or _OF_THE_WAY.match(line))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _without_words_of_desks(recording: Path) -> None:
    """What earlier desks added of their own (a connection that was lost) is not the box's."""
    data = recording.read_bytes() if recording.exists() else b""
    lines = data.splitlines(keepends=True)
    kept = b"".join(line for line in lines if line.strip() and not _OF_A_DESK.match(line))
    replace_file(recording, kept if kept.endswith(b"\n") or not kept else kept + b"\n")


def _time_in(run_id: str) -> str:
    """When a run began, as its id says (UTC)."""
    try:
        return iso(datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC))
    except ValueError:
        return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
