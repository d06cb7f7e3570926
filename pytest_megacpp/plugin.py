"""Owns pytest's hooks, nothing else: every decision is made elsewhere; importing it must cost nothing.

At the desk, tests of a lane that was asked for run in a box. In a rank this same plugin only knows the marks.
"""

from collections.abc import Iterator

import pytest

from pytest_megacpp.desk.options import add_options

RANK_PLUGIN = "megacpp-rank"


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    from pytest_megacpp.desk.lanes import LaneMarks

    marks = LaneMarks(config)
    config.pluginmanager.register(marks, "megacpp-marks")
    if not config.pluginmanager.has_plugin(RANK_PLUGIN) and marks.asked:
        from pytest_megacpp.desk.runner import LaneRunner

        config.pluginmanager.register(LaneRunner(config, marks), "megacpp-runner")


def pytest_unconfigure(config: pytest.Config) -> Iterator[None] | None:
    runner = config.pluginmanager.get_plugin("megacpp-runner")
    if runner is not None:
        runner.finish(interrupted=True)
    return None
