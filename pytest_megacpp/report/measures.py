"""Owns what one receipt measured, read from a document that anybody may have written; must not know a file, nor what is
much or little.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pytest_megacpp.report.clean import one_line

MAX_RECORDS = 256  # names of `lane.record`; a lane refuses more
NAME_CHARS = 80
LARGEST = 1e300  # no measure of anything


@dataclass(frozen=True, slots=True)
class Record:
    """What ranks recorded under one name: the numbers, one for each rank that recorded one, or the first text."""

    numbers: tuple[float, ...] = ()
    text: str = ""

    @property
    def value(self) -> float | None:
        """The median of the ranks."""
        return median(self.numbers) if self.numbers else None

    def __str__(self) -> str:
        """`0.5` where all ranks agree, else `0.5..0.7`."""
        if not self.numbers:
            return self.text
        low, high = min(self.numbers), max(self.numbers)
        return f"{low:.6g}" if low == high else f"{low:.6g}..{high:.6g}"


@dataclass(frozen=True, slots=True)
class Measures:
    """One test in one run. Seconds; None where it isn't known. `seconds` are those that the box spent on the attempt
    that decided, from its release to its end; `first_forward_s` and `compile_s` are those of the slowest rank, `skew_s`
    is how much longer the slowest rank's first forward took than the fastest one's, `usd` the price of all attempts.
    `revision` is a commit, empty where it isn't known or the tree differed from it. `nodeid` is whole and not cleaned,
    as it tells tests apart; the other texts are cleaned and cut.
    """

    run_id: str
    nodeid: str
    outcome: str
    code: str
    summary: str = ""
    cause: str | None = None
    certainty: str = ""
    blamed_ranks: tuple[int, ...] = ()
    lane: str = ""
    surface: str = ""
    dry_run: bool = False
    preset: str = ""
    world_size: int | None = None
    started_at: str = ""
    revision: str = ""
    seconds: float | None = None
    first_forward_s: float | None = None
    compile_s: float | None = None
    skew_s: float | None = None
    worst_wait_s: float | None = None
    usd: float | None = None
    records: Mapping[str, Record] = field(default_factory=dict)

    @property
    def blamed(self) -> str:
        """`2` or `0,1,3`."""
        return ",".join(map(str, self.blamed_ranks))


def measures(receipt: object) -> Measures | None:
    """What a receipt says; None if it names no test or no outcome."""
    document, verdict = _object(receipt), _object(_object(receipt).get("verdict"))
    nodeid, outcome = document.get("nodeid"), _text(document.get("outcome"))
    if not isinstance(nodeid, str) or not nodeid or not outcome:
        return None
    ranks = [_object(rank) for rank in _listed(document.get("ranks"))]
    skew, cost, git = (_object(document.get(name)) for name in ("skew", "cost", "git"))
    return Measures(
        run_id=_text(document.get("run_id")),
        nodeid=nodeid,
        outcome=outcome,
        code=_text(verdict.get("code")),
        summary=_text(verdict.get("summary"), 500),
        cause=_text(verdict.get("cause")) or None,
        certainty=_text(verdict.get("certainty")),
        blamed_ranks=tuple(rank for rank in _listed(verdict.get("blamed_ranks")) if type(rank) is int),
        lane=_text(document.get("lane")),
        surface=_text(document.get("surface")),
        dry_run=document.get("dry_run") is True,
        preset=_text(document.get("preset")),
        world_size=size if type(size := document.get("world_size")) is int else None,
        started_at=_text(document.get("started_at")),
        revision=_text(git.get("revision")) if git.get("dirty") is False else "",
        seconds=_attempt_s(document, verdict) or amount(cost.get("seconds")),
        first_forward_s=_largest(rank.get("first_forward_s") for rank in ranks),
        compile_s=_largest(rank.get("compile_s") for rank in ranks),
        skew_s=amount(skew.get("first_forward_s")),
        worst_wait_s=amount(skew.get("worst_wait_s")),
        usd=amount(cost.get("usd")),
        records=_records(ranks),
    )


def _records(ranks: Iterable[Mapping[str, Any]]) -> dict[str, Record]:
    values: dict[str, list[Any]] = {}
    for rank in ranks:
        for name, value in _object(rank.get("records")).items():
            if name in values or len(values) < MAX_RECORDS:
                values.setdefault(name, []).append(value)
    return {_text(name, NAME_CHARS): _record(seen) for name, seen in values.items()}


def _record(values: list[Any]) -> Record:
    numbers = tuple(found for value in values if (found := number(value)) is not None)
    return Record(numbers) if numbers else Record(text=one_line(str(values[0]), NAME_CHARS))


def _largest(values: Iterable[object]) -> float | None:
    return max((found for value in values if (found := amount(value)) is not None), default=None)


def _attempt_s(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> float | None:
    """Of several attempts, the last one with the verdict of the test; None where there was only one."""
    attempts = [_object(attempt) for attempt in _listed(document.get("attempts"))]
    decided = [attempt for attempt in attempts if attempt.get("verdict") == verdict] or attempts[-1:]
    times = [number(decided[-1].get(name)) if decided else None for name in ("start_s", "end_s")]
    return amount(times[1] - times[0]) if times[0] is not None and times[1] is not None else None


def number(value: object) -> float | None:
    """A number whose sums and differences are finite; JSON knows others as well."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST <= value <= LARGEST else None  # NaN is in no interval


def amount(value: object) -> float | None:
    """A number of what there can't be less than nothing of: seconds, dollars."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def _text(value: object, limit: int = 200) -> str:
    if not isinstance(value, str):
        return ""
    return value if value.isprintable() and len(value) <= limit else one_line(value, limit)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
