"""What a run costs and what a budget does, on a machine whose owner asks a dollar a second."""

from pathlib import Path

import pytest

from tests.plugin.project import LANE, Project, Ran

PRICES = """
    [tool.pytest_megacpp.prices]
    usd_per_hour = 3600
    source = "our own"
"""
TESTS = """
    import time
    import pytest

    @pytest.mark.h200x8(ranks=1)
    def test_quick(): pass

    @pytest.mark.h200x8(ranks=1)
    def test_long(): time.sleep(600)

    @pytest.mark.h200x8(ranks=1)
    def test_later(): pass
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("money"))
    project.write("pyproject.toml", PRICES)
    project.write("test_money.py", TESTS)
    return project


@pytest.fixture(scope="module")
def spent(project: Project) -> Ran:
    """A run that its budget ends: 36 s, of which 15 are kept back."""
    return project.pytest(*LANE, "--lane-budget", "36", "--lane-limit", "test=300")


def test_a_budget_ends_a_run_in_its_own_words(spent: Ran) -> None:
    assert spent.code == 1
    assert spent.outcomes() == {"test_quick": "passed", "test_long": "error", "test_later": "error"}
    for name in ("test_long", "test_later"):
        assert (spent.verdict(name)["code"], spent.verdict(name)["cause"]) == ("not-run", "budget")
    assert "the budget was spent while this test ran: after 21 s there is only enough left" in spent.failure(
        "test_long"
    )
    assert "the budget was spent before this test began" in spent.failure("test_later")


def test_the_estimate_comes_before_and_the_cost_after(spent: Ran) -> None:
    assert "megacpp: h200x8 costs $3,600.00/h (our own), at most $36.00 by the budget" in spent.text
    assert "megacpp: 3 tests of h200x8: $3,600.00/h (our own), at most $36.00 by the budget" in spent.text
    run = spent.run
    assert run is not None
    assert run["rate"] == {"usd_per_hour": 3600.0, "gpus": 0, "source": "our own"}
    assert run["cost"]["usd"] == pytest.approx(run["cost"]["seconds"], abs=0.01)
    assert 20 < run["cost"]["usd"] < 36
    assert f"${run['cost']['usd']:.2f} (our own)" in spent.text


def test_each_test_has_its_part(spent: Ran) -> None:
    assert spent.run is not None
    parts = {name: spent.test(name)["cost"]["usd"] for name in ("test_quick", "test_long", "test_later")}
    assert parts["test_later"] is None
    assert 0 < parts["test_quick"] + parts["test_long"] <= spent.run["cost"]["usd"]
    assert spent.receipt("test_long")["cost"]["usd"] == parts["test_long"]


def test_a_budget_that_buys_no_test_is_refused(project: Project) -> None:
    ran = project.pytest(*LANE, "--lane-budget", "5")
    assert ran.code == 1
    assert set(ran.outcomes().values()) == {"error"}
    verdict = ran.verdict("test_quick")
    assert (verdict["code"], verdict["cause"]) == ("blocked", "budget")
    assert verdict["next_step"].startswith("give it at least $30.00 with --lane-budget")
    assert ran.run is not None
    assert ran.run["status"] == "blocked"
    assert ran.run["cost"] == {"seconds": 0.0, "gpu_seconds": 0.0, "usd": 0.0}
    assert ran.directory is not None
    assert not (Path(ran.directory) / "box.log").exists()
