"""Owns how samples become figures: medians, spreads, per-round ratios, the printed table and the JSON.

Pure: no process, no clock, no file.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from benchmarks.measure import Fact, Sample, Variant

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]


class Relation(StrEnum):
    """How a metric of a variant is set against the table's base, round by round."""

    BASE_OVER_THIS = "ratio"
    THIS_MINUS_BASE = "added"
    NONE = "none"


@dataclass(frozen=True)
class Metric:
    """One figure of a table. ``scale`` turns the measured unit into the printed one."""

    name: str
    label: str
    unit: str
    relation: Relation
    scale: float = 1.0


@dataclass(frozen=True)
class Table:
    """Variants measured in turns and compared with ``base``. Tables with a ``truth`` make up a grid.

    ``rounds`` is how many are sampled unless the command line says so.
    """

    name: str
    title: str
    aim: str
    base: str
    metrics: tuple[Metric, ...]
    variants: tuple[Variant, ...]
    truth: str | None = None
    rounds: int = 3


@dataclass(frozen=True)
class Spread:
    """Median, extremes and count of a set of figures."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of the values, or None when there are none."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def render(table: Table, samples: Sequence[Sample]) -> str:
    """The table as text: one block a metric, then what the variants reported in words."""
    head = [f"{table.name}: {table.title}", f"  aim: {table.aim}"]
    blocks = [_block(table, metric, samples) for metric in table.metrics]
    return "\n".join([*head, *filter(None, blocks), "", *_remarks(table, samples)]) + "\n"


def grid_head(table: Table) -> str:
    """The head of a Markdown grid with a column for each variant."""
    columns = ["truth", *(variant.label for variant in table.variants)]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def grid_row(table: Table, samples: Sequence[Sample]) -> str:
    """One scenario of a grid: what each variant said about it."""
    return f"| {' | '.join([table.truth or '', *(_cell(each, samples) for each in table.variants)])} |"


def _cell(variant: Variant, samples: Sequence[Sample]) -> str:
    said = [_said_in_grid(sample) for sample in samples if sample.variant == variant.name]
    return " / ".join(dict.fromkeys(said)).replace("|", "\\|") or "–"


def _said_in_grid(sample: Sample) -> str:
    facts, seconds = sample.outcome.facts, sample.outcome.values.get("verdict_s")
    if sample.outcome.failure:
        return "not measured"
    blamed = f": rank {_fact_text(facts['blamed'])}" if "blamed" in facts else ""
    after = f" after {number(seconds)} s" if seconds is not None else ""
    return f"**{facts['answer']}**{blamed}{after}, {facts['says']}"


def as_json(table: Table, samples: Sequence[Sample]) -> dict[str, Json]:
    """Everything measured for the table, raw samples included."""
    return {
        "title": table.title,
        "aim": table.aim,
        "base": table.base,
        "missing": {variant.name: variant.missing for variant in table.variants if variant.missing},
        "metrics": {metric.name: _metric_json(table, metric, samples) for metric in table.metrics},
        "samples": [_sample_json(sample) for sample in samples],
    }


def related(metric: Metric, base: str, variant: str, samples: Sequence[Sample]) -> list[float]:
    """The relation of a variant to the base, for each round that has both."""
    ours, theirs = _by_round(metric, base, samples), _by_round(metric, variant, samples)
    rounds = sorted(ours.keys() & theirs.keys())
    match metric.relation:
        case Relation.BASE_OVER_THIS:
            return [ours[number] / theirs[number] for number in rounds if theirs[number] > 0]
        case Relation.THIS_MINUS_BASE:
            return [theirs[number] - ours[number] for number in rounds]
        case Relation.NONE:
            return []
        case _:
            assert_never(metric.relation)


def _by_round(metric: Metric, variant: str, samples: Sequence[Sample]) -> dict[int, float]:
    return {
        sample.round: sample.outcome.values[metric.name] * metric.scale
        for sample in samples
        if sample.variant == variant and metric.name in sample.outcome.values
    }


def _block(table: Table, metric: Metric, samples: Sequence[Sample]) -> str:
    header = (f"{metric.label} [{metric.unit}]", "median", "min – max", "n", _relation_title(table, metric))
    lines = [_line(table, metric, variant, samples) for variant in table.variants]
    shown = [line for line in lines if line is not None]
    return "\n".join(["", *_aligned([header, *shown])]) if shown else ""


def _relation_title(table: Table, metric: Metric) -> str:
    match metric.relation:
        case Relation.BASE_OVER_THIS:
            return f"{table.base} ÷ this"
        case Relation.THIS_MINUS_BASE:
            return f"this − {table.base} [{metric.unit}]"
        case Relation.NONE:
            return ""
        case _:
            assert_never(metric.relation)


def _line(
    table: Table,
    metric: Metric,
    variant: Variant,
    samples: Sequence[Sample],
) -> tuple[str, ...] | None:
    figures = spread(list(_by_round(metric, variant.name, samples).values()))
    if figures is None:
        return None
    own = variant.name == table.base
    relation = None if own else spread(related(metric, table.base, variant.name, samples))
    shown = (number(figures.median), _range(figures), str(figures.count))
    return (variant.label, *shown, _relation_text(relation))


def _relation_text(relation: Spread | None) -> str:
    return "" if relation is None else f"{number(relation.median)} ({_range(relation)})"


def _range(figures: Spread) -> str:
    return f"{number(figures.low)} – {number(figures.high)}"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.4f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield ("  " + "  ".join([first, *others])).rstrip()


def _remarks(table: Table, samples: Sequence[Sample]) -> list[str]:
    missing = [f"  ! {each.label}: not measured, {each.missing}" for each in table.variants if each.missing]
    said = [_said(variant, samples) for variant in table.variants]
    return [*(line for lines in said for line in lines), *missing]


def _said(variant: Variant, samples: Sequence[Sample]) -> list[str]:
    """Facts per round, equal ones folded with their count; failures as they were."""
    counted: dict[str, int] = {}
    for sample in samples:
        if sample.variant == variant.name:
            for text in _words(sample):
                counted[text] = counted.get(text, 0) + 1
    return [f"  {variant.label}: {text} ({times}×)" for text, times in counted.items()]


def _words(sample: Sample) -> list[str]:
    facts = ", ".join(f"{name} {_fact_text(fact)}" for name, fact in sample.outcome.facts.items())
    failure = f"FAILED: {sample.outcome.failure}" if sample.outcome.failure else ""
    return [text for text in (facts, failure) if text]


def _fact_text(fact: Fact) -> str:
    match fact:
        case bool():
            return "yes" if fact else "no"
        case list():
            return ", ".join(map(str, fact)) or "none"
        case str() | int():
            return str(fact)
        case _:
            assert_never(fact)


def _metric_json(table: Table, metric: Metric, samples: Sequence[Sample]) -> dict[str, Json]:
    return {
        variant.name: {
            "unit": metric.unit,
            "figures": _spread_json(spread(list(_by_round(metric, variant.name, samples).values()))),
            metric.relation.value: _spread_json(spread(related(metric, table.base, variant.name, samples))),
        }
        for variant in table.variants
    }


def _spread_json(figures: Spread | None) -> Json:
    if figures is None:
        return None
    return {"median": figures.median, "min": figures.low, "max": figures.high, "n": figures.count}


def _sample_json(sample: Sample) -> dict[str, Json]:
    return {
        "variant": sample.variant,
        "round": sample.round,
        "load": sample.load,
        "values": dict(sample.outcome.values),
        "facts": dict(sample.outcome.facts),
        "failure": sample.outcome.failure,
    }
