"""Series of receipts, and what is worth a word in them."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.report.history.findings import LEAST_EARLIER, changes, flaky, wilson
from pytest_megacpp.report.history.page import findings, history_page
from pytest_megacpp.report.history.series import Kind, Series, is_failure, is_replayed, series
from pytest_megacpp.report.measures import Measures, Record


def measured(number: int = 0, outcome: str = "passed", code: str | None = None, **fields: Any) -> Measures:
    values: dict[str, Any] = {
        "code": code or ("passed" if outcome == "passed" else "test-failed"),
        "lane": "h200x8",
        **fields,
    }
    return Measures(f"2026120{number // 10}-00000{number % 10}-aaaa", "a.py::test", outcome, **values)


def of_seconds(values: Sequence[float], **fields: Any) -> Series:
    (one,) = series(measured(number, seconds=value, **fields) for number, value in enumerate(values))
    return one


def of_outcomes(outcomes: str, revisions: str = "") -> Series:
    """`pfp` passed, failed, passed; a letter of `revisions` for each."""
    entries = [
        measured(n, "passed" if letter == "p" else "failed", revision=revisions[n : n + 1].strip())
        for n, letter in enumerate(outcomes)
    ]
    (one,) = series(entries)
    return one


def test_only_receipts_of_one_kind_are_compared() -> None:
    measures_of = [
        measured(0),
        measured(1, dry_run=True),
        measured(2, world_size=4),
        measured(3, dry_run=True),
        measured(4, surface="modal"),
    ]
    found = series(measures_of)
    assert [[entry.run_id for entry in one.entries] for one in found] == [
        [measures_of[4].run_id],
        [measures_of[1].run_id, measures_of[3].run_id],
        [measures_of[2].run_id],
        [measures_of[0].run_id],
    ]


def test_kinds_are_told_apart_by_what_differs() -> None:
    modal = Kind("h200x8", "modal", False, "full", 8)
    assert modal.distinction([modal]) == ""
    others = {
        "modal": replace(modal, surface="local", dry_run=True),
        "8 ranks": replace(modal, world_size=1),
        "h200x8 · full": replace(modal, lane="b200x8", preset=""),
    }
    for apart, other in others.items():
        assert modal.distinction([other, modal]) == apart
    assert [other.distinction([other, modal]) for other in others.values()] == [
        "local (dry run)",
        "1 rank",
        "b200x8 · –",
    ]


@pytest.mark.parametrize(
    ("run_id", "started_at", "replayed"),
    [
        ("20261201-120000-aaaa", "2026-12-01T12:00:00.121Z", False),
        ("20261201-120000-aaaa", "2026-12-01T12:09:00.121+00:00", False),  # it waited for its machine
        ("20261201-120002-aaaa", "2026-12-01T12:00:00.121Z", False),  # two clocks
        ("20261201-120100-aaaa", "2026-12-01T12:00:00.121Z", True),
        ("20261201-120100-aaaa", "2026-12-01T12:00:00", True),
        ("20261201-120100-aaaa", "", False),
        ("a-copy", "2026-12-01T12:00:00.121Z", False),
    ],
)
def test_a_replay_is_no_further_run(run_id: str, started_at: str, replayed: bool) -> None:
    one = replace(measured(started_at=started_at), run_id=run_id)
    assert is_replayed(one) == replayed
    assert len(series([one])) == (not replayed)


def test_what_a_replay_has_no_recording_of_is_no_result() -> None:
    assert series([measured(6, "error", "not-run", cause="not-recorded")]) == []


@pytest.mark.parametrize(
    ("outcome", "code", "failed"),
    [
        ("passed", "passed", False),
        ("xfailed", "xfailed", False),
        ("failed", "straggler", True),
        ("error", "test-failed", True),
        ("error", "startup-failure", True),
        ("error", "environment", None),
        ("error", "box-lost", None),
        ("error", "not-run", None),
        ("skipped", "skipped", None),
        ("failed", "of-a-newer-version", True),
        ("error", "of-a-newer-version", None),
    ],
)
def test_what_says_something_of_the_code(outcome: str, code: str, failed: bool | None) -> None:
    assert is_failure(measured(outcome=outcome, code=code)) is failed


# -- regressions ---------------------------------------------------------------------------------------------


def test_a_regression_is_said_with_its_numbers() -> None:
    (found,) = changes(of_seconds([8.0, 8.2, 7.9, 8.1, 8.1, 8.2, 12.3]))
    assert found.is_regression
    assert str(found) == "duration 12.30 s, median of 6 earlier runs 8.10 s (+52 %, usual deviation 0.148 s)"


@pytest.mark.parametrize(
    "values",
    [
        [8.0] * 5 + [12.0],  # too few before it
        [8.0] * 9 + [8.7],  # less than a tenth
        [5.0, 8.0, 11.0, 7.0, 9.0, 12.0],  # as far as usual
        [0.01] * 9 + [0.05],  # less than a busy machine does
        [8.0] * 9,
    ],
)
def test_what_is_usual_is_no_regression(values: list[float]) -> None:
    assert list(changes(of_seconds(values))) == []


@pytest.mark.parametrize("cause", ["interrupted", "stopped"])
def test_a_test_that_ctrl_c_or_maxfail_ended_is_not_red(cause: str) -> None:
    cut = measured(8, "error", "not-run", cause=cause)
    (one,) = series([measured(7), cut])
    assert not list(findings(one))
    (one,) = series([cut])
    assert not list(findings(one))
    (one,) = series([measured(7, "failed", "hang"), cut])
    assert [kind for kind, _ in findings(one)] == ["red"]
    assert "not-run ×" not in history_page([one], one.entries, "").decode()


def test_a_test_that_a_gate_found_skipped_is_red() -> None:
    (one,) = series([measured(7), measured(8, "error", "not-run", cause="skipped")])
    assert [kind for kind, _ in findings(one)] == ["red"]


@pytest.mark.parametrize("earlier", [6, 7, 8, 12, 20, 30])
def test_noise_alone_is_rarely_a_regression(earlier: int) -> None:
    """Of tests whose times differ by 10 %; with three deviations it would be 4.5 % of six values."""
    rng, tries = random.Random(earlier), 2000
    alarms = sum(
        any(change.is_regression for change in changes(of_seconds(noise)))
        for _ in range(tries)
        for noise in [[rng.gauss(10.0, 1.0) for _ in range(earlier + 1)]]
    )
    assert alarms / tries <= 0.005


@pytest.mark.parametrize(("noise", "earlier"), [(0.02, 6), (0.05, 20), (0.05, 30)])
def test_what_takes_half_as_long_again_is_found(noise: float, earlier: int) -> None:
    rng, tries = random.Random(earlier), 300
    found = sum(
        any(change.is_regression for change in changes(of_seconds([*before, 15.0])))
        for _ in range(tries)
        for before in [[rng.gauss(10.0, 10.0 * noise) for _ in range(earlier)]]
    )
    assert found / tries >= 0.95


@pytest.mark.parametrize(("last", "expected"), [(0.25, []), (0.4, ["skew", "worst wait"])])
def test_what_one_rank_alone_makes_has_to_be_more(last: float, expected: list[str]) -> None:
    values = [0.02] * 8 + [last]
    (one,) = series(measured(n, seconds=8.0, skew_s=value, worst_wait_s=value) for n, value in enumerate(values))
    assert [change.metric.label for change in changes(one)] == expected


def test_faster_is_a_change_and_no_regression() -> None:
    (found,) = changes(of_seconds([8.0] * 9 + [4.0]))
    assert not found.is_regression
    assert "-50 %" in str(found)


def test_a_red_run_is_neither_measured_nor_compared_with() -> None:
    entries = [measured(n, seconds=8.0) for n in range(5)]
    entries += [measured(5, "failed", seconds=900.0), measured(6, seconds=8.0), measured(7, "failed", seconds=900.0)]
    (one,) = series(entries)
    assert list(changes(one)) == []


def test_records_change_in_both_ways() -> None:
    def loss(value: float) -> dict[str, Record]:
        return {"loss": Record((value, value))}

    (one,) = series(measured(n, records=loss(0.5 if n < 6 else 0.2)) for n in range(7))
    (found,) = changes(one)
    assert not found.is_regression
    assert str(found).startswith("loss 0.2, median of 6 earlier runs 0.5 (-60 %")


_VALUE = st.floats(0.0, 1e6)


@given(st.lists(_VALUE, min_size=LEAST_EARLIER, max_size=60), _VALUE)
def test_a_change_is_outside_of_what_it_is_compared_with(earlier: list[float], last: float) -> None:
    for found in changes(of_seconds([*earlier, last])):
        assert abs(found.value - found.median) > 3 * (1 + 14 / found.earlier) * found.spread
        assert min(earlier) <= found.median <= max(earlier)
        assert found.earlier <= len(earlier)
        assert str(found)


@given(st.lists(_VALUE, min_size=LEAST_EARLIER, max_size=30))
def test_the_median_itself_is_never_a_change(earlier: list[float]) -> None:
    middle = median(earlier)
    assert list(changes(of_seconds([*earlier, middle]))) == []


# -- flaky tests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "revisions", "is_flaky"),
    [
        ("pppp", "", False),
        ("ffff", "", False),
        ("ppff", "", False),  # it broke
        ("pffp", "abbc", False),  # it broke and was fixed
        ("pfpf", "", True),
        ("fppfpp", "", True),
        ("pf", "aa", True),
        ("pf", "ab", False),
        ("fffppp", "aabbbb", True),
    ],
)
def test_flaky_is_what_fails_without_a_known_reason(outcomes: str, revisions: str, is_flaky: bool) -> None:
    assert (flaky(of_outcomes(outcomes, revisions)) is not None) == is_flaky


def test_what_was_fixed_long_ago_is_not_flaky_any_more() -> None:
    def after(green: int) -> Series:
        outcomes = "pfpfpf" + "p" * green
        entries = (measured(0, "passed" if one == "p" else "failed", revision="a") for one in outcomes)
        (one,) = series(entries)
        return one

    assert flaky(after(90)) is not None
    assert flaky(after(100)) is None


def test_a_flaky_test_has_a_rate_and_an_interval() -> None:
    found = flaky(of_outcomes("pfppppppppfppppppppp", "a" * 20))
    assert str(found) == "failed in 2 of 20 runs: 10 % (3 % to 30 %, Wilson 95 %), passed and failed at a"


def test_what_was_not_tested_counts_for_nothing() -> None:
    entries = [
        measured(n, "error" if n % 2 else "passed", "box-lost" if n % 2 else "passed", revision="a") for n in range(10)
    ]
    (one,) = series(entries)
    assert flaky(one) is None


@given(st.integers(0, 500).flatmap(lambda runs: st.tuples(st.integers(0, runs), st.just(runs))))
def test_an_interval_holds_its_rate(given_: tuple[int, int]) -> None:
    failures, runs = given_
    low, high = wilson(failures, runs)
    assert 0.0 <= low <= high <= 1.0
    if runs:
        assert low <= failures / runs <= high
        assert math.isclose(wilson(runs - failures, runs)[1], 1.0 - low, abs_tol=1e-9)


@given(st.integers(1, 100), st.integers(0, 100))
def test_more_runs_of_the_same_rate_say_more(runs: int, failures: int) -> None:
    failures = min(failures, runs)
    low, high = wilson(failures, runs)
    lower, higher = wilson(10 * failures, 10 * runs)
    assert higher - lower < high - low


def test_known_intervals() -> None:
    """Of statsmodels' proportion_confint(…, method="wilson")."""
    assert wilson(1, 10) == pytest.approx((0.017876, 0.404150), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(50, 100) == pytest.approx((0.403832, 0.596168), abs=1e-6)
