"""Owns the `call` that goes with a lane test's report, as hooks of pytest get it; must not call any.

Tests ran elsewhere: what a hook finds as `call.excinfo` is an exception that carries the verdict, raised in a frame
that stands where the blamed rank failed or stood.
"""

import os

import pytest

from pytest_megacpp.desk.hooks.verdict_text import VerdictText
from pytest_megacpp.exceptions import LaneTestError, LaneTestFailed
from pytest_megacpp.judge.verdicts import Verdict

_SKIPPED = "Skipped: "
_LAST_LINE = 1_000_000


def call_of(report: pytest.TestReport, verdict: Verdict | None, config: pytest.Config) -> pytest.CallInfo[None]:
    """Returns what pytest would have made the report of."""
    call: pytest.CallInfo[None] = pytest.CallInfo.from_call(lambda: None, when=report.when)
    call.start, call.stop, call.duration = report.start, report.stop, report.duration
    call.excinfo = _excinfo(report, verdict, config)
    return call


def _excinfo(
    report: pytest.TestReport, verdict: Verdict | None, config: pytest.Config
) -> pytest.ExceptionInfo[BaseException] | None:
    """As pytest has it, there is one for what failed as expected, too."""
    if report.passed:
        return None
    defined_in, defined_at, function = report.location
    file, line, error = defined_in, (defined_at or 0) + 1, _exception(report, verdict)
    if isinstance(report.longrepr, tuple):
        file, line, _ = report.longrepr
    elif isinstance(report.longrepr, VerdictText):
        file, line = report.longrepr.reprcrash.path, report.longrepr.reprcrash.lineno
    return pytest.ExceptionInfo.from_exception(_raised_at(error, _path(file, config), line, function))


def _path(file: str, config: pytest.Config) -> str:
    """Of a file that is named as ranks saw it, below the directory of this command, or by pytest, below its root."""
    below = [directory / file for directory in (config.invocation_params.dir, config.rootpath)]
    return os.path.normpath(next((path for path in below if path.is_file()), below[-1]))


def _exception(report: pytest.TestReport, verdict: Verdict | None) -> BaseException:
    if isinstance(report.longrepr, tuple):
        return pytest.skip.Exception(str(report.longrepr[2]).removeprefix(_SKIPPED))
    if isinstance(report.longrepr, VerdictText):
        kind = LaneTestError if report.longrepr.is_error else LaneTestFailed
        return kind(report.longrepr.reprcrash.message, verdict)
    is_error = report.failed and report.when != "call"
    return (LaneTestError if is_error else LaneTestFailed)(str(report.longrepr), verdict)


def _raised_at(error: BaseException, file: str, line: int, function: str) -> BaseException:
    """Raises and catches it in a frame of that function, file and line, so that its traceback can be shown."""
    code = compile("raise error", file, "exec")
    placed = code.replace(co_firstlineno=min(max(line, 1), _LAST_LINE), co_name=function)
    try:
        exec(placed, {"error": error})
    except BaseException as e:
        traceback = e.__traceback__
        return e.with_traceback(traceback.tb_next if traceback is not None else None)
    raise AssertionError("unreachable")
