import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pytest_megacpp.desk.commands import cli
from pytest_megacpp.desk.run.directory import RunDirectory
from pytest_megacpp.judge.verdicts import Code, Outcome, RunResult, TestResult, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.wire import encode
from pytest_megacpp.surfaces.local import doctor
from pytest_megacpp.surfaces.local.variable_readers import Readers
from tests.scenario import FakeBox

FACTS: tuple[ev.Fact, ...] = (
    ev.RunStarted("r1", "2026-11-22T21:45:01.000Z", "h200x8", "local", True, 2, 2),
    ev.TestPlanned(0, "a.py::test_good", 2),
    ev.TestPlanned(1, "a.py::test_bad", 2),
)
RECORDING = b"".join(encode(ev.Event("r1", "", "box", seq, 0.0, fact)) for seq, fact in enumerate(FACTS))
GOOD = TestResult(0, "a.py::test_good", Outcome.PASSED, Verdict(Code.PASSED, "2 ranks passed"))
BAD = TestResult(1, "a.py::test_bad", Outcome.FAILED, Verdict(Code.HANG, "nobody sends", next_step="look"))

Megacpp = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def _judged_as_written_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge has its own tests; here every recording comes to GOOD and BAD."""
    arbiter = ModuleType("pytest_megacpp.judge.arbiter")

    def judge_run(timeline: Timeline) -> RunResult:
        return RunResult("r1", (GOOD, BAD), True)

    arbiter.judge_run = judge_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, arbiter.__name__, arbiter)


@pytest.fixture
def megacpp(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Megacpp:
    """`megacpp(*args)`, typed in `tmp_path`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> SimpleNamespace:
        code = cli.main(args)
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call


def a_run(lane_dir: Path, **fields: object) -> Path:
    document = {
        "schema": "megacpp.run/1",
        "status": "failed",
        "lane": "h200x8",
        "surface": "local",
        "dry_run": True,
        "started_at": "2026-11-22T21:45:01.000Z",
        "finished_at": "2026-11-22T21:45:13.500Z",
        "counts": {"selected": 2, "passed": 1, "failed": 1, "error": 0},
        "tests": [
            {"nodeid": GOOD.nodeid, "outcome": "passed", "verdict": "passed", "receipt": "receipts/good.json"},
            {"nodeid": BAD.nodeid, "outcome": "failed", "verdict": "hang", "receipt": "receipts/bad.json"},
        ],
    }
    with RunDirectory.create(lane_dir, lambda: datetime(2026, 11, 22, tzinfo=UTC)) as run:
        run.recording.write_bytes(RECORDING)
        run.write_json("run.json", document | fields)
        return run.path


def test_runs_are_listed(megacpp: Megacpp, tmp_path: Path) -> None:
    run = a_run(tmp_path / ".megacpp")
    (tmp_path / ".megacpp" / "runs" / "20261121-000000-0000").mkdir()
    done = megacpp("runs")
    assert done.code == 0
    head, whole, broken = done.out.splitlines()
    assert head.split() == ["RUN", "AGE", "STATUS", "VERDICTS", "DURATION", "PRICE", "LANE", "SURFACE", "TESTS"]
    name, age, unit, reported = whole.split(maxsplit=3)
    assert (name, unit) == (run.name, "d")
    assert int(age) > 1
    cells = ["failed", "hang", "12.50 s", "–", "h200x8", "local (dry run)", "1 passed, 1 failed"]
    assert re.split(" {2,}", reported) == cells
    assert broken.split()[:1] + broken.split()[3:] == ["20261121-000000-0000", "no", "run.json"]


def test_runs_are_chosen(megacpp: Megacpp, tmp_path: Path) -> None:
    lane_dir = tmp_path / ".megacpp"
    red, green = a_run(lane_dir), a_run(lane_dir, status="passed", lane="b200x8")
    going = a_run(lane_dir, status="detached")
    everything = sorted((run.name for run in (red, green, going)), reverse=True)

    def listed(*arguments: str) -> list[str]:
        return [entry["run_id"] for entry in json.loads(megacpp("runs", "--json", *arguments).out)]

    assert listed() == everything
    assert listed("--failed") == [red.name]
    assert listed("--lane", "b200x8") == [green.name]
    assert listed("--limit", "2") == everything[:2]
    assert "such a one" in megacpp("runs", "--failed", "--lane", "b200x8").out
    assert megacpp("runs", "--limit", "0").code == 2


