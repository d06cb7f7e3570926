"""The schemas that the package ships describe what is written: every field, and no other."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.recording.json_schema import schema_of
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import KINDS, encode_fact, read_all
from pytest_megacpp.report.receipt import receipt
from pytest_megacpp.report.run_json import RunMeta, run_json, run_status
from pytest_megacpp.report.schemas import SCHEMAS
from tests.described import HEAD, of_kind, shipped, validator, wrong
from tests.golden.build import CASES
from tests.golden.drills import cases
from tests.recording.strategies import facts_of

ROOT = Path(__file__).parents[2]
PLAN = Plan("r1", "h200x8", "local", "H200:8", 0, 4, True, False, (), (), "")
ALL = {name: case().recording() for name, case in CASES.items()} | {n: d.recording for n, d in cases.load().items()}
SAMPLES = 20
"""Lines of each kind that are checked."""


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_shipped_is_what_the_code_says(name: str) -> None:
    path, text = ROOT / "pytest_megacpp" / "schemas" / name, json.dumps(SCHEMAS[name](), indent=1) + "\n"
    if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
    Draft202012Validator.check_schema(shipped(name))
    assert shipped(name)["$schema"]


@pytest.mark.parametrize("name", sorted(ALL))
def test_documents_of_every_recording_are_described(name: str) -> None:
    timeline = fold(read_all(ALL[name]))
    results = {result.index: result for result in judge_run(timeline).tests}
    meta = RunMeta(PLAN, "2026-11-22T21:45:01.000Z")
    for index, result in results.items():
        document = json.loads(json.dumps(receipt(result, timeline, meta, {index: "flight/x"}, redact=str)))
        assert wrong(validator("receipt.json"), document) == []
    nodeids = [timeline.planned[index].nodeid for index in sorted(timeline.planned)]
    whole = run_json(meta, run_status(results.values()), nodeids, results, {}, timeline, redact=str)
    assert wrong(validator("run.json"), json.loads(json.dumps(whole))) == []


def _lines() -> Iterator[dict[str, Any]]:
    """Some of each kind, of all recordings."""
    seen = dict.fromkeys(KINDS, 0)
    for recording in ALL.values():
        for line in recording.splitlines():
            data: dict[str, Any] = json.loads(line)
            if seen[data["kind"]] < SAMPLES:
                seen[data["kind"]] += 1
                yield data


def test_lines_of_every_kind_are_described() -> None:
    whole = Draft202012Validator(shipped("event.json"))
    for data in _lines():
        assert wrong(whole, data) == []
        assert wrong(of_kind(data["kind"]), {key: value for key, value in data.items() if key not in HEAD}) == []


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_fact_is_described(kind: str, data: st.DataObject) -> None:
    fact = data.draw(facts_of(KINDS[kind]))
    written = json.loads(json.dumps(encode_fact(fact)))
    assert wrong(of_kind(kind), written) == []


@pytest.mark.parametrize(
    "change",
    [{"t": "soon"}, {"v": 2}, {"kind": "test-ended"}, {"seq": -1}, {"rank": None}],
)
def test_what_a_reader_would_not_take_is_refused(change: dict[str, object]) -> None:
    fields = {"v": 1, "run": "r", "world": "w1", "src": "box", "seq": 0, "t": 0.5}
    line: dict[str, object] = fields | {"kind": "phase-started", "rank": 0, "test": 0, "name": "call"}
    whole = Draft202012Validator(shipped("event.json"))
    assert wrong(whole, line) == []
    assert wrong(whole, line | change) != []


def test_a_line_of_a_newer_version_is_allowed() -> None:
    line = {"v": 1, "run": "r", "world": "", "src": "box", "seq": 0, "t": 0.5, "kind": "brand-new", "field": [1]}
    assert wrong(Draft202012Validator(shipped("event.json")), line) == []


def test_a_type_without_a_schema_is_an_error() -> None:
    with pytest.raises(TypeError, match="no schema for"):
        schema_of(set[int], {})
