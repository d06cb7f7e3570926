"""Owns `megacpp completion`: what a shell needs to complete the command's words; must not know the commands."""

import argparse

from pytest_megacpp.desk.commands.command import OK, CannotDo

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help='as in: eval "$(megacpp completion bash)"')


def run(megacpp: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Prints a shell's script. Raises CannotDo without shtab."""
    try:
        import shtab
    except ImportError:
        raise CannotDo("completions are made by shtab: pip install 'pytest-megacpp[completion]'") from None
    print(shtab.complete(megacpp, shell=arguments.shell))
    return OK
