"""Owns whether ranks are measured by pytest-cov, as the desk says it; must not measure."""

import pytest


def coverage_line(config: pytest.Config, is_remote: bool, title: str) -> str:
    """Empty where nobody asks for coverage."""
    option = config.option
    if not getattr(option, "cov_source", None) or getattr(option, "no_cov", False):
        return ""
    return "pytest-cov: ranks are not measured"
