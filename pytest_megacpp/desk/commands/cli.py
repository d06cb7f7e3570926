"""Owns the `megacpp` command: arguments, exit codes, where to look; must not know how runs are made, judged or shown.

Every command first marks the runs whose desk died. Results go to stdout, complaints to stderr.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

import pytest

from pytest_megacpp.desk.commands import completion as completion_command
from pytest_megacpp.desk.commands import diff as diff_command
from pytest_megacpp.desk.commands import doctor as doctor_command
from pytest_megacpp.desk.commands import gate as gate_command
from pytest_megacpp.desk.commands import history as history_command
from pytest_megacpp.desk.commands import logs as logs_command
from pytest_megacpp.desk.commands import prune as prune_command
from pytest_megacpp.desk.commands import runs as runs_command
from pytest_megacpp.desk.commands import show as show_command
from pytest_megacpp.desk.commands import stacks as stacks_command
from pytest_megacpp.desk.commands import stop as stop_command
from pytest_megacpp.desk.commands.command import (
    FAILED,
    INTERRUPTED,
    OK,
    UNREADABLE,
    CannotDo,
    Command,
    Desk,
    complain,
    leave_unread,
    say,
    say_json,
    takes_json,
    takes_run,
)
from pytest_megacpp.desk.config.options import DEFAULT_LANE_DIR
from pytest_megacpp.desk.config.pyproject import misspelt_table
from pytest_megacpp.desk.run import runs
from pytest_megacpp.desk.run.directory import utc_now
from pytest_megacpp.desk.run.interrupted import mark_interrupted
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.seed_layout import SeedError, named
from pytest_megacpp.surfaces.registry import HERE, SURFACES, provider

EXIT_CODES = """exit codes:
  0  done; run: passed; show, judge: every test is green; doctor: a launch can start
  1  run: failed; show, judge: a test failed or has no result; doctor: something is missing; seed show: damaged;
     diff: a test broke; logs, stacks, history: there is nothing to print; prune, stop: something is left
  2  bad arguments, no such run or seed, a recording with nothing readable in it; run: blocked, or the infrastructure
     failed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code of the process."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["run"] and words[1:] not in (["-h"], ["--help"]):  # all that follows is pytest's
        return _pytest(words[1:])
    arguments = parser().parse_args(words)
    code = OK
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        leave_unread()
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def parser() -> argparse.ArgumentParser:
    """The command line; what it parses has the command to run in `run`."""
    raw = argparse.RawDescriptionHelpFormatter
    megacpp = argparse.ArgumentParser(
        "megacpp",
        description="Run distributed lane tests and inspect their runs.",
        epilog=EXIT_CODES,
        formatter_class=raw,
    )
    megacpp.add_argument("--version", action="version", version=f"megacpp {_version()}")
    commands = megacpp.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, epilog=EXIT_CODES, formatter_class=raw)
        made.add_argument("--lane-dir", metavar="DIR", help=f"where runs are kept (default: {DEFAULT_LANE_DIR})")
        made.set_defaults(run=run)
        return made

    about_run = "run pytest for a script: 0 passed, 1 failed, 2 blocked or infrastructure"
    run = commands.add_parser("run", help=about_run, description=about_run, epilog=EXIT_CODES, formatter_class=raw)
    run.add_argument("arguments", metavar="PYTEST_ARGUMENT", nargs="*", help="as pytest takes them: -m h200x8 …")
    command("init", _init, "write a first configuration, lane test and workflow; existing files are left alone")
    gate_command.add_arguments(command("gate", gate_command.run, "show which gate rules a change triggers"))
    runs_command.add_arguments(command("runs", runs_command.run, "list the runs of this project, the newest first"))
    show = command("show", _show, "show a run, what its tests measured, and the text of each failing test")
    takes_run(show)
    takes_json(show)
    _add_over_runs(command)
    logs_command.add_arguments(command("logs", logs_command.run, "print what ranks wrote, or follow it"))
    stacks_command.add_arguments(command("stacks", stacks_command.run, "show where all ranks are now"))
    stop_command.add_arguments(command("stop", stop_command.run, "end a running run from another terminal"))
    judge = command("judge", _judge, "judge a recording again")
    judge.add_argument("name", metavar="RECORDING", help="a recording.jsonl, a run directory, a run id, or -")
    takes_json(judge)
    about_doctor = "check what a lane would run on: this machine, or another surface's"
    doctor_command.add_arguments(command("doctor", doctor_command.run, about_doctor))
    completion_command.add_arguments(
        command("completion", lambda desk, arguments: completion_command.run(parser(), arguments), "print completions")
    )
    _add_seed(commands)
    return megacpp


def _add_over_runs(command: "Callable[[str, Command, str], argparse.ArgumentParser]") -> None:
    history_command.add_arguments(command("history", history_command.run, "show how tests did over the kept runs"))
    diff_command.add_arguments(command("diff", diff_command.run, "compare two runs"))
    prune_command.add_arguments(command("prune", prune_command.run, "remove old runs, never a running one"))


