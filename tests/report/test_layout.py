import pytest

from pytest_megacpp.report.layout import WIDTH, counted, grouped, grouped_texts, listed, quoted, wrapped


def test_words_are_never_broken() -> None:
    path = "/a/" + "b" * 200
    assert wrapped(f"see {path} now", "> ", "  ") == ["> see", f"  {path}", "  now"]
    assert max(map(len, wrapped("word " * 100))) <= WIDTH


def test_lists_are_broken_between_items() -> None:
    lines = listed(["one item of five words"] * 8, "  ")
    assert {part for line in lines for part in line.strip(" ·").split(" · ")} == {"one item of five words"}
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) == 2


def test_quoted_lines_stand_behind_a_gutter() -> None:
    assert quoted(["::error::x", ""]) == ["│ ::error::x", "│"]


@pytest.mark.parametrize(("number", "said"), [(0, "0 ranks"), (1, "1 rank"), (2, "2 ranks")])
def test_nouns_follow_their_number(number: int, said: str) -> None:
    assert counted(number, "rank") == said


def test_groups_keep_the_order_of_appearance() -> None:
    assert list(grouped([("b", 1), ("a", 2), ("b", 0)]).items()) == [("b", [1, 0]), ("a", [2])]


def test_texts_are_told_apart_by_their_numbers_while_few() -> None:
    said = [(0, "step 7"), (1, "step 7"), (2, "step 6")]
    assert grouped_texts(said, 2) == [([0, 1], "step 7"), ([2], "step 6")]
    assert grouped_texts(said, 1) == [([0, 1, 2], "step 7 (numbers differ)")]
    assert grouped_texts(said[:2]) == [([0, 1], "step 7")]


def test_numbers_that_name_something_tell_texts_apart() -> None:
    said = [
        (0, "waited 3.3 s in all_reduce #7"),
        (1, "waited 3.4 s in all_reduce #7"),
        (2, "waited 3.3 s in all_reduce #8"),
    ]
    assert [ranks for ranks, _ in grouped_texts(said)] == [[0, 1], [2]]
