"""Owns the `megacpp` command: arguments, exit codes, where to look; must not know how runs are made, judged or shown.

Every command first marks the runs whose desk died. Results go to stdout, complaints to stderr.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from pytest_megacpp.desk import look, runs
from pytest_megacpp.desk.options import DEFAULT_LANE_DIR, TABLE, read_environment, read_lanes, read_table, twin
from pytest_megacpp.desk.rundir import mark_interrupted
from pytest_megacpp.desk.words import text

OK, FAILED, UNREADABLE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = """exit codes:
  0  done; show, judge: every test is green; doctor: a dry run can start here
  1  show, judge: a test failed or has no result; doctor: no run can start here
  2  bad arguments, no such run, or a recording with nothing readable in it
"""


class Desk:
    """Where a command looks: the project's configuration and its lane directory."""

    def __init__(self, given: str | None) -> None:
        root = _root(Path.cwd())
        self.settings = read_table(root / "pyproject.toml")
        given = given or os.environ.get(twin("lane_dir"), "").strip() or None
        named = text(self.settings.get("lane_dir", DEFAULT_LANE_DIR), what="it", where=f"lane_dir in {TABLE}")
        self.lane_dir = root / Path(named).expanduser() if given is None else Path(given).expanduser()


Command = Callable[[Desk, argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code of the process."""
    arguments = parser().parse_args(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def parser() -> argparse.ArgumentParser:
    """The command line; what it parses has the command to run in `run`."""
    raw = argparse.RawDescriptionHelpFormatter
    megacpp = argparse.ArgumentParser(
        "megacpp", description="Looks at runs of distributed lanes.", epilog=EXIT_CODES, formatter_class=raw
    )
    commands = megacpp.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, epilog=EXIT_CODES, formatter_class=raw)
        made.add_argument("--lane-dir", metavar="DIR", help=f"where runs are kept (default: {DEFAULT_LANE_DIR})")
        made.set_defaults(run=run)
        return made

    command("runs", _runs, "list the runs of this project")
    show = command("show", _show, "show a run and the text of each failing test")
    show.add_argument("name", metavar="RUN", nargs="?", default="latest", help="id, its beginning, or a path")
    judge = command("judge", _judge, "judge a recording again")
    judge.add_argument("name", metavar="RECORDING", help="a recording.jsonl, a run directory or a run id")
    command("doctor", _doctor, "say what a lane would find on this machine")
    return megacpp


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


def _run(arguments: argparse.Namespace) -> int:
    command: Command = arguments.run
    try:
        desk = Desk(arguments.lane_dir)
        _clean_up(desk.lane_dir)
        return command(desk, arguments)
    except BrokenPipeError:
        raise
    except (runs.RunNotFound, pytest.UsageError) as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'a file'} can't be read: {error.strerror or error}")
    return UNREADABLE


def _clean_up(lane_dir: Path) -> None:
    for entry in mark_interrupted(lane_dir, _sweep()):
        problem = f", but {entry.problem}" if entry.problem else ""
        _complain(f"run {entry.run_id} was cut off; it is now marked as interrupted{problem}")


def _sweep() -> Callable[[str], object] | None:
    try:
        from pytest_megacpp.surfaces.local import sweep
    except ImportError:
        return None
    return sweep


def _complain(said: str) -> None:
    print(f"megacpp: {said}", file=sys.stderr)


def _say(lines: Iterable[str]) -> None:
    """Prints; what the terminal's encoding lacks is shown as its escape."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def _runs(desk: Desk, arguments: argparse.Namespace) -> int:
    _say(look.runs_table(desk.lane_dir))
    return OK


def _show(desk: Desk, arguments: argparse.Namespace) -> int:
    seen = look.judged(runs.find_recording(desk.lane_dir, arguments.name))
    _say(look.run_shown(seen))
    return FAILED if seen.bad or not seen.result.tests else OK


def _judge(desk: Desk, arguments: argparse.Namespace) -> int:
    seen = look.judged(runs.find_recording(desk.lane_dir, arguments.name))
    _say(look.judgement_shown(seen))
    green = seen.result.tests and all(test.outcome not in look.BAD for test in seen.result.tests)
    return OK if green else FAILED


def _doctor(desk: Desk, arguments: argparse.Namespace) -> int:
    from pytest_megacpp.desk.doctor import examine

    lanes = read_lanes(desk.settings.get("lanes", {}))
    lines, ready = examine(desk.lane_dir, lanes, read_environment(desk.settings.get("environment", {})))
    _say(lines)
    return OK if ready else FAILED


if __name__ == "__main__":
    sys.exit(main())
