"""Owns what is known of one simulated rank, and the ways in which its code ends. Must not know programs or what is
recorded.
"""

from dataclasses import dataclass, field

from tests.scenario import C10D, TIMED_OUT
from tests.small_worlds.programs import Meet

FUTURES = "/usr/lib/python3.11/concurrent/futures/_base.py"


class Ended(Exception):
    """A rank's process ends."""


class Raised(Exception):
    """A rank's code raises; `peer` is what it says of a lost peer."""

    def __init__(self, peer: str = "") -> None:
        super().__init__(peer)
        self.kind, self.said, self.raised_in = ("RuntimeError", peer, C10D) if peer else ("ValueError", "no shards", "")


class TimedOut(Raised):
    """A rank had waited for too long, in the words of the library."""


class OwnTimeOut(TimedOut):
    """The same in words of the test's own, which waits for a future: nothing in them is about peers."""

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.said, self.raised_in = "TimeoutError", "", FUTURES


class Skipped(Exception):
    """A rank skips the test."""


class Returned(Exception):
    """A rank's test function returns."""


def timed_out(patience_s: float) -> TimedOut:
    """Returns what gloo raises after so long."""
    return TimedOut(TIMED_OUT.replace("6000ms", f"{patience_s * 1000:.0f}ms"))


@dataclass
class Rank:
    """One simulated rank: what a look at it shows, and how far it has come."""

    number: int
    busy: bool = False
    waits_in: Meet | None = None
    cpu_s: float = 0.0
    compiled_s: float = 0.0
    compiles: bool = False
    imports: bool = False  # the compiler
    is_silent: bool = False  # something holds the GIL: it answers no looks
    is_stopped: bool = False  # by a signal
    runs: int = 0
    handles: str = ""  # "except" or "finally" while it handles an exception of its own
    has_reported: bool = False  # what it handles
    made: set[str] = field(default_factory=set)  # groups
    seqs: dict[str, int] = field(default_factory=dict)
    is_over: bool = False
    is_gone: bool = False
