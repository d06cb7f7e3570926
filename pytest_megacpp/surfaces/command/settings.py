"""Owns reading `[tool.pytest_megacpp.surfaces.NAME]`, checked key by key; must not run anything.

Loaded only by sessions that run there, and by commands that are asked about it.
"""

import re
from collections.abc import Mapping

import pytest

from pytest_megacpp.settings.checks import flag, known, seconds, table, text
from pytest_megacpp.surfaces.command.config import CommandConfig
from pytest_megacpp.surfaces.registry import CONFIGURED

KEYS = (
    *("command", "shell", "environment", "attach", "stop"),
    *("python", "directory", "capacity_s", "lease_s"),
)
DEFAULT = CommandConfig("", ())
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


def table_of(name: str) -> str:
    return f"[tool.pytest_megacpp.{CONFIGURED}.{name}]"


def read_command(name: str, value: object) -> CommandConfig:
    """The table of the surface `name`, checked. Raises UsageError."""
    where = table_of(name)
    settings = table(value, what="it", where=where)
    for key in settings:
        known(key, KEYS, what="key", where=where)
    if "command" not in settings:
        raise pytest.UsageError(
            f'{where}: command is missing: the words that reach the machine, as in ["ssh", "gpu01"]'
        )
    return CommandConfig(
        name=name,
        command=_words(settings, "command", where),
        shell=flag(settings.get("shell", DEFAULT.shell), what="shell", where=where),
        environment=_environment(settings.get("environment", {}), f"{where[:-1]}.environment]"),
        attach=_words(settings, "attach", where),
        stop=_words(settings, "stop", where),
        python=_text(settings, "python", DEFAULT.python, where),
        directory=_text(settings, "directory", DEFAULT.directory, where),
        capacity_s=_time_s(settings, "capacity_s", DEFAULT.capacity_s, where),
        lease_s=_time_s(settings, "lease_s", DEFAULT.lease_s, where),
    )


def _words(settings: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    if key not in settings:
        return ()
    words = settings[key]
    if not isinstance(words, list) or not words or not all(isinstance(w, str) and "\0" not in w for w in words):
        raise pytest.UsageError(f'{where}: {key} must be a list of words, as in ["ssh", "gpu01"], not {words!r}')
    if not words[0].strip():
        raise pytest.UsageError(f"{where}: {key} must begin with a program, not {words!r}")
    return tuple(words)


def _environment(value: object, where: str) -> dict[str, str]:
    variables = table(value, what="it", where=where)
    for name, content in variables.items():
        if not _VARIABLE.fullmatch(name) or not isinstance(content, str) or "\0" in content:
            raise pytest.UsageError(f'{where}: variables are strings, such as {name} = "1"; not {content!r}')
    return {name: str(content) for name, content in variables.items()}


def _text(settings: Mapping[str, object], key: str, default: str, where: str) -> str:
    return text(settings[key], what=key, where=where) if key in settings else default


def _time_s(settings: Mapping[str, object], key: str, default: float, where: str) -> float:
    return seconds(settings[key], what=key, where=where) if key in settings else default
