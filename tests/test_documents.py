"""What documents promise is what the program takes: every setting is documented, every workflow's command accepted."""

import argparse
import ast
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from pytest_megacpp.desk.commands import cli
from pytest_megacpp.desk.commands.init import WORKFLOW
from pytest_megacpp.desk.config.gate import GATE_KEYS
from pytest_megacpp.desk.config.lanes import LANE_KEYS, read_lanes
from pytest_megacpp.desk.config.options import KEYS, Options, read_gate, read_settings
from tests.option_tables import configuration_table, readme_table

pytest_plugins = "pytester"

BEGIN_OF_OPTIONS = "<!-- made by: MEGACPP_GOLDEN=rewrite pytest tests/test_documents.py -->\n\n"
END_OF_OPTIONS = "\n<!-- end of the options -->\n"
ROOT = Path(__file__).parents[1]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
WORKFLOWS = sorted([*(ROOT / "docs" / "workflows").glob("*.yml"), *(ROOT / ".github" / "workflows").glob("*.yml")])
COMMAND = re.compile(r"(?:^|run: |\s)((?:pytest|megacpp run|megacpp gate) [^|\n]*(?:\n {10}[^\n]+)*)")


def _pages(top: Path, *, deep: bool) -> Iterator[Path]:
    """Markdown in a directory of the project, and below it."""
    yield from top.glob("**/*.md" if deep else "*.md")


def commands() -> Iterator[tuple[str, str]]:
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8").replace(">-\n          ", "")
        for command in COMMAND.findall(text):
            yield path.name, " ".join(command.split())


@pytest.mark.parametrize(
    ("page", "table"), [("README.md", readme_table(Options)), ("docs/configuration.md", configuration_table(Options))]
)
def test_the_options_are_documented_as_they_are_declared(page: str, table: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN_OF_OPTIONS)
    documented, end, after = rest.partition(END_OF_OPTIONS)
    assert begin
    assert end
    if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
        (ROOT / page).write_text(before + begin + table + end + after, encoding="utf-8")
    assert documented == table


@pytest.mark.parametrize("key", [*KEYS, *LANE_KEYS, *GATE_KEYS])
def test_every_key_is_documented(key: str) -> None:
    assert re.search(rf"\b{key}\b", CONFIGURATION), f"docs/configuration.md says nothing of the key {key}"


def test_the_documented_tables_are_accepted(tmp_path: Path) -> None:
    for number, document in enumerate((CONFIGURATION, GUIDE)):
        blocks = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)
        file = tmp_path / f"{number}.toml"
        file.write_text("\n".join(blocks))
        settings = read_settings(file)
        assert read_gate(settings["gate"])
        assert read_lanes(settings.get("lanes", {}))


def test_the_guide_names_every_key_of_a_rule() -> None:
    assert all(f"| `{key}` |" in GUIDE for key in GATE_KEYS)


def test_init_writes_the_documented_workflow() -> None:
    assert (ROOT / "docs" / "workflows" / "dry-run.yml").read_text(encoding="utf-8") == WORKFLOW


def test_there_are_commands() -> None:
    assert len(list(commands())) > 8
    assert all(f"workflows/{path.name}" in GUIDE for path in WORKFLOWS if path.parent.parent == ROOT / "docs")


@pytest.mark.parametrize(("workflow", "command"), list(commands()))
def test_a_workflow_s_command_is_accepted(
    workflow: str, command: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command)
    if words[:2] == ["megacpp", "gate"]:
        assert isinstance(cli.parser().parse_args(words[1:]), argparse.Namespace)
        return
    arguments = words[2:] if words[0] == "megacpp" else words[1:]
    options = [word for word in arguments if not word.startswith(("tests", "smoke_suites", "${{"))]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest("from pytest_megacpp.desk.config.options import add_options as pytest_addoption")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    pytester.parseconfig("-p", "no:megacpp", *options)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_yaml_with_few_rights(path: Path) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found["permissions"] == {"contents": "read"}
    for job in found["jobs"].values():
        assert job["timeout-minutes"] <= 120
        secret = "secrets." in str(job)
        assert not secret or job["environment"] == "h200"
        assert all(
            step["with"]["persist-credentials"] is False for step in job["steps"] if "checkout" in step.get("uses", "")
        )


