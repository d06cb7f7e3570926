"""Owns reading `[tool.pytest_megacpp.prices]`, and what a budget buys; must not start or end anything.

What a box costs is its surface's to say; configured prices beat what it knows itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from pytest_megacpp.report.money import HOUR_S, Rate, dollars
from pytest_megacpp.settings.checks import known, table, text
from pytest_megacpp.surfaces.prices import TABLE, Prices

KEYS = ("usd_per_hour", "gpu", "cpu_core", "memory_gib", "source")
SHORTEST_RUN_S = 15.0  # a budget that doesn't buy this much of a box buys no test
END_S = 15.0  # a box that is asked to end takes up to this


def read_prices(value: object, *, untrusted: bool = False) -> Prices:
    """The table, checked. Raises UsageError. `untrusted`: who writes the tests may have written the table, too, and a
    price of nothing would void any budget; so none of it counts.
    """
    settings = table(value, what="it", where=TABLE)
    for key in settings:
        known(key, KEYS, what="key", where=TABLE)
    gpus = table(settings.get("gpu", {}), what="it", where=f"{TABLE[:-1]}.gpu]")
    prices = Prices(
        usd_per_hour=_price(settings, "usd_per_hour"),
        gpu={name.upper(): _price(gpus, name) or 0.0 for name in gpus},
        cpu_core=_price(settings, "cpu_core"),
        memory_gib=_price(settings, "memory_gib"),
        source=text(settings.get("source", Prices().source), what="source", where=TABLE),
    )
    return Prices() if untrusted else prices


def _price(settings: Mapping[str, object], key: str) -> float | None:
    value = settings.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise pytest.UsageError(f"{TABLE}: {key} must be dollars per hour, such as 4.54, not {value!r}")
    return float(value)


# -- budgets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a budget allows: `run_s` for the box (0: no bound), or why there is no launch."""

    run_s: float = 0.0
    refusal: str | None = None
    remedy: str = ""


def allowance(budget_usd: float | None, rate: Rate) -> Allowance:
    """A budget ends a run early enough for the box to end in order, and refuses one that could not even begin."""
    if budget_usd is None or rate.usd_per_hour == 0:
        return Allowance()
    if rate.usd_per_hour is None:
        return Allowance(refusal=f"a budget of {dollars(budget_usd)} can't be kept: {rate.source}")
    buys_s = budget_usd / rate.usd_per_hour * HOUR_S
    if buys_s < SHORTEST_RUN_S + END_S:
        refusal = (
            f"the budget of {dollars(budget_usd)} buys {buys_s:.1f} s of this box at {dollars(rate.usd_per_hour)}/h "
            f"({rate.source}); starting and ending one takes {SHORTEST_RUN_S + END_S:g} s"
        )
        cents = math.ceil((SHORTEST_RUN_S + END_S) / HOUR_S * rate.usd_per_hour * 100)
        return Allowance(refusal=refusal, remedy=f"give it at least {dollars(cents / 100)} with --lane-budget")
    return Allowance(round(buys_s - END_S, 3))
