"""Which pyproject.toml is read, and that a table whose name is nearly ours is not ignored in silence."""

from pathlib import Path

import pytest

from pytest_megacpp.desk.commands import cli
from pytest_megacpp.desk.config.pyproject import misspelt_table, nearest_pyproject, read_table

pytest_plugins = "pytester"


def project(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pyproject.toml").write_text(text)
    return directory


def test_the_nearest_file_that_speaks_of_the_plugin_is_read(tmp_path: Path) -> None:
    outer = project(tmp_path, "[tool.pytest_megacpp]\nranks = 2\n")
    inner = project(tmp_path / "a" / "b", "[tool.ruff]\n")
    assert nearest_pyproject(inner) == outer / "pyproject.toml"
    assert read_table(outer / "pyproject.toml") == {"ranks": 2}
    project(inner, "[tool.pytest_megacpp]\n")
    assert nearest_pyproject(inner) == inner / "pyproject.toml"


@pytest.mark.parametrize(
    "header",
    [
        "[tool.pytest_megacp]",
        "[tool.pytest-megacpp]",
        "  [ tool . pytest_megacppp ]",
        "[tool.pytestmegacpp.lanes.b200x8]",
        "[[tool.pytest_megcpp.gate]]",
        '[tool."Pytest_MegaCpp"]',
        "[tool.pytest_mega]",
    ],
)
def test_a_table_whose_name_is_nearly_ours_is_said(tmp_path: Path, header: str) -> None:
    said = misspelt_table(project(tmp_path, f"[project]\nname = 'x'\n{header}\n"))
    assert said is not None
    assert said.startswith(f"{tmp_path / 'pyproject.toml'}: [tool.")
    assert said.endswith("did you mean [tool.pytest_megacpp]?")


@pytest.mark.parametrize(
    "header",
    [
        "[tool.pytest_megacpp.lanes]",
        "[tool.pytest.ini_options]",
        "[tool.pytest_memray]",
        "[tool.pytest-cpp]",
        "[tool.megacpp]",
        "# [tool.pytest_megacp]",
        "[project.pytest_megacp]",
    ],
)
def test_other_tables_are_left_alone(tmp_path: Path, header: str) -> None:
    assert misspelt_table(project(tmp_path, f"{header}\n")) is None


def test_files_above_the_one_that_is_read_are_left_alone(tmp_path: Path) -> None:
    project(tmp_path, "[tool.pytest_megacp]\n")
    inner = project(tmp_path / "a", "[tool.ruff]\n")
    assert misspelt_table(inner) is not None
    assert misspelt_table(project(inner, "[tool.pytest_megacpp]\n")) is None


def test_a_session_warns_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n[tool.pytest_megacp]\nsurface = 'local'\n")
    pytester.makepyfile("def test_it(): pass")
    ran = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    ran.assert_outcomes(passed=1, warnings=1)
    assert ran.stdout.str().count("did you mean [tool.pytest_megacpp]?") == 1


def test_a_command_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(project(tmp_path, "[tool.pytest_megacp]\n"))
    assert cli.main(["runs"]) == 0
    assert capsys.readouterr().err.count("did you mean [tool.pytest_megacpp]?") == 1


def test_where_warnings_are_errors_it_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml("[tool.pytest_megacp]\n")
    ran = pytester.runpytest("-W", "error")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*did you mean [[]tool.pytest_megacpp]?"])
