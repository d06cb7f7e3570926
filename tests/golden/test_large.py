"""What a person reads of a failing world of 64 and of 1,024 ranks fits a screen, and is as `large_worlds/` says."""

import os
from functools import cache
from pathlib import Path

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline, fold
from pytest_megacpp.report.layout import WIDTH
from pytest_megacpp.report.text import Whereabouts, failure_text
from tests.golden.large import CASES

HERE = Path(__file__).parent / "large_worlds"
SCREEN = 40
HEADLINE_CHARS = 320
EACH = pytest.mark.parametrize(("name", "ranks"), [(name, ranks) for name in CASES for ranks in (64, 1024)])


@cache
def judged(name: str, ranks: int) -> tuple[TestResult, Timeline]:
    timeline = fold(CASES[name](ranks).events)
    return judge_run(timeline).tests[0], timeline


@cache
def text_of(name: str, ranks: int) -> str:
    result, timeline = judged(name, ranks)
    return failure_text(result, timeline, Whereabouts("h200x8", receipt="receipts/test_step.json")) + "\n"


@EACH
def test_text(name: str, ranks: int) -> None:
    path = HERE / f"{name}-{ranks}.txt"
    if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
        path.write_text(text_of(name, ranks), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text_of(name, ranks)


@EACH
def test_it_fits_a_screen(name: str, ranks: int) -> None:
    headline, *lines = text_of(name, ranks).splitlines()
    assert len(lines) < SCREEN
    assert len(headline) <= HEADLINE_CHARS
    assert [line for line in lines if len(line) > WIDTH and not line.startswith(("next ", "         "))] == []


@EACH
def test_the_blamed_ranks_are_visible_and_so_is_the_crowd(name: str, ranks: int) -> None:
    verdict = judged(name, ranks)[0].verdict
    headline, *lines = text_of(name, ranks).splitlines()
    assert not verdict.blamed_ranks or ranks_named(verdict.blamed_ranks) in headline
    picture = " ".join(lines[2:]).partition("evidence (")[0]
    assert ("✗" in picture) == bool(verdict.blamed_ranks)
    crowd = set(range(ranks)) - set(verdict.blamed_ranks)
    assert not crowd or "rank" in picture.replace("✗ rank", "")
