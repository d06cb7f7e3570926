"""What a killed desk left is cleaned by the next one, as often as it takes, and `run.json` says what receipts say."""

import json
from pathlib import Path

import pytest

from pytest_megacpp.box.logs import redaction
from pytest_megacpp.desk.run import leftovers
from pytest_megacpp.desk.run.directory import RunDirectory, read_run_json
from pytest_megacpp.desk.run.interrupted import mark_interrupted
from pytest_megacpp.recording.events import Json
from pytest_megacpp.report.receipt import receipt_names

OURS, CONFIGURED, SHAPED = "correct-horse-battery", "staple-of-the-plan", "ghp_" + "aB3" * 12
SAID = f"mine {OURS} theirs {CONFIGURED} shaped {SHAPED} end\n"
CLEAN = "mine [redacted:MY_API_TOKEN] theirs [redacted:DEPLOY_PASSWORD] shaped [redacted:github-token] end\n"
IDS = ["a.py::test_one", "a.py::test_two", "a.py::test_three"]


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", OURS)


def logs(run: Path) -> list[Path]:
    return [run / "box.log", *(run / f"ranks/w1/{rank}/{name}.log" for rank in (0, 1) for name in ("stdout", "stderr"))]


def fill(run: Path) -> None:
    for log in logs(run):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(SAID)
    (run / "ranks/w1/0/stdout.log.tmp").write_text(SAID)
    (run / "plan.json").write_text(json.dumps({"environment": {"DEPLOY_PASSWORD": CONFIGURED}}))


def left_behind(lane_dir: Path) -> Path:
    """A run whose desk and box were killed together."""
    with RunDirectory.create(lane_dir) as run:
        tests: list[Json] = [
            {"nodeid": nodeid, "outcome": None, "verdict": None, "receipt": None, "cost": {}} for nodeid in IDS
        ]
        run.write_json("run.json", {"status": "running", "tests": tests, "counts": {"selected": 3, "passed": 0}})
        fill(run.path)
        return run.path


def holders(run: Path) -> list[str]:
    """Files with a secret in them."""
    files = [path for path in run.rglob("*") if path.is_file()]
    return [path.name for path in files if any(s.encode() in path.read_bytes() for s in (OURS, CONFIGURED, SHAPED))]


def test_a_dead_run_keeps_no_secret(tmp_path: Path) -> None:
    run = left_behind(tmp_path)
    assert [entry.problem for entry in mark_interrupted(tmp_path)] == [None]
    assert holders(run) == []
    assert {log.read_text() for log in logs(run)} == {CLEAN}
    assert sorted(path.name for path in run.iterdir()) == [".lock", "box.log", "ranks", "run.json"]


@pytest.mark.parametrize("after", range(6))
def test_whoever_is_killed_at_it_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The plan's secrets are known until every log is clean."""
    run, calls = left_behind(tmp_path), iter(range(after))

    def until_killed(*arguments: object) -> bool:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return redaction.redact_file(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "redact_file", until_killed)
        if after < len(logs(run)):
            with pytest.raises(KeyboardInterrupt):
                mark_interrupted(tmp_path)
    mark_interrupted(tmp_path)
    assert {log.read_text() for log in logs(run)} == {CLEAN}
    assert (read_run_json(run) or {})["status"] == "interrupted"


def test_a_run_that_is_alive_is_not_touched(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path) as run:
        run.write_json("run.json", {"status": "running"})
        fill(run.path)
        assert mark_interrupted(tmp_path) == ()
        assert {log.read_text() for log in logs(run.path)} == {SAID}
        assert (run.path / "plan.json").exists()


@pytest.mark.parametrize("plan", [b"", b"[]", b"{", b'{"environment": 3}', b'{"environment": {"A_TOKEN": null}}', None])
def test_half_a_plan_is_no_trouble(tmp_path: Path, plan: bytes | None) -> None:
    run = left_behind(tmp_path)
    (run / "plan.json").write_bytes(plan) if plan is not None else (run / "plan.json").unlink()
    mark_interrupted(tmp_path)
    assert {log.read_text() for log in logs(run)} == {CLEAN.replace("[redacted:DEPLOY_PASSWORD]", CONFIGURED)}


def test_a_log_that_cannot_be_cleaned_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_behind(tmp_path)
    monkeypatch.setattr(leftovers, "redact_file", lambda *_: False)
    (entry,) = mark_interrupted(tmp_path)
    assert entry.problem == f"secrets may be left in {run / 'box.log'}, which can't be rewritten"


def test_results_that_have_a_receipt_are_in_run_json(tmp_path: Path) -> None:
    run = left_behind(tmp_path)
    names = receipt_names(IDS)
    for name, outcome, code in ((names[0], "passed", "passed"), (names[1], "failed", "rank-death")):
        written = {"outcome": outcome, "verdict": {"code": code}, "cost": {"seconds": 2.0}}
        (run / "receipts").mkdir(exist_ok=True)
        (run / "receipts" / name).write_text(json.dumps(written))
    (run / "receipts" / names[2]).write_text('{"outcome": "pas')
    mark_interrupted(tmp_path)
    document = read_run_json(run) or {}
    assert [(test["outcome"], test["verdict"], test["receipt"]) for test in document["tests"]] == [
        ("passed", "passed", f"receipts/{names[0]}"),
        ("failed", "rank-death", f"receipts/{names[1]}"),
        (None, None, None),
    ]
    assert document["tests"][0]["cost"] == {"seconds": 2.0}
    assert (document["counts"]["selected"], document["counts"]["passed"], document["counts"]["failed"]) == (3, 1, 1)
    assert document["status"] == "interrupted"


@pytest.mark.parametrize(
    "receipt", ["", "[]", "7", "{}", '{"outcome": "great"}', '{"outcome": "passed", "verdict": 3}']
)
def test_a_receipt_without_sense_says_nothing(tmp_path: Path, receipt: str) -> None:
    run = left_behind(tmp_path)
    (run / "receipts").mkdir()
    (run / "receipts" / receipt_names(IDS)[0]).write_text(receipt)
    mark_interrupted(tmp_path)
    assert [test["outcome"] for test in (read_run_json(run) or {})["tests"]] == [None] * 3


@pytest.mark.parametrize("tests", [None, 3, ["x"], {"a": 1}, [{}], [{"nodeid": 7, "outcome": []}]])
def test_an_odd_document_is_marked_all_the_same(tmp_path: Path, tests: object) -> None:
    run = left_behind(tmp_path)
    (run / "run.json").write_text(json.dumps({"status": "running", "tests": tests}))
    assert len(mark_interrupted(tmp_path)) == 1
    assert (read_run_json(run) or {})["tests"] == tests
