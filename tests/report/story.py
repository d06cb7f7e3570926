"""Owns telling a small run as events, for the tests of reports; must not know what is expected of them."""

from pytest_megacpp.judge.verdicts import Certainty, Code, Consequence, Evidence, Outcome, TestResult, Verdict, Witness
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    FlightOrigin,
    Preset,
    ReportOutcome,
    Stream,
    TestPhase,
    WarmUp,
    WorldReason,
)

NODEID = "suite/test_step.py::test_step[a]"
TRACEBACK = 'suite/test_step.py:31: in test_step\n    raise ValueError("no shards")\nE   ValueError: no shards'


class Story:
    """One test on one world; every call adds an event. Times are box seconds."""

    def __init__(
        self,
        ranks: int = 4,
        *,
        dry_run: bool = True,
        started_s: float = 10.0,
        released: bool = True,
        warmup: WarmUp | None = None,
        preset: Preset = Preset.FULL,
    ) -> None:
        self.timeline = Timeline()
        self.ranks = ranks
        self._seq: dict[tuple[str, str], int] = {}
        self.box(0.0, ev.RunStarted("r1", "2026-11-22T21:45:01.000Z", "h200x8", "local", dry_run, ranks, 1), world="")
        self.box(0.0, ev.TestPlanned(0, NODEID, ranks, preset=preset), world="")
        self.box(1.0, ev.WorldStarted(ranks, WorldReason.FIRST))
        if released:
            self.box(started_s, ev.TestStarted(0, NODEID, ranks, ev.Limits(), warmup=warmup))

    def box(self, time_s: float, fact: ev.Fact, *, world: str = "w0", source: str = "box") -> None:
        seq = self._seq[world, source] = self._seq.get((world, source), -1) + 1
        self.timeline.add(ev.Event("r1", world, source, seq, time_s, fact))

    def rank(self, time_s: float, fact: ev.RankFact) -> None:
        rank = getattr(fact, "rank")  # noqa: B009
        self.box(time_s, fact, source=f"rank {rank}")

    def waits(self, rank: int, time_s: float, op: str = "gloo:all_reduce", seq: int = 7, done: bool = False) -> None:
        entry = ev.Collective("0", seq, op, 8, 8, "Float", "[[8]]", time_s, done)
        status = ev.GroupStatus(0, seq, seq if done else seq - 1)
        self.rank(time_s, ev.FlightRecorded(rank, 0, FlightOrigin.POLL, (entry,), (status,)))

    def raises(self, rank: int, time_s: float, message: str = "no shards", type_name: str = "ValueError") -> None:
        error = ev.Error(type_name, message, "suite/test_step.py", 31, TRACEBACK.replace("no shards", message))
        self.rank(time_s, ev.Reported(rank, 0, TestPhase.CALL, ReportOutcome.FAILED, 1.0, error))

    def passes(self, rank: int, time_s: float) -> None:
        for when in TestPhase:
            self.rank(time_s, ev.Reported(rank, 0, when, ReportOutcome.PASSED, 0.5))
        self.rank(time_s, ev.Finished(rank, 0, True))

    def prints(self, rank: int, time_s: float, text: str, stream: Stream = Stream.STDOUT) -> None:
        self.box(time_s, ev.OutputRead(rank, 0, stream, text))


def result(verdict: Verdict, outcome: Outcome = Outcome.FAILED) -> TestResult:
    return TestResult(0, NODEID, outcome, verdict, {"call": 2.5})


def killed(ranks: int = 8) -> tuple[Story, TestResult]:
    """Rank 3 is killed, the others wait in an all_reduce."""
    story = Story(ranks)
    others = tuple(r for r in range(ranks) if r != 3)
    for rank in others:
        story.waits(rank, 11.0 + rank / 1000)
        story.prints(rank, 12.0, f"loading\nstep 7 loss 0.31\n[rank{rank}]:[W1122 10:00:00 noise.cpp:1]\n")
    story.prints(3, 12.0, "Fatal Python error: Aborted\n", Stream.STDERR)
    story.box(22.31, ev.RankExited(3, None, "SIGKILL", False))
    story.box(22.40, ev.Acted(0, ActReason.EXIT, "rank 3 died", others, (3,), (), 11.31))
    for rank in others:
        story.box(23.0, ev.RankExited(rank, None, "SIGTERM", False, True))
    verdict = Verdict(
        Code.RANK_DEATH,
        "rank 3 was killed by SIGKILL; 7 ranks then waited in all_reduce #7",
        (3,),
        "signal:SIGKILL",
        Certainty.CERTAIN,
        (
            Evidence(3, 22.31, Witness.EXIT, "SIGKILL, not killed for memory"),
            *(Evidence(rank, 11.0 + rank / 1000, Witness.FLIGHT_RECORDER, "entered all_reduce #7") for rank in others),
            Evidence(None, None, Witness.PLAN, "8 ranks were asked for"),
        ),
        tuple(Consequence(rank, "waited 11.31 s in all_reduce #7 of group 0") for rank in others),
        "look at what rank 3 did last:\npytest -m h200x8 'suite/test_step.py::test_step[a]'",
    )
    return story, result(verdict)
