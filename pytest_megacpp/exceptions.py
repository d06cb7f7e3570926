"""Owns what a lane test that isn't green raises at the desk, for hooks of pytest and of other plugins; must not know
how either comes about. Nothing of it was raised in a rank: there, a test raises what it raises.
"""

from pytest_megacpp.judge.verdicts import Verdict


class LaneTestFailed(AssertionError):
    """The code under test failed: `call.excinfo.value` of `pytest_runtest_makereport`. Its text is the headline."""

    def __init__(self, headline: str, verdict: Verdict | None = None) -> None:
        super().__init__(headline)
        self.verdict = verdict


class LaneTestError(Exception):
    """Something kept the test from being tested. Its text is the headline."""

    def __init__(self, headline: str, verdict: Verdict | None = None) -> None:
        super().__init__(headline)
        self.verdict = verdict
