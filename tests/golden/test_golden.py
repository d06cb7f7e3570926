"""Every golden recording is what its scenario tells, and is judged as its `verdict.json` says.

After a wanted change: MEGACPP_GOLDEN=rewrite pytest tests/golden, then read the difference.
"""

import json
import os
import re
from pathlib import Path

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import read_all
from tests.golden.build import CASES

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs" / "verdicts.md"
REWRITE = os.environ.get("MEGACPP_GOLDEN") == "rewrite"
RECORDED = sorted(path.parent.name for path in HERE.glob("*/recording.jsonl"))


def code_of(name: str) -> str:
    return next((str(c) for c in sorted(Code, key=len, reverse=True) if name == c or name.startswith(f"{c}-")), "")


def judged(recording: bytes) -> str:
    result = judge_run(fold(read_all(recording)))
    said = [to_json(test) for test in result.tests]
    for test in said:
        assert test.pop("missed") == ""  # only a desk knows what a drill expects
        if not test["attempts"]:
            del test["attempt"], test["attempts"]
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_recording_is_what_the_scenario_tells(name: str) -> None:
    said, path = CASES[name]().recording(), HERE / name / "recording.jsonl"
    if REWRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(said)
        (path.parent / "verdict.json").write_text(judged(said), encoding="utf-8")
    assert path.read_bytes() == said


@pytest.mark.parametrize("name", sorted({*RECORDED, *CASES}))
def test_verdict(name: str) -> None:
    found = judged((HERE / name / "recording.jsonl").read_bytes())
    assert json.loads(found) == json.loads((HERE / name / "verdict.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_case_is_named_by_its_code(name: str) -> None:
    assert judge_run(CASES[name]().timeline()).tests[0].verdict.code == code_of(name)


@pytest.mark.parametrize("code", sorted(Code))
def test_every_code_has_a_case_and_a_heading(code: Code) -> None:
    assert code in {code_of(name) for name in CASES}
    assert re.search(rf"^## `{code}`$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_cause_is_documented(name: str) -> None:
    for test in judge_run(CASES[name]().timeline()).tests:
        cause = test.verdict.cause
        if cause is not None and test.verdict.code is not Code.BLOCKED:
            documented = re.sub(r"^(signal|exit|xid):(?!0$|unknown$).*", r"\1:…", cause)
            section = DOCS.read_text(encoding="utf-8").partition(f"## `{test.verdict.code}`")[2].partition("\n## ")[0]
            assert f"`{documented}`" in section, cause
