"""Owns what is said of a recording that isn't whole; must not know what follows from that."""

from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.report.layout import counted


def holes(timeline: Timeline) -> list[str]:
    """`3 events of the recording lost`, `1 line of the recording unreadable`; nothing of one that is whole."""
    lost, damaged = sum(gap.last - gap.first + 1 for gap in timeline.gaps), len(timeline.damaged)
    found = [(lost, "event", "lost"), (damaged, "line", "unreadable")]
    return [f"{counted(count, what)} of the recording {how}" for count, what, how in found if count]
