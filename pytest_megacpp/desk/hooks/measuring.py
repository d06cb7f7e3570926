"""Owns whether ranks are measured by coverage.py, and what the desk says of that; must not measure.

coverage.py's own word for "other processes, too" is `patch = ["subprocess"]`. Without it, ranks are left alone: a
tracer makes a test slower, and a compiler of graphs meets it in every frame.
"""

from typing import Any

import pytest

_HOW = 'patch = ["subprocess"] in [tool.coverage.run]'


def measures_ranks(config: pytest.Config, *, is_remote: bool) -> bool:
    """Whether the user wants coverage of other processes, and ranks write where pytest-cov combines it."""
    return not is_remote and "subprocess" in _patches(config)


def coverage_line(config: pytest.Config, *, is_remote: bool, title: str) -> str:
    """Empty where nobody asks for coverage."""
    if _controller(config) is None:
        return ""
    wants = "subprocess" in _patches(config)
    if is_remote and wants:
        return f"pytest-cov: {title} gives no data back, so ranks are not measured; --surface local measures them"
    if wants:
        return "pytest-cov: coverage of ranks is combined with the desk's, up to the last test that each one ended"
    where = " with --surface local" if is_remote else ""
    return f"pytest-cov: ranks are not measured; {_HOW} measures them{where}"


def _controller(config: pytest.Config) -> Any:
    """pytest-cov's, None where it isn't at work."""
    return getattr(config.pluginmanager.get_plugin("_cov"), "cov_controller", None)


def _patches(config: pytest.Config) -> list[str]:
    """What coverage.py is asked to patch; a version that knows nothing of that raises."""
    try:
        return list(_controller(config).cov.get_option("run:patch"))
    except Exception:
        return []
