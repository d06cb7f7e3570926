"""Owns `run.json` (`megacpp.run/1`) and what it shares with receipts; must not know a clock, a file or a secret.

Every field is there on every way out; what isn't known is null or empty. Texts pass through the caller's redactor
before anything is cut.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.credentials import is_credential
from pytest_megacpp.recording.endings import bad_endings
from pytest_megacpp.recording.events import BoxReady, EnvironmentSet, Json
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.money import Cost, Rate, cost
from pytest_megacpp.report.seed import seed_json
from pytest_megacpp.report.shared_fields import Made, SharedFields

SCHEMA = "megacpp.run/1"

REMEMBERED = 4096
REMEMBERED_CHARS = 64

Redact = Callable[[str], str]


class RunStatus(StrEnum):
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    BLOCKED = "blocked"
    INTERRUPTED = "interrupted"
    DETACHED = "detached"


@dataclass(frozen=True, slots=True)
class Git:
    revision: str | None = None
    dirty: bool | None = None


@dataclass(frozen=True, slots=True)
class Ids:
    app: str | None = None
    sandbox: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """Which of the boxes (`number` of `boxes`) of a joint run (its id in `part_of`); None: the only one."""

    part_of: str | None = None
    number: int = 1
    boxes: int = 1

    @property
    def title(self) -> str:
        """`, box 2 of 3`; empty for the only one."""
        return f", box {self.number} of {self.boxes}" if self.part_of is not None else ""

    @property
    def is_last(self) -> bool:
        return self.number == self.boxes


@dataclass(frozen=True, slots=True)
class RunMeta:
    """What the desk knows of a run beside its recording. Times are UTC, ISO 8601. `gate` is what a change-based gate
    decided, None without one; `unreported`: node ids of the selected tests of the session that never got a result
    there, which makes it red; `drills`: the verdicts that fault drills expect, by node id; `box`: which of several
    boxes this is.
    """

    plan: Plan
    started_at: str
    finished_at: str | None = None
    git: Git = field(default_factory=Git)
    ids: Ids = field(default_factory=Ids)
    rate: Rate = field(default_factory=Rate)
    cost: Cost = field(default_factory=Cost)
    gate: Mapping[str, Json] | None = None
    unreported: tuple[str, ...] = ()
    drills: Mapping[str, Json] = field(default_factory=dict)
    box: Box = field(default_factory=Box)

    @property
    def session_failed(self) -> bool:
        """Whether the session is red whatever the run's own results are."""
        return bool(self.unreported or (self.gate and self.gate.get("complaints")))


def run_json(
    run: RunMeta,
    status: RunStatus,
    nodeids: Sequence[str],
    results: Mapping[int, TestResult],
    receipts: Mapping[int, str],
    timeline: Timeline,
    *,
    redact: Redact,
) -> dict[str, Json]:
    """The whole document. `results` and `receipts` (paths relative to the run directory) go by index in `nodeids`."""
    document: dict[str, Json] = {
        "schema": SCHEMA,
        "run_id": run.plan.run_id,
        "status": str(status),
        "lane": run.plan.lane,
        "surface": run.plan.surface,
        "dry_run": run.plan.dry_run,
        "ranks": run.plan.ranks,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "tests": [
            _test(nodeid, results.get(i), receipts.get(i), cost_of_test(run, timeline, i), run.drills.get(nodeid))
            for i, nodeid in enumerate(nodeids)
        ],
        "counts": counts((result.outcome for result in results.values()), len(nodeids)),
        "gate": None if run.gate is None else dict(run.gate),
        "unreported": list(run.unreported),
        "bad_endings": [str(ending) for ending in bad_endings(timeline)],
        **circumstances(run, timeline, redact),
        "cost": to_json(run.cost),
        "rate": to_json(run.rate),
        "boxes": [],
        "part_of": run.box.part_of,
    }
    return redacted(document, redact)


def run_status(results: Iterable[TestResult]) -> RunStatus:
    """What a finished run came to: never green without a test, and errors don't hide behind failures."""
    results = list(results)
    outcomes = {result.outcome for result in results}
    if not results or all(result.verdict.code is Code.BLOCKED for result in results):
        return RunStatus.BLOCKED if results else RunStatus.ERROR
    if Outcome.FAILED in outcomes:
        return RunStatus.FAILED
    return RunStatus.ERROR if Outcome.ERROR in outcomes else RunStatus.PASSED


