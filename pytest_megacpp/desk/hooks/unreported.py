"""Owns the text about selected lane tests that got no result; must not know how results come about."""

from collections.abc import Iterable, Sequence

import pytest

from pytest_megacpp.report.clean import one_line

SHOWN = 10
_HOOKS = ("pytest_runtestloop", "pytest_runtest_protocol")


def unreported_lines(items: Sequence[pytest.Item], plugins: pytest.PytestPluginManager) -> Iterable[str]:
    """Yields which tests are missing, and which hooks of the project or of its plugins may have taken them."""
    yield f"{len(items)} selected, but never reported, so the session fails:"
    for item in items[:SHOWN]:
        yield f"  {one_line(item.nodeid, 200)}"
    if len(items) > SHOWN:
        yield f"  … and {len(items) - SHOWN} more"
    for hook in _HOOKS:
        for name in _implementing(hook, plugins):
            yield f"{one_line(name, 200)} implements {hook} and may have taken them: let it return None for lane tests"


def _implementing(hook: str, plugins: pytest.PytestPluginManager) -> Iterable[str]:
    """Plugins, conftests among them, that can answer in pytest's place; neither pytest's own nor this one."""
    for implementation in getattr(plugins.hook, hook).get_hookimpls():
        module = getattr(implementation.function, "__module__", "") or ""
        is_wrapper = implementation.wrapper or implementation.hookwrapper
        if not is_wrapper and not module.startswith(("_pytest.", "pytest_megacpp.", "xdist.", "pytest_rerunfailures")):
            yield implementation.plugin_name
