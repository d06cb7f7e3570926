"""Digests over all collectives of a rank: equal for equal programs, whatever was lost on the way."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording.agreement import differing, uncompared
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.issued import CUT, SHORTEST, Digests, Issue, stretches


def issues(numbers: Iterable[int], odd: int | None = None, pg: int = 0) -> list[Issue]:
    return [("0", pg, seq, 7 if seq == odd else 5) for seq in numbers]


def digest(*parts: Sequence[Issue] | None) -> dict[str, str]:
    """None: entries are lost there."""
    digests = Digests()
    for part in parts:
        if part is None:
            digests.lose()
        else:
            digests.add(part)
    return digests.end()


def compared(*sums: dict[str, str]) -> list[str]:
    return [first for _, first, _ in differing(dict(enumerate(sums)), Groups(len(sums)))]


def test_how_they_were_taken_in_makes_no_difference() -> None:
    whole = issues(range(1, 3001))
    assert digest(whole) == digest(whole[:48], whole[48:1030], whole[1030:])


@pytest.mark.parametrize("odd", [1, 2, 1023, 1024, 2999, 3000])
def test_one_that_differs_is_seen_in_its_stretch(odd: int) -> None:
    found = compared(digest(issues(range(1, 3001))), digest(issues(range(1, 3001), odd)))
    assert found == [str(max(1, odd // SHORTEST * SHORTEST))]


def test_one_more_is_seen() -> None:
    assert compared(digest(issues(range(1, 3001))), digest(issues(range(1, 3002)))) == ["2048"]


def sums(last: int, complete: int | None = None, odd: int | None = None, doubt: bool = False) -> dict[str, str]:
    digests = Digests()
    digests.add(issues(range(1, last + 1), odd))
    return digests.end(complete=lambda _: complete, doubt=lambda *_: doubt)


@pytest.mark.parametrize(("last", "complete"), [(4, 3), (4, 0), (60, 3), (64, 0)])
def test_one_more_that_may_not_have_completed_is_none(last: int, complete: int) -> None:
    ranks = dict(enumerate((sums(last, complete), sums(3), sums(last, complete))))
    assert differing(ranks, Groups(3)) == ()
    assert uncompared(ranks, Groups(3)) == ("0",)


@pytest.mark.parametrize("issued", range(1020, 1026))
def test_where_a_stretch_ends_makes_no_difference(issued: int) -> None:
    """Two more did not complete: of those one may end a stretch, and one begin the next."""
    ranks = dict(enumerate((sums(issued + 2, issued), sums(issued), sums(issued + 2, issued))))
    assert (differing(ranks, Groups(3)), uncompared(ranks, Groups(3))) == ((), ("0",))
    ranks[2] = sums(issued + 2, issued, odd=issued)
    assert [list(variants.values()) for *_, variants in differing(ranks, Groups(3))] == [[(0, 1), (2,)]]


def test_two_of_one_length_differ_though_both_agree_with_a_third() -> None:
    """Which of them the third would have followed is not known."""
    ours, theirs, none = sums(4, 0), sums(4, 0, odd=4), sums(3, 0)
    for ranks, expected in (
        ((ours, none, theirs), [(0,), (2,)]),
        ((ours, none, theirs, none, sums(5, 0)), [(0, 4), (2,)]),
        ((none, ours, sums(4, 3), theirs), [(1, 2), (3,)]),
        ((ours, sums(4, 0, odd=3), none, theirs, sums(2, 0)), [(0,), (1,), (3,)]),
    ):
        ((_, _, variants),) = differing(dict(enumerate(ranks)), Groups(len(ranks)))
        assert sorted(variants.values()) == expected


@pytest.mark.parametrize(("last", "gave_up"), [(80, 3), (100, 20), (1100, 1000), (3000, 1000), (1088, 1024)])
def test_who_gave_up_before_what_is_said_can_not_be_compared(last: int, gave_up: int) -> None:
    ranks = dict(enumerate((sums(last, 0), sums(gave_up, 0), sums(last, 0))))
    assert (differing(ranks, Groups(3)), uncompared(ranks, Groups(3))) == ((), ("0",))
    ranks[2] = sums(last, 0, odd=last)
    assert [sorted(variants.values()) for *_, variants in differing(ranks, Groups(3))] == [[(0,), (2,)]]


@pytest.mark.parametrize("number", [1, 100, 3_000])
def test_of_many_groups_each_tells_less(number: int) -> None:
    digests = Digests()
    for n in range(number):
        digests.add((str(n), n, seq, 5) for seq in range(1, 101))
    made = digests.end(complete=lambda _: 0)
    assert sum(map(len, made.values())) < 40_000 + 60 * number
    assert all(one.endswith(CUT) for one in made.values())


@pytest.mark.parametrize("complete", [None, 5])
def test_one_more_of_which_nobody_heard_is_none(complete: int | None) -> None:
    """What is open comes first: behind it may be what failed, and counts as over."""
    ranks = dict(enumerate((sums(5, complete, doubt=True), sums(3), sums(5, complete, doubt=True))))
    assert (differing(ranks, Groups(3)), uncompared(ranks, Groups(3))) == ((), ("0",))
    ranks[1] = sums(5, odd=2, doubt=True)
    assert [list(variants.values()) for *_, variants in differing(ranks, Groups(3))] == [[(0, 2), (1,)]]


def test_what_completed_before_it_is_compared() -> None:
    ((_, first, variants),) = differing(dict(enumerate((sums(4, 3), sums(3, odd=3), sums(4, 3)))), Groups(3))
    assert (first, list(variants.values())) == ("1", [(0, 2), (1,)])


def test_so_is_what_all_issued() -> None:
    equal = dict(enumerate((sums(4, 3), sums(4), sums(4, 0))))
    assert (differing(equal, Groups(3)), uncompared(equal, Groups(3))) == ((), ())
    ((_, _, variants),) = differing(dict(enumerate((sums(4, 4), sums(4, 4, odd=4), sums(4)))), Groups(3))
    assert list(variants.values()) == [(0, 2), (1,)]


def test_ranks_of_which_one_differs_are_told_from_those_that_gave_up_earlier() -> None:
    ranks = dict(enumerate((sums(4, 3), sums(4, odd=4), sums(3, 2), sums(4, 3))))
    ((_, _, variants),) = differing(ranks, Groups(4))
    assert list(variants.values()) == [(0, 2, 3), (1,)]


def test_a_failure_excuses_no_other_collective() -> None:
    ranks = dict(enumerate((sums(9, 0), sums(9, 0, odd=5), sums(9, 0))))
    ((_, _, variants),) = differing(ranks, Groups(3))
    assert list(variants.values()) == [(0, 2), (1,)]


def test_one_to_whom_it_completed_is_no_odd_one() -> None:
    assert differing(dict(enumerate((sums(4), sums(3), sums(4, 3)))), Groups(3)) == ()


def test_a_stretch_that_one_lacks_is_compared_with_nobodys() -> None:
    ranks = {0: sums(1023), 1: sums(1024)}
    assert (differing(ranks, Groups(2)), uncompared(ranks, Groups(2))) == ((), ("0",))


def test_two_in_another_order_are_seen_although_they_are_swapped_back_later() -> None:
    ours, theirs = (
        [("0", 0, seq, signature) for seq, signature in enumerate([*head, *(3,) * 50, *reversed(head)], 1)]
        for head in ((5, 7), (7, 5))
    )
    assert compared(digest(ours), digest(theirs)) == ["1"]


def test_what_is_lost_on_one_rank_costs_no_more_than_its_stretch() -> None:
    whole = issues(range(1, 5001))
    torn = digest(whole[:1500], None, whole[1600:])
    assert set(stretches(torn["0"])) == {"1", "1602", "2048", "3072", "4096"}
    assert compared(digest(whole), torn) == []
    odd = issues(range(1, 5001), 4500)
    assert compared(digest(odd), torn) == ["4096"]


def test_operations_under_one_number_of_which_some_are_lost_are_left_out() -> None:
    ours = [("0", 0, seq, part) for seq in range(1, 9) for part in range(3)]
    for cut in range(1, len(ours) - 3):
        assert compared(digest(ours[:4], None, ours[4 + cut :]), digest(ours)) == []
        assert compared(digest(ours[:4], None, ours[4 + cut :]), digest(ours[:4], None, ours[5 + cut :])) == []


def test_a_group_that_is_new_behind_a_loss_may_have_begun_in_it() -> None:
    ours = [("0", 0, 1, part) for part in range(3)] + issues([2])
    assert stretches(digest(None, ours[1:])["0"]).keys() == {"2"}


def test_numbers_that_go_back_are_compared_with_nothing() -> None:
    digests = Digests()
    assert digests.add(issues([1, 2, 3, 2, 3, 4])) == 1
    assert stretches(digests.end()["0"]).keys() == {"3"}


def test_a_group_that_is_made_anew_begins_again() -> None:
    assert digest(issues([1, 2, 3]), issues([1, 2], pg=1)) == digest(issues([1, 2]))


def test_of_one_that_was_not_said_to_end_nothing_is_known() -> None:
    digests = Digests()
    assert digests.add(issues([1, 2, 3])) == 0
    assert digests.add(issues([1, 2], pg=1)) == 3
    digests.end()
    assert digests.add(issues([1, 2], pg=2)) == 0


def test_a_group_that_ends_is_said_once() -> None:
    digests = Digests()
    digests.add([*issues([1]), ("1", 1, 1, 5)])
    assert digests.end("1").keys() == {"1"}
    assert digests.end().keys() == {"0"}
    assert digests.end() == {}


def test_a_million_collectives_fit_a_line() -> None:
    assert len(digest(issues(range(1, 1_000_001)))["0"]) < 6_000


@given(
    st.lists(st.integers(1, 6_000), max_size=6, unique=True), st.lists(st.integers(1, 6_000), max_size=6, unique=True)
)
def test_no_loss_makes_equal_programs_differ(ours: list[int], theirs: list[int]) -> None:
    whole = issues(range(1, 6_001))

    def torn(cuts: list[int]) -> dict[str, str]:
        bounds = [0, *sorted(cuts), len(whole)]
        parts = [whole[a + 1 if a else 0 : b] for a, b in pairwise(bounds)]
        return digest(*[one for part in parts for one in (part, None)][:-1])

    assert compared(torn(ours), torn(theirs), digest(whole)) == []
