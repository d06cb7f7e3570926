"""Owns pytest's hooks, nothing else: every decision is made elsewhere; importing it must cost nothing.

At the desk, tests of a lane that was asked for run in a box. In a rank this same plugin only knows the marks.
"""

from collections.abc import Iterator

import pytest

from pytest_megacpp.desk.config.options import add_options
from pytest_megacpp.desk.config.pyproject import misspelt_table


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    try:
        return (yield)
    except Exception as e:
        from pytest_megacpp.desk.source.conftests import explain

        explain(e, early_config)
        raise


def pytest_configure(config: pytest.Config) -> None:
    from pytest_megacpp.desk.hooks.lanes import LaneMarks

    marks = LaneMarks(config)
    config.pluginmanager.register(marks, "megacpp-marks")
    if marks.in_rank:
        return
    from pytest_megacpp.desk.hooks.unimportable import Unimportable

    unimportable = Unimportable(config, tuple(marks.options.lanes), marks.lane_of)
    config.pluginmanager.register(unimportable, "megacpp-unimportable")
    if marks.in_worker:
        return
    if (misspelt := misspelt_table(config.rootpath)) is not None:
        _warn(config, misspelt)
    if marks.asked:
        from pytest_megacpp.desk.hooks.runner import LaneRunner

        runner = LaneRunner(config, marks)
        config.pluginmanager.register(runner, "megacpp-runner")
        unimportable.reports_ordinary = not runner.distributed  # its workers do
        if runner.distributed:
            from pytest_megacpp.desk.hooks.xdist import LaneController

            config.pluginmanager.register(LaneController(runner), "megacpp-controller")
    elif marks.options.gate_since_given:
        raise pytest.UsageError("--gate-since gates lane tests, and none were asked for: add -m LANE or --surface")


def _warn(config: pytest.Config, text: str) -> None:
    """Raises UsageError where warnings are errors, which pytest would take for an internal one here."""
    try:
        config.issue_config_time_warning(pytest.PytestConfigWarning(text), stacklevel=2)
    except pytest.PytestConfigWarning as warning:
        raise pytest.UsageError(str(warning)) from None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """pytest asks nobody about the exit code of a session that never began: a conftest may have left it, or answered
    in its place.
    """
    code = yield
    option = config.option
    if code != pytest.ExitCode.OK or option.help or option.version or option.markers:
        return code
    from pytest_megacpp.desk.hooks.lanes import LaneMarks

    marks = config.pluginmanager.get_plugin("megacpp-marks") or LaneMarks(config)
    runner = config.pluginmanager.get_plugin("megacpp-runner")
    if marks.is_gated and not (runner and runner.is_over):
        raise pytest.UsageError("--gate-since: the session was left before it began, so nothing was checked")
    return code


# As a string: pytest exports the name since 8.4, and 8.2 is supported.
def pytest_terminal_summary(
    terminalreporter: "pytest.TerminalReporter", exitstatus: int, config: pytest.Config
) -> None:
    marks = config.pluginmanager.get_plugin("megacpp-marks")
    ended = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.TESTS_FAILED)
    if marks is None or marks.in_rank or marks.in_worker or exitstatus not in ended:
        return
    from pytest_megacpp.desk.hooks.hints import hint

    if line := hint(config, marks, terminalreporter.stats.get("deselected", ())):
        terminalreporter.write_line(f"megacpp: {line}", yellow=True)


def pytest_unconfigure(config: pytest.Config) -> Iterator[None] | None:
    runner = config.pluginmanager.get_plugin("megacpp-runner")
    if runner is not None:
        runner.finish(interrupted=True)
    return None
