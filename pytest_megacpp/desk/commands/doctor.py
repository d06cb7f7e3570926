"""Owns `megacpp doctor`: whether a launch would find all that it needs; must not know what a surface looks at."""

import argparse
import sys

from pytest_megacpp.desk.commands.command import FAILED, OK, Desk, say, say_json, takes_json
from pytest_megacpp.desk.config.lanes import read_lanes
from pytest_megacpp.surfaces.registry import HERE, METAVAR_OF_ONE, known_surface, provider


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--surface", metavar=METAVAR_OF_ONE, default=HERE, help="where to look (default: here)")
    takes_json(parser)


def run(desk: Desk, arguments: argparse.Namespace) -> int:
    """Prints what is found; FAILED if something is missing. Raises UsageError."""
    lanes = tuple(read_lanes(desk.settings.get("lanes", {})).values())
    surface = known_surface(arguments.surface, desk.settings, where="--surface")
    examination = provider(surface, desk.settings).examination(desk.configured(surface), lanes)
    if arguments.json:
        lines = list(examination.lines())
        say_json({"surface": surface, "ready": examination.ready, "lines": lines})
        return OK if examination.ready else FAILED
    for line in examination.lines():
        say([line])
        sys.stdout.flush()  # some of what is looked at takes its time
    return OK if examination.ready else FAILED