def test_runs_for_programs(megacpp: Megacpp, tmp_path: Path) -> None:
    run = a_run(tmp_path / ".megacpp", cost={"usd": 1.5, "seconds": 3.0})
    (entry,) = json.loads(megacpp("runs", "--json").out)
    assert entry["directory"] == str(run)
    assert (entry["status"], entry["duration_s"], entry["usd"]) == ("failed", 12.5, 1.5)
    assert entry["verdicts"] == {"hang": 1}


@pytest.mark.parametrize("odd", [None, 5, "x", [], {"a": []}, [[1]], True, 1e999])
def test_a_run_json_of_any_shape_is_listed(megacpp: Megacpp, tmp_path: Path, odd: object) -> None:
    fields = ("status", "lane", "surface", "started_at", "finished_at", "counts", "tests", "cost")
    a_run(tmp_path / ".megacpp", **dict.fromkeys(fields, odd))
    assert megacpp("runs").code == 0
    assert len(json.loads(megacpp("runs", "--json").out)) == 1


def test_no_runs_are_no_failure(megacpp: Megacpp) -> None:
    done = megacpp("runs", "--lane-dir", "none")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("no runs in none yet")


def test_show_tells_what_failed_and_where_its_receipt_is(megacpp: Megacpp, tmp_path: Path) -> None:
    run = a_run(tmp_path / ".megacpp")
    done = megacpp("show")
    assert done.code == 1
    assert done.out.splitlines()[0].startswith(run.name)
    assert "── FAILED a.py::test_bad ─" in done.out
    assert "hang · nobody sends" in done.out
    assert f"receipt  .megacpp/runs/{run.name}/receipts/bad.json" in done.out
    assert "── PASSED" not in done.out


def test_show_has_what_tests_measured(megacpp: Megacpp, tmp_path: Path) -> None:
    run = a_run(
        tmp_path / ".megacpp", tests=[{"nodeid": GOOD.nodeid, "outcome": "passed", "receipt": "receipts/good.json"}]
    )
    ranks = [{"rank": r, "first_forward_s": 1.0 + r, "records": {"loss": 0.5, "peak": r, "who": "me"}} for r in (0, 1)]
    receipt: dict[str, object] = {"nodeid": GOOD.nodeid, "outcome": "passed", "ranks": ranks}
    receipt |= {"skew": {"first_forward_s": 1.0}, "cost": {"usd": 0.25, "seconds": 2.5}}
    (run / "receipts").mkdir()
    (run / "receipts" / "good.json").write_text(json.dumps(receipt))
    line = next(line for line in megacpp("show").out.splitlines() if GOOD.nodeid in line)
    words = "passed 2.50 s 2.00 s 1.00 s $0.25 a.py::test_good loss=0.5, peak=0..1, who=me"
    assert line.split() == words.split()
    good = json.loads(megacpp("show", "--json").out)["tests"][0]
    assert (good["seconds"], good["first_forward_s"], good["skew_s"], good["usd"]) == (2.5, 2.0, 1.0, 0.25)
    assert good["records"] == {"loss": [0.5, 0.5], "peak": [0.0, 1.0], "who": "me"}
    assert good["verdict"]["code"] == "passed"


