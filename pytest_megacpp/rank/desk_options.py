"""Owns which of the user's options a rank doesn't follow, since they are the desk's; must not know what a rank does.

An option of another plugin is known by what it does: one that writes a report, a profile or another result of the
session would be followed by every rank, into one file. pytest's own options, and those of plugins that choose tests or
start processes, are listed. Options of a conftest are the project's own, and kept.
"""

import argparse
import os
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

import pytest

# Stopping early, choosing tests, files and processes of the user's terminal. What isn't `None` is what a rank has.
LISTED: Mapping[str, object] = {
    "maxfail": 0,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "cacheclear": False,
    "usepdb": False,
    "trace": False,
    "xmlpath": None,
    "pastebin": None,
    "log_file": os.devnull,  # also for the file that the configuration names
    "numprocesses": None,
    "dist": "no",
    "tx": [],
    "looponfail": False,
    "durations": None,
    "timeout": None,
    "splits": None,
    "group": None,
    "cov_source": None,
    "force_sugar": False,
    "rich": False,
    "instafail": False,
    "disable_unused_snapshots": True,  # a rank runs some of the tests, and would delete what it takes for unused
    "warn_unused_snapshots": True,
}
_LIBRARY = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_WRITES = re.compile(r"\b(?:append|creat|dump|export|generat|output|produc|record|sav|stor|writ)\w*")
_PLACE = re.compile(r"\b(?:dir|directory|file|filename|folder|path)\b")
_READS = re.compile(r"\b(?:compare|config|configuration|from|input|load|read)\b")
_RESULT = re.compile(
    r"\b(?:benchmarks?|coverage|csv|durations?|graphs?|html|json|junit|logs?|metrics|profil\w*|reports?|results?"
    r"|statistics|stats|svg|xml|yaml)\b"
)


class DeskOptions:
    """A part of a rank's plugin: hears which plugin adds which options."""

    def __init__(self) -> None:
        self._parser: Any = None
        self._owners: dict[int, object] = {}

    def hear_parser(self, parser: pytest.Parser) -> None:
        self._parser = parser

    def hear_plugin(self, plugin: object) -> None:
        """Options that are new since the last plugin are this one's; the first to be heard are pytest's own."""
        for option in options_of(self._parser):
            self._owners.setdefault(id(option), plugin)

    def reset(self, given: argparse.Namespace, plugins: pytest.PytestPluginManager) -> None:
        """Gives the desk's options the values that they have where nobody asks for anything."""
        for name, value in {**self._recognised(plugins), **LISTED}.items():
            if hasattr(given, name):
                setattr(given, name, value)

    def _recognised(self, plugins: pytest.PytestPluginManager) -> dict[str, object]:
        installed = {id(plugin) for plugin, _ in plugins.list_plugin_distinfo()}
        return {
            option.dest: _default(option.attrs())
            for option in options_of(self._parser)
            if _is_installed(self._owners.get(id(option)), installed) and writes_results(option)
        }


def options_of(parser: Any) -> Iterator[Any]:
    """What pytest has of each option that was added so far."""
    groups = {id(group): group for group in (*parser._groups, parser._anonymous)} if parser is not None else {}
    return (option for group in groups.values() for option in group.options)


def _is_installed(owner: object, installed: Container[int]) -> bool:
    """Whether it is a plugin that is made for any project. pytest's own options are listed."""
    file = str(getattr(owner, "__file__", None) or "")
    return id(owner) in installed or bool(_LIBRARY.search(file))


def _default(attributes: Mapping[str, Any]) -> object:
    return attributes.get("default", False if attributes.get("action") == "store_true" else None)


def writes_results(option: Any) -> bool:
    """Whether an option, by its own words, has results of the session written, or says where."""
    attributes = option.attrs()
    if isinstance(attributes.get("type"), argparse.FileType):
        return "r" not in attributes["type"]._mode
    names = [*option.names(), option.dest, str(attributes.get("metavar") or "")]
    words = " ".join([*names, str(attributes.get("help") or "")]).lower().replace("-", " ").replace("_", " ")
    is_written = _WRITES.search(words) or _PLACE.search(words)
    return bool(is_written and _RESULT.search(words) and not _READS.search(words))
