"""Owns what is said of a conftest.py that can't be imported here: no source can stand for one. Must not import any."""

import sys

import pytest

from pytest_megacpp.desk.source.missing import missing


def explain(error: Exception, config: pytest.Config) -> None:
    """Writes a hint to where pytest writes its own error next, if something is missing here. The box has all of it."""
    why = missing(error)
    if why and not config.pluginmanager.has_plugin("megacpp-rank"):
        print(f"megacpp: {hint(why)}", file=sys.stderr, flush=True)


def hint(why: str) -> str:
    """What to do about it."""
    return (
        f"a conftest.py cannot be imported here ({why}), and pytest needs all of them: import what this desk lacks"
        " inside of its fixtures and hooks. Lane test files themselves need no change: their tests are read from"
        " the source"
    )
