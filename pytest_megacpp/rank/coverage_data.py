"""Owns measuring a rank by coverage.py, where the desk asks for it; must not know what becomes of the data.

pytest-cov at the desk combines the data files beside its own. They are complete whenever the box hears that a test is
over: a rank may be killed at any time later, and what it writes then would lie about.
"""

import argparse
import importlib
from typing import Any


class CoverageData:
    """Of one rank."""

    def __init__(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._coverage: Any = None

    def begin(self, options: argparse.Namespace) -> None:
        """Begins with pytest-cov's options, before conftests are imported."""
        source = getattr(options, "cov_source", None)
        if not self._is_wanted or not source:
            return
        self._coverage = importlib.import_module("coverage").Coverage(
            source=None if True in source else [path for path in source if path is not True],
            branch=options.cov_branch,
            config_file=True if options.cov_config == ".coveragerc" else options.cov_config,
            data_suffix=True,
        )
        self._coverage.set_option("run:patch", [])  # they are of processes that this one starts
        self._coverage.start()

    def test_is_over(self) -> None:
        if self._coverage is not None:
            self._coverage.save()
