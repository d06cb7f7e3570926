"""What `megacpp init` and `megacpp gate` write and say; running the result is the plugin's tests' business."""

import ast
import json
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands import cli
from pytest_megacpp.desk.commands.init import CONFIGURATION, TEST_FILE, TRY_IT, WORKFLOW, WORKFLOW_FILE
from pytest_megacpp.desk.config.lanes import read_lanes, read_limits
from pytest_megacpp.desk.config.options import read_gate, read_settings
from tests.desk.repository import Repository


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_empty_place_gets_everything(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init"]) == 0
    reported = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in reported[:3]] == ["pyproject.toml", TEST_FILE, WORKFLOW_FILE]
    assert all(line.endswith("written") for line in reported[:3])
    assert reported[-1] == f"try it: {TRY_IT}"
    rules = read_gate(read_settings(place / "pyproject.toml")["gate"])
    assert [rule.run for rule in rules] == [("smoke_suites",)]
    ast.parse((place / TEST_FILE).read_text())
    assert (place / WORKFLOW_FILE).read_text() == WORKFLOW


def test_what_is_there_stays(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["init"])
    for name in ("pyproject.toml", TEST_FILE, WORKFLOW_FILE):
        (place / name).write_text("[tool.pytest_megacpp]\n# mine\n")
    capsys.readouterr()
    assert cli.main(["init"]) == 0
    assert capsys.readouterr().out.count("unchanged: ") == 3
    for name in ("pyproject.toml", TEST_FILE, WORKFLOW_FILE):
        assert (place / name).read_text() == "[tool.pytest_megacpp]\n# mine\n"


def test_a_pyproject_without_our_table_gets_it_at_its_end(place: Path) -> None:
    before = "[project]\nname = 'it'\n\n[tool.pytest.ini_options]\naddopts = '-ra'"
    (place / "pyproject.toml").write_text(before)
    cli.main(["init"])
    after = (place / "pyproject.toml").read_text()
    assert after.startswith(before)
    assert after.endswith(CONFIGURATION)
    assert read_gate(read_settings(place / "pyproject.toml")["gate"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('testpaths = ["tests"]  # unit tests\n', 'testpaths = ["tests", "smoke_suites"]  # unit tests\n'),
        ("testpaths = ['tests',]\n", "testpaths = ['tests', \"smoke_suites\",]\n"),
        ('testpaths = "tests unit"\n', 'testpaths = "tests unit smoke_suites"\n'),
        ("testpaths = []\n", "testpaths = []\n"),  # pytest looks everywhere
        (
            'testpaths = [\n    "tests",  # of units\n    "more"  # of others\n]\n',
            'testpaths = [\n    "tests",  # of units\n    "more",  # of others\n    "smoke_suites",\n]\n',
        ),
        ('testpaths = [\r\n  "tests",\r\n]\r\n', 'testpaths = [\r\n  "tests",\r\n  "smoke_suites",\r\n]\r\n'),
        ('testpaths = ["a",\n  "b" ]\n', 'testpaths = ["a",\n  "b",\n  "smoke_suites" ]\n'),
        ('testpaths = ["smoke_suites/kernels"]\n', 'testpaths = ["smoke_suites/kernels", "smoke_suites"]\n'),
        ('testpaths = ["smoke_*"]\n', 'testpaths = ["smoke_*"]\n'),
        ('testpaths = ["."]\n', 'testpaths = ["."]\n'),
    ],
)
@pytest.mark.parametrize("header", ["[tool.pytest.ini_options]", "[tool.pytest]"])
def test_pytest_looks_at_the_new_suite_too(place: Path, header: str, before: str, after: str) -> None:
    """Everything else stays as it is, an equal key of another table included."""
    around = '# mine\n[tool.other]\ntestpaths = ["x"]\n\n{}\naddopts = "-ra"\n{}\n[tool.last]\na = 1\n'
    (place / "pyproject.toml").write_bytes(around.format(header, before).encode())
    assert cli.main(["init"]) == 0
    assert (place / "pyproject.toml").read_bytes().decode().startswith(around.format(header, after))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("pytest.ini", "[pytest]\ntestpaths = tests unit\n", "testpaths = tests unit smoke_suites"),
        ("setup.cfg", "[tool:pytest]\ntestpaths =\n  tests\n", "testpaths = tests smoke_suites"),
        ("tox.ini", "[pytest]\ntestpaths = tests\n", "testpaths = tests smoke_suites"),
        ("pytest.toml", '[pytest]\ntestpaths = ["tests"]\n', 'testpaths = ["tests", "smoke_suites"]'),
        (
            "pyproject.toml",
            'tool.pytest.ini_options.testpaths = ["te\\u0073ts"]\n',
            'testpaths = ["tests", "smoke_suites"]',
        ),
        (".pytest.ini", "[pytest]\n", ""),
        ("tox.ini", "[tox]\n", ""),
    ],
)
def test_what_to_type_where_another_file_sets_testpaths(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, line: str
) -> None:
    (place / name).write_text(text)
    assert cli.main(["init"]) == 0
    said = [one for one in capsys.readouterr().out.splitlines() if "testpaths" in one]
    wanted = f"{name:<34}unchanged: have pytest look into smoke_suites, too: {line}"
    assert said == ([wanted] if line else [])
    assert (place / name).read_text().startswith(text)


