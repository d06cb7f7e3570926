"""What a rank sends of its warnings: each once per test, so many, whatever they are."""

import warnings

import pytest

from pytest_megacpp.rank.python_warnings import KEPT, SOURCE_CHARS, TEXT_CHARS, Warnings
from pytest_megacpp.recording.events import Warned


class Line:
    """An agent that keeps what it is to send."""

    rank = 3

    def __init__(self) -> None:
        self.sent_so_far: list[Warned] = []

    def send(self, fact: Warned, *, hold: bool) -> None:
        self.sent_so_far.append(fact)


class Unprintable(UserWarning):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(message: str | Warning, category: type[Warning] = UserWarning, line: int = 1) -> warnings.WarningMessage:
    return warnings.WarningMessage(message, category, __file__, line)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def heard(line: Line) -> Warnings:
    return Warnings(line)  # type: ignore[arg-type]


def test_one_warning_of_a_loop_is_sent_once_per_test(heard: Warnings, line: Line) -> None:
    for test in (0, 1):
        heard.begin(test)
        for _ in range(3):
            heard.report(raised("again"), "runtest")
        heard.report(raised("again", line=2), "runtest")
    assert [(w.test, w.line) for w in line.sent_so_far] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert line.sent_so_far[0].category == "builtins.UserWarning"
    assert line.sent_so_far[0].source.startswith('"""What a rank sends')


def test_so_many_different_ones_are_sent_and_that_there_were_more(heard: Warnings, line: Line) -> None:
    for number in range(3 * KEPT):
        heard.report(raised(f"the {number}th"), "collect")
    assert [w.message for w in line.sent_so_far[:-1]] == [f"the {number}th" for number in range(KEPT)]
    assert f"more than {KEPT} different warnings" in line.sent_so_far[-1].message
    heard.begin(0)
    heard.report(raised("of a test"), "runtest")
    assert line.sent_so_far[-1].message == "of a test"


def test_no_warning_is_too_odd(heard: Warnings, line: Line) -> None:
    heard.report(raised(Unprintable(), Unprintable), "runtest")
    heard.report(raised("x " * TEXT_CHARS), "runtest")
    heard.report(warnings.WarningMessage("m", UserWarning, "no\0file", 1), "runtest")
    heard.report(warnings.WarningMessage("m", UserWarning, "f", 1, line="y " * SOURCE_CHARS), "runtest")
    assert "Unprintable failed" in line.sent_so_far[0].message
    assert [len(w.message) for w in line.sent_so_far[1:]] == [TEXT_CHARS, 1, 1]
    assert [len(w.source) for w in line.sent_so_far[2:]] == [0, SOURCE_CHARS]


@pytest.mark.parametrize("before", ["token ", "token='", 'url: "', "\n"])
def test_no_half_of_a_secret_is_sent(heard: Warnings, line: Line, before: str) -> None:
    """The box, which takes secrets out, knows whole ones."""
    for number, limit in enumerate((TEXT_CHARS, SOURCE_CHARS)):
        long = "a " * (limit // 2 - 10) + before + "ghp_0123456789abcdefghijABCDEFGHIJ012345"
        message, source = (long, "x") if number == 0 else ("m", long)
        heard.report(warnings.WarningMessage(message, UserWarning, "f", 1, line=source), "runtest")
        sent = (line.sent_so_far[-1].message, line.sent_so_far[-1].source)[number]
        assert long.startswith(sent)
        assert "ghp_" not in sent
        assert len(sent) > limit - 40


def test_what_pytest_says_of_its_own_set_up_is_the_desk_s(heard: Warnings, line: Line) -> None:
    heard.report(raised("unknown option", pytest.PytestConfigWarning), "config")
    heard.report(raised("of a conftest"), "config")
    assert [w.message for w in line.sent_so_far] == ["of a conftest"]
