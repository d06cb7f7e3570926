"""Owns what a machine on Modal costs an hour, and whose price that is; must not know what is run on it.

Prices are asked of the account where it tells them (`rates` remembers the answer); else they are those of the table
here, which has a date; `[tool.pytest_megacpp.prices]` beats both. They are estimates: the bill is Modal's.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.report.money import Rate
from pytest_megacpp.settings.paths import user_cache_dir
from pytest_megacpp.surfaces.modal.config import ModalConfig
from pytest_megacpp.surfaces.modal.rates import account_prices, remembered
from pytest_megacpp.surfaces.prices import TABLE, Prices

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


@dataclass(frozen=True, slots=True)
class Machine:
    """What is rented: `gpu` as Modal spells it (`H200:8`), None for a CPU machine."""

    gpu: str | None
    cpu: float
    memory_mib: int


def rates_file() -> Path:
    """Where Modal's last answer about prices is kept."""
    return user_cache_dir() / "modal-rates.json"


def rate_of(config: ModalConfig, prices: Prices, gpu: str | None, ranks: int) -> Rate:
    """What a box costs by what is known today; `gpu` None: a CPU machine."""
    cpu, memory_mib = config.machine(ranks)
    account = account_prices(remembered(rates_file(), time.time()), LIST_PRICES)
    return rented(Machine(gpu, cpu, memory_mib), prices, account)


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