def test_a_receipt_outside_of_its_run_is_not_read(megacpp: Megacpp, tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_text(json.dumps({"nodeid": GOOD.nodeid, "outcome": "passed"}))
    a_run(
        tmp_path / ".megacpp", tests=[{"nodeid": GOOD.nodeid, "outcome": "passed", "receipt": "../../../outside.json"}]
    )
    assert "OUTCOME" not in megacpp("show").out


NO_PATHS = ("\ud800", "a\0b", "x" * 5000, "receipts/loop", "../../../outside.json", "/etc/passwd", ".", "..", "")


@pytest.mark.parametrize("name", NO_PATHS, ids=lambda name: ascii(name)[:30])
def test_a_receipt_of_any_name_is_shown(megacpp: Megacpp, tmp_path: Path, name: str) -> None:
    """Of a test that passed and of one that failed, whose flight records are named as its receipt is."""
    tests = [{"nodeid": test.nodeid, "outcome": test.outcome, "receipt": name} for test in (GOOD, BAD)]
    run = a_run(tmp_path / ".megacpp", tests=tests)
    (run / "receipts").mkdir()
    (run / "receipts" / "loop").symlink_to("loop")
    done = megacpp("show")
    assert (done.code, done.err) == (1, "")
    assert f"FAILED {BAD.nodeid}" in done.out
    assert "etc/passwd" not in done.out
    assert "outside.json" not in done.out
    assert [test["receipt"] for test in json.loads(megacpp("show", "--json").out)["tests"]] == [name, name]


def test_judge_for_programs(megacpp: Megacpp, tmp_path: Path) -> None:
    (tmp_path / "copy.jsonl").write_bytes(RECORDING)
    document = json.loads(megacpp("judge", "copy.jsonl", "--json").out)
    assert [test["verdict"]["code"] for test in document["tests"]] == ["passed", "hang"]


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.split() == ["megacpp", version("pytest-megacpp")]


def test_the_package_can_be_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest_megacpp", "runs", "--lane-dir", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no runs in")


def test_show_believes_a_run_about_its_drills(megacpp: Megacpp, tmp_path: Path) -> None:
    drilled = {"nodeid": BAD.nodeid, "outcome": "passed", "verdict": "hang", "receipt": None}
    run = a_run(tmp_path / ".megacpp", tests=[{"nodeid": GOOD.nodeid, "outcome": "passed"}, drilled])
    assert megacpp("show", run.name[:12]).code == 0