def _add_seed(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    raw = argparse.RawDescriptionHelpFormatter
    about = "inspect and manage seeds, the compile caches that green runs left"
    seed = commands.add_parser("seed", help=about, description=about, epilog=EXIT_CODES, formatter_class=raw)
    seed.set_defaults(run=_seed, lane_dir=None)
    actions = seed.add_subparsers(required=True, metavar="ACTION", dest="action")

    def action(name: str, about: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=about, description=about, epilog=EXIT_CODES, formatter_class=raw)
        made.add_argument("--surface", choices=sorted(SURFACES), default=HERE, help="whose seeds (default: here)")
        return made

    takes_json(action("list", "list the seeds by launch shape; * marks the last known good ones"))
    show = action("show", "show everything that is known about a seed")
    takes_json(show)
    promote = action("promote", "make a seed the last known good one of its shape")
    for named_one in (show, promote):
        named_one.add_argument("name", metavar="ID", help="id, or its beginning")
    drop = action("drop", "remove seeds")
    drop.add_argument("names", metavar="ID", nargs="+", help="ids, or their beginnings")
    bake = action("bake", "write the last known good seeds into a directory, to be copied into an image")
    bake.add_argument("directory", metavar="DIR", type=Path, help="a new directory, or one that was baked before")
    bake.add_argument("--lane", metavar="NAME", help="only the seeds of this lane")


def _version() -> str:
    try:
        return version("pytest-megacpp")
    except PackageNotFoundError:
        return "of a checkout that is not installed"


def _pytest(arguments: Sequence[str]) -> int:
    from pytest_megacpp.desk.commands.run import run

    return int(run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    command: Command = arguments.run
    try:
        desk = Desk(arguments.lane_dir)
        if (misspelt := misspelt_table(desk.root)) is not None:
            complain(misspelt)
        _clean_up(desk.lane_dir)
        return command(desk, arguments)
    except BrokenPipeError:
        raise
    except (runs.RunNotFound, CannotDo, SeedError, pytest.UsageError) as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename or 'a file'} can't be read: {error.strerror or error}")
    return UNREADABLE


def _clean_up(lane_dir: Path) -> None:
    for entry in mark_interrupted(lane_dir, _sweep()):
        problem = f", but {entry.problem}" if entry.problem else ""
        complain(f"run {entry.run_id} was cut off; it is now marked as interrupted{problem}")


def _sweep() -> Callable[[str], object] | None:
    try:
        from pytest_megacpp.surfaces.sweep import sweep
    except ImportError:
        return None
    return sweep


def _init(desk: Desk, arguments: argparse.Namespace) -> int:
    from pytest_megacpp.desk.commands.init import TRY_IT, write_starter

    say(f"{written.name:<34}{written.action}" for written in write_starter(Path.cwd()))
    say(["", f"try it: {TRY_IT}"])
    return OK


def _show(desk: Desk, arguments: argparse.Namespace) -> int:
    gate = show_command.gate_alone(desk.lane_dir, arguments.name)
    if gate is not None:
        if arguments.json:
            say_json(runs_command.as_json(gate.entry) | {"is_running": False, "tests": []})
        else:
            say(gate.lines)
        return FAILED if gate.failed else OK
    joint = show_command.joint_run(desk.lane_dir, arguments.name)
    if joint is not None:
        return _show_joint(joint, as_json=arguments.json)
    seen = show_command.judged(runs.find_recording(desk.lane_dir, arguments.name))
    if arguments.json:
        say_json(show_command.run_json(seen))
    else:
        say(show_command.run_shown(seen))
    return FAILED if seen.is_bad else OK


def _show_joint(joint: show_command.Joint, *, as_json: bool) -> int:
    if as_json:
        say_json(show_command.joint_json(joint))
    else:
        say(show_command.joint_shown(joint))
    return FAILED if joint.is_bad else OK


def _judge(desk: Desk, arguments: argparse.Namespace) -> int:
    named = arguments.name
    seen = show_command.judged(runs.STDIN if named == "-" else runs.find_recording(desk.lane_dir, named))
    if arguments.json:
        say_json(show_command.judgement_json(seen))
    else:
        say(show_command.judgement_shown(seen))
    green = seen.result.tests and all(not test.outcome.is_red for test in seen.result.tests)
    return OK if green else FAILED


_SeedAction: TypeAlias = Literal["list", "show", "promote", "drop", "bake"]


def _seed(desk: Desk, arguments: argparse.Namespace) -> int:
    from pytest_megacpp.desk.commands import seed as seed_command

    held = provider(arguments.surface).shelf(desk.configured(arguments.surface))
    action: _SeedAction = arguments.action
    match action:
        case "list" if arguments.json:
            say_json([to_json(seed) for seed in held.seeds()])
        case "list":
            say(seed_command.listed(held, utc_now()))
        case "show":
            seed = named(held.seeds(), arguments.name)
            if arguments.json:
                say_json(to_json(seed))
            else:
                say(seed_command.shown(seed))
            return OK if seed.manifest is not None else FAILED
        case "promote":
            say(seed_command.promoted(held, arguments.name))
        case "drop":
            say(seed_command.dropped(held, arguments.names))
        case "bake":
            say(seed_command.baked(held, arguments.directory, arguments.lane, desk.settings, desk.root))
        case _:
            assert_never(action)
    return OK


if __name__ == "__main__":
    sys.exit(main())
