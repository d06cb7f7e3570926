"""Owns the CPU seconds of each reporter of a session, written to the file that REPORTER_TIME names; a conftest.py."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.artefacts import Artefacts

_cpu_s: Counter[str] = Counter()
_ask = Artefacts._ask


def _timed(self: Artefacts, reporter: Any, *arguments: Any) -> None:
    begun_s = time.thread_time()
    try:
        _ask(self, reporter, *arguments)
    finally:
        _cpu_s[reporter.name] += time.thread_time() - begun_s


def pytest_configure() -> None:
    """Times every reporter."""
    setattr(Artefacts, "_ask", _timed)  # noqa: B010


def pytest_unconfigure() -> None:
    """In the desk only: ranks have no reporters."""
    if _cpu_s:
        Path(os.environ["REPORTER_TIME"]).write_text(json.dumps(_cpu_s), encoding="utf-8")
