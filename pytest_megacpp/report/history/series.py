"""Owns putting receipts of many runs into series that can be compared; must not know what a difference means."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import RED, Code, Outcome
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.measures import Measures
from pytest_megacpp.report.quantities import UNKNOWN, seconds_text, usd_text

GREEN = (Outcome.PASSED, Outcome.XPASSED, Outcome.XFAILED)
_RECORD = "record "
_ENDED_BY_THE_USER = (RunEnd.INTERRUPTED, RunEnd.STOPPED)
CLOCKS_DIFFER_S = 5.0  # of a desk, which gives ids, and a box, which says when an attached run began


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of each receipt. `more_is_worse` is false where nobody knows which way is better (records)."""

    name: str
    label: str
    more_is_worse: bool = True

    @property
    def is_record(self) -> bool:
        return not self.more_is_worse

    def of(self, measured: Measures) -> float | None:
        match self.name:
            case "seconds":
                return measured.seconds
            case "first_forward_s":
                return measured.first_forward_s
            case "compile_s":
                return measured.compile_s
            case "skew_s":
                return measured.skew_s
            case "worst_wait_s":
                return measured.worst_wait_s
            case "usd":
                return measured.usd
            case _:
                record = measured.records.get(self.name.removeprefix(_RECORD))
                return record.value if record is not None else None

    def text(self, value: float | None) -> str:
        if value is None:
            return "–"
        if self.name == "usd":
            return usd_text(value)
        return f"{value:.6g}" if self.is_record else seconds_text(value)


METRICS = (
    Metric("seconds", "duration"),
    Metric("first_forward_s", "first forward"),
    Metric("compile_s", "compile time"),
    Metric("skew_s", "skew"),
    Metric("worst_wait_s", "worst wait"),
    Metric("usd", "cost"),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What two receipts of a test have to share to be compared."""

    lane: str
    surface: str
    dry_run: bool
    preset: str
    world_size: int | None

    def __str__(self) -> str:
        """`h200x8 · local (dry run) · 8 ranks`; the full preset is the usual one."""
        *parts, preset = self._parts
        return " · ".join(part for part in (*parts, preset if preset != "full" else "") if part)

    def distinction(self, kinds: Collection["Kind"]) -> str:
        """What tells it apart from others of these kinds: `8 ranks`; empty where there are no others."""
        values = zip(*(kind._parts for kind in kinds), strict=True)
        return " · ".join(part or UNKNOWN for part, all_ in zip(self._parts, values, strict=True) if len({*all_}) > 1)

    @property
    def _parts(self) -> tuple[str, ...]:
        where = f"{self.surface} (dry run)" if self.dry_run else self.surface
        size = counted(self.world_size, "rank") if self.world_size is not None else ""
        return self.lane, where, size, self.preset


@dataclass(frozen=True, slots=True)
class Series:
    """One test over runs of one kind, the oldest first; there is at least one."""

    nodeid: str
    kind: Kind
    entries: tuple[Measures, ...]

    @property
    def last(self) -> Measures:
        return self.entries[-1]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of which there is any value, records last."""
        records = dict.fromkeys(name for entry in self.entries for name in entry.records)
        found = (*METRICS, *(Metric(f"{_RECORD}{name}", name, False) for name in records))
        return tuple(metric for metric in found if any(metric.of(entry) is not None for entry in self.entries))

    def values(self, metric: Metric) -> list[float | None]:
        """Of all entries; a red one measured something else."""
        return [metric.of(entry) if entry.outcome in GREEN else None for entry in self.entries]


def series(receipts: Iterable[Measures]) -> list[Series]:
    """All series, by node id; those of one test in the order in which their kinds last ran, the newest first. Receipts
    come in order of time; those of replays are left out.
    """
    found: dict[tuple[str, Kind], list[Measures]] = {}
    for one in receipts:
        kind = Kind(one.lane, one.surface, one.dry_run, one.preset, one.world_size)
        if not is_replayed(one):
            found.setdefault((one.nodeid, kind), []).append(one)
    made = [Series(nodeid, kind, tuple(entries)) for (nodeid, kind), entries in found.items()]
    made.sort(key=lambda series: series.last.run_id, reverse=True)
    return sorted(made, key=lambda series: series.nodeid)


def is_replayed(measured: Measures) -> bool:
    """Whether the receipt is of a replay, which is no further run: it began before its run's id was given."""
    return measured.cause == VerdictCause.NOT_RECORDED or began_before_its_id(measured.run_id, measured.started_at)


def began_before_its_id(run_id: str, started_at: object) -> bool:
    """Whether a run began before its id was given, as only a replay does."""
    try:
        began = datetime.fromisoformat(started_at if isinstance(started_at, str) else "")
        named = datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    began = began if began.tzinfo is not None else began.replace(tzinfo=UTC)
    return (named - began).total_seconds() > CLOCKS_DIFFER_S


def is_failure(measured: Measures) -> bool | None:
    """Whether the code under test failed; None where the receipt says nothing of it: the test was skipped, or something
    else kept it from being tested.
    """
    if measured.outcome in GREEN:
        return False
    if measured.outcome not in RED:
        return None
    try:
        traits = Code(measured.code).traits
    except ValueError:  # of a newer version
        return measured.outcome == Outcome.FAILED or None
    return True if traits.blames_the_code else None


def came_to(entries: Iterable[Measures]) -> list[Measures]:
    """The entries of runs that were not ended while the test ran, by Ctrl-C or by maxfail."""
    return [entry for entry in entries if not (entry.code == Code.NOT_RUN and entry.cause in _ENDED_BY_THE_USER)]


def tested(entries: Sequence[Measures]) -> Iterator[tuple[Measures, bool]]:
    """The entries that say something of the code under test, each with whether it failed."""
    for entry in entries:
        failed = is_failure(entry)
        if failed is not None:
            yield entry, failed
