"""Owns what ranks warned of, as warnings of the desk's own session: each once, with its ranks; must not judge.

As pytest-xdist does: a rank's pytest applies the filters, the desk calls the hook again. Nothing that a recording
names is imported for that. The desk collects what ranks collect: its own warnings are not repeated.
"""

import builtins
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeAlias

import pytest

from pytest_megacpp.recording.events import Warned
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.clean import clean, one_line

TEXT_CHARS = 2_000
_Key: TypeAlias = tuple[str, str, str, int]


class RankWarnings:
    """A plugin of the desk. pytest calls the hook for earlier warnings, too."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._own: list[warnings.WarningMessage] = []

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        if when != "runtest":
            self._own.append(warning_message)

    def of_test(self, item: pytest.Item, timeline: Timeline, test: int) -> None:
        """Those of all attempts at a test of the plan."""
        views = [view for number in timeline.attempts(test) if (view := timeline.tests.get(number)) is not None]
        raised = (warned for view in views for rank in view.ranks.values() for warned in rank.warnings)
        size = max((view.size for view in views), default=0)
        self._record(item.ihook, raised, size, item.nodeid, "runtest")

    def before_tests(self, timeline: Timeline, redactor: Redactor) -> None:
        """Those of the import of conftests and tests, which each world does anew."""
        worlds = timeline.worlds.values()
        raised = (warned for world in worlds for rank in world.warnings.values() for warned in rank)
        size = max((world.size for world in worlds), default=0)
        known = {_key(_name(w.category), redactor.text(str(w.message)), w.filename, w.lineno) for w in self._own}
        self._record(self._config.hook, (w for w in raised if _key_of(w) not in known), size, "", "collect")

    @staticmethod
    def _record(hook: Any, raised: Iterable[Warned], size: int, nodeid: str, when: str) -> None:
        alike: dict[_Key, list[Warned]] = defaultdict(list)
        for warned in raised:
            alike[_key_of(warned)].append(warned)
        for same in alike.values():
            shown = _shown(same[0], _named({warned.rank for warned in same}, size))
            arguments = {"warning_message": shown, "nodeid": nodeid, "when": when, "location": None}
            hook.pytest_warning_recorded.call_historic(kwargs=arguments)


def _key_of(warned: Warned) -> _Key:
    return _key(warned.category, warned.message, warned.file, warned.line)


def _key(category: str, text: str, file: str, line: int) -> _Key:
    """A box elsewhere has the file below another directory."""
    return category, one_line(text), os.path.basename(file), line


def _name(category: type[Warning]) -> str:
    return f"{category.__module__}.{category.__name__}"


def _named(ranks: set[int], size: int) -> str:
    return "all ranks" if len(ranks) == size > 1 else ranks_named(ranks)


def _shown(warned: Warned, ranks: str) -> warnings.WarningMessage:
    category = _class(warned.category)
    message = category(f"{clean(warned.message[:TEXT_CHARS])} ({ranks})")
    file, source = one_line(warned.file), one_line(warned.source)
    return warnings.WarningMessage(message, category, file, warned.line, line=source)


def _class(name: str) -> type[Warning]:
    """Python's and pytest's own classes; any other is made up, for its name."""
    module, _, short = one_line(name).rpartition(".")
    known = getattr({"builtins": builtins, "pytest": pytest}.get(module), short, None)
    if isinstance(known, type) and issubclass(known, Warning):
        return known
    return type(short, (Warning,), {"__module__": module})
