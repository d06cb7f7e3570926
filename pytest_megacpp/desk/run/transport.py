"""Owns the connection to one box: its recording, read into a timeline, and what only the desk knows, added to both.

It must not know what tests come to.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_megacpp.box.asked import Asked
from pytest_megacpp.desk.run.runs import read_timeline
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import Event, Fact, ProblemFound, RunStarted, TestPlanned
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode, RunEnd
from pytest_megacpp.recording.wire import Decoder, encode
from pytest_megacpp.surfaces.protocol import Address, Ended, RunningBox
from pytest_megacpp.surfaces.registry import is_remote

POLL_S = 0.004
LAST_WORDS_S = 30.0
UNCONFIRMED = ProblemFound(
    ProblemCode.BOX_LOST, ProblemCause.CONNECTION, "the box was asked to stop but never confirmed it"
)


@dataclass
class Transport:
    """`on_event` gets each event of the box once it is in the timeline, and whether a test had begun before it.
    `earlier` returns what an earlier recording of this run has beyond this one, once the box has ended. `own_facts` is
    how many facts of a desk are recorded already.
    """

    plan: Plan
    recording: Path
    redactor: Redactor
    nodeids: Sequence[str]
    started_at: str
    timeline: Timeline
    on_event: Callable[[Event, bool], object]
    earlier: Callable[[], bytes] = bytes
    own_facts: int = 0
    is_over: bool = False
    _box: RunningBox | None = None
    _asked: Asked | None = None
    _decoder: Decoder = field(default_factory=Decoder)

    def connect(self, box: RunningBox, head: bytes = b"") -> None:
        """`head` was read from the box already."""
        self._box = box
        self._asked = Asked(self.recording.parent) if is_remote(self.plan.surface) else None
        self._take(head)

    @property
    def has_box(self) -> bool:
        return self._box is not None

    @property
    def address(self) -> Address | None:
        return self._box.address() if self._box is not None else None

    # -- what the box says -----------------------------------------------------------------------------------

    def read(self) -> bool:
        """Takes in what came; returns whether something did. The end of the box ends the run."""
        assert self._box is not None
        self._pass_on()
        ended = self._box.ended()
        got = self._take(self._box.read())
        if ended is not None and not got:
            self._end_of_recording(ended)
        return got

    def _pass_on(self) -> None:
        """Says what other processes here ask of a box elsewhere; one on this machine reads that itself."""
        for word in self._asked.words() if self._asked is not None else ():
            self.say(word)

    def read_again(self) -> None:
        """An interrupt may have come while lines were taken in; the file has all of them."""
        if self.recording.exists():
            self.timeline = read_timeline(self.recording)

    def _take(self, data: bytes) -> bool:
        for event in self._decoder.feed(data):
            had_begun = bool(self.timeline.tests)
            self.timeline.add(event)
            self.on_event(event, had_begun)
        return bool(data)

    def _end_of_recording(self, ended: Ended) -> None:
        if more := self.earlier():
            self._take(b"\n" + more)
        for event in self._decoder.close():
            self.timeline.add(event)
        self.is_over = True
        if ended.problem is not None and self.timeline.finished is None:
            if self.timeline.started is None:
                self.introduce()
            elif self.timeline.started.read and not self.timeline.planned:
                self._name_tests()
            self.record(replace(ended.problem, detail=self.redactor.text(ended.problem.detail)))

    # -- what the desk says ----------------------------------------------------------------------------------

    def say(self, word: Word) -> None:
        assert self._box is not None
        self._box.say(word)

    def introduce(self) -> None:
        """Records the beginning of a run in place of a box that never spoke."""
        plan = self.plan
        started = (plan.run_id, self.started_at, plan.lane, plan.surface, plan.dry_run, plan.ranks, len(plan.tests))
        self.record(RunStarted(*started, cwd=plan.cwd, revision=plan.revision))
        self._name_tests()

    def _name_tests(self) -> None:
        for index, test in enumerate(self.plan.tests):
            self.record(TestPlanned(index, self.nodeids[index], test.ranks, test.must_run, preset=test.preset))

    def record(self, fact: Fact) -> None:
        """What only the desk knows goes where everything else is, behind a line that may be torn."""
        event = Event(self.plan.run_id, "", "desk", self.own_facts, self.timeline.last_s, fact)
        self.own_facts += 1
        self.timeline.add(event)
        with contextlib.suppress(OSError, CodecError), self.recording.open("ab") as recording:
            recording.write(b"\n" + encode(event))

    # -- how it ends -----------------------------------------------------------------------------------------

    def stop(self, reason: RunEnd, why: str) -> None:
        """Asks the box to end; what it still says can be read."""
        if self._box is not None and not self.is_over:
            self._box.stop(reason, why)

    def end(self) -> None:
        """Ends the box and reads its last events, not for ever."""
        if self._box is None:
            return
        self._box.end()
        deadline = time.monotonic() + LAST_WORDS_S
        while not self.is_over and time.monotonic() < deadline:
            if not self.read():
                time.sleep(POLL_S)
        if not self.is_over:
            self._end_of_recording(Ended(UNCONFIRMED))
