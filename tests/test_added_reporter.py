"""A report is one object and one line in a list: in a copy of the package, a new one is written by a real run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_megacpp
from tests.plugin.project import Project, Ran

PACKAGE = Path(pytest_megacpp.__file__).parent
REPORTER = '''"""Owns a report that a test added."""

from collections.abc import Iterator, Mapping

from pytest_megacpp.report.reporter import Line, Output, Reporter, RunResults, SessionResults, document


class Added(Reporter):
    name = "added report"

    def started(self, run: RunResults) -> Iterator[Output]:
        yield document("added/started.json", {"status": str(run.status), "tests": list(run.nodeids)})

    def tested(self, run: RunResults, index: int) -> Iterator[Output]:
        yield document(f"added/{index}.txt", str(run.judged[index].verdict.code).encode())

    def properties(self, run: RunResults, index: int) -> Mapping[str, object]:
        return {"added": index}

    def ended(self, run: RunResults) -> Iterator[Output]:
        yield document("added/ended.json", {"status": str(run.status), "receipts": len(run.written)})
        raise ValueError("no more ink")

    def closing(self, session: SessionResults) -> Iterator[Output]:
        yield Line("added section", title=True)
        yield Line(f"{len(session.runs)} run, reported by {__file__}")
        yield document("added.html", b"<!doctype html>")
'''
LIST = "desk/hooks/reporters.py"
BEFORE = "        TerminalSummary(),\n"
IMPORT = "from pytest_megacpp.report.reporter import Reporter\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    project.write("test_it.py", "import pytest\n\n@pytest.mark.h200x8(ranks=2, test=60)\ndef test_it(): pass\n")
    return project


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, project: Project) -> Ran:
    """The trivial test, by a copy of the package with one reporter more, which breaks at the end of the run."""
    root = tmp_path_factory.mktemp("copy")
    copy = root / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "report" / "added.py").write_text(REPORTER, encoding="utf-8")
    text = (copy / LIST).read_text(encoding="utf-8")
    assert (text.count(BEFORE), text.count(IMPORT)) == (1, 1)
    text = text.replace(BEFORE, f"        Added(),\n{BEFORE}")
    (copy / LIST).write_text(
        text.replace(IMPORT, f"from pytest_megacpp.report.added import Added\n{IMPORT}"), encoding="utf-8"
    )
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path}
    where = subprocess.run(
        [sys.executable, "-c", "import pytest_megacpp; print(pytest_megacpp.__file__)"],
        env=os.environ | environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(root))
    lane = ("-m", "h200x8", "--surface", "local", "--dry-run")
    return project.pytest(*lane, "--junitxml=junit.xml", env=environment)


def test_its_files_are_where_it_put_them(ran: Ran, project: Project) -> None:
    assert ran.directory is not None
    added = ran.directory / "added"
    assert json.loads((added / "started.json").read_text()) == {"status": "running", "tests": ["test_it.py::test_it"]}
    assert (added / "0.txt").read_text() == "passed"
    assert json.loads((added / "ended.json").read_text())["status"] == "passed"
    assert (project.lane_dir / "added.html").read_text() == "<!doctype html>"


def test_its_lines_are_in_the_summary(ran: Ran) -> None:
    lines = ran.text.splitlines()
    section = next(n for n, line in enumerate(lines) if " added section " in line)
    assert lines[section + 1].startswith("1 run, reported by /")


def test_its_properties_are_in_junit_s_file(project: Project, ran: Ran) -> None:
    text = (project.root / "junit.xml").read_text()
    assert '<property name="added" value="0"' in text
    assert '<property name="megacpp_verdict" value="passed"' in text


def test_its_failure_is_one_line_and_no_other_report_s(ran: Ran) -> None:
    assert [line for line in ran.text.splitlines() if "report '" in line] == [
        "report 'added report' failed: ValueError: no more ink"
    ]
    assert (ran.code, ran.outcome("test_it")) == (1, "passed")
    assert ran.run is not None
    assert (ran.run["status"], ran.receipt("test_it")["outcome"]) == ("passed", "passed")
