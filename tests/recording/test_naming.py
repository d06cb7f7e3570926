"""Which tests of the box those are that the desk could only read."""

import pytest

from pytest_megacpp.recording.naming import Collected, CollectedTest, Named, ReadTest, name_tests, spelt_marks

READ = (
    ReadTest("t.py::test_a[1]", "h200x8(ranks=2)"),
    ReadTest("t.py::test_b", is_open=True),
    ReadTest("t.py::test_b[named]"),
    ReadTest("t.py::TestC", is_open=True),
)


def named(*found: str, left_out: tuple[str, ...] = (), planned: tuple[str, ...] = ()) -> Named:
    """`found`: node ids, with marks behind a blank."""
    tests = tuple(CollectedTest(*one.split(" ", 1)) for one in found)
    return name_tests(READ, planned or tuple(test.nodeid for test in READ), Collected(tests, left_out))


def test_an_open_test_has_the_cases_that_no_other_is() -> None:
    found = named(
        "t.py::test_a[1] h200x8(ranks=2)",
        "t.py::test_b[x::y]",
        "t.py::test_b[named]",
        "t.py::TestC::test_d[1]",
        "t.py::TestC::TestE::test_f",
    )
    assert found.cases == {
        "t.py::test_a[1]": ("t.py::test_a[1]",),
        "t.py::test_b": ("t.py::test_b[x::y]",),
        "t.py::test_b[named]": ("t.py::test_b[named]",),
        "t.py::TestC": ("t.py::TestC::test_d[1]", "t.py::TestC::TestE::test_f"),
    }
    assert (found.left_out, found.missing, found.differing, found.more) == ((), (), (), ())


def test_what_is_otherwise_is_told_apart() -> None:
    found = named(
        "t.py::test_a[1] h200x8(ranks=4)",
        "t.py::test_a[2]",
        "t.py::test_ba",
        left_out=("t.py::test_b[1]", "t.py::TestX::test_a"),
    )
    assert found == Named(
        cases={"t.py::test_a[1]": ()},
        left_out=("t.py::test_b",),
        missing=("t.py::test_b[named]", "t.py::TestC"),
        differing=("t.py::test_a[1]",),
        more=("t.py::test_a[2]", "t.py::test_ba"),
    )


def test_what_was_read_and_not_selected_is_nobody_s_concern() -> None:
    found = named("t.py::test_a[1] h200x8(ranks=4)", "t.py::TestC::test_d", planned=("t.py::TestC",))
    assert found == Named({"t.py::TestC": ("t.py::TestC::test_d",)}, (), (), (), ())


def test_marks_are_spelt_alike_whatever_their_order_of_arguments() -> None:
    first = pytest.mark.h200x8(ranks=2, stall=1), pytest.mark.gpu, pytest.mark.h200x8, pytest.mark.timeout(3)
    second = pytest.mark.h200x8(stall=1, ranks=2), pytest.mark.timeout(3)
    assert spelt_marks([one.mark for one in first], "h200x8") == "h200x8(ranks=2, stall=1) timeout(3)"
    assert spelt_marks([one.mark for one in second], "h200x8") == "h200x8(ranks=2, stall=1) timeout(3)"
