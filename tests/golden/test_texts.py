"""What a person reads of every golden recording is as its `text.txt` says; rewritten as the verdicts are."""

import os
from pathlib import Path

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.layout import WIDTH
from pytest_megacpp.report.receipt import receipt_name
from pytest_megacpp.report.text import Whereabouts, failure_text
from tests.golden.build import CASES

HERE = Path(__file__).parent
NAMES = sorted({*CASES, *(path.parent.name for path in HERE.glob("*/recording.jsonl"))})


def text_of(recording: bytes, width: int = WIDTH) -> str:
    """The texts of all its tests, each under its outcome and node id."""
    timeline = fold(read_all(recording))
    texts = (
        (result, failure_text(result, timeline, Whereabouts("h200x8", receipt=receipt_of(result)), width))
        for result in judge_run(timeline).tests
    )
    return "".join(f"{result.outcome.upper()} {result.nodeid}\n\n{text}\n\n" for result, text in texts)


def receipt_of(result: TestResult) -> str:
    return f"receipts/{receipt_name(result.nodeid)}"


@pytest.mark.parametrize("name", NAMES)
def test_text(name: str) -> None:
    text, path = text_of((HERE / name / "recording.jsonl").read_bytes()), HERE / name / "text.txt"
    if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("width", [60, 80, WIDTH, 200])
@pytest.mark.parametrize("name", NAMES)
def test_only_what_others_wrote_and_what_is_copied_is_wider_than_a_page(name: str, width: int) -> None:
    lines = text_of((HERE / name / "recording.jsonl").read_bytes(), width).split("\n")
    headlines = 2  # outcome and cause: one line each, to be found by grep
    wide = [line for line in lines[headlines:] if len(line) > width and "│" not in line]
    assert [line for line in wide if not is_copied(line) and has_a_break(line, width)] == []


def is_copied(line: str) -> bool:
    """A command, a path, or a headline of the next test."""
    label, text = line[:9].strip(), line[9:]
    is_command = label in ("next", "") and text.startswith(("pytest ", "megacpp ", "modal ", "pip "))
    return is_command or label in ("flight", "receipt") or line[:1].isalpha()


def has_a_break(line: str, width: int) -> bool:
    """Whether it could have been broken; items of a list are not."""
    return " · " in line[:width] or (" " in line.strip()[: width - 10] and "✗" not in line and "ranks " not in line)
