"""Every command that a verdict tells somebody to run is one that this version accepts."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands import cli
from pytest_megacpp.desk.config.options import read_options

pytest_plugins = "pytester"

GOLDEN = Path(__file__).parents[1] / "golden"
COMMAND = re.compile(r"^(?:next)? +((?:[A-Z_]+=(?:\S+|\$\([^)]*\)) )*(?:pytest|megacpp) .+)$", re.MULTILINE)
COMMANDS = sorted({match for text in GOLDEN.glob("*/text.txt") for match in COMMAND.findall(text.read_text("utf-8"))})


def words(command: str) -> list[str]:
    """The command without the variables set before it."""
    parts = shlex.split(command.replace("$(mktemp -d)", "DIR"))
    return parts[next(number for number, part in enumerate(parts) if part in ("pytest", "megacpp")) :]


def test_there_are_some() -> None:
    assert {words(command)[0] for command in COMMANDS} == {"pytest", "megacpp"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_next_step_is_accepted(command: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = words(command)
    if program == "megacpp":
        assert isinstance(cli.parser().parse_args(arguments), argparse.Namespace)
        return
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makeconftest("from pytest_megacpp.desk.config.options import add_options as pytest_addoption")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    options = [word for word in arguments if "::" not in word]
    assert read_options(pytester.parseconfig("-p", "no:megacpp", *options)).surface == "local"
