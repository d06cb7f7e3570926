"""What is read of a receipt, whatever it holds."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.report.measures import Record, measures
from pytest_megacpp.report.quantities import age_text, percent_text, seconds_text, usd_text

RECEIPT: dict[str, Any] = {
    "nodeid": "a.py::test",
    "outcome": "failed",
    "verdict": {"code": "straggler", "summary": "rank 2 slept", "blamed_ranks": [2, 3], "cause": None},
    "ranks": [{"first_forward_s": 1.0, "compile_s": 0.5, "records": {"loss": 1}}, {"records": {"loss": 3, "who": "x"}}],
    "skew": {"first_forward_s": 0.25, "worst_wait_s": 5.0},
    "cost": {"seconds": 7.5, "usd": 0.01},
    "git": {"revision": "abc", "dirty": False},
    "attempts": [],
}
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_what_a_receipt_measured() -> None:
    found = measures(RECEIPT)
    assert found is not None
    assert (found.seconds, found.first_forward_s, found.compile_s, found.skew_s) == (7.5, 1.0, 0.5, 0.25)
    assert (found.worst_wait_s, found.usd, found.revision, found.blamed) == (5.0, 0.01, "abc", "2,3")
    assert found.records == {"loss": Record((1.0, 3.0)), "who": Record(text="x")}
    assert found.records["loss"].value == 2.0


def test_of_several_attempts_the_deciding_one_is_timed() -> None:
    verdict = RECEIPT["verdict"]
    attempts = [
        {"verdict": {"code": "passed"}, "start_s": 0.0, "end_s": 100.0},
        {"verdict": verdict, "start_s": 100.0, "end_s": 104.0},
        {"verdict": {"code": "hang"}, "start_s": 104.0, "end_s": 400.0},
    ]
    found = measures(RECEIPT | {"attempts": attempts})
    assert found is not None
    assert found.seconds == 4.0


def test_a_tree_that_differs_has_no_revision() -> None:
    found = measures(RECEIPT | {"git": {"revision": "abc", "dirty": True}})
    assert found is not None
    assert found.revision == ""


@given(st.dictionaries(st.sampled_from([*RECEIPT]), _JSON))
def test_a_receipt_of_any_shape(odd: dict[str, Any]) -> None:
    found = measures(RECEIPT | odd)
    if found is not None:
        assert found.nodeid
        assert found.outcome
        numbers = (found.seconds, found.first_forward_s, found.compile_s, found.skew_s, found.usd)
        json.dumps(numbers, allow_nan=False)


@given(_JSON)
def test_what_is_no_receipt(odd: object) -> None:
    assert measures(odd) is None or isinstance(odd, dict)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0123, "0.012 s"), (0.9999, "1.00 s"), (99.999, "100 s"), (700, "11.7 min"), (1e4, "2.8 h")],
)
def test_seconds_in_a_column(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "–"), (-3, "0 s"), (61, "61 s"), (3600, "60 min"), (1e6, "12 d")])
def test_ages(seconds: float | None, text: str) -> None:
    assert age_text(seconds) == text


def test_prices_and_shares() -> None:
    assert [usd_text(usd) for usd in (None, 0, 0.001, 1234.5)] == ["–", "free", "<$0.01", "$1,234.50"]
    assert [percent_text(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)] == ["0 %", "<1 %", "50 %", ">99 %", "100 %"]
