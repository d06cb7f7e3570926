"""What a box costs an hour and whose price that is; what a budget allows."""

import tomllib
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.options import Options, read_options
from pytest_megacpp.desk.config.prices import (
    END_S,
    SHORTEST_RUN_S,
    Allowance,
    allowance,
    read_prices,
)
from pytest_megacpp.desk.run.replay import rate_elsewhere
from pytest_megacpp.recording.events import RunStarted
from pytest_megacpp.report.money import Rate, estimate
from pytest_megacpp.settings.checks import Unparsed, budget
from pytest_megacpp.surfaces.local.provider import own_machine
from pytest_megacpp.surfaces.modal.prices import GPU_USD_PER_HOUR, Machine, rented
from pytest_megacpp.surfaces.prices import Prices

pytest_plugins = "pytester"

H200X8 = Machine("H200:8", 16.0, 20480)


def test_the_gpus_of_the_fields_own_box_cost_what_it_reported() -> None:
    assert 8 * GPU_USD_PER_HOUR["H200"] == pytest.approx(36.32, abs=0.005)


def test_list_prices_when_nobody_says_better() -> None:
    rate = rented(H200X8, Prices(), {})
    assert rate.usd_per_hour == pytest.approx(8 * 4.5396 + 16 * 0.1419 + 20 * 0.0242)
    assert (rate.gpus, rate.source) == (8, "list prices as of 2026-06-27")


def test_the_account_beats_the_list_and_the_configuration_both() -> None:
    account = {"H200": 4.0, "cpu_core": 0.1, "memory_gib": 0.0}
    assert rented(H200X8, Prices(), account) == Rate(33.6, 8, "the account's rates")
    prices = Prices(gpu={"H200": 3.0}, cpu_core=0.0, memory_gib=0.0, source="our contract")
    assert rented(H200X8, prices, account) == Rate(24.0, 8, "our contract")


def test_a_stranger_s_prices_void_no_budget() -> None:
    """They come from the pyproject.toml that the change itself may edit."""
    for_nothing = {"gpu": {"H200": 0, "X900": 0.01}, "cpu_core": 0, "memory_gib": 0, "source": "a friend"}
    assert rented(H200X8, read_prices(for_nothing), {}).usd_per_hour == 0
    assert rented(H200X8, read_prices(for_nothing, untrusted=True), {}) == rented(H200X8, Prices(), {})
    assert allowance(5.0, rented(H200X8, read_prices(for_nothing, untrusted=True), {})).run_s > 0


@pytest.mark.parametrize(
    ("gpu", "gpus", "per_gpu"),
    [("H100!", 1, 3.9492), ("b200+:2", 2, 6.25), ("A100-40GB:4", 4, 2.0988), ("A10G", 1, 1.1016)],
)
def test_types_as_modal_spells_them(gpu: str, gpus: int, per_gpu: float) -> None:
    rate = rented(Machine(gpu, 0.0, 0), Prices(), {})
    assert rate.gpus == gpus
    assert rate.usd_per_hour == pytest.approx(gpus * per_gpu)


def test_an_unknown_gpu_has_no_price_rather_than_a_wrong_one() -> None:
    rate = rented(Machine("X900:8", 16.0, 1024), Prices(), {})
    assert rate.usd_per_hour is None
    assert rate.source == "no price is known for X900; say it in [tool.pytest_megacpp.prices.gpu]"
    assert allowance(5.0, rate).refusal == f"a budget of $5.00 can't be kept: {rate.source}"


def test_a_cpu_machine_costs_its_cores_and_memory() -> None:
    rate = rented(Machine(None, 16.0, 20480), Prices(), {})
    assert rate.gpus == 0
    assert rate.usd_per_hour == pytest.approx(16 * 0.1419 + 20 * 0.0242)
    assert rate.source == "list prices as of 2026-06-27"
    assert rented(Machine(None, 16.0, 0), Prices(cpu_core=0.5, source="ours"), {}) == Rate(8.0, 0, "ours")
    assert rented(Machine(None, 16.0, 0), Prices(), {"cpu_core": 0.5}) == Rate(8.0, 0, "the account's rates")


def test_a_machine_of_ones_own_is_free_unless_its_owner_says_otherwise() -> None:
    assert own_machine(Prices(), 8) == Rate(0.0, 8, "this machine")
    assert own_machine(Prices(usd_per_hour=20.0, source="depreciation"), 8) == Rate(20.0, 8, "depreciation")


# -- budgets -------------------------------------------------------------------------------------------------------


def test_a_budget_leaves_time_to_end() -> None:
    assert allowance(1.0, Rate(36.0, 8, "x")) == Allowance(run_s=100.0 - END_S)


