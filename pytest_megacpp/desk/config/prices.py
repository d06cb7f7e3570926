"""Owns what a box costs an hour, whose price that is, and what a budget buys; must not start or end anything.

Modal's prices are asked of the account where it tells them (`surfaces/modal/rates.py` remembers the answer); else they
are those of the table here, which has a date; `[tool.pytest_megacpp.prices]` beats both. They are estimates: the bill
is Modal's. A machine of one's own costs nothing unless its price is configured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from pytest_megacpp.report.money import HOUR_S, Rate, dollars
from pytest_megacpp.settings.checks import known, table, text

TABLE = "[tool.pytest_megacpp.prices]"
KEYS = ("usd_per_hour", "gpu", "cpu_core", "memory_gib", "source")
TABLE_DATE = "2026-06-27"
ACCOUNT_SOURCE = "the account's rates"
TABLE_SOURCE = f"list prices as of {TABLE_DATE}"
GPU_USD_PER_HOUR: Mapping[str, float] = {
    "B200": 6.25,
    "H200": 4.5396,
    "H100": 3.9492,
    "A100-80GB": 2.4984,
    "A100": 2.0988,
    "A100-40GB": 2.0988,
    "L40S": 1.9512,
    "A10": 1.1016,
    "A10G": 1.1016,
    "L4": 0.7992,
    "T4": 0.5904,
}
"""Modal's list prices by GPU, as third parties reported them; the multipliers for a chosen region are not in them."""
CPU_CORE_USD_PER_HOUR = 0.1419
MEMORY_GIB_USD_PER_HOUR = 0.0242
"""Of a Sandbox, which are three times those of a Function."""

LIST_PRICES: Mapping[str, float] = {
    **GPU_USD_PER_HOUR,
    "cpu_core": CPU_CORE_USD_PER_HOUR,
    "memory_gib": MEMORY_GIB_USD_PER_HOUR,
}

SHORTEST_RUN_S = 15.0  # a budget that doesn't buy this much of a box buys no test
END_S = 15.0  # a box that is told to end takes up to this


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars per hour. `usd_per_hour` is this machine's, `gpu` by type, `cpu_core` and `memory_gib` Modal's."""

    usd_per_hour: float | None = None
    gpu: Mapping[str, float] = field(default_factory=dict)
    cpu_core: float | None = None
    memory_gib: float | None = None
    source: str = "configured prices"


@dataclass(frozen=True, slots=True)
class Machine:
    """What is rented: `gpu` as Modal spells it (`H200:8`), None for a CPU machine."""

    gpu: str | None
    cpu: float
    memory_mib: int


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


def read_budget(value: object, where: str) -> float:
    """`--lane-budget`: dollars above 0. Raises UsageError."""
    try:
        usd = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except ValueError:
        usd = 0.0
    if not 0 < usd < 1e9:
        raise pytest.UsageError(f"{where}: a budget is a number of dollars above 0, such as 5 or 0.50, not {value!r}")
    return usd


# -- what a box costs ----------------------------------------------------------------------------------------------


def own_machine(prices: Prices, gpus: int) -> Rate:
    """Of this machine: nothing, unless its owner says otherwise."""
    return Rate(prices.usd_per_hour or 0.0, gpus, prices.source if prices.usd_per_hour else "this machine")


def rented(machine: Machine, prices: Prices, account: Mapping[str, float]) -> Rate:
    """Of a machine on Modal. `account` are the account's own prices by GPU type, `cpu_core` and `memory_gib`."""
    kind, _, number = (machine.gpu or "").partition(":")
    gpus = int(number or 1) if kind else 0
    per_gpu, whose = _of_gpu(kind, prices, account) if kind else (0.0, _whose_core(prices, account))
    if per_gpu is None:
        return Rate(None, gpus, whose)
    core = _first(prices.cpu_core, account.get("cpu_core"), CPU_CORE_USD_PER_HOUR)
    gib = _first(prices.memory_gib, account.get("memory_gib"), MEMORY_GIB_USD_PER_HOUR)
    total = gpus * per_gpu + machine.cpu * core + machine.memory_mib / 1024 * gib
    return Rate(round(total, 4), gpus, whose)


def _whose_core(prices: Prices, account: Mapping[str, float]) -> str:
    if prices.cpu_core is not None:
        return prices.source
    return ACCOUNT_SOURCE if "cpu_core" in account else TABLE_SOURCE


def _first(*prices: float | None) -> float:
    return next(price for price in prices if price is not None)


def _of_gpu(kind: str, prices: Prices, account: Mapping[str, float]) -> tuple[float | None, str]:
    name = kind.upper().removesuffix("!").removesuffix("+")
    for known_prices, whose in (
        (prices.gpu, prices.source),
        (account, ACCOUNT_SOURCE),
        (GPU_USD_PER_HOUR, TABLE_SOURCE),
    ):
        if name in known_prices:
            return known_prices[name], whose
    return None, f"no price is known for {kind}; say it in {TABLE[:-1]}.gpu]"


# -- budgets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a budget allows: `run_s` for the box (0: no bound), or why there is no launch."""

    run_s: float = 0.0
    refusal: str | None = None
    mend: str = ""


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
        return Allowance(refusal=refusal, mend=f"give it at least {dollars(cents / 100)} with --lane-budget")
    return Allowance(round(buys_s - END_S, 3))


def estimate(rate: Rate, worst_s: float | None, budget_usd: float | None) -> str:
    """What the header says before a launch: `$36.32/h (list prices as of …), at most $3.10`; empty when it is free."""
    if rate.usd_per_hour == 0:
        return ""
    if rate.usd_per_hour is None:
        return rate.source
    bounds = [usd for usd in (_worst_usd(rate.usd_per_hour, worst_s), budget_usd) if usd is not None]
    told = f"{dollars(rate.usd_per_hour)}/h ({rate.source})"
    if not bounds:
        return told
    by = " by the budget" if min(bounds) == budget_usd else ""
    return f"{told}, at most {dollars(min(bounds))}{by}"


def _worst_usd(usd_per_hour: float, worst_s: float | None) -> float | None:
    return None if worst_s is None else worst_s / HOUR_S * usd_per_hour
