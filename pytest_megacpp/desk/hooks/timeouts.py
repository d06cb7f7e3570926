"""Owns what pytest-timeout has to do with lane tests: its limit becomes theirs, its timer never runs for them.

The limit is what that plugin itself works out (mark, `--timeout`, PYTEST_TIMEOUT, ini, `func_only`): its own hooks are
started for each lane test, and what they ask of `pytest_timeout_set_timer` is the answer.
"""

import types
from collections.abc import Callable
from typing import Any

import pytest


class Timeouts:
    """A plugin; `is_lane_test` says for which items no timer may run at the desk."""

    def __init__(self, config: pytest.Config, is_lane_test: Callable[[pytest.Item], bool]) -> None:
        self._config = config
        self._is_lane_test = is_lane_test
        self._asked: pytest.Item | None = None
        self._limit_s = 0.0

    def limit_s(self, item: pytest.Item) -> float | None:
        """What pytest-timeout would give this test; None without a limit. Raises UsageError for a mark it refuses."""
        theirs = self._config.pluginmanager.get_plugin("timeout")
        if theirs is None:
            return None
        self._asked, self._limit_s = item, 0.0
        try:
            for name in ("pytest_runtest_protocol", "pytest_runtest_call"):
                for hook in getattr(self._config.hook, name).get_hookimpls():
                    if hook.plugin is theirs:
                        _begin(hook, item)
        finally:
            self._asked = None
        return self._limit_s if self._limit_s > 0 else None

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: object) -> bool | None:
        """That plugin's clock would run while the box works on other tests; the box has the limit."""
        if item is self._asked:
            self._limit_s = float(getattr(settings, "timeout", 0) or 0)
            return True
        return True if self._is_lane_test(item) else None


def _begin(hook: Any, item: pytest.Item) -> None:
    """Runs a wrapper up to its `yield`, where the test would come."""
    given = {"item": item}
    try:
        started = hook.function(*(given.get(name) for name in hook.argnames))
        if isinstance(started, types.GeneratorType):
            next(started, None)
            started.close()
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{item.nodeid}: invalid timeout for pytest-timeout: {error}") from None