def circumstances(run: RunMeta, timeline: Timeline, redact: Redact, test: int | None = None) -> dict[str, Json]:
    """Where and with what a run was made: the same in `run.json` and in every receipt, except what a receipt has of its
    own `test` about the seed.
    """
    parts = (timeline.ready, run.plan.gpu, run.git, run.ids, redact, *timeline.environment.items())
    return {"seed": seed_json(timeline, test), **_AROUND.of(parts, _around)}


def _around(
    ready: BoxReady | None, gpu: str, git: Git, ids: Ids, redact: Redact, *settings: tuple[str, EnvironmentSet]
) -> dict[str, Json]:
    """All but the seed: most of a small receipt."""
    fields: dict[str, Json] = {
        "environment": dict(_setting(name, fact) for name, fact in settings),
        "versions": dict(ready.versions) if ready else {},
        "machine": ready.facts.get("machine") if ready else None,  # what a rented one says of itself
        "devices": {
            "requested": gpu,
            "observed": list(ready.devices) if ready else None,
            "details": ready.facts.get("gpus") if ready else None,
        },
        "git": to_json(git),
        "ids": to_json(ids),
    }
    clean = redacted(fields, redact)
    return {name: SharedFields(value) if isinstance(value, dict) else value for name, value in clean.items()}


def _setting(name: str, fact: EnvironmentSet) -> tuple[str, Json]:
    value = f"[redacted:{name}]" if is_credential(name, fact.value or "") else fact.value
    return name, {"value": value, "source": fact.origin, "phase": fact.phase or None, "reason": fact.reason}


_AROUND: Made[dict[str, Json]] = Made()


def redacted(document: dict[str, Json], redact: Redact) -> dict[str, Json]:
    """The document with every text in it, names of fields included, passed through `redact`."""
    return _redacted_fields(document, _CLEAN.of((redact,), _Clean))


class _Clean(dict[str, str]):
    """Short texts with what is left of them without secrets: documents of a run have the same names of fields, and to
    look one up takes a fraction of the time of a call.
    """

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    def __missing__(self, text: str) -> str:
        clean = self._redact(text)
        if len(text) <= REMEMBERED_CHARS and len(self) < REMEMBERED:
            self[text] = clean
        return clean


_CLEAN: Made[_Clean] = Made()


def _redacted_fields(fields: dict[str, Json], clean: _Clean) -> dict[str, Json]:
    return {
        clean[name]: value if type(value) in _TEXTLESS else _redacted(value, clean) for name, value in fields.items()
    }


def _redacted(value: Json, clean: _Clean) -> Json:
    match value:
        case SharedFields():
            return value
        case str():
            return clean[value]
        case list():
            return [_redacted(item, clean) for item in value]
        case dict():
            return _redacted_fields(value, clean)
        case _:
            return value


_TEXTLESS = frozenset({type(None), bool, int, float})  # most values of a document


def cost_of_test(run: RunMeta, timeline: Timeline, index: int) -> Cost:
    """Of the box while the test ran, all attempts together; starting worlds and idle time belong to the run
    alone.
    """
    views = [timeline.tests[number] for number in timeline.attempts(index) if number in timeline.tests]
    if not views:
        return Cost()
    ends_s = [view.ended_s if view.ended_s is not None else timeline.last_s for view in views]
    seconds = sum(max(0.0, end_s - view.started_s) for view, end_s in zip(views, ends_s, strict=True))
    return cost(seconds, run.rate)


def _test(nodeid: str, result: TestResult | None, receipt: str | None, spent: Cost, expects: Json) -> Json:
    return {
        "nodeid": nodeid,
        "outcome": str(result.outcome) if result else None,
        "verdict": str(result.verdict.code) if result else None,
        "receipt": receipt,
        "expects": expects,
        "cost": to_json(spent),
    }


def counts(outcomes: Iterable[Outcome], selected: int) -> dict[str, Json]:
    """How many of the selected tests came to what; the others have no result."""
    outcomes = list(outcomes)
    return {"selected": selected, **{str(outcome): outcomes.count(outcome) for outcome in Outcome}}


def unfinished(status: str, selected: int, with_result: int) -> str:
    """`interrupted, 20 of 21 tests have no result`: what a run that is over did not come to, in the words of every
    report; empty of one that came to everything, or goes on.
    """
    left = selected - with_result
    if status in (RunStatus.RUNNING, RunStatus.DETACHED):
        return ""
    lacking = f"{left} of {counted(selected, 'test')} {'has' if left == 1 else 'have'} no result" if left > 0 else ""
    return ", ".join(filter(None, ["interrupted" if status == RunStatus.INTERRUPTED else "", lacking]))
