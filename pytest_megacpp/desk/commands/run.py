"""Owns `megacpp run`: pytest for scripts, whose exit code says whether the code under test is to blame; must not judge.

0: passed. 1: something failed. 2: nothing was tested, because the run was blocked, the infrastructure failed, or the
request was invalid. Passed means that lane tests passed, or that a gate said that none was needed.
"""

import sys
from collections.abc import Sequence
from enum import IntEnum

import pytest

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.report.layout import counted


class Answer(IntEnum):
    PASSED = 0
    FAILED = 1
    UNTESTED = 2


class _Witness:
    """A plugin that counts whose fault failures are, and that lane tests were run at all."""

    def __init__(self) -> None:
        self.failed = 0
        self.untested = 0
        self.lanes_asked = False
        self.ran = False
        self.needed_none = False
        self.left = False
        self.complaints: Sequence[str] = ()
        self.unreported = 0

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        runner = session.config.pluginmanager.get_plugin("megacpp-runner")
        self.lanes_asked = runner is not None
        self.left = runner is not None and runner.left
        self.needed_none = runner is not None and runner.needed_none
        self.complaints = runner.complaints if runner is not None else ()
        self.unreported = len(runner.unreported) + runner.beyond if runner is not None else 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed += report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        code = next((code for code in Code if code == properties.get("megacpp_verdict")), None)
        self.ran = self.ran or code not in (None, Code.SKIPPED)
        if not report.failed:
            return
        by_the_test = properties.get("megacpp_cause") == VerdictCause.SKIPPED  # only a change of the tests can fix that
        untested = code is not None and not code.traits.blames_the_code and not by_the_test
        self.untested += untested
        self.failed += not untested


def run(arguments: Sequence[str]) -> Answer:
    """pytest with these arguments, in this process, as in a terminal."""
    witness = _Witness()
    code = pytest.main([*arguments], plugins=[witness])
    answer, why = _answer(code, witness)
    print(f"megacpp run: {answer.name.lower()}{': ' if why else ''}{why}", file=sys.stderr, flush=True)
    return answer


def _answer(code: int, seen: _Witness) -> tuple[Answer, str]:
    match code:
        case pytest.ExitCode.OK if seen.left:
            return Answer.UNTESTED, "submitted; fetch its results with --attach"
        case pytest.ExitCode.OK if seen.ran or seen.needed_none:
            return Answer.PASSED, ""
        case pytest.ExitCode.OK if seen.lanes_asked:
            return Answer.UNTESTED, "no lane test was run: there was none, or all were skipped or only collected"
        case pytest.ExitCode.OK:
            return Answer.UNTESTED, "no lane was asked for; add -m LANE or --surface"
        case pytest.ExitCode.NO_TESTS_COLLECTED:
            return Answer.UNTESTED, "no test was selected"
        case _ if seen.failed:
            return Answer.FAILED, ""
        case _ if seen.complaints:
            return Answer.FAILED, seen.complaints[0]
        case pytest.ExitCode.TESTS_FAILED if seen.unreported:
            return Answer.UNTESTED, f"{counted(seen.unreported, 'lane test')} selected, but never reported"
        case pytest.ExitCode.TESTS_FAILED:
            return Answer.UNTESTED, "what failed was not the code under test"
        case pytest.ExitCode.INTERRUPTED:
            return Answer.UNTESTED, "interrupted"
        case _:
            return Answer.UNTESTED, "pytest refused to start"
