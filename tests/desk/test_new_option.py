"""An option is declared in one place: what is added to a copy of the package there is everywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_megacpp

PACKAGE = Path(pytest_megacpp.__file__).parent
BEFORE = "    ranks: int | None = option(\n"
DECLARATION = """\
    colour_depth: int | None = option(
        partial(count, what="the colour depth"),
        metavar="BITS",
        help="bits of a colour",
        more=" ([colours](guide.md))",
    )
"""
CONFTEST = """\
from pytest_megacpp.desk.config.options import read_options

def pytest_report_header(config):
    return f"depth: {read_options(config).colour_depth!r}"
"""
DOCUMENTS = """\
from pytest_megacpp.desk.config.options import Options
from tests.option_tables import configuration_table, readme_table
print(configuration_table(Options), readme_table(Options))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that has a copy of the package with one option more, and a project."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    options = root / PACKAGE.name / "desk" / "config" / "options.py"
    before = options.read_text(encoding="utf-8")
    assert before.count(BEFORE) == 1
    options.write_text(before.replace(BEFORE, DECLARATION + BEFORE), encoding="utf-8")
    (root / "conftest.py").write_text(CONFTEST)
    return root


def run(copy: Path, *arguments: str, **variables: str) -> str:
    """What Python prints with the copy as the package; an exit code is not looked at."""
    environ = {**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "200", **variables}
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environ, capture_output=True, text=True, timeout=60
    )
    return ran.stdout + ran.stderr


def collect(copy: Path, *arguments: str, table: str = "", **variables: str) -> str:
    (copy / "pyproject.toml").write_text(f"[tool.pytest_megacpp]\n{table}\n[tool.pytest.ini_options]\n")
    return run(copy, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments, **variables)


def test_it_is_in_the_help(copy: Path) -> None:
    said = collect(copy, "--help")
    assert "--colour-depth=BITS" in said or "--colour-depth BITS" in said
    assert "bits of a colour" in said


def test_the_command_line_beats_its_variable_which_beats_its_key(copy: Path) -> None:
    table = "colour_depth = 8"
    assert "depth: 8" in collect(copy, table=table)
    assert "depth: 16" in collect(copy, table=table, MEGACPP_COLOUR_DEPTH="16")
    assert "depth: 32" in collect(copy, "--colour-depth=32", table=table, MEGACPP_COLOUR_DEPTH="16")


def test_a_wrong_value_and_a_misspelt_key_are_said(copy: Path) -> None:
    assert "MEGACPP_COLOUR_DEPTH: the colour depth must be a whole number" in collect(copy, MEGACPP_COLOUR_DEPTH="many")
    assert "unknown key 'color_depth'; did you mean 'colour_depth'?" in collect(copy, table="color_depth = 8")


def test_it_is_in_the_tables_of_the_documents(copy: Path) -> None:
    said = run(copy, "-c", DOCUMENTS, PYTHONPATH=f"{copy}{os.pathsep}{Path(__file__).parents[2]}")
    row = "| `--colour-depth BITS` | `MEGACPP_COLOUR_DEPTH` | `colour_depth` | bits of a colour ([colours](guide.md)) |"
    assert row in said.splitlines()
    assert "| `--colour-depth BITS` | bits of a colour ([colours](docs/guide.md)) |" in said.splitlines()
