"""Owns what reports may know of the moment that a verdict is about: when it was and who waited for whom; must not
judge.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pytest_megacpp.judge.case import Case
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.waits import WaitGraph


class DecisiveMoment(NamedTuple):
    """`at_s` in seconds of box time, and so is `gave_up_s`: when ranks that lost a peer gave up waiting for it, which a
    busy machine reports later.
    """

    at_s: float
    graph: WaitGraph
    gave_up_s: Mapping[int, float]


def decisive_moment(timeline: Timeline, test: TestView) -> DecisiveMoment:
    """Returns the moment by which a test is judged, whether or not it failed; of one that still runs, the last one that
    is known. Raises KeyError if the timeline doesn't have the world of the test.
    """
    case = Case(timeline, test, timeline.worlds[test.world])
    return DecisiveMoment(case.moment_s, case.graph, case.gave_up_s)
