"""Owns what several attempts at a test come to together; must not judge any of them.

The last attempt counts: a warm-up only prepares the one that is measured.
"""

from collections.abc import Sequence
from dataclasses import replace

from pytest_megacpp.judge.verdicts import Attempt, TestResult


def settle(results: Sequence[TestResult], purposes: Sequence[str]) -> TestResult:
    """The result of a test, from those of all attempts at it, in their order; `purposes` as the plan names them."""
    first, last = results[0], results[-1]
    if len(results) == 1:
        return first
    ladder = tuple(
        Attempt(result.index, purpose, result.outcome, result.verdict)
        for result, purpose in zip(results, purposes, strict=True)
    )
    return replace(last, index=first.index, attempt=last.index, attempts=ladder)
