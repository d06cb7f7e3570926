"""Paths of a Windows desk, as a box gets them."""

from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from pytest_megacpp.surfaces.remote_plan import with_slashes
from pytest_megacpp.surfaces.source import Layout

PROJECT: Any = PureWindowsPath("C:/src/my project")
LAYOUT = Layout(PROJECT.parent, "/root/src", (PROJECT, PureWindowsPath("C:/src/lib")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "there"),
    [
        (r"C:\src\my project\smoke\test_a.py::test_b[a\b]", r"/root/src/my project/smoke/test_a.py::test_b[a\b]"),
        ("c:/SRC/my project/smoke", "/root/src/my project/smoke"),
        (r"--rootdir=C:\src\lib", "--rootdir=/root/src/lib"),
        (r"--ignore=C:\src\lib\old,C:\src\lib", "--ignore=/root/src/lib/old,/root/src/lib"),
        (r"C:\src\library", r"C:\src\library"),
        (r"D:\data", r"D:\data"),
        ("-k", "-k"),
    ],
)
def test_absolute_paths(given: str, there: str) -> None:
    assert LAYOUT.argument(given) == there


@pytest.mark.parametrize(
    ("given", "there"),
    [
        (r"smoke\test_a.py::test_b[a\b]", r"smoke/test_a.py::test_b[a\b]"),
        (r"--ignore=smoke\old", "--ignore=smoke/old"),
        (r"smoke\absent.py", r"smoke\absent.py"),
        (r"a\d+", r"a\d+"),
        ("smoke/test_a.py", "smoke/test_a.py"),
    ],
)
def test_relative_paths(given: str, there: str, tmp_path: Path) -> None:
    (tmp_path / "smoke" / "old").mkdir(parents=True)
    (tmp_path / "smoke" / "test_a.py").touch()
    assert with_slashes(given, tmp_path, "\\") == there
    assert with_slashes(given, tmp_path, "/") == given
