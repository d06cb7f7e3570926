"""Owns a drill as somebody sees it who watches it: its moments, a second apart at most, up to the box's act."""

from collections.abc import Iterator

from pytest_megacpp.box.alarms import Clocks
from pytest_megacpp.box.counting import counting
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.live import Live

TICK_S = 0.25


def moments(recording: bytes) -> Iterator[Live]:
    """Yields the same test again and again: look at each before the next one is taken."""
    seen, clocks, now_s = Timeline(), Clocks(), 0.0
    for event in read_all(recording):
        acts = isinstance(event.fact, ev.Acted)
        view = seen.tests.get(0)
        if view is not None and view.ended is None:
            while now_s + TICK_S < event.time_s or (acts and now_s < event.time_s):
                now_s = min(event.time_s, max(now_s, view.started_s) + TICK_S)
                clocks.advance(view, now_s)
                yield Live(view, counting(view, clocks, now_s), now_s)
        if acts:
            return
        seen.add(event)
