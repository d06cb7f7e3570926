"""A pytest plugin of the tested desks: writes down every report that pytest got, a JSON object a line."""

import json
import os
from pathlib import Path

import pytest

IN_RANK = "MEGACPP_BOX" in os.environ


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if IN_RANK or "PYTEST_XDIST_WORKER" in os.environ:  # a worker's reports come to its controller
        return
    seen = {
        "nodeid": report.nodeid,
        "when": report.when,
        "outcome": report.outcome,
        "xfail": getattr(report, "wasxfail", None),
        "text": str(report.longrepr or ""),
        "sections": dict(report.sections),
        "properties": dict(report.user_properties),
        "duration": report.duration,
    }
    with Path(os.environ["WITNESS"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(seen) + "\n")
