import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording.ranks import rank_list, ranks_named


@pytest.mark.parametrize(
    ("ranks", "listed"),
    [((), ""), ((3,), "3"), ((0, 1), "0,1"), ((0, 1, 2, 4), "0-2,4"), ((7, 5, 6, 6), "5-7"), (range(1024), "0-1023")],
)
def test_ranks_are_listed_in_few_characters(ranks: tuple[int, ...], listed: str) -> None:
    assert rank_list(ranks) == listed


@given(st.sets(st.integers(0, 2000)))
def test_a_list_names_exactly_its_ranks(ranks: set[int]) -> None:
    named: set[int] = set()
    for span in filter(None, rank_list(ranks).split(",")):
        first, _, last = span.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == ranks


def test_one_and_many_and_none() -> None:
    assert [ranks_named(r) for r in ((3,), (0, 1, 2), ())] == ["rank 3", "ranks 0-2", "no rank"]


def test_long_lists_are_cut_between_ranks() -> None:
    assert ranks_named(range(0, 1024, 2), 8) == "ranks 0,2,4,6,… (512 ranks)"
    assert ranks_named(range(1024)) == "ranks 0-1023"
