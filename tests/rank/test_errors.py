"""What a rank tells of an exception, however odd it is."""

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.rank.errors import KEPT_CAUSES, describe, in_one_line, rendered, stage_of
from pytest_megacpp.recording.events import Error, Reported
from pytest_megacpp.recording.texts import text_of
from pytest_megacpp.recording.vocabulary import ReportOutcome, TestPhase
from pytest_megacpp.recording.wire import encode_fact


def raised(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except BaseException as e:
        return e
    raise AssertionError("it raised nothing")


def error_of(action: Callable[[], object]) -> Error:
    return describe(raised(action), "as pytest shows it")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


def fails_by_its_own_words() -> None:
    try:
        raise RuntimeError("Connection closed by peer")
    except RuntimeError:
        raise AssertionError("the loss didn't fall") from None


def fails_again_and_again() -> None:
    try:
        fails_by_its_own_words()
    except AssertionError as e:
        raise ValueError("step 3") from e


def goes_in_circles() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    raise first


def unspeakable() -> None:
    raise Unspeakable


def test_an_exception_and_where_it_was_raised() -> None:
    error = error_of(lambda: int("x"))
    assert (error.type, error.traceback) == ("ValueError", "as pytest shows it")
    assert error.message == "invalid literal for int() with base 10: 'x'"
    assert error.file.endswith("test_errors.py")
    assert (error.raised_in, error.causes) == (__file__, ())


def test_one_that_can_not_be_shown_is_said_all_the_same() -> None:
    error = error_of(unspeakable)
    assert error.type.endswith("Unspeakable")
    assert error.message == "<str() of the exception failed: SystemExit>"


@pytest.mark.parametrize(
    ("action", "context"),
    [
        (fails_by_its_own_words, ["RuntimeError: Connection closed by peer"]),
        (
            fails_again_and_again,
            ["AssertionError: the loss didn't fall", "RuntimeError: Connection closed by peer"],
        ),
        (goes_in_circles, ["ValueError: b"]),
    ],
)
def test_what_was_being_handled_is_said_even_where_it_is_hidden(
    action: Callable[[], object], context: list[str]
) -> None:
    error = error_of(action)
    assert [f"{cause.type}: {cause.message}" for cause in error.causes] == context
    assert {cause.raised_in for cause in error.causes} <= {__file__, ""}  # one was never raised
    assert error.context == ()


def test_what_an_exception_was_raised_from_is_known_from_what_was_being_handled() -> None:
    def fails() -> None:
        try:
            fails_again_and_again()
        except BaseException as e:
            raise ValueError("no step") from e

    assert [cause.explicit for cause in error_of(fails).causes] == [True, True, False]


def test_notes_belong_to_the_message() -> None:
    def fails() -> None:
        error = NotImplementedError()
        error.add_note("while lowering layers.3")
        raise error

    assert error_of(fails).message == "\nwhile lowering layers.3"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions came with Python 3.11")
def test_a_group_says_what_it_holds() -> None:
    def fails() -> None:
        raise ExceptionGroup("two tasks", [ValueError("one"), KeyError("two")])

    error = error_of(fails)
    assert error.message == "two tasks (2 sub-exceptions) · ValueError: one · KeyError: 'two'"
    assert [(cause.type, cause.explicit) for cause in error.causes] == [("ValueError", False), ("KeyError", False)]


@pytest.mark.parametrize(
    ("file", "code", "stage"),
    [
        ("conftest.py", "def f(): raise KeyError\nf()", "conftest"),
        ("test_it.py", "raise SystemExit(3)", "import"),
        ("plug.py", "def hook(): raise KeyError", "plugin"),
    ],
)
def test_what_was_being_done_before_the_tests(tmp_path: Path, file: str, code: str, stage: str) -> None:
    path = tmp_path / file
    path.write_text(code)
    namespace: dict[str, Callable[[], object]] = {}
    compiled = compile(code, str(path), "exec")

    def run() -> None:
        exec(compiled, namespace)
        namespace["hook"]()

    assert stage_of(raised(run)) == stage


class HidesItsCause(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise ValueError("the cause is nobody's business")


class HidesItsTraceback(Exception):
    @property
    def __traceback__(self) -> types.TracebackType:  # type: ignore[override]
        raise ZeroDivisionError


class AnswersFromItsBody(Exception):
    def __getattr__(self, name: str) -> object:
        return {"status": 502}[name]


class HoldsNothing(Exception):
    exceptions = 7

    def derive(self) -> None: ...


class HoldsItself(Exception):
    def derive(self) -> None: ...

    @property
    def exceptions(self) -> tuple[BaseException, ...]:
        return (self,) * KEPT_CAUSES


class TakesNotesOfItsOwn(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise KeyError("notes")


class Nameless(type):
    def __getattribute__(cls, name: str) -> object:
        if name in ("__qualname__", "__name__", "__module__"):
            raise AttributeError("a class without a name")
        return super().__getattribute__(name)


class HasNoName(Exception, metaclass=Nameless): ...


class SaysItsLength(str):
    def __len__(self) -> int:
        raise OverflowError("too long to tell")


class SaysItInItsOwnWay(Exception):
    def __str__(self) -> str:
        return SaysItsLength("bad gateway")


HOSTILE = (
    *(HidesItsCause, HidesItsTraceback, AnswersFromItsBody, HoldsNothing, HoldsItself, TakesNotesOfItsOwn, HasNoName),
    *(SaysItInItsOwnWay, Unspeakable),
)


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_about_an_exception_keeps_it_from_being_said(kind: type[Exception]) -> None:
    def fails() -> None:
        raise kind("bad gateway")

    shown = "<str()" if kind is Unspeakable else "bad gateway"
    error = raised(fails)
    elsewhere = raised(fails_by_its_own_words).__traceback__
    assert elsewhere is not None
    for seen in (None, pytest.ExceptionInfo.from_exc_info((type(error), error, elsewhere))):
        described = describe(error, "as pytest shows it", seen)
        assert described.message.startswith(shown)
        assert type(described.message) is type(described.type) is str
        assert encode_fact(Reported(0, 0, TestPhase.CALL, ReportOutcome.FAILED, 0.0, described))
    assert shown in rendered(error) or "str()" in rendered(error)
    assert shown in in_one_line(error, 200)
    assert stage_of(error) in ("plugin", "import")
    assert type(text_of(error)) is str


def test_a_cause_that_takes_itself_for_false_is_one() -> None:
    class Empty(Exception):
        def __len__(self) -> int:
            return 0

    def fails() -> None:
        try:
            raise Empty("no shards")
        except Empty as e:
            raise ValueError("nothing to read") from e

    assert [(cause.message, cause.explicit) for cause in error_of(fails).causes] == [("no shards", True)]


def test_where_it_was_raised_is_said_without_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    error = error_of(fails_by_its_own_words)
    assert error.file == __file__
    assert error.message == "the loss didn't fall"
