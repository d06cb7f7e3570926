"""The house rules on imports, read from the source: who may name whom, and what importing the plugin costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_megacpp.plugin

PACKAGE = Path(pytest_megacpp.plugin.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}

# What a module of each part may import of the package; a name stands for itself and all below it.
ALLOWED = {
    "recording": {"recording"},
    "judge": {"judge", "recording"},
    "report": {"report", "recording", "judge.causes", "judge.verdicts"},
    "box": {"box", "recording"},
    "rank": {"rank", "recording"},
    "surfaces": {"surfaces", "recording", "box.process"},
    "desk": {"desk", "surfaces", "report", "judge", "box", "recording"},
    "plugin": {"desk"},
}
# What it may import of others beside the standard library.
FOREIGN = {
    "recording": set(),
    "judge": set(),
    "report": set(),
    "box": set(),
    "rank": {"pytest", "torch"},
    "surfaces": {"pathspec"},
    "desk": {"pathspec", "pytest"},
    "plugin": {"pytest"},
}
TORCH_TOO = {"box.stores"}
PURE = {"recording", "judge", "report"}
WORLDLY = {"subprocess", "socket", "threading", "multiprocessing", "signal", "selectors", "asyncio", "time", "random"}


def part_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever it does; `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(source), level=0):
                yield from (f"{source}.{alias.name}" for alias in node.names)
            case ast.ImportFrom():
                pytest.fail(f"{path} imports relatively")
            case _:
                pass


def own(path: Path) -> set[str]:
    return {name.partition(".")[2] for name in imports(path) if name.partition(".")[0] == "pytest_megacpp"}


def foreign(path: Path) -> set[str]:
    tops = {name.partition(".")[0] for name in imports(path)}
    return tops - sys.stdlib_module_names - {"pytest_megacpp"}


def test_there_is_something_to_read() -> None:
    assert {part_of(m) for m in MODULES} >= {*ALLOWED}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    allowed = ALLOWED[part_of(module)]
    wrong = {name for name in own(MODULES[module]) if not any(name == a or name.startswith(f"{a}.") for a in allowed)}
    assert not wrong, f"{module} must not import {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_other_peoples_packages_are_named_where_they_may_be(module: str) -> None:
    allowed = FOREIGN[part_of(module)] | ({"torch"} if module in TORCH_TOO else set())
    if module.startswith("surfaces.modal"):
        allowed = allowed | {"modal"}
    assert foreign(MODULES[module]) <= allowed


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) in PURE])
def test_pure_parts_touch_no_process_and_no_clock(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert not tops & WORLDLY


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_what_it_owns(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree)


def test_importing_the_plugin_costs_nothing() -> None:
    script = "import pytest_megacpp.plugin, sys; print(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent).stdout.split()
    heavy = ("torch", "modal", "numpy", *(f"pytest_megacpp.{p}" for p in ("judge", "report", "box", "rank")))
    assert "pytest_megacpp.plugin" in loaded
    assert not [name for name in loaded for h in heavy if name == h or name.startswith(f"{h}.")]
