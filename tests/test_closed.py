"""What is added to a closed set has to be handled: in a copy of the package, mypy names each place that doesn't yet."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pytest_megacpp

PACKAGE = Path(pytest_megacpp.__file__).parent
CONFIG = """
[mypy]
python_version = 3.11
enable_error_code = exhaustive-match

# Most of the time would go to torch, of which no closed set depends.
[mypy-torch.*,triton.*,modal.*,pytest.*,_pytest.*]
follow_imports = skip
ignore_missing_imports = True
"""
FACT = """
@dataclass(frozen=True, slots=True)
class Teleported:
    rank: int
    test: int


RankFact: TypeAlias = (
    Teleported
"""
BOX_FACT = """
@dataclass(frozen=True, slots=True)
class BoxTeleported:
    place: str


Fact: TypeAlias = (
    BoxTeleported
"""
ACTION = """
@dataclass(frozen=True, slots=True)
class Teleport:
    world: str


Action: TypeAlias = Teleport | StartWorld"""


@dataclass(frozen=True, slots=True)
class Addition:
    """`new` in place of `old` in a file, and where it must be handled: `module:function`."""

    file: str
    old: str
    new: str
    places: frozenset[str]


def member(file: str, last: str, *places: str) -> Addition:
    """One more member of an enum, after its last one."""
    return Addition(file, f"    {last}\n", f'    {last}\n    TELEPORTED = "teleported"\n', frozenset(places))


VOCABULARY = "recording/vocabulary.py"
ADDITIONS = {
    "a fact of a rank": Addition(
        "recording/events.py", "\nRankFact: TypeAlias = (\n", FACT + "    | ", frozenset({"recording.timeline:add"})
    ),
    "a fact of the box": Addition(
        "recording/events.py",
        "\nFact: TypeAlias = (\n",
        BOX_FACT + "    | ",
        frozenset({"recording.timeline:add"}),
    ),
    "an action": Addition(
        "box/actions.py", "\nAction: TypeAlias = StartWorld", ACTION, frozenset({"box.main:_perform"})
    ),
    "a word of the desk": Addition(
        "recording/commands.py",
        "Word: TypeAlias = Again | Enough | Look | Stop",
        "Word: TypeAlias = Again | Enough | Look | Stop | int",
        frozenset({"box.desk_commands:_handle_command"}),
    ),
    "a verdict code": member(
        "judge/verdicts.py", 'BLOCKED = "blocked"', "judge.verdicts:_traits_of", "judge.next_steps:usual_step"
    ),
    "an outcome": member("judge/verdicts.py", 'ERROR = "error"', "desk.hooks.reports:_made"),
    "a reason to act": member(
        VOCABULARY, 'COMPILE = "compile"  # a rank compiled too long in one go', "judge.stalls:find"
    ),
    "a purpose": member(VOCABULARY, 'MEASURED = "measured"  # to be judged', "box.attempts:_attempt"),
    "a stage": member(VOCABULARY, 'RENDEZVOUS = "rendezvous"', "judge.world_starts:_what_failed"),
    "a limit of memory": member(VOCABULARY, 'MACHINE = "machine"', "judge.memory:_whose"),
    "what reports come to": member("recording/reports.py", 'NOTHING = "nothing"', "judge.outcomes:_agreed"),
    "a kind of error": member("recording/errors.py", 'NVLS = "nvls"', "judge.causes:cause_of"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Where mypy finds something wrong with a copy that has all additions: one run takes a few seconds."""
    root = tmp_path_factory.mktemp("closed")
    (root / "mypy.ini").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(PACKAGE, root / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for added in ADDITIONS.values():
        path = root / PACKAGE.name / added.file
        before = path.read_text(encoding="utf-8")
        assert before.count(added.old) == 1
        path.write_text(before.replace(added.old, added.new), encoding="utf-8")
    return frozenset(complaints(root))


def complaints(root: Path) -> Iterator[str]:
    """As `module:function`."""
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-pretty", "-p", PACKAGE.name]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    for found in re.finditer(r"^(?P<file>\S+\.py):(?P<line>\d+): error: ", ran.stdout, re.MULTILINE):
        path = root / found["file"]
        module = ".".join(path.relative_to(root / PACKAGE.name).with_suffix("").parts)
        yield f"{module}:{function_at(path, int(found['line']))}"


def function_at(path: Path, line: int) -> str:
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    around = [node for node in functions if node.lineno <= line <= (node.end_lineno or line)]
    return max(around, key=lambda node: node.lineno).name if around else "<module>"


@pytest.mark.parametrize("name", ADDITIONS)
def test_mypy_names_each_place_that_has_to_handle(found: frozenset[str], name: str) -> None:
    assert ADDITIONS[name].places <= found


def test_mypy_finds_nothing_else(found: frozenset[str]) -> None:
    assert found == frozenset[str]().union(*(added.places for added in ADDITIONS.values()))
