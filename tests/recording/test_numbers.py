"""Sets of numbers are sets, and as small as they can be said."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording.numbers import MAX_NUMBER, Numbers

SOME = st.sets(st.integers(0, 30) | st.integers(0, MAX_NUMBER))


@given(SOME, SOME)
def test_it_is_the_set_of_what_it_was_made_of(mine: set[int], theirs: set[int]) -> None:
    numbers = Numbers(mine)
    assert len(numbers) == len(mine)
    assert all((number in numbers) == (number in mine) for number in mine | theirs | {0, MAX_NUMBER, -1})
    assert (numbers == Numbers(theirs)) == (mine == theirs)
    assert hash(numbers) == hash(Numbers(sorted(mine, reverse=True)))


@given(SOME)
def test_there_and_back(numbers: set[int]) -> None:
    said = json.dumps(Numbers(numbers).to_json())
    assert Numbers.from_json(json.loads(said)) == Numbers(numbers)
    assert Numbers.from_json(sorted(numbers)) == Numbers(numbers), "as older recordings have it"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8))
def test_spans_may_overlap_and_come_in_any_order(spans: list[tuple[int, int]]) -> None:
    said = [[first, first + more] for first, more in spans]
    assert Numbers.from_json(said) == Numbers(n for first, more in spans for n in range(first, first + more + 1))


def test_the_whole_of_a_plan_is_one_span() -> None:
    assert Numbers(range(1_000_000)).to_json() == [[0, 999_999]]
    assert Numbers([0, 1, 7, 8, 9]).to_json() == [0, 1, [7, 9]]


def test_a_few_bytes_that_name_billions_cost_nothing() -> None:
    everything = Numbers.from_json([[0, MAX_NUMBER]])
    assert (len(everything), 12_345 in everything) == (MAX_NUMBER + 1, True)


def test_in_memory_it_is_about_as_large_as_on_the_wire() -> None:
    scattered = Numbers(range(0, 2_000_000, 2))
    held_bytes = sum(sys.getsizeof(held) for held in (scattered._firsts, scattered._lasts))
    assert held_bytes < 1.3 * len(json.dumps(scattered.to_json(), separators=(",", ":")))


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        "0-9",
        [-1],
        [MAX_NUMBER + 1],
        [10**30],
        [[0]],
        [[0, 1, 2]],
        [[3, 1]],
        [1.0],
        [True],
        ["1"],
        [[0, None]],
    ],
)
def test_anything_else_is_refused(said: object) -> None:
    with pytest.raises(ValueError):
        Numbers.from_json(said)
