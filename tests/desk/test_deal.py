"""Tests are dealt so that boxes end together, and each is dealt once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.desk.run.deal import deal, with_cases

NAMES = [f"test_a.py::test_{number}" for number in range(30)]


@given(
    names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    seconds=st.dictionaries(st.sampled_from(NAMES), st.floats(0.001, 1000.0)),
    boxes=st.integers(1, 40),
)
def test_each_test_goes_to_one_box_in_order(names: list[str], seconds: dict[str, float], boxes: int) -> None:
    shares = deal(names, seconds, boxes)
    assert sorted(index for share in shares for index in share) == list(range(len(names)))
    assert all(share == sorted(share) and share for share in shares)
    assert len(shares) == min(boxes, len(names))


@given(
    seconds=st.lists(st.floats(0.01, 100.0), min_size=2, max_size=30),
    boxes=st.integers(2, 8),
)
def test_no_box_has_more_than_its_part_and_one_test(seconds: list[float], boxes: int) -> None:
    """A box that got its last test had the least to do then: no more than the mean."""
    names = NAMES[: len(seconds)]
    shares = deal(names, dict(zip(names, seconds, strict=True)), boxes)
    loads = [sum(seconds[index] for index in share) for share in shares]
    assert max(loads) <= sum(seconds) / len(shares) + max(seconds) + 1e-6


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, [[0, 2], [1, 3]]),
        (dict(zip(NAMES, [60.0, 20.0, 20.0, 20.0], strict=False)), [[0], [1, 2, 3]]),
        ({NAMES[3]: 5.0}, [[0, 2], [1, 3]]),  # what nobody measured counts as what one did
    ],
    ids=["nothing known", "one long test", "one known test"],
)
def test_examples(seconds: dict[str, float], expected: list[list[int]]) -> None:
    assert deal(NAMES[:4], seconds, 2) == expected


def test_an_open_test_counts_with_all_its_cases() -> None:
    before = {"a::T::test_x[1]": 2.0, "a::T::test_y": 3.0, "a::test_b[1]": 5.0, "a::test_c": 7.0}
    assert with_cases(before, {"a::T", "a::test_c"}) == {**before, "a::T": 5.0}
