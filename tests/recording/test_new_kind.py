"""CONTRIBUTING lists all that adding an event kind takes: in a copy of the package kinds are added, recorded, read and
found in the folded views.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import pytest_megacpp

PACKAGE = Path(pytest_megacpp.__file__).parent


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` is inserted after `anchor` in a file of `recording`."""

    file: str
    anchor: str
    text: str


FIRST_LINE = 'Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"\n'
A_RANKS = (
    Edit(
        "events.py",
        FIRST_LINE,
        """

@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    rank: int
    test: int
    path: str
    seconds: float
""",
    ),
    Edit("events.py", "\nRankFact: TypeAlias = (\n", "    CheckpointSaved\n    | "),
    Edit(
        "views.py",
        "    exit_s: float | None = None\n",
        "    checkpoints: list[tuple[float, ev.CheckpointSaved]] = field(default_factory=list)\n",
    ),
    Edit(
        "fold_tests.py",
        "    keep(view.dropped, fact, None, KEPT_DROPPED)\n",
        """

KEPT_CHECKPOINTS = 8


def checkpoint_saved(view: RankView, time_s: float, fact: ev.CheckpointSaved) -> None:
    append(view.checkpoints, (time_s, fact), KEPT_CHECKPOINTS)
""",
    ),
    Edit(
        "timeline.py",
        "        match fact:\n",
        """            case ev.CheckpointSaved():
                self._in_test(event, fact, fold_tests.checkpoint_saved)
""",
    ),
)
THE_BOXS = (
    Edit(
        "events.py",
        FIRST_LINE,
        """

@dataclass(frozen=True, slots=True)
class DoorOpened:
    door: str
""",
    ),
    Edit("events.py", "\nFact: TypeAlias = (\n", "    DoorOpened\n    | "),
    Edit(
        "views.py",
        '    """A run so far."""\n\n    run_id: str = ""\n',
        "    doors: dict[str, ev.DoorOpened] = field(default_factory=dict)\n",
    ),
    Edit(
        "fold_run.py",
        "    run.finished, run.finished_s = fact, time_s\n",
        """

KEPT_DOORS = 4


def door_opened(run: RunView, fact: ev.DoorOpened) -> None:
    keep(run.doors, fact.door, fact, KEPT_DOORS)
""",
    ),
    Edit(
        "timeline.py",
        "        match fact:\n",
        """            case ev.DoorOpened():
                fold_run.door_opened(self, fact)
""",
    ),
)
RECORD_AND_READ = """
import json, sys
from pathlib import Path

from pytest_megacpp.box.recorder import Recorder
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.vocabulary import WorldReason
from pytest_megacpp.recording.wire import read_all

recorder = Recorder("recording.jsonl", "r1", Redactor({}))
recorder.write(ev.WorldStarted(2, WorldReason.FIRST), world="w1")
recorder.write(ev.TestStarted(0, "test_a.py::test_a", 2, ev.Limits()), world="w1")
for number in range(100):
    saved = ev.CheckpointSaved(1, 0, f"/checkpoints/{number}", 0.5)
    recorder.write(saved, world="w1", source="rank 1", at_s=3.0)
    recorder.write(ev.DoorOpened(f"door {number}"))
read = fold(read_all(Path("recording.jsonl").read_bytes()))
for run in (recorder.timeline, read):
    kept = run.tests[0].ranks[1].checkpoints
    print(json.dumps([[fact.path for _, fact in kept], list(run.doors), run.unknown, run.stray]))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The directory of a package that has the new kinds."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in (*A_RANKS, *THE_BOXS):
        path = tmp_path / PACKAGE.name / "recording" / edit.file
        before = path.read_text(encoding="utf-8")
        assert before.count(edit.anchor) == 1, edit
        path.write_text(before.replace(edit.anchor, edit.anchor + edit.text), encoding="utf-8")
    return tmp_path


def test_a_new_kind_is_recorded_and_found_in_the_view(copy: Path) -> None:
    command = [sys.executable, "-c", RECORD_AND_READ]
    ran = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    live, read = map(json.loads, ran.stdout.splitlines())
    assert live == [[f"/checkpoints/{n}" for n in range(8)], [f"door {n}" for n in range(4)], 0, 0]
    assert read == live


def test_mypy_finds_no_place_that_was_forgotten(copy: Path) -> None:
    options = ["--strict", "--enable-error-code", "exhaustive-match", "--python-version", "3.11", "--no-pretty"]
    command = [sys.executable, "-m", "mypy", *options, "-p", f"{PACKAGE.name}.recording"]
    ran = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_contributing_names_each_place() -> None:
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("### An event kind")[2].partition("\n### ")[0]
    assert not [edit for edit in (*A_RANKS, *THE_BOXS) if f"`recording/{edit.file}" not in section]
