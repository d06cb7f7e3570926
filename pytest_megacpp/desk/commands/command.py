"""Owns what all commands share: where they look, exit codes, how they print; must not know any of them."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_megacpp.desk.config.options import DEFAULT_LANE_DIR, read_lane_dir, read_settings
from pytest_megacpp.desk.run.directory import finite
from pytest_megacpp.report.clean import clean, escaped
from pytest_megacpp.report.layout import columns

if TYPE_CHECKING:
    from pytest_megacpp.desk.commands.configured import Configured

OK, FAILED, UNREADABLE, INTERRUPTED = 0, 1, 2, 130
WIDTH = 120  # where there is no terminal
RUN_HELP = "id, its beginning, `last`, or a path (default: the newest)"


class Desk:
    """Where a command looks: the project's configuration and its lane directory."""

    def __init__(self, given: str | None) -> None:
        self.root = root = _root(Path.cwd())
        self.settings = read_settings(root / "pyproject.toml")
        self.lane_dir = read_lane_dir(given or None, self.settings, root)

    def configured(self, surface: str) -> "Configured":
        """What the configuration asks of a surface."""
        from pytest_megacpp.desk.commands.configured import Configured

        untrusted = self.settings.get("untrusted") is True
        return Configured(surface, self.settings, self.root, self.lane_dir, untrusted)


Command = Callable[[Desk, argparse.Namespace], int]


class CannotDo(Exception):
    """A command can't do what was asked for; the text says why, and what can be done instead."""


def _root(start: Path) -> Path:
    """The nearest directory upwards that has runs or configures lanes, else one with a pyproject.toml, else `start`."""
    upwards = (start, *start.parents)
    ours = (place for place in upwards if (place / DEFAULT_LANE_DIR).is_dir() or _configures(place))
    projects = (place for place in upwards if (place / "pyproject.toml").is_file())
    return next(ours, None) or next(projects, start)


def _configures(place: Path) -> bool:
    try:
        return b"tool.pytest_megacpp" in (place / "pyproject.toml").read_bytes()
    except OSError:
        return False


def width() -> int:
    """The columns of the terminal."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def fitting(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows of cells as lines, on a terminal no wider than that; so what matters least is in the last cells."""
    room = width() if sys.stdout.isatty() else None
    for line in columns(rows):
        yield line if room is None or len(line) <= room else f"{line[: room - 1].rstrip()} …"[:room]


def say(lines: Iterable[str]) -> None:
    """Prints lines; characters that the terminal's encoding lacks are escaped. A reader that leaves, such as `head`,
    changes nothing of what the command does, nor its exit code.
    """
    left = iter(lines)
    try:
        say_on(left)
    except BrokenPipeError:
        leave_unread()
        for _ in left:  # some commands act while they print
            pass


def say_on(lines: Iterable[str]) -> None:
    """As `say`, of what may have no end: raises BrokenPipeError when the reader has left."""
    for line in lines:
        print(escaped(clean(line), sys.stdout.encoding))


def leave_unread() -> None:
    """The reader has seen enough: what is printed from now on goes nowhere, and nothing is flushed to it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def say_json(document: object) -> None:
    """Prints a document for programs, in ASCII: what a rank wrote acts on no terminal. Numbers that JSON can't say are
    texts, as in the files of a run.
    """
    try:
        print(json.dumps(finite(document), indent=1, allow_nan=False))
    except BrokenPipeError:
        leave_unread()


def complain(message: str) -> None:
    print(f"megacpp: {clean(message)}", file=sys.stderr)


def takes_run(parser: argparse.ArgumentParser) -> None:
    """Adds the argument RUN."""
    parser.add_argument("name", metavar="RUN", nargs="?", default="latest", help=RUN_HELP)


def takes_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print a JSON document for programs")
