"""Owns the list of all reporters of a session; must not know when they are asked (`desk/run/artefacts`)."""

import os

import pytest

from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.hooks.announcer import Annotations, Repository, StepSummary, is_wanted
from pytest_megacpp.desk.hooks.summary import TerminalSummary
from pytest_megacpp.report.page.timelines import Timelines
from pytest_megacpp.report.reporter import Reporter
from pytest_megacpp.report.reporters import FlightRecords, JUnitProperties, Receipts, RunJson


def reporters(options: Options, config: pytest.Config) -> tuple[Reporter, ...]:
    """In the order in which they are asked at each moment."""
    is_reviewed = is_wanted(options.lane_annotations, os.environ)
    repository = Repository(config.invocation_params.dir, config.rootpath, os.environ)
    return (
        FlightRecords(),
        Receipts(),
        RunJson(),
        Timelines(),
        JUnitProperties(),
        TerminalSummary(),
        *([Annotations(repository), StepSummary(os.environ)] if is_reviewed else []),
    )
