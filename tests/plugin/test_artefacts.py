"""What a run leaves on disk, and what must never be in it."""

import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from tests.plugin.project import LANE, Json, Project, Ran, files_below

TOKEN = "tok-5d1f0c3b9a7e"
CONFIGURED = "cfg-93b1e6aa04d2"
SECRETS = (TOKEN, CONFIGURED)
TESTS = """
    import logging
    import os
    import sys
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)
    SECRET = os.environ.get("MY_API_TOKEN", "")
    OTHER = os.environ.get("DEPLOY_PASSWORD", "")

    def test_well(modal_h200x8):
        modal_h200x8.record("loss", 0.5)

    def test_tells_secrets(modal_h200x8):
        assert SECRET and OTHER
        print("token", SECRET, OTHER)
        print("half a line " + SECRET, file=sys.stderr, end="")
        os.write(1, b"raw " + OTHER.encode() + b"\\n")
        logging.getLogger("user").error("logged %s", SECRET)
        modal_h200x8.record("config", {"token": SECRET, OTHER: 1})
        with modal_h200x8.phase(f"with {SECRET}"):
            raise ValueError(f"401 for {SECRET}", {"password": OTHER})

    def test_dies_with_a_secret():
        print(SECRET, flush=True)
        if os.environ["RANK"] == "1":
            os.abort()

    @pytest.mark.skip(reason="later")
    def test_skipped(): pass
"""
RUN_FIELDS = {
    *("schema", "run_id", "status", "lane", "surface", "dry_run", "ranks", "started_at", "finished_at", "tests"),
    *("counts", "seed", "environment", "versions", "devices", "git", "ids", "cost", "rate"),
}
RECEIPT_FIELDS = {
    *("schema", "run_id", "nodeid", "outcome", "verdict", "distributed_mode", "preset", "world_size", "backend"),
    *("dry_run", "limits", "ranks", "skew", "seed", "environment", "versions", "devices", "git", "cost"),
}
RANK_FIELDS = {
    *(
        "rank",
        "phases",
        "first_forward_s",
        "warmup",
        "compile_s",
        "graphs",
        "cache",
        "collectives",
        "exit",
        "error",
        "stack",
    ),
    *("device", "last_line", "records"),
}
VERDICT_FIELDS = {
    *("code", "summary", "blamed_ranks", "cause", "certainty", "evidence", "consequences", "next_step"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("artefacts"))
    project.write("pyproject.toml", f'[tool.pytest_megacpp.environment]\nDEPLOY_PASSWORD = "{CONFIGURED}"\n')
    project.write("test_them.py", TESTS)
    for command in (["init", "-q"], ["add", "test_them.py"], ["commit", "-qm", "tests"]):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        subprocess.run(["git", *identity, *command], cwd=project.root, check=True)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    environment = {"MY_API_TOKEN": TOKEN, "TORCH_FR_BUFFER_SIZE": "300"}
    return project.pytest(*LANE, "--lane-limit", "stall=33", "--junitxml=junit.xml", "-rA", env=environment)


def run_of(ran: Ran) -> Json:
    assert ran.run is not None
    return ran.run


def directory_of(ran: Ran) -> Path:
    assert ran.directory is not None
    return ran.directory


def test_outcomes(ran: Ran) -> None:
    assert ran.outcomes() == {
        "test_well": "passed",
        "test_tells_secrets": "failed",
        "test_dies_with_a_secret": "failed",
        "test_skipped": "skipped",
    }


def test_run_json_is_complete(ran: Ran) -> None:
    run = run_of(ran)
    assert run.keys() >= RUN_FIELDS
    assert run["schema"] == "megacpp.run/1"
    assert run["status"] == "failed"
    assert (run["lane"], run["surface"], run["dry_run"], run["ranks"]) == ("h200x8", "local", True, 2)
    assert run["devices"] == {"requested": "H200:8", "observed": [], "details": None}
    assert datetime.fromisoformat(run["started_at"]) < datetime.fromisoformat(run["finished_at"])
    assert run["cost"]["seconds"] > 0
    assert run["cost"]["gpu_seconds"] == 0
    assert run["cost"]["usd"] == 0
    assert run["versions"].keys() >= {"python", "torch", "pytest", "pytest-megacpp"}
    assert len(run["git"]["revision"]) == 40
    assert run["git"]["dirty"] is True


def test_run_json_has_the_tests_and_their_counts(ran: Ran) -> None:
    run = run_of(ran)
    assert [(t["nodeid"], t["outcome"], t["verdict"]) for t in run["tests"]] == [
        ("test_them.py::test_well", "passed", "passed"),
        ("test_them.py::test_tells_secrets", "failed", "test-failed"),
        ("test_them.py::test_dies_with_a_secret", "failed", "rank-death"),
        ("test_them.py::test_skipped", "skipped", "skipped"),
    ]
    counts = {"selected": 4, "passed": 1, "failed": 2, "error": 0, "skipped": 1}
    assert run["counts"] == {**counts, "xfailed": 0, "xpassed": 0}


def test_every_variable_has_its_source(ran: Ran) -> None:
    environment = run_of(ran)["environment"]
    assert environment["TRITON_INTERPRET"]["value"] == "1"
    assert environment["TRITON_INTERPRET"]["source"] == "plugin"
    assert environment["TORCH_FR_BUFFER_SIZE"]["value"] == "300"
    assert environment["TORCH_FR_BUFFER_SIZE"]["source"] == "user"
    assert all(setting["source"] and setting["phase"] and setting["reason"] for setting in environment.values())


@pytest.mark.parametrize("name", ["test_well", "test_tells_secrets", "test_dies_with_a_secret", "test_skipped"])
def test_each_test_has_a_receipt(ran: Ran, name: str) -> None:
    receipt = ran.receipt(name)
    assert receipt.keys() >= RECEIPT_FIELDS
    assert receipt["schema"] == "megacpp.receipt/1"
    assert receipt["run_id"] == run_of(ran)["run_id"] == directory_of(ran).name
    assert receipt["verdict"].keys() >= VERDICT_FIELDS
    assert receipt["verdict"]["code"] == ran.test(name)["verdict"]
    assert receipt["world_size"] == 2
    assert receipt["limits"] == {**receipt["limits"], "test": 60, "stall": 33, "skew": 120}
    assert [rank["rank"] for rank in receipt["ranks"]] == [0, 1]
    assert all(rank.keys() >= RANK_FIELDS for rank in receipt["ranks"])


def test_a_receipt_tells_how_a_rank_died(ran: Ran) -> None:
    receipt = ran.receipt("test_dies_with_a_secret")
    assert receipt["verdict"]["blamed_ranks"] == [1]
    assert receipt["verdict"]["cause"] == "signal:SIGABRT"
    assert receipt["ranks"][1]["exit"]["signal"] == "SIGABRT"


def test_paths_in_json_are_relative_to_the_run(ran: Ran) -> None:
    for test in run_of(ran)["tests"]:
        assert not Path(test["receipt"]).is_absolute()
        assert (directory_of(ran) / test["receipt"]).is_file()


def test_the_run_is_where_it_is_said_to_be(ran: Ran, project: Project) -> None:
    assert (project.lane_dir / "latest").read_text() == f"{directory_of(ran).name}\n"
    assert (project.lane_dir / ".gitignore").read_text() == "*\n"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project.root, capture_output=True, text=True)
    assert ".megacpp" not in status.stdout
    assert f"run {directory_of(ran).name}" in ran.text
    assert ran.failure("test_dies_with_a_secret").rstrip().splitlines()[-1].startswith("receipt")