def test_a_file_keeps_its_line_ends(place: Path) -> None:
    (place / "pyproject.toml").write_bytes(b"[project]\r\nname = 'it'\r\n")
    cli.main(["init"])
    written = (place / "pyproject.toml").read_bytes()
    assert written.count(b"\n") == written.count(b"\r\n")
    assert (place / TEST_FILE).read_bytes().count(b"\r") == 0


def test_a_pyproject_that_cannot_be_read_is_not_touched(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = "[tool.pytest_megacpp\n"
    (place / "pyproject.toml").write_text(broken)
    assert cli.main(["init"]) == 2
    assert "pyproject.toml" in capsys.readouterr().err
    assert (place / "pyproject.toml").read_text() == broken


def test_every_commented_setting_is_one_that_this_version_takes(place: Path) -> None:
    """Each comment that looks like TOML, taken out of its comment."""
    lines = [line.removeprefix("# ") for line in CONFIGURATION.splitlines()]
    kept = [line for line in lines if "=" in line.partition("#")[0] or line.startswith(("[", '"""'))]
    kept = [line for line in kept if not line.startswith(("A lane", "Seconds"))]
    (place / "pyproject.toml").write_text("\n".join(kept))
    settings = read_settings(place / "pyproject.toml")
    assert settings.keys() == {"surface", "dry_run", "lane_dir", "preload", "limits", "lanes", "gate"}
    assert read_limits(settings["limits"], "") == {"startup": 300, "skew": 120, "stall": 120, "test": 900}
    assert "h100x2" in read_lanes(settings["lanes"])


def test_the_gate_is_explained_without_running_anything(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository.new(place)
    cli.main(["init"])
    repository.commit()
    repository.git("tag", "base")
    capsys.readouterr()
    assert cli.main(["gate", "--since", "base"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "triggered: none"
    for number in range(6):
        repository.write(f"kernels/k{number}.cu")
    assert cli.main(["gate", "--since", "base", "--explain"]) == 0
    reported = capsys.readouterr().out.splitlines()
    assert reported[-1] == "triggered: smoke"
    assert sum(".cu matches" in line for line in reported) == 6
    assert f"    test file {TEST_FILE}" in reported
    assert cli.main(["gate", "--since", "base", "--json"]) == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert (rule["name"], rule["triggered"]) == ("smoke", True)
    assert any(".cu matches" in why for why in rule["why"])


def test_lane_tests_without_a_rule_are_said_since_a_session_runs_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository.new(place)
    cli.main(["init"])
    repository.write("other/test_new.py", "def test_new(modal_h200x8): pass")
    repository.write("other/test_ordinary.py", "def test_ordinary(): pass")
    repository.commit()
    repository.git("tag", "base")
    for places, triggered in (
        (["./other/test_new.py::test_new"], "tests without a rule"),
        ([], "tests without a rule"),
        (["smoke_suites"], "none"),
    ):
        capsys.readouterr()
        assert cli.main(["gate", "--since", "base", *places]) == 0
        reported = capsys.readouterr().out.splitlines()
        assert reported[-1] == f"triggered: {triggered}"
        assert ("  no rule guards other/test_new.py: its lane tests always run" in reported) is (triggered != "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gate"], "megacpp gate --since: the revision must be a non-empty string"),
        (["gate", "--since", "HEAD", "smoke_suits"], "smoke_suits: there is nothing of that name in"),
        (["gate", "--since", "nonsense"], "git finds no such revision here"),
    ],
)
def test_a_gate_without_sense_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    repository = Repository.new(place)
    cli.main(["init"])
    repository.commit()
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err
