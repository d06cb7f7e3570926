"""What of a verdict goes into one line of pytest's short summary."""

import pytest

from pytest_megacpp.desk.hooks.short_summary import fitting

BRIEFS = ("whole headline", "beginning", "code")


@pytest.mark.parametrize(
    ("width", "indent", "expected"),
    [
        (80, 66, "whole headline"),  # to the last column
        (80, 67, "beginning"),
        (80, 76, "code"),
        (80, 77, "whole headline"),  # not in one line: then in two
        (20, 30, "beginning"),
        (20, 60, "code"),
    ],
)
def test_the_longest_that_fits(width: int, indent: int, expected: str) -> None:
    assert fitting(BRIEFS, width, indent) == expected