def test_a_page_and_a_trace_show_the_run_and_a_failing_one_names_its_page(ran: Ran) -> None:
    page = (directory_of(ran) / "timeline.html").read_text()
    trace = json.loads((directory_of(ran) / "trace.json").read_text())
    assert "test_dies_with_a_secret" in page
    assert {"rank 0", "rank 1"} <= {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert f"for a browser: {Path('.megacpp/runs', directory_of(ran).name, 'timeline.html')}" in ran.text


def test_the_recording_can_be_read_by_itself(ran: Ran) -> None:
    lines = (directory_of(ran) / "recording.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["run"] for event in events} == {directory_of(ran).name}
    assert events[0]["kind"] == "run-started"
    assert events[-1]["kind"] == "run-finished"


def test_each_rank_has_its_logs(ran: Ran) -> None:
    logs = sorted(str(p.relative_to(directory_of(ran) / "ranks")) for p in files_below(directory_of(ran) / "ranks"))
    per_world = [f"{rank}/{stream}.log" for rank in (0, 1) for stream in ("stderr", "stdout")]
    assert logs == [f"{world}/{log}" for world in ("w1", "w2", "w3") for log in per_world]
    text = (directory_of(ran) / "ranks/w1/0/stdout.log").read_text()
    assert "token [redacted:MY_API_TOKEN] [redacted:DEPLOY_PASSWORD]" in text
    assert "raw [redacted:DEPLOY_PASSWORD]" in text


@pytest.mark.parametrize("secret", SECRETS, ids=["of-the-shell", "configured"])
def test_no_file_holds_a_secret(ran: Ran, project: Project, secret: str) -> None:
    holders = [
        str(p.relative_to(project.root))
        for p in files_below(project.root)
        if secret.encode() in p.read_bytes() and p.name != "pyproject.toml"
    ]
    assert holders == []


@pytest.mark.parametrize("secret", SECRETS, ids=["of-the-shell", "configured"])
def test_the_terminal_shows_no_secret(ran: Ran, secret: str) -> None:
    assert secret not in ran.text
    assert "401 for [redacted:MY_API_TOKEN]" in ran.text


def test_only_its_owner_reads_the_plan_which_names_the_project_of_its_seeds(ran: Ran, project: Project) -> None:
    plan = directory_of(ran) / "plan.json"
    assert plan.stat().st_mode & 0o777 == 0o600
    assert json.loads(plan.read_text())["seed"]["project"] == str(project.root.resolve())


def test_nothing_else_lies_in_the_run(ran: Ran) -> None:
    top = {p.name for p in directory_of(ran).iterdir()}
    pages = {"timeline.html", "trace.json"}
    assert (
        top == {"run.json", "recording.jsonl", "receipts", "ranks", "plan.json", "box.log", ".lock", "flight"} | pages
    )
    assert {p.parent.name for p in directory_of(ran).glob("flight/*/rank_*")} == {
        ran.receipt(name)["flight_record"].removeprefix("flight/")
        for name in ("test_tells_secrets", "test_dies_with_a_secret")
    }
