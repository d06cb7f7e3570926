"""Refuses the paths in LACKING_PATHS to every Python process, where neither a mount nor a filter can hide a file."""

import errno
import os
import re
import sys

_EVENTS = frozenset({"open", "os.listdir", "os.scandir"})


def _pattern(globs: str) -> "re.Pattern[str]":
    """`*` is one name of a path."""
    return re.compile("|".join(re.escape(glob).replace(r"\*", "[^/]*") for glob in globs.split(":")))


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _EVENTS and isinstance(arguments[0], str) and _HIDDEN.fullmatch(arguments[0]):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])


if os.environ.get("LACKING_PATHS"):
    _HIDDEN = _pattern(os.environ["LACKING_PATHS"])
    sys.addaudithook(_refuse)
