"""Plugins and files that keep how long tests took get what each lane test took on its box."""

import html
import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.plugin.project import DRY, Project

NAMES = ("test_straggler", "test_broken_fixture", "test_green")


def test_durations_are_those_of_the_box(project: Project) -> None:
    """Of the straggler no rank reports its call, of the broken fixture none reports one at all."""
    project.write(
        "test_slow.py",
        """
        import time
        import pytest
        import torch
        import torch.distributed as dist

        pytestmark = pytest.mark.h200x8(ranks=2, test=60, stall=2)

        def test_straggler(modal_h200x8):
            if modal_h200x8.rank == 1:
                time.sleep(60)
            dist.all_reduce(torch.ones(8))

        @pytest.fixture
        def broken():
            time.sleep(0.5)
            raise ValueError("no shards")

        def test_broken_fixture(modal_h200x8, broken): pass

        def test_green(modal_h200x8):
            time.sleep(0.5 * modal_h200x8.rank)
        """,
    )
    plugins = ("--html", "report.html", "--json-report", "--json-report-file", "report.json", "--store-durations")
    ran = project.pytest(*DRY, "--junitxml", "junit.xml", *plugins, "--durations", "0", "-vv")
    took = {name: ran.receipt(name)["cost"]["seconds"] for name in NAMES}
    assert took["test_straggler"] > 2
    said = {
        "JUnit": _junit((project.root / "junit.xml").read_text()),
        "json-report": _json_report(json.loads((project.root / "report.json").read_text())),
        "split": _by_name(json.loads((project.root / ".test_durations").read_text())),
        "html": _html((project.root / "report.html").read_text()),
        "--durations": _durations(ran.text),
    }
    apart = {"JUnit": 0.002, "json-report": 0.001, "split": 0.001, "html": 1.0, "--durations": 0.02}  # their digits
    expected = {about: {n: pytest.approx(took[n], abs=allowed) for n in NAMES} for about, allowed in apart.items()}
    assert said == expected


def _by_name(seconds: dict[str, float]) -> dict[str, float]:
    return {nodeid.rpartition("::")[2]: value for nodeid, value in seconds.items()}


def _junit(text: str) -> dict[str, float]:
    return {case.attrib["name"]: float(case.attrib["time"]) for case in ElementTree.fromstring(text).iter("testcase")}


def _json_report(document: dict[str, Any]) -> dict[str, float]:
    phases = ("setup", "call", "teardown")
    tests = document["tests"]
    return _by_name({t["nodeid"]: sum(t[when]["duration"] for when in phases if when in t) for t in tests})


def _html(text: str) -> dict[str, float]:
    """From the page's own data: `3 ms`, or `00:00:02` from a second on."""
    blob = re.search(r'data-jsonblob="([^"]*)"', text)
    assert blob is not None
    tests = json.loads(html.unescape(blob[1]))["tests"]
    shown = {nodeid: rows[0]["duration"] for nodeid, rows in tests.items()}
    return _by_name({nodeid.replace("::setup", ""): _seconds(text) for nodeid, text in shown.items()})


def _seconds(text: str) -> float:
    if text.endswith(" ms"):
        return int(text.removesuffix(" ms")) / 1000
    return float(sum(int(part) * unit for part, unit in zip(text.split(":"), (3600, 60, 1), strict=True)))


def _durations(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for seconds, name in re.findall(r"^([\d.]+)s (?:setup|call|teardown) +\S+::(\w+)", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(seconds)
    return found
