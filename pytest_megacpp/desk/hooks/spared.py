"""Owns plugins that see tests of the desk only, since lane tests have the same by another way; must not import any."""

import os
from collections.abc import Callable
from typing import Any

import pytest

IsLaneTest = Callable[[str], bool]


class _Errors:
    """In the place of what pytest-github-actions-annotate-failures registers: annotations of lane tests are ours."""

    def __init__(self, inner: Any, is_lane_test: IsLaneTest) -> None:
        self._inner = inner
        self._is_lane_test = is_lane_test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self._is_lane_test(report.nodeid):
            self._inner.pytest_runtest_logreport(report)


class _Debugger:
    """In the place of what pytest registers for `--pdb`: at the desk a lane test has no frames."""

    def __init__(self, inner: Any, is_lane_test: IsLaneTest) -> None:
        self._inner = inner
        self._is_lane_test = is_lane_test

    def pytest_exception_interact(self, node: Any, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
        if not self._is_lane_test(node.nodeid):
            self._inner.pytest_exception_interact(node, call, report)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._inner.pytest_internalerror(excinfo)


def spare_lane_tests(config: pytest.Config, is_lane_test: IsLaneTest, *, annotates: bool) -> None:
    """Once every plugin has been registered. `annotates`: whether this plugin annotates failures."""
    replacements: dict[str, Any] = {"pdbinvoke": _Debugger}
    if annotates and os.environ.get("GITHUB_ACTIONS") == "true":
        replacements["annotate_errors"] = _Errors
    for name, make in replacements.items():
        inner = config.pluginmanager.get_plugin(name)
        if inner is not None and type(inner) is not make:
            config.pluginmanager.unregister(inner)
            config.pluginmanager.register(make(inner, is_lane_test), name)