@pytest.mark.parametrize(("budget_usd", "rate"), [(None, Rate(36.0, 8, "x")), (1.0, Rate(0.0, 8, "this machine"))])
def test_no_budget_or_no_price_is_no_bound(budget_usd: float | None, rate: Rate) -> None:
    assert allowance(budget_usd, rate) == Allowance()


def test_a_budget_that_buys_no_test_is_refused_with_the_one_that_would() -> None:
    rate = Rate(36.32, 8, "list prices")
    refused = allowance(0.10, rate)
    assert refused.refusal == (
        "the budget of $0.10 buys 9.9 s of this box at $36.32/h (list prices); starting and ending one takes 30 s"
    )
    assert refused.remedy == "give it at least $0.31 with --lane-budget"
    assert allowance(0.31, rate).refusal is None
    assert allowance(0.30, rate).refusal is not None
    assert allowance(0.31, rate).run_s >= SHORTEST_RUN_S


@pytest.mark.parametrize(
    ("rate", "worst_s", "budget_usd", "said"),
    [
        (Rate(36.0, 8, "x"), 600.0, None, "$36.00/h (x), at most $6.00"),
        (Rate(36.0, 8, "x"), 600.0, 2.0, "$36.00/h (x), at most $2.00 by the budget"),
        (Rate(36.0, 8, "x"), 600.0, 20.0, "$36.00/h (x), at most $6.00"),
        (Rate(36.0, 8, "x"), None, None, "$36.00/h (x)"),
        (Rate(0.0, 8, "this machine"), 600.0, None, ""),
        (Rate(None, 8, "no price is known for X"), 600.0, None, "no price is known for X"),
    ],
)
def test_the_estimate(rate: Rate, worst_s: float | None, budget_usd: float | None, said: str) -> None:
    assert estimate(rate, worst_s, budget_usd) == said


@pytest.mark.parametrize(("given", "usd"), [("5", 5.0), (0.5, 0.5), ("1e2", 100.0)])
def test_budgets(given: object, usd: float) -> None:
    assert budget(Unparsed(given) if isinstance(given, str) else given, where="--lane-budget") == usd


@pytest.mark.parametrize("given", ["", "five", 0, -1, True, "nan", "inf", None, "$5"])
def test_no_budgets(given: object) -> None:
    with pytest.raises(pytest.UsageError, match="a budget is a number of dollars above 0"):
        budget(Unparsed(given) if isinstance(given, str) else given, where="--lane-budget")


# -- the configuration ---------------------------------------------------------------------------------------------


def test_configured_prices() -> None:
    toml = "usd_per_hour = 20\ncpu_core = 0.1\nmemory_gib = 0.01\nsource = 'contract of May'\ngpu = { h200 = 3.5 }"
    assert read_prices(tomllib.loads(toml)) == Prices(20.0, {"H200": 3.5}, 0.1, 0.01, "contract of May")


@pytest.mark.parametrize(
    ("toml", "reported"),
    [
        ("usd_per_hours = 1", "unknown key 'usd_per_hours'; did you mean 'usd_per_hour'?"),
        ("usd_per_hour = '20'", "usd_per_hour must be dollars per hour, such as 4.54, not '20'"),
        ("gpu = { H200 = -1 }", "H200 must be dollars per hour"),
        ("gpu = 4", "it must be a table, not 4"),
    ],
)
def test_nonsense_is_said(toml: str, reported: str) -> None:
    with pytest.raises(pytest.UsageError) as error:
        read_prices(tomllib.loads(toml))
    assert reported in str(error.value)


# -- runs that others started --------------------------------------------------------------------------------------


@pytest.fixture
def options(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path))
    pytester.makeconftest("from pytest_megacpp.desk.config.options import add_options as pytest_addoption")
    pytester.makepyprojecttoml("[tool.pytest_megacpp.prices]\ngpu = { H200 = 4 }\ncpu_core = 0\nmemory_gib = 0\n")
    return read_options(pytester.parseconfig("-p", "no:megacpp"))


@pytest.mark.parametrize(
    ("lane", "dry_run", "rate"),
    [
        ("h200x8", False, Rate(32.0, 8, "configured prices")),
        ("h200x8", True, Rate(0.0, 0, "configured prices")),
        ("not-configured-here", False, Rate()),
    ],
)
def test_an_attached_run_has_its_price_too(lane: str, dry_run: bool, rate: Rate, options: Options) -> None:
    assert rate_elsewhere(RunStarted("r1", "2026", lane, "modal", dry_run, 8, 1), options) == rate


def test_a_box_that_claims_to_run_nowhere_has_no_price(options: Options) -> None:
    """The recording of somebody else's code can say anything."""
    assert rate_elsewhere(RunStarted("r1", "2026", "h200x8", "abacus", False, 8, 1), options) == Rate()