def test_judge_judges_anew(megacpp: Megacpp, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(RECORDING)
    done = megacpp("judge", str(copy))
    assert done.code == 1
    assert "passed   a.py::test_good · passed · 2 ranks passed" in done.out
    assert "hang · nobody sends" in done.out
    assert done.out.splitlines()[-1] == "1 passed, 1 failed"


def test_a_recording_from_a_pipe_is_judged(tmp_path: Path) -> None:
    recording = Path(__file__).parents[1] / "golden" / "passed" / "recording.jsonl"
    command = [sys.executable, "-m", "pytest_megacpp.desk.commands.cli", "judge", "-", "--lane-dir", str(tmp_path)]
    root, reported = Path(__file__).parents[2], recording.read_bytes()
    done = subprocess.run(command, cwd=root, input=reported, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines()[-1] == "1 passed"


def test_a_directory_that_is_no_run_is_said(megacpp: Megacpp, tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    done = megacpp("judge", "build")
    assert (done.code, done.out) == (2, "")
    assert "'build' is a directory without a recording.jsonl, so it is no run" in done.err


def test_a_recording_of_a_newer_version_is_said_so(megacpp: Megacpp, tmp_path: Path) -> None:
    (tmp_path / "newer.jsonl").write_bytes(RECORDING.replace(b'"v":1', b'"v":2'))
    done = megacpp("judge", "newer.jsonl")
    assert done.code == 2
    assert "recording version 2, this reader knows 1; a newer pytest-megacpp reads it" in done.err


@pytest.mark.parametrize("content", [b"", b"not json\n", RECORDING[:40], b'{"v":99}\n'])
def test_a_recording_without_anything_readable_is_said(megacpp: Megacpp, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    done = megacpp("judge", "bad.jsonl")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("megacpp: nothing in bad.jsonl can be judged: it records no test")


def test_a_missing_run_is_said(megacpp: Megacpp) -> None:
    done = megacpp("judge", "nope")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("megacpp: no run 'nope' in")


def test_a_wrong_configuration_is_said(megacpp: Megacpp, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.pytest_megacpp]\nlanedir = 'x'\n")
    done = megacpp("runs")
    assert done.code == 2
    assert "unknown key 'lanedir'; did you mean 'lane_dir'?" in done.err


def test_runs_are_found_from_inside_the_project(
    megacpp: Megacpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.pytest_megacpp]\nlane_dir = 'build/lanes'\n")
    run = a_run(tmp_path / "build" / "lanes")
    (tmp_path / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "src" / "deep")
    assert run.name in megacpp("runs").out


def test_every_command_marks_runs_that_were_cut_off(megacpp: Megacpp, tmp_path: Path) -> None:
    run = a_run(tmp_path / ".megacpp", status="running", finished_at=None)
    done = megacpp("runs")
    assert f"megacpp: run {run.name} was cut off; it is now marked as interrupted" in done.err
    assert "interrupted" in done.out


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["judge", "--help"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        assert "a recording with nothing readable in it" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    for number in range(3):
        a_run(tmp_path / str(number))
    command = f"{sys.executable} -m pytest_megacpp.desk.commands.cli runs --lane-dir {tmp_path / '0'} | true"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("failures", [1, 100])
@pytest.mark.parametrize("command", ["show", "show --json", "judge"])
def test_a_closed_pipe_does_not_make_a_failed_run_green(
    tmp_path: Path, command: str, failures: int, unbuffered: str
) -> None:
    """`megacpp show FAILED | head -1` has the command's own code, however much it had still to say."""
    box = FakeBox(2, [f"a.py::test_{n}" for n in range(failures)])
    for index in range(failures):
        box.begins(index).raises(0, message=f"no shards {index}").finishes(1).ends()
    run = tmp_path / "runs" / "20261130-120000-0a0b"
    run.mkdir(parents=True)
    (run / "recording.jsonl").write_bytes(box.recording())
    (run / "run.json").write_text(json.dumps({"status": "failed", "tests": []}))
    words = f"{sys.executable} -m pytest_megacpp.desk.commands.cli {command} {run} --lane-dir {tmp_path} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_poor_terminal_gets_escapes(tmp_path: Path) -> None:
    a_run(tmp_path, lane="überlane")
    done = subprocess.run(
        [sys.executable, "-m", "pytest_megacpp.desk.commands.cli", "runs", "--lane-dir", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "\\xfcberlane" in done.stdout


def test_the_doctor_tells_what_a_lane_would_find(
    megacpp: Megacpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "find_readers", lambda names: Readers({"TRITON_CACHE_DIR": "triton/knobs.py"}, ("torch",))
    )
    monkeypatch.setenv("NCCL_TUNER_CONFIG_PATH", "/cluster/tuner")
    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest_megacpp.lanes.l4x1]\ngpu = 'L4'\nenvironment = {TORCHINDUCTOR_CACHE_DIR = '/l4'}\n"
        "[tool.pytest_megacpp.environment]\nTORCH_NCCL_DUMP_ON_TIMEOUT = '0'\n"
    )
    done = megacpp("doctor")
    assert done.code in (0, 1)
    for said in ("versions", "devices", "lane h200x8", "lane l4x1", "TRITON_CACHE_DIR = ", "read by triton/knobs.py"):
        assert said in done.out
    assert "TORCH_NCCL_DUMP_ON_TIMEOUT = 0\n      user, before group, " in done.out
    assert "environment of lane l4x1: as above, except\n" in done.out
    assert "\n  TORCHINDUCTOR_CACHE_DIR = /l4 (user)\n" in done.out
    assert "\n  OMP_NUM_THREADS not set\n" in done.out
    assert "(was '/cluster/tuner')" in done.out
    assert max(map(len, done.out.splitlines())) <= 160
    document = json.loads(megacpp("doctor", "--json").out)
    assert document["ready"] == (done.code == 0)
    assert any("lane h200x8" in line for line in document["lines"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_can_complete_every_command(megacpp: Megacpp, shell: str) -> None:
    done = megacpp("completion", shell)
    assert done.code == 0
    for name in ("runs", "show", "logs", "stacks", "stop", "history", "prune"):
        assert name in done.out


def test_bash_takes_the_completions(megacpp: Megacpp) -> None:
    script = (
        megacpp("completion", "bash").out + "\nCOMP_WORDS=(megacpp sta); COMP_CWORD=1; _shtab_megacpp megacpp sta\n"
    )
    done = subprocess.run(["bash", "-c", script + 'echo "${COMPREPLY[@]}"'], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["stacks"], done.stderr


def test_completions_without_their_library(megacpp: Megacpp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    done = megacpp("completion", "bash")
    assert (done.code, done.out) == (2, "")
    assert "pip install 'pytest-megacpp[completion]'" in done.err


def test_no_command_pays_for_what_another_one_needs() -> None:
    script = "import pytest_megacpp.desk.commands.cli, sys; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jinja2", "shtab", "torch", "modal", "rich"} & set(loaded)
