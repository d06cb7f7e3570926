"""What a person reads of every golden recording is as its `text.txt` says; rewritten as the verdicts are."""

import os
from pathlib import Path

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.layout import WIDTH
from pytest_megacpp.report.receipt import receipt_name
from pytest_megacpp.report.text import failure_text
from tests.golden.build import CASES

HERE = Path(__file__).parent
NAMES = sorted({*CASES, *(path.parent.name for path in HERE.glob("*/recording.jsonl"))})


def told(recording: bytes) -> str:
    """The texts of all its tests, each under its outcome and node id."""
    timeline = fold(read_all(recording))
    return "".join(
        f"{result.outcome.upper()} {result.nodeid}\n\n"
        f"{failure_text(result, timeline, receipt=f'receipts/{receipt_name(result.nodeid)}', lane='h200x8')}\n\n"
        for result in judge_run(timeline).tests
    )


@pytest.mark.parametrize("name", NAMES)
def test_text(name: str) -> None:
    text, path = told((HERE / name / "recording.jsonl").read_bytes()), HERE / name / "text.txt"
    if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", NAMES)
def test_only_what_others_wrote_is_wider_than_a_page(name: str) -> None:
    lines = told((HERE / name / "recording.jsonl").read_bytes()).split("\n")
    ours = [line for line in lines if "│" not in line and not line.startswith(("next ", "         "))]
    headlines = 2  # outcome and cause: one line each, to be found by grep
    assert [line for line in ours[headlines:] if len(line) > WIDTH and " · " not in line] == []
