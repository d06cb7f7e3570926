"""Owns `megacpp diff`: what one run has that another hasn't; must not know why."""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.commands.command import (
    FAILED,
    OK,
    RUN_HELP,
    CannotDo,
    Desk,
    fitting,
    say,
    say_json,
    takes_json,
)
from pytest_megacpp.desk.run.directory import read_run_json
from pytest_megacpp.desk.run.receipts import receipts_of
from pytest_megacpp.desk.run.runs import find_run, parts_of_run
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.history.findings import LEAST_SHARE, least
from pytest_megacpp.report.history.series import GREEN, METRICS, Metric, is_failure
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.measures import Measures

CIRCUMSTANCES = ("lane", "surface", "dry_run", "ranks", "git", "versions", "devices", "environment")
VALUE_CHARS = 60
LEAST_RECORD_SHARE = 0.01
_SCRATCH = re.compile(r"\bmegacpp-\w{8}\b")  # each run has its own


@dataclass(frozen=True, slots=True)
class Pair:
    """A test in both runs; None where one hasn't it."""

    nodeid: str
    before: Measures | None
    after: Measures | None

    @property
    def broke(self) -> bool:
        """Whether it was green and fails now; what was skipped, or kept from being tested, did not break."""
        before, after = self.before, self.after
        return before is not None and after is not None and before.outcome in GREEN and is_failure(after) is True

    @property
    def verdicts(self) -> tuple[str, str]:
        return _verdict(self.before), _verdict(self.after)

    def differences(self) -> Iterator[tuple[Metric, float, float]]:
        """Measures of a test that is green in both, as far as they differ by more than a busy machine explains."""
        before, after = self.before, self.after
        if before is None or after is None or before.outcome not in GREEN or after.outcome not in GREEN:
            return
        records = dict.fromkeys((*before.records, *after.records))
        for metric in (*METRICS, *(Metric(f"record {name}", name, False) for name in records)):
            old, new = metric.of(before), metric.of(after)
            if old is not None and new is not None and _is_far(metric, old, new):
                yield metric, old, new


def _verdict(measured: Measures | None) -> str:
    if measured is None:
        return "–"
    return f"{measured.code} ({measured.blamed})" if measured.blamed_ranks else measured.code


def _is_far(metric: Metric, old: float, new: float) -> bool:
    if metric.is_record:
        return abs(new - old) > LEAST_RECORD_SHARE * abs(old)
    return abs(new - old) > max(least(metric), LEAST_SHARE * old)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A", help=f"the run to compare with: {RUN_HELP.partition(' (')[0]}")
    parser.add_argument("after", metavar="B", nargs="?", default="latest", help=RUN_HELP)
    takes_json(parser)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Prints the differences; FAILED if a test that A passed fails in B. Raises RunNotFound and CannotDo."""
    before, after = find_run(desk.lane_dir, arguments.before), find_run(desk.lane_dir, arguments.after)
    if before.resolve() == after.resolve():
        raise CannotDo(f"both are run {before.name}: name two, megacpp runs lists them")
    pairs = _pairs(_measured(before), _measured(after))
    around = _around(read_run_json(before) or {}, read_run_json(after) or {})
    if arguments.json:
        say_json(_as_json(before, after, pairs, around))
    else:
        say(_shown(before, after, pairs, around))
    return FAILED if any(pair.broke for pair in pairs) else OK


def _measured(run: Path) -> dict[str, Measures]:
    """Raises CannotDo if there are no receipts."""
    runs = [run.parent / part for part in parts_of_run(run)] or [run]
    found = {measured.nodeid: measured for one in runs for _, measured in receipts_of(one)}
    if not found:
        raise CannotDo(f"run {run.name} has no receipts to compare")
    return found


def _pairs(before: Mapping[str, Measures], after: Mapping[str, Measures]) -> list[Pair]:
    """All tests: those that broke first, then those with other verdicts, then by node id."""
    pairs = [Pair(nodeid, before.get(nodeid), after.get(nodeid)) for nodeid in sorted({*before, *after})]
    return sorted(pairs, key=lambda pair: (not pair.broke, pair.verdicts[0] == pair.verdicts[1]))


# -- around the tests ----------------------------------------------------------------------------------------


def _around(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """What else differs: versions, variables, devices, revision."""
    old, new = dict(_circumstances(before)), dict(_circumstances(after))
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    return [(name, old.get(name), new.get(name)) for name in names]


def _circumstances(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for field in CIRCUMSTANCES:
        value = document.get(field)
        if not isinstance(value, dict):
            yield field, value
            continue
        for name, one in value.items():
            if field == "environment":
                value = one.get("value") if isinstance(one, dict) else one
                yield str(name), _SCRATCH.sub("megacpp-…", value) if isinstance(value, str) else value
            elif (field, name) != ("devices", "details"):  # has temperatures and clocks
                yield f"{field}.{name}", one


# -- what is printed -----------------------------------------------------------------------------------------


def _shown(before: Path, after: Path, pairs: list[Pair], around: list[tuple[str, object, object]]) -> Iterator[str]:
    yield f"A {one_line(before.name)}  →  B {one_line(after.name)}"
    rows = [(one_line(name), _value(old), _value(new)) for name, old, new in around]
    if rows:
        yield from fitting([("", "A", "B"), *rows])
    other = [pair for pair in pairs if pair.verdicts[0] != pair.verdicts[1]]
    if other:
        yield ""
        verdicts = [("broke" if pair.broke else "", *pair.verdicts, one_line(pair.nodeid)) for pair in other]
        yield from fitting([("", "A", "B", "TEST"), *verdicts])
    differing = [(pair, list(pair.differences())) for pair in pairs]
    measures = [_row(pair, *one) for pair, found in differing for one in found]
    if measures:
        yield ""
        yield from fitting([("MEASURE", "A", "B", "", "TEST"), *measures])
    same = sum(1 for pair, found in differing if pair.verdicts[0] == pair.verdicts[1] and not found)
    yield ""
    yield f"{counted(same, 'test')} of {len(pairs)} without a difference"


def _row(pair: Pair, metric: Metric, old: float, new: float) -> tuple[str, ...]:
    share = f"{(new / old - 1) * 100:+.0f} %" if old > 0 else ""
    return one_line(metric.label), metric.text(old), metric.text(new), share, one_line(pair.nodeid)


def _value(value: object) -> str:
    return "–" if value is None else one_line(str(value), VALUE_CHARS)


def _as_json(
    before: Path, after: Path, pairs: list[Pair], around: list[tuple[str, object, object]]
) -> dict[str, object]:
    return {
        "before": before.name,
        "after": after.name,
        "circumstances": [{"name": name, "before": old, "after": new} for name, old, new in around],
        "tests": [
            {
                "nodeid": pair.nodeid,
                "before": pair.before.code if pair.before else None,
                "after": pair.after.code if pair.after else None,
                "broke": pair.broke,
                "measures": {metric.name: [old, new] for metric, old, new in pair.differences()},
            }
            for pair in pairs
        ],
    }
