"""Owns how many cases the fuzzers of recordings, lines, archives and streams try; must not know what they test.

pytest -m fuzz                            # as in every run, seconds
TESTS_EXAMPLES=50000 pytest -m fuzz       # after a change to what reads foreign bytes
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

EXAMPLES = int(os.environ.get("TESTS_EXAMPLES", "0"))

Test = TypeVar("Test", bound=Callable[..., Any])


def fuzzer(examples: int = 50, **more: Any) -> Callable[[Test], Test]:
    """Marks a property test whose input comes from elsewhere; it tries `examples` cases, or as many as asked for."""

    def marked(test: Test) -> Test:
        decorated: Test = pytest.mark.fuzz(settings(max_examples=max(examples, EXAMPLES), **more)(test))
        return decorated

    return marked
