"""Owns what seconds of a box cost, and how that is worded; must not know where a price comes from."""

from dataclasses import dataclass

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What a box costs while it runs, idle or not; `usd_per_hour` None: not known. `source`: whose price that is."""

    usd_per_hour: float | None = None
    gpus: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    seconds: float | None = None
    gpu_seconds: float | None = None
    usd: float | None = None


def cost(seconds: float, rate: Rate) -> Cost:
    """Of so many seconds of the whole box: all of its GPUs are paid for, used or not."""
    usd = None if rate.usd_per_hour is None else round(seconds / HOUR_S * rate.usd_per_hour, 6)
    return Cost(round(seconds, 3), round(seconds * rate.gpus, 3), usd)


def dollars(usd: float) -> str:
    """`$1,234.50`, `$0.35`; what is below a cent but not nothing is `<$0.01`."""
    return "<$0.01" if 0 < usd < 0.01 else f"${usd:,.2f}"


def footer(spent: Cost, rate: Rate) -> str:
    """`273.6 GPU-seconds, $0.35`; empty for a box that costs nothing and has no GPUs."""
    parts = [f"{spent.gpu_seconds:,.1f} GPU-seconds"] if spent.gpu_seconds else []
    if spent.usd is not None and (spent.usd or rate.usd_per_hour):
        parts.append(f"{dollars(spent.usd)} ({rate.source})")
    elif rate.usd_per_hour is None and spent.gpu_seconds:
        parts.append("price not known")
    return ", ".join(parts)


def estimate(rate: Rate, worst_s: float | None, budget_usd: float | None) -> str:
    """What the header says before a launch: `$36.32/h (list prices as of …), at most $3.10`; empty when it is free."""
    if rate.usd_per_hour == 0:
        return ""
    if rate.usd_per_hour is None:
        return rate.source
    bounds = [usd for usd in (_worst_usd(rate.usd_per_hour, worst_s), budget_usd) if usd is not None]
    price = f"{dollars(rate.usd_per_hour)}/h ({rate.source})"
    if not bounds:
        return price
    by = " by the budget" if min(bounds) == budget_usd else ""
    return f"{price}, at most {dollars(min(bounds))}{by}"


def _worst_usd(usd_per_hour: float, worst_s: float | None) -> float | None:
    return None if worst_s is None else worst_s / HOUR_S * usd_per_hour
