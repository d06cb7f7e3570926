"""Owns the prices that a user configured; must not know what any machine costs otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field

TABLE = "[tool.pytest_megacpp.prices]"


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars per hour. `usd_per_hour` is this machine's, `gpu` by type, `cpu_core` and `memory_gib` Modal's."""

    usd_per_hour: float | None = None
    gpu: Mapping[str, float] = field(default_factory=dict)
    cpu_core: float | None = None
    memory_gib: float | None = None
    source: str = "configured prices"
