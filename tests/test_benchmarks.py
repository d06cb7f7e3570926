"""Benchmarks run by hand, so nothing else notices when the package no longer has what they import."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported() -> Iterator[tuple[str, str, str]]:
    """(file, module of the package, name imported from it)."""
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_megacpp"):
                yield from ((str(path.relative_to(ROOT)), str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize(("file", "module", "name"), sorted(imported()))
def test_what_a_benchmark_imports_is_there(file: str, module: str, name: str) -> None:
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.import_module(f"{module}.{name}"), file
