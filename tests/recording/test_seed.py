"""What a seed is worth to a launch, by data."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording.seed import (
    Coverage,
    Missing,
    RankGraphs,
    SeededTest,
    Shape,
    Wanted,
    coverage,
    merged,
)

SHAPE = Shape(
    "h200x8",
    "H200:8",
    ("NVIDIA H200",) * 8,
    8,
    "full",
    "default",
    {"torch": "2.13.0", "triton": "3.7.1"},
    {"TORCHINDUCTOR_MAX_AUTOTUNE_GEMM": "0"},
    "mine",
)


def seeded(name: str, *keys: str, preset: str = "full", cold_s: float | None = None) -> SeededTest:
    """A test whose ranks needed a graph each."""
    ranks = tuple(RankGraphs(r, f"cuda:{r}", {"inductor": (key,)} if key else {}, cold_s) for r, key in enumerate(keys))
    return SeededTest(name, preset, len(keys), ranks, "r1")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ranks": 4}, "ranks 4, here 8"),
        ({"preset": "diagnostic"}, "preset diagnostic, here full"),
        ({"devices": ("NVIDIA H100",) * 8}, "devices 8 × NVIDIA H100, here 8 × NVIDIA H200"),
        ({"versions": {"torch": "2.12.0", "triton": "3.7.1"}}, "torch 2.12.0, here 2.13.0"),
        ({"project": "other"}, "project other, here mine"),
        ({"project": ""}, "project unset, here mine"),
        ({"settings": {}}, "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM unset, here 0"),
        ({"settings": SHAPE.settings | {"TRITON_X": "1"}}, "TRITON_X 1, here unset"),
    ],
)
def test_shapes_that_differ_have_other_keys_and_say_where(changed: dict[str, object], said: str) -> None:
    other = replace(SHAPE, **changed)  # type: ignore[arg-type]
    assert other.key != SHAPE.key
    assert SHAPE.differences(other) == (said,)
    assert SHAPE.differences(replace(SHAPE)) == ()
    assert replace(SHAPE).key == SHAPE.key


def test_seeds_of_before_projects_had_names_can_still_be_read() -> None:
    """The key that a store of then has for this shape."""
    assert Shape("h200x8", "H200:8", ("NVIDIA H200",), 8, "full", "default").key == "892e6d01a1841090"


WANTED = [Wanted("a", "full", 2), Wanted("b", "full", 2)]


@pytest.mark.parametrize(
    ("tests", "lacking", "expected"),
    [
        ((), {}, Coverage(0, 4, (Missing("a", (0, 1), known=False), Missing("b", (0, 1), known=False)))),
        ((seeded("a", "k0", "k1"), seeded("b", "", "")), {}, Coverage(4, 4)),
        (
            (seeded("a", "k0", "k1"), seeded("b", "", "")),
            {"inductor": {"k1"}},
            Coverage(3, 4, (Missing("a", (1,), ("k1",)),)),
        ),
        ((seeded("a", "k", "k"), seeded("b", "")), {}, Coverage(2, 4, (Missing("b", (0, 1), known=False),))),
        (
            (seeded("a", "k", "k"), replace(seeded("b", "k", "k"), ranks=seeded("b", "k").ranks)),
            {},
            Coverage(3, 4, (Missing("b", (1,)),)),
        ),
        (
            (seeded("a", "k", "k", preset="diagnostic"), seeded("b", "", "")),
            {},
            Coverage(2, 4, (Missing("a", (0, 1), known=False),)),
        ),
    ],
    ids=["nothing", "all", "a key of one rank", "another world size", "a rank", "another preset"],
)
def test_coverage_is_per_rank(tests: tuple[SeededTest, ...], lacking: dict[str, set[str]], expected: Coverage) -> None:
    assert coverage(tests, WANTED, lacking) == expected


def test_a_launch_that_wants_nothing_is_covered() -> None:
    assert coverage((), (), {}).share == 1.0


def test_a_run_knows_its_own_tests_best_and_keeps_the_others() -> None:
    base = (seeded("a", "old", "old", cold_s=9.0), seeded("b", "k", "k"))
    (a, b) = merged(base, [seeded("a", "new", "")])
    assert b == base[1]
    assert [graphs.keys for graphs in a.ranks] == [{"inductor": ("new",)}, {"inductor": ("old",)}]
    assert [graphs.cold_s for graphs in a.ranks] == [9.0, 9.0]


TESTS = st.lists(
    st.builds(seeded, st.sampled_from("abc"), st.sampled_from(["k0", "k1", ""]), st.sampled_from(["k0", "k2"]))
)


@given(TESTS, TESTS)
def test_merging_forgets_no_test_and_learns_every_new_one(base: list[SeededTest], measured: list[SeededTest]) -> None:
    known = merged(merged((), base), measured)
    assert {Wanted.of(test) for test in known} == {Wanted.of(test) for test in (*base, *measured)}
    assert merged(known, known) == known
    assert coverage(known, [Wanted.of(test) for test in known], {}).missing == ()
