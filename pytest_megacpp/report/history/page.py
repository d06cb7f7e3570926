"""Owns `history.html`, a page without scripts or network that shows series of receipts; must not know a file or clock.

Every text of the page goes through jinja2's autoescape, and the page's policy allows nothing but its own style, so that
nothing a test wrote can be markup. Numbers of charts are made here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pytest_megacpp.judge.verdicts import RED
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.history import findings as rules
from pytest_megacpp.report.history.series import GREEN, Kind, Metric, Series, came_to, is_failure, is_replayed
from pytest_megacpp.report.layout import counted, grouped
from pytest_megacpp.report.measures import Measures
from pytest_megacpp.report.policy import source
from pytest_megacpp.report.quantities import percent_text, seconds_text, usd_text

if TYPE_CHECKING:
    from jinja2 import Template

WIDTH, HEIGHT, EDGE = 260, 56, 5
DRAWN = 120  # runs in the charts of a test, the newest
CELL, CELL_GAP = 7, 2
LEAST_DRAWN = 3
MAX_CHARTS = 14  # of a test: six metrics, and records

FindingKind = Literal["red", "slower", "flaky", "faster", "changed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """All of one kind that is worth a word about a test."""

    kind: FindingKind
    texts: tuple[str, ...]
    anchor: str
    nodeid: str
    where: str


def history_page(series: Sequence[Series], receipts: Sequence[Measures], covered: str) -> bytes:
    """The page. `receipts` are those of the series, in order of time; `covered` says which runs they are of."""
    tests = [_test(one, f"t{number}") for number, one in enumerate(series)]
    found = [finding for test in tests for finding in test["findings"]]
    order: tuple[FindingKind, ...] = ("red", "slower", "flaky")
    page = {
        "runs": [_run(run_id, of_run) for run_id, of_run in reversed(list(_by_run(receipts)))],
        "covered": covered,
        "findings": [finding for kind in order for finding in found if finding.kind == kind],
        "tests": tests,
    }
    style = _style()
    text = _template().render(
        page=page, style=style, style_hash=source(style), width=WIDTH, height=HEIGHT, rules=_rules()
    )
    return text.encode("utf-8", "backslashreplace")


def _style() -> Any:
    from markupsafe import Markup

    return Markup((files(__package__) / "page.css").read_text(encoding="utf-8"))


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string((files(__package__) / "page.html.j2").read_text(encoding="utf-8"))


def _rules() -> dict[str, object]:
    return {
        "most": rules.MOST_EARLIER,
        "fewest": rules.LEAST_EARLIER,
        "many": f"{rules.deviations(rules.MOST_EARLIER):.1f}",
        "few": f"{rules.deviations(rules.LEAST_EARLIER):.0f}",
        "share": percent_text(rules.LEAST_SHARE),
        "least": seconds_text(rules.LEAST_S),
        "least_wait": seconds_text(rules.LEAST_WAIT_S),
        "tested": rules.MOST_TESTED,
        "turns": rules.LEAST_CHANGES,
    }


# -- runs ----------------------------------------------------------------------------------------------------


def _by_run(receipts: Sequence[Measures]) -> Iterator[tuple[str, list[Measures]]]:
    real = (one for one in receipts if not is_replayed(one))
    for run_id, of_run in groupby(real, key=lambda one: one.run_id):
        yield run_id, list(of_run)


def _run(run_id: str, receipts: Sequence[Measures]) -> dict[str, object]:
    first = receipts[0]
    bad = Counter(one.code for one in came_to(receipts) if one.outcome in RED)
    usd = [one.usd for one in receipts if one.usd is not None]
    return {
        "run_id": one_line(run_id, 80),
        "started": one_line(first.started_at, 30)[:19].replace("T", " "),
        "kind": one_line(str(Kind(first.lane, first.surface, first.dry_run, first.preset, None))),
        "tests": len(receipts),
        "seconds": seconds_text(sum(one.seconds or 0.0 for one in receipts)),
        "usd": usd_text(sum(usd) if usd else None),
        "verdicts": ", ".join(f"{one_line(code, 40)} ×{number}" for code, number in bad.most_common()),
    }


# -- tests ---------------------------------------------------------------------------------------------------


def _test(series: Series, anchor: str) -> dict[str, Any]:
    drawn = series.entries[-DRAWN:]
    where, nodeid = one_line(str(series.kind)), one_line(series.nodeid, 500)
    green = sum(entry.outcome in GREEN for entry in series.entries)
    return {
        "anchor": anchor,
        "nodeid": nodeid,
        "where": where,
        "count": f"{counted(len(series.entries), 'run')}, {green} green",
        "shown": len(drawn),
        "left_out": len(series.entries) - len(drawn),
        "findings": [
            Finding(kind, tuple(texts), anchor, nodeid, where) for kind, texts in grouped(findings(series)).items()
        ],
        "strip_label": f"outcomes of {counted(len(drawn), 'run')}, the newest last",
        "strip_width": len(drawn) * (CELL + CELL_GAP),
        "cells": [_cell(number, entry) for number, entry in enumerate(drawn)],
        "charts": [_chart(metric, drawn) for metric in series.metrics if _is_drawn(metric, drawn)][:MAX_CHARTS],
        "numbers": ", ".join(_number(metric, drawn) for metric in series.metrics if _is_few(metric, drawn)),
    }


def findings(series: Series) -> Iterator[tuple[FindingKind, str]]:
    """What is worth a word, the most important first."""
    last = next(iter(reversed(came_to(series.entries))), None)
    if last is not None and last.outcome in RED:
        yield "red", one_line(f"{last.code} · {last.summary}" if last.summary else last.code, 400)
    for change in rules.changes(series):
        word: FindingKind = "slower" if change.is_regression else "changed" if change.metric.is_record else "faster"
        yield word, str(change)
    if (flaky := rules.flaky(series)) is not None:
        yield "flaky", str(flaky)


def _kind(entry: Measures) -> str:
    """What kept a test from being tested is no failure of it."""
    return {False: "green", True: "bad", None: "other"}[is_failure(entry)]


def _title(entry: Measures, value: str = "") -> str:
    at = f" at {entry.revision[:10]}" if entry.revision else ""
    return one_line(f"{entry.run_id}{at}: {value + ', ' if value else ''}{entry.code}", 200)


def _cell(number: int, entry: Measures) -> dict[str, object]:
    """Green cells are full height, others shorter: colour isn't all that tells them apart."""
    kind = _kind(entry)
    height = {"green": 16, "bad": 9}.get(kind, 4)
    return {
        "kind": kind,
        "x": number * (CELL + CELL_GAP),
        "y": 16 - height,
        "width": CELL,
        "height": height,
        "title": _title(entry),
    }


