"""What a rank makes of pytest's options; whole sessions run in tests/plugin."""

import pytest

from pytest_megacpp.rank.collection import most_telling
from pytest_megacpp.rank.desk_options import DeskOptions
from pytest_megacpp.rank.own_pytest import keep_plain_writer
from pytest_megacpp.rank.reports import KEPT_PROPERTIES, properties_of
from pytest_megacpp.rank.session import RankSession
from pytest_megacpp.recording.events import CollectError
from pytest_megacpp.recording.oversize import LEFT_OUT

pytest_plugins = "pytester"


@pytest.mark.parametrize("terminal", [True, False])
def test_evidence_keeps_its_tracebacks_whatever_the_terminal_shows(
    terminal: bool, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGACPP_TMP", str(pytester.path))
    args = ["--tb=no"] if terminal else ["-p", "no:terminal"]
    config = pytester.parseconfig("-p", "no:megacpp", *args)
    session = object.__new__(RankSession)
    session._desk_options = DeskOptions()
    session.pytest_cmdline_main(config)
    assert config.getoption("tbstyle", "auto") == ("short" if terminal else "auto")
    assert config.option.basetemp == str(pytester.path)


def test_a_comparison_can_be_explained_when_no_reporter_is_left(pytester: pytest.Pytester) -> None:
    """pytest before 9.1 asks for the reporter's writer then."""
    config = pytester.parseconfigure("-p", "no:megacpp", "--color=yes")
    keep_plain_writer(config)
    config.pluginmanager.unregister(name="terminalreporter")
    assert config.get_terminal_writer().hasmarkup is False
    assert config.hook.pytest_assertrepr_compare(config=config, op="==", left=1, right=2) is not None


def test_of_many_collection_errors_those_are_said_that_took_planned_tests_along() -> None:
    others = [CollectError(f"tests/other_{i}.py", "E   ImportError: x") for i in range(5_000)]
    mine = [CollectError(place, "E   ImportError: y") for place in ("tests/test_mine.py", "tests/test_a.py::TestB")]
    lacking = ["tests/test_mine.py::test_a[1/2]", "tests/test_a.py::TestB::test_c"]
    kept = most_telling([*others, *mine], lacking, 4)
    assert kept == (*mine, *others[:2])


def test_where_such_errors_are_left_out_too_the_last_one_says_so() -> None:
    errors = [CollectError(f"test_{i}.py", "E   ImportError: x") for i in range(5_000)]
    kept = most_telling(errors, [f"test_{i}.py::test" for i in range(5_000)], 4)
    assert kept == (*errors[:4], CollectError(".", "4996 more like this are left out of the recording"))


def test_of_many_properties_the_first_are_said_and_how_many_more_there_are() -> None:
    report = pytest.TestReport("t", ("t", 0, "t"), {}, "passed", None, "teardown")
    report.user_properties = [(f"property {i}", i) for i in range(40_000)]
    kept = properties_of(report)
    assert len(kept) == KEPT_PROPERTIES + 1
    assert kept["property 255"] == "255"
    assert kept[LEFT_OUT] == "39744 more properties"
    del report.user_properties[KEPT_PROPERTIES:]
    assert LEFT_OUT not in properties_of(report)
