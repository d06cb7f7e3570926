"""Owns which further attempts the desk orders from a box (`--triage`); must not know how they are carried there."""

from dataclasses import dataclass, field

from pytest_megacpp.desk.run.transport import Transport
from pytest_megacpp.judge.arbiter import attempts_at
from pytest_megacpp.judge.escalation import next_purpose
from pytest_megacpp.recording.plan import Again, Enough


@dataclass
class Orders:
    """Tests are named by their index in the plan."""

    transport: Transport
    _settled: set[int] = field(default_factory=set)  # tests at which no further attempt is wanted
    _ended: list[int] = field(default_factory=list)

    def is_done(self, test: int) -> bool:
        """Whether the box is done with a test. With `--triage` another attempt may follow each."""
        return self.have_ended(test) and (test in self._settled or not self.transport.plan.triage)

    def have_ended(self, test: int) -> bool:
        """All attempts so far; one that the box itself adds is planned before the one from which it follows ends."""
        timeline = self.transport.timeline
        return all(map(timeline.has_ended, timeline.attempts(test)))

    def note_end(self, attempt: int) -> None:
        """An attempt has ended; `send` decides what follows."""
        self._ended.append(self.transport.timeline.test_of(attempt))

    def send(self) -> None:
        """Orders what follows the attempts that ended since the last call."""
        ended, self._ended = self._ended, []
        for test in ended if self.transport.plan.triage else ():
            self._order(test)

    def _order(self, test: int) -> None:
        """The next attempt at a test, or that none is needed. A drill fails on purpose."""
        tests = self.transport.plan.tests
        if test in self._settled or test >= len(tests) or not self.have_ended(test):
            return
        attempts, planned = attempts_at(self.transport.timeline, test), tests[test]
        purpose = None if planned.drill else next_purpose(attempts, planned.preset)
        if purpose is None:
            self._settled.add(test)
        self.transport.say(Enough(test) if purpose is None else Again(test, purpose, attempts[-1].number))