def _known(metric: Metric, drawn: Sequence[Measures]) -> list[float]:
    return [value for entry in drawn if (value := metric.of(entry)) is not None]


def _is_drawn(metric: Metric, drawn: Sequence[Measures]) -> bool:
    values = _known(metric, drawn)
    return len(values) >= LEAST_DRAWN and (metric.name == "seconds" or any(values))


def _is_few(metric: Metric, drawn: Sequence[Measures]) -> bool:
    return 0 < len(_known(metric, drawn)) < LEAST_DRAWN


def _number(metric: Metric, drawn: Sequence[Measures]) -> str:
    """`duration 12.30 s (before: 8.10 s)`: two values need no chart."""
    *before, last = map(metric.text, _known(metric, drawn))
    return f"{one_line(metric.label, 60)} {last}" + (f" (before: {', '.join(before)})" if before else "")


def _chart(metric: Metric, drawn: Sequence[Measures]) -> dict[str, object]:
    known = [(number, entry, value) for number, entry in enumerate(drawn) if (value := metric.of(entry)) is not None]
    values = [value for _, _, value in known]
    low, high, middle = min(values), max(values), median(values)
    low = min(low, 0.0) if metric.more_is_worse else low
    step = (WIDTH - 2 * EDGE) / max(1, len(drawn) - 1)

    def y_of(value: float) -> float:
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE), 1)

    places = [(round(EDGE + number * step, 1), y_of(value)) for number, _, value in known]
    dots = zip(known, places, strict=True)
    return {
        "label": one_line(metric.label, 60),
        "last": metric.text(values[-1]),
        "median": metric.text(middle),
        "median_y": y_of(middle),
        "low": metric.text(low) if metric.is_record else "0",
        "high": f"max {metric.text(high)}",
        "description": one_line(f"{metric.label} of {counted(len(values), 'run')}: last {metric.text(values[-1])}"),
        "line": " ".join(f"{x},{y}" for x, y in places),
        "dots": [
            {"kind": _kind(entry), "x": x, "y": y, "r": 3 if number == len(drawn) - 1 else 2,
             "title": _title(entry, metric.text(value))}
            for (number, entry, value), (x, y) in dots
        ],
    }  # fmt: skip
