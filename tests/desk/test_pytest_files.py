"""Which files pytest takes for test files, by its configuration."""

from pathlib import Path

import pytest

from pytest_megacpp.desk.gate.pytest_files import DEFAULT, is_test_file, read_test_files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[tool.pytest.ini_options]\npython_files = 'bench_*.py smoke_*.py'"),
        ("pyproject.toml", "[tool.pytest.ini_options]\npython_files = ['bench_*.py', 'smoke_*.py']"),
        ("pyproject.toml", "[tool.pytest]\npython_files = ['bench_*.py', 'smoke_*.py']"),
        ("pytest.toml", "[pytest]\npython_files = ['bench_*.py', 'smoke_*.py']"),
        ("pytest.ini", "[pytest]\naddopts = -q --x=%d\npython_files =\n    bench_*.py\n    smoke_*.py"),
        ("tox.ini", "[pytest]\npython_files = bench_*.py smoke_*.py"),
        ("setup.cfg", "[tool:pytest]\npython_files = bench_*.py smoke_*.py"),
    ],
)
def test_patterns_are_read_wherever_pytest_may_read_them(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_test_files(tmp_path) == (*DEFAULT, "bench_*.py", "smoke_*.py")


@pytest.mark.parametrize("text", ["", "[pytest", "[pytest]\npython_files = 3", "[tool]\npytest = 'x'"])
def test_what_cannot_be_read_leaves_the_default(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    (tmp_path / "setup.cfg").write_text(text.replace("[pytest]", "[other]"))
    assert read_test_files(tmp_path) == DEFAULT


@pytest.mark.parametrize(
    ("path", "patterns", "there"),
    [
        ("a/test_b.py", DEFAULT, True),
        ("a/b_test.py", DEFAULT, True),
        ("a/b.py", DEFAULT, False),
        ("a/check_b.py", ("check_*.py",), True),
        ("a/gpu/b.py", ("gpu/*.py",), True),
    ],
)
def test_test_files_are_known_as_pytest_knows_them(path: str, patterns: tuple[str, ...], there: bool) -> None:
    assert is_test_file(path, patterns) is there
