"""Owns what is worth a word in a series: a regression against the median, a test that is flaky; must not know how
it is shown. The rules and why: docs/decisions/0089.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import median

from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.history.series import Metric, Series, tested
from pytest_megacpp.report.quantities import percent_text

LEAST_EARLIER = 6  # values before the last one, for a median to mean something
MOST_EARLIER = 30  # older ones were of other code
DEVIATIONS = 3.0  # of many values
FEW_VALUES = 14  # what the deviation of n values may miss is made up for by the factor 1 + FEW_VALUES / n
LEAST_SHARE = 0.1  # of the median: what is less nobody acts upon
LEAST_S = 0.05  # of seconds: what a busy machine does to anything
LEAST_WAIT_S = 0.25  # of what one rank alone can make: skew, a wait
LEAST_USD = 0.01
LEAST = {"usd": LEAST_USD, "skew_s": LEAST_WAIT_S, "worst_wait_s": LEAST_WAIT_S}
MAD_TO_SIGMA = 1.4826  # of a normal distribution
MOST_TESTED = 100  # newest runs in which a test may have been flaky
LEAST_CHANGES = 3  # of the outcome: failed once and fixed are two
Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Change:
    """The last value of a metric is far from the median of `earlier` values before it. `spread` is their usual
    deviation (1.4826 times the median absolute one).
    """

    metric: Metric
    value: float
    median: float
    spread: float
    earlier: int

    @property
    def is_regression(self) -> bool:
        return self.metric.more_is_worse and self.value > self.median

    def __str__(self) -> str:
        """`first forward 12.3 s, median of 9 earlier runs 8.10 s (+52 %, usual deviation 0.120 s)`."""
        share = f"{(self.value / self.median - 1) * 100:+.0f} %, " if self.median > 0 else ""
        text, runs = self.metric.text, "runs" if self.earlier != 1 else "run"
        return (
            f"{one_line(self.metric.label, 80)} {text(self.value)}, median of {self.earlier} earlier {runs} "
            f"{text(self.median)} ({share}usual deviation {text(self.spread)})"
        )


@dataclass(frozen=True, slots=True)
class Flaky:
    """A test that failed in `failures` of `runs` runs, though nothing that is known explains both. `low` and `high`
    bound its rate of failures (Wilson, 95 %). `revision` is one at which both happened, empty where only the order of
    outcomes shows it.
    """

    failures: int
    runs: int
    low: float
    high: float
    revision: str = ""

    def __str__(self) -> str:
        """`failed in 3 of 20 runs: 15 % (5–36 %, Wilson 95 %), passed and failed at 0f3c2a1`."""
        at = f", passed and failed at {self.revision[:10]}" if self.revision else ""
        rate, low, high = (percent_text(share) for share in (self.failures / self.runs, self.low, self.high))
        return f"failed in {self.failures} of {self.runs} runs: {rate} ({low} to {high}, Wilson 95 %){at}"


def wilson(failures: int, runs: int, z: float = Z_95) -> tuple[float, float]:
    """The interval in which a rate lies, by Wilson's score: it stays in 0..1 and means something for few runs."""
    if runs == 0:
        return 0.0, 1.0
    share, scale = failures / runs, z * z / runs
    middle = (share + scale / 2) / (1 + scale)
    half = z / (1 + scale) * sqrt(share * (1 - share) / runs + scale / (4 * runs))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if failures == 0 else min(low, share)), (1.0 if failures == runs else max(high, share))


def changes(of: Series) -> Iterator[Change]:
    """What the newest run has that is far from what is usual; nothing where it isn't green."""
    for metric in of.metrics:
        *before, last = of.values(metric)
        earlier = [value for value in before if value is not None][-MOST_EARLIER:]
        if last is not None and len(earlier) >= LEAST_EARLIER:
            found = _change(metric, last, earlier)
            if found is not None:
                yield found


def _change(metric: Metric, last: float, earlier: Sequence[float]) -> Change | None:
    usual = median(earlier)
    spread = MAD_TO_SIGMA * median(abs(value - usual) for value in earlier)
    far = max(deviations(len(earlier)) * spread, LEAST_SHARE * abs(usual), least(metric))
    return Change(metric, last, usual, spread, len(earlier)) if abs(last - usual) > far else None


def deviations(earlier: int) -> float:
    """How many usual deviations of so many values are far: 10 of 6 values, 4.4 of 30."""
    return DEVIATIONS * (1 + FEW_VALUES / earlier)


def least(metric: Metric) -> float:
    """What is less is no difference, whatever the deviation."""
    return 0.0 if metric.is_record else LEAST.get(metric.name, LEAST_S)


def flaky(of: Series) -> Flaky | None:
    """Whether the test passes and fails without a known reason: both at one revision, or by turns. What was long ago is
    forgotten, as it may have been fixed.
    """
    outcomes = list(tested(of.entries))[-MOST_TESTED:]
    failed = [failure for _, failure in outcomes]
    if not any(failed) or all(failed):
        return None
    at: dict[str, set[bool]] = {}
    for entry, failure in outcomes:
        if entry.revision:
            at.setdefault(entry.revision, set()).add(failure)
    both = next((revision for revision, seen in reversed(at.items()) if len(seen) == 2), "")
    turns = sum(now != before for before, now in pairwise(failed))
    if not both and turns < LEAST_CHANGES:
        return None
    return Flaky(sum(failed), len(failed), *wilson(sum(failed), len(failed)), both)
