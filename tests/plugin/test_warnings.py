"""Warnings of ranks are in the desk's own summary, each once and with its ranks; filters act in ranks as ever."""

import pytest

from tests.plugin.project import LANE, Project, Ran

WARNING = """
    import atexit
    import logging
    import os
    import sys
    import warnings
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2)
    IN_RANK = "RANK" in os.environ

    class OfTheProject(UserWarning): pass

    warnings.warn("imported everywhere")
    if IN_RANK:
        warnings.warn("imported in ranks", OfTheProject)
        logging.getLogger("late").addHandler(logging.StreamHandler(sys.stderr))
        atexit.register(lambda: logging.getLogger("late").error("metrics of a cache"))

    def test_warns(modal_h200x8):
        for _ in range(3):
            warnings.warn("raised by all", FutureWarning)
        if modal_h200x8.rank == 1:
            warnings.warn("raised by one", DeprecationWarning)

    def test_error_by_ini():
        warnings.warn("an error by ini")

    def test_error_by_option():
        warnings.warn("an error by option")

    @pytest.mark.filterwarnings("error")
    def test_error_by_mark():
        warnings.warn("an error by mark")

    @pytest.mark.filterwarnings("ignore:unwanted")
    def test_ignored_by_mark():
        warnings.warn("unwanted")
"""
INI = "[pytest]\nfilterwarnings = error:an error by ini\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("warnings"))
    project.write("pytest.ini", INI)
    project.write("test_warning.py", WARNING)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    return project.pytest(*LANE, "-W", "error:an error by option", "--tb=line")


SAID = (
    "UserWarning: imported everywhere\n",
    "OfTheProject: imported in ranks (all ranks)\n",
    "FutureWarning: raised by all (all ranks)\n",
    "DeprecationWarning: raised by one (rank 1)\n",
)


def test_each_warning_is_said_once_with_its_ranks(ran: Ran) -> None:
    summary = ran.text.partition(" warnings summary ")[2]
    assert [summary.count(said) for said in SAID] == [1] * len(SAID), ran.text
    assert "4 warnings in" in summary
    assert "test_warning.py::test_warns\n" in summary
    assert '    warnings.warn("raised by one", DeprecationWarning)\n' in summary


def test_filters_act_as_under_plain_pytest(ran: Ran) -> None:
    passing = {"test_warns", "test_ignored_by_mark"}
    failing = {"test_error_by_ini", "test_error_by_option", "test_error_by_mark"}
    assert ran.outcomes() == dict.fromkeys(passing, "passed") | dict.fromkeys(failing, "failed")


def test_an_exit_handler_that_logs_has_a_stream(ran: Ran) -> None:
    assert ran.directory is not None
    logs = [path.read_text() for path in ran.directory.glob("ranks/*/*/stderr.log")]
    assert "Logging error" not in ran.text + "".join(logs)
    assert any("metrics of a cache" in log for log in logs)


@pytest.mark.parametrize(("option", "shown"), [("-v", True), ("--disable-warnings", False)])
def test_a_recording_has_them_too(project: Project, ran: Ran, option: str, shown: bool) -> None:
    replayed = project.pytest("-m", "h200x8", "--replay", "latest", option)
    assert [said in replayed.text for said in SAID] == [shown] * len(SAID), replayed.text
    assert ", 4 warnings in" in replayed.text
