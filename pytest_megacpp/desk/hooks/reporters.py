"""Owns the list of all reporters of a session; must not know when they are asked (`desk/run/artefacts`)."""

import os

import pytest

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.hooks.announcer import Repository, announcers
from pytest_megacpp.desk.hooks.board import TerminalBoard
from pytest_megacpp.desk.hooks.history import HistoryPage
from pytest_megacpp.desk.hooks.live import LiveLines
from pytest_megacpp.desk.hooks.other_plugins import OtherPlugins
from pytest_megacpp.desk.hooks.rank_output import RankOutput, check, is_live
from pytest_megacpp.desk.hooks.summary import TerminalSummary
from pytest_megacpp.report.page.timelines import Timelines
from pytest_megacpp.report.reporter import Reporter
from pytest_megacpp.report.reporters import FlightRecords, JUnitProperties, Receipts, RunJson


def reporters(options: Options, config: pytest.Config) -> tuple[Reporter, ...]:
    """In the order in which they are asked at each moment. Raises UsageError for a report that can't be had."""
    check(options, config)
    repository = Repository(config.invocation_params.dir, config.rootpath, os.environ)
    return (
        FlightRecords(),
        Receipts(),
        RunJson(),
        Timelines(),
        JUnitProperties(),
        *([RankOutput(options.lane_output)] if is_live(config) else []),
        LiveLines(options.lane_heartbeat, TerminalBoard.of(config).is_possible),
        TerminalSummary(),
        OtherPlugins.of(config),
        HistoryPage(options.lane_dir),
        *announcers(options.lane_annotations, repository),
    )
