"""The house rules on imports, read from the source: who may name whom, and what importing the plugin costs."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pytest_megacpp.plugin

PACKAGE = Path(pytest_megacpp.plugin.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}

BOX = {"box", "box.data", "box.gpus", "box.host", "box.logs", "box.look", "box.remote", "box.seed", "box.worlds"}
# Packages of surfaces are behind the registry.
BELOW_THE_DESK = {"surfaces", "settings", "report", "report.page", "report.history", "judge", "recording"} | BOX

# What the modules of each folder may import of the package: modules of these folders, without the folders in them, or
# a single module.
ALLOWED = {
    "recording": {"recording"},
    "settings": {"settings", "recording"},
    "judge": {"judge", "recording"},
    "report": {"report", "recording", "judge.causes", "judge.moments", "judge.verdicts"},
    "report.page": {"report.page", "report", "recording", "judge.causes", "judge.verdicts"},
    "report.history": {"report.history", "report", "recording", "judge.causes", "judge.verdicts"},
    "rank": {"rank", "recording"},
    "box": BOX - {"box.remote"} | {"recording"},
    "box.data": {"box.data", "recording"},
    "box.gpus": {"box.gpus", "recording"},
    "box.host": {"box.host", "box.gpus", "box.logs", "recording"},
    "box.logs": {"box.logs", "recording"},
    "box.look": {"box.look", "box.host", "recording"},
    "box.remote": {"box.remote", "box.host", "box.logs", "recording"},
    "box.seed": {"box.seed", "box.host", "recording"},
    "box.worlds": {"box.worlds", "box.look", "box.host", "recording"},
    "surfaces": {"surfaces", "settings", "recording", "report.money", "box.host.process"},
    "surfaces.local": {"surfaces.local", "surfaces", "settings", "report", "recording"}
    | {"box.gpus", "box.host", "box.seed"},
    "surfaces.command": {"surfaces.command", "surfaces", "settings", "report", "recording", "box.host"},
    "surfaces.modal": {"surfaces.modal", "surfaces", "settings", "report", "recording"},
    "desk.config": {"desk.config"} | BELOW_THE_DESK,
    "desk.run": {"desk.run", "desk.config", "desk.source"} | BELOW_THE_DESK,
    "desk.gate": {"desk.gate", "desk.config"} | BELOW_THE_DESK,
    "desk.source": {"desk.source", "desk.gate.pytest_files", "report", "recording"},
    "desk.hooks": {"desk.hooks", "desk.gate", "desk.run", "desk.source", "desk.config", "exceptions"} | BELOW_THE_DESK,
    "desk.commands": {"desk.commands", "desk.hooks", "desk.gate", "desk.run", "desk.config"} | BELOW_THE_DESK,
    "plugin": {"desk.hooks", "desk.config", "desk.source.conftests"},
    "__main__": {"desk.commands"},
    "exceptions": {"judge.verdicts"},
}
# What it may import of others beside the standard library; a folder stands for itself and all below it.
FOREIGN = {
    "recording": set(),
    "settings": {"platformdirs", "pytest"},
    "judge": set(),
    "report": set(),
    "report.page": {"jinja2", "markupsafe"},
    "report.history": {"jinja2", "markupsafe"},
    "box": set(),
    "rank": {"pytest", "torch"},
    "surfaces": {"pathspec", "pytest"},
    "surfaces.modal": {"pathspec", "pytest", "modal"},
    "desk": {"filelock", "pathspec", "pytest", "rich"},
    "desk.commands": {"pytest", "shtab"},
    "plugin": {"pytest"},
    "__main__": set(),
    "exceptions": set(),
}
TORCH_TOO = {"box.worlds.stores"}
PURE = {"recording", "judge", "report"}
WORLDLY = {"subprocess", "socket", "threading", "multiprocessing", "signal", "selectors", "asyncio", "time", "random"}


def folder_of(module: str) -> str:
    """`box.look` of `box.look.watch`; a module beside the folders stands for itself."""
    return module.rpartition(".")[0] or module


def part_of(module: str) -> str:
    return module.partition(".")[0]


def row(table: Mapping[str, set[str]], module: str) -> set[str]:
    """The entry of the innermost folder that has one."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return table[next(name for name in names if name in table)]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever it does; `from a import b` is `a.b`."""
    yield from imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), path)


