"""Owns the line at the end of a session that ran no lane test although somebody seems to have wanted one: what to type.
Must not know why a lane test that ran has failed. Loaded at the end of a session only.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_megacpp.report.clean import one_line

if TYPE_CHECKING:
    from pytest_megacpp.desk.hooks.lanes import LaneMarks

MAX_FILES = 5_000
NAMED = 3
_LEFT_OUT = frozenset({"node_modules", "__pycache__", "build", "dist", "venv"})


def hint(config: pytest.Config, marks: "LaneMarks", deselected: Iterable[object]) -> str:
    """The line; empty where there is nothing to say. `deselected` are items."""
    session = config.pluginmanager.get_plugin("session")
    items: Sequence[pytest.Item] = getattr(session, "items", ())
    if not marks.asked:
        return _not_asked_for(config, marks, items)
    if marks.options.gate_since is not None or any(marks.asked_lane_of(item) for item in items):
        return ""
    left_out = [item for item in deselected if isinstance(item, pytest.Item) and marks.asked_lane_of(item)]
    return _deselected(marks, left_out) if left_out else _not_collected(config, marks)


# -- a lane test of a session that asked for no lane -----------------------------------------------------------------


def _not_asked_for(config: pytest.Config, marks: "LaneMarks", items: Sequence[pytest.Item]) -> str:
    """Of a lane test that was named by its file or node id, as an editor does, or that nothing else was beside."""
    skipped = [item for item in items if marks.lane_of(item)]
    places = [argument for argument in config.args if _is_file(config, argument)]
    if not skipped or (len(skipped) < len(items) and not places):
        return ""
    lane = marks.lane_of(skipped[0]) or ""
    named = [_from_here(config, place) for place in places or config.args]
    gpus = f"pytest -m {lane} {_typed(named)}"
    here = f"; here on the CPU: pytest -m {lane} --surface local --dry-run {_typed(named)}"
    what = skipped[0].nodeid if len(skipped) == 1 else f"{skipped[0].nodeid} and {len(skipped) - 1} more"
    return (
        f"{what}: a lane test runs on every rank of a box, and only when asked for: {gpus}"
        f"{here if sys.platform == 'linux' else ''}"
    )


def _is_file(config: pytest.Config, argument: str) -> bool:
    return (Path(config.invocation_params.dir) / argument.partition("::")[0]).is_file()


def _from_here(config: pytest.Config, argument: str) -> str:
    file, colons, name = argument.partition("::")
    here = Path(config.invocation_params.dir)
    path = here / file
    return f"{path.relative_to(here) if path.is_relative_to(here) else file}{colons}{name}"


# -- a lane that was asked for, and none of its tests ----------------------------------------------------------------


def _deselected(marks: "LaneMarks", items: Sequence[pytest.Item]) -> str:
    lanes = " or ".join(marks.asked)
    only = f"the only test of {lanes} that pytest collected, {items[0].nodeid}, is"
    several = f"all {len(items)} tests of {lanes} that pytest collected, such as {items[0].nodeid}, are"
    by = "deselected (-k, -m, --deselect or a plugin)"
    return f"no lane test is left to run: {only if len(items) == 1 else several} {by}"


def _not_collected(config: pytest.Config, marks: "LaneMarks") -> str:
    lanes = " or ".join(marks.asked)
    found = list(dict.fromkeys(_places(config.rootpath, marks.asked)))
    if not found:
        return (
            f"no test of {lanes} was collected, and no test file below {config.rootpath} has one: mark one with "
            f"@pytest.mark.{marks.asked[0]}, or have megacpp init write a first one"
        )
    named = [os.path.relpath(config.rootpath / place, config.invocation_params.dir) for place in found[:NAMED]]
    words = [*map(str, config.invocation_params.args), *named]
    is_by_testpaths = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    why = " and isn't in testpaths" if is_by_testpaths else ""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        words = ["-m", lanes, *named]
    return f"no test of {lanes} was collected; {', '.join(named)} has some{why}: pytest {_typed(words)}"


def _places(root: Path, lanes: Sequence[str]) -> Iterator[str]:
    """The directories and files at the top of the project in which, by their sources, there are lane tests."""
    from pytest_megacpp.desk.gate.pytest_files import has_lane_tests, is_test_file, read_test_files

    patterns = read_test_files(root)
    for path in _python_files(root):
        relative = path.relative_to(root)
        if is_test_file(relative.as_posix(), patterns) and _names(path, lanes) and has_lane_tests(path, lanes):
            yield relative.parts[0]


def _python_files(root: Path) -> Iterator[Path]:
    """At most MAX_FILES: a hint isn't worth more."""
    seen = 0
    for folder, directories, names in os.walk(root):
        directories[:] = sorted(
            name
            for name in directories
            if not name.startswith(".")
            and name not in _LEFT_OUT
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            seen += 1
            if name.endswith(".py"):
                yield Path(folder, name)
        if seen > MAX_FILES:
            return


def _names(path: Path, lanes: Sequence[str]) -> bool:
    """Whether a lane's name stands in the file, which is quicker to find out than to parse it."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return any(lane.encode() in data for lane in lanes)


def _typed(words: Sequence[str]) -> str:
    """As it can be pasted into a shell of this system."""
    line = subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
    return one_line(line, 400)
