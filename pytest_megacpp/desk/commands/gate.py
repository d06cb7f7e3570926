"""Owns `megacpp gate`: which rules a change triggers, without running anything; must not know how that is decided."""

import argparse
import os
import sys
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands.command import OK, Desk, say, say_json, takes_json
from pytest_megacpp.desk.config.declarations import variable_of
from pytest_megacpp.desk.config.lanes import read_lanes
from pytest_megacpp.desk.config.options import read_gate
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.settings.checks import text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    since = os.environ.get(variable_of("gate_since")) or None
    parser.add_argument(
        "--since", metavar="REV", default=since, help="compare with the merge base of REV and this branch"
    )
    parser.add_argument(
        "places", metavar="PATH", nargs="*", help="where lane tests are, as for pytest (default: everywhere)"
    )
    parser.add_argument("--explain", action="store_true", help="show every reason, and each test file with its own")
    takes_json(parser)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Prints the decision. Raises UsageError."""
    from pytest_megacpp.desk.gate.decide import as_json, decide, explained, shortened, unguarded
    from pytest_megacpp.desk.gate.pytest_files import read_test_files

    since = arguments.since or desk.settings.get("gate_since")
    revision = text(since, what="the revision", where="megacpp gate --since")
    rules = read_gate(desk.settings.get("gate", []))
    test_files, lanes = read_test_files(desk.root), tuple(read_lanes(desk.settings.get("lanes", {})))
    gate = decide(revision, rules, desk.root, test_files, sys.path)
    places = [_from_project(place, desk.root) for place in arguments.places or [desk.root]]
    alone = unguarded(gate, places, test_files, lanes)
    if arguments.json:
        say_json(as_json(gate) | {"unguarded": list(alone)})
        return OK
    always_run = [f"no rule guards {one_line(file, 200)}: its lane tests always run" for file in alone]
    say(explained(gate, everything=arguments.explain))
    say(f"  {line}" for line in (always_run if arguments.explain else shortened(always_run)))
    triggered = [decision.rule.name for decision in gate.triggered] + ["tests without a rule"] * bool(alone)
    say([f"triggered: {', '.join(triggered) or 'none'}"])
    return OK


def _from_project(given: str | Path, root: Path) -> str:
    """What pytest would take from where the command was typed, as rules spell it. Raises UsageError."""
    path, root = Path(str(given).partition("::")[0]).resolve(), root.resolve()
    if not path.exists() or not path.is_relative_to(root):
        raise pytest.UsageError(f"{given}: there is nothing of that name in {root}")
    return path.relative_to(root).as_posix()