def imports_at_run_time(path: Path) -> Iterator[str]:
    """Without those that only a type checker sees."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        yield from imported([node], path)
        waiting.extend(ast.iter_child_nodes(node))


def imported(nodes: Iterable[ast.AST], path: Path) -> Iterator[str]:
    for node in nodes:
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(source), level=0):
                yield from (f"{source}.{alias.name}" for alias in node.names)
            case ast.ImportFrom():
                pytest.fail(f"{path} imports relatively")
            case _:
                pass


def own(names: Iterable[str]) -> set[str]:
    """The modules of the package among imported names."""
    below = {name.partition(".")[2] for name in names if name.partition(".")[0] == "pytest_megacpp"}
    return {_module(name) for name in below}


def _module(name: str) -> str:
    """`box.main` of `box.main.Box`; what is no module, such as a folder, as it is."""
    found = name
    while found and found not in MODULES:
        found = found.rpartition(".")[0]
    return found or name


def foreign(path: Path) -> set[str]:
    tops = {name.partition(".")[0] for name in imports(path)}
    return tops - sys.stdlib_module_names - {"pytest_megacpp"}


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """One, if there is any: names that each need the next one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_there_is_something_to_read() -> None:
    assert {folder_of(m) for m in MODULES} == {*ALLOWED}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    allowed = row(ALLOWED, module)
    wrong = {name for name in own(imports(MODULES[module])) if name not in allowed and folder_of(name) not in allowed}
    assert not wrong, f"{module} must not import {wrong}"


def test_no_two_folders_may_import_each_other() -> None:
    folders = {
        name: {a if a in ALLOWED else folder_of(a) for a in allowed} - {name} for name, allowed in ALLOWED.items()
    }
    assert not cycle(folders)


def test_no_cycle_of_modules() -> None:
    """Imports inside functions count: they are how a cycle gets by."""
    assert not cycle({module: own(imports_at_run_time(path)) - {module} for module, path in MODULES.items()})


def test_a_cycle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in (["b", "c", "b"], ["c", "b", "c"])


@pytest.mark.parametrize("module", MODULES)
def test_other_peoples_packages_are_named_where_they_may_be(module: str) -> None:
    allowed = row(FOREIGN, module) | ({"torch"} if module in TORCH_TOO else set())
    assert foreign(MODULES[module]) <= allowed


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) in PURE])
def test_pure_parts_touch_no_process_and_no_clock(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert not tops & WORLDLY


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_what_it_owns(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("folder", [name for name in ALLOWED if (PACKAGE / name.replace(".", "/")).is_dir()])
def test_a_folder_says_what_it_is_for_and_holds_nothing_else(folder: str) -> None:
    """Importing a module runs the `__init__` of every folder above it. A folder of one module is none."""
    directory = PACKAGE / folder.replace(".", "/")
    assert len(ast.parse((directory / "__init__.py").read_text(encoding="utf-8")).body) == 1
    assert len([m for m in MODULES if folder_of(m) == folder]) > 1


def test_the_architecture_page_has_a_line_for_each_folder() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")]
    missing = [folder for folder in folders if folder != "." and f"\n| `{folder}/` |" not in page]
    assert not missing


def test_ranks_load_no_fold() -> None:
    """Each of a box's ranks pays for what it imports. Folding is for box and desk."""
    needed, waiting = set[str](), [module for module in MODULES if folder_of(module) == "rank"]
    while waiting:
        module = waiting.pop()
        needed.add(module)
        waiting += (own(imports_at_run_time(MODULES[module])) & MODULES.keys()) - needed
    assert "recording.events" in needed
    assert not needed & {"recording.timeline", "recording.views", "recording.collectives", "recording.groups"}


def test_importing_the_plugin_costs_nothing() -> None:
    script = "import pytest_megacpp.plugin, sys; print(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent).stdout.split()
    heavy = ("torch", "modal", "numpy", *(f"pytest_megacpp.{p}" for p in ("judge", "report", "box", "rank")))
    assert "pytest_megacpp.plugin" in loaded
    assert not [name for name in loaded for h in heavy if name == h or name.startswith(f"{h}.")]