@pytest.mark.parametrize(
    ("decide", "triggered", "gate", "code"),
    [
        ("success", "true", "success", 0),
        ("success", "false", "success", 0),  # asked for by the label
        ("success", "false", "skipped", 0),
        ("skipped", "", "skipped", 0),  # another label
        ("success", "true", "skipped", 1),  # a fork's push
        ("success", "true", "failure", 1),
        ("success", "true", "cancelled", 1),
        ("success", "", "skipped", 1),
        ("failure", "", "skipped", 1),
        ("cancelled", "", "skipped", 1),
    ],
)
def test_the_gate_s_required_check_is_not_green_without_an_answer(
    decide: str, triggered: str, gate: str, code: int
) -> None:
    """GitHub takes skipped jobs for passed ones, so this job never is."""
    workflow = yaml.safe_load((ROOT / "docs" / "workflows" / "h200-gate.yml").read_text(encoding="utf-8"))
    answer = workflow["jobs"]["answer"]
    assert (answer["if"], answer["needs"]) == ("always()", ["decide", "gate"])
    (step,) = answer["steps"]
    assert [*step["env"]] == ["DECIDE", "TRIGGERED", "GATE"]
    results = {"DECIDE": decide, "TRIGGERED": triggered, "GATE": gate}
    done = subprocess.run(["bash", "-e", "-c", step["run"]], env=results, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "::error::" in done.stdout) == (code, bool(code))


def readme_s_test_command() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = readme.splitlines()
    (command,) = [line for line in lines if line.startswith("pip install -c") and "&& pytest -n" in line]
    return command


def test_ci_runs_the_readme_s_test_command() -> None:
    """Word for word: what a user is promised is what a change must pass."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"    {readme_s_test_command()}\n" in script


def test_the_task_runner_runs_the_readme_s_test_command() -> None:
    """Read from the source: nox may not be installed."""
    constants = {
        node.targets[0].id: node.value
        for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    side_by_side = ast.literal_eval(constants["SIDE_BY_SIDE"])
    assert readme_s_test_command().endswith(f" && pytest {' '.join(side_by_side)}")


TRITON_OF_TORCH = {"2.11.0": "3.6.0", "2.12.1": "3.7.1", "2.13.0": "3.7.1"}  # by the metadata of the wheels on PyPI


def test_the_constraints_agree_with_the_cuda_builds_of_torch() -> None:
    """A CPU build requires no triton, so an install of one can't show a conflict that users of PyPI's torch meet."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert pins["triton"] == TRITON_OF_TORCH[pins["torch"]]


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
INDEX = re.compile(
    r"\| \[(?P<number>\d{4})\]\((?P<file>[^)]+)\) \| (?P<title>[^|]+) \| (?P<line>[^|]+) \| (?P<status>[^|]+) \|"
)
STATUS = re.compile(r"in force|(?:amended|replaced) by \d{4}\b.*")


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name.partition("-")[0] for path in DECISIONS]
    assert len(numbers) == len(set(numbers)) > 0
    assert all(
        path.read_text(encoding="utf-8").startswith(f"# {n} ") for path, n in zip(DECISIONS, numbers, strict=True)
    )


def test_every_decision_is_in_the_index() -> None:
    """In order, under its own title, with a status that somebody chose."""
    lines = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [row for line in lines if (row := INDEX.fullmatch(line))]
    listed = {row["file"]: f"# {row['number']} {row['title']}" for row in rows}
    assert listed == {path.name: path.read_text(encoding="utf-8").partition("\n")[0] for path in DECISIONS}
    assert list(listed) == [path.name for path in DECISIONS]
    assert all(STATUS.fullmatch(row["status"]) for row in rows)


# -- links and names of files ----------------------------------------------------------------------------------

PAGES = sorted(path for top in (".", ".github", "docs", "benchmarks") for path in _pages(ROOT / top, deep=top != "."))
LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<file>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    return CODE_BLOCK.sub("", path.read_text(encoding="utf-8"))


@cache
def anchors(path: Path) -> frozenset[str]:
    """As GitHub makes them of headings: lower case, without punctuation, blanks as hyphens."""
    texts = (re.sub(r"\]\([^)]*\)", "", heading).lower() for heading in HEADING.findall(prose(path)))
    return frozenset(re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.finditer(prose(page)):
        target = (page.parent / link["file"]).resolve() if link["file"] else page
        is_there = target.exists() and (link["anchor"] is None or link["anchor"] in anchors(target))
        broken += [] if is_there else [link[0]]
    assert broken == []


PLACE = re.compile(r"`(?P<path>[\w.-]*[\w-]/[\w./-]*|[\w-]+\.(?:md|py|toml|txt))(?:::(?P<name>[\w.]+))?`")


def test_contributing_names_places_that_are_there() -> None:
    """`path` or `path::name`, of the project or the package, so that a list of places to touch can't outlive them."""
    places = list(PLACE.finditer(prose(ROOT / "CONTRIBUTING.md")))
    assert len(places) > 30
    tops = (ROOT, ROOT / "pytest_megacpp")
    missing = [p[0] for p in places if not any(_is_there(top / p["path"], p["name"]) for top in tops)]
    assert missing == []


def _is_there(path: Path, name: str | None) -> bool:
    if name is None or not path.is_file():
        return name is None and path.exists()
    scope = ast.parse(path.read_text(encoding="utf-8")).body
    for word in name.split("."):
        found = next((node for node in scope if word in _names_of(node)), None)
        if found is None:
            return False
        scope = getattr(found, "body", [])
    return True


def _names_of(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
