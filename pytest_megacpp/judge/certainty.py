"""Owns how certain a finding is: one step less for each source it rests on that is missing, degraded or contradicted.

A table says which missing capability harms which source. A capability that harms several counts once.
"""

from collections.abc import Iterable

from pytest_megacpp.judge.findings import Doubt, Finding, Source
from pytest_megacpp.judge.phrases import plain
from pytest_megacpp.judge.verdicts import Certainty, Evidence
from pytest_megacpp.recording.timeline import Timeline

HARMS: dict[str, frozenset[Source]] = {
    "worker_server": frozenset({Source.COLLECTIVES, Source.COUNTERS, Source.STACKS}),
    "flight_recorder": frozenset({Source.COLLECTIVES}),
    "group_members": frozenset({Source.GROUPS}),
    "wait_counters": frozenset({Source.COUNTERS}),
    "traceback": frozenset({Source.STACKS}),
    "exit_code": frozenset({Source.EXITS}),
    "memory_events": frozenset({Source.MEMORY}),
    "kernel_log": frozenset({Source.MEMORY}),
}


def weigh(finding: Finding, timeline: Timeline) -> tuple[Certainty, tuple[Evidence, ...]]:
    """The finding's certainty, and the reasons why it isn't more."""
    certainty, reasons = finding.certainty, []
    harmed: set[Source] = set()
    doubts = (*_missing(timeline, finding.relies), *((d, _sources(d)) for d in finding.doubts), *_holes(timeline))
    for doubt, sources in doubts:
        if sources and sources <= harmed:
            continue
        harmed |= sources
        certainty = certainty.lowered()
        reasons.append(Evidence(None, None, "box", f"less certain: {doubt.text}"))
    return certainty, tuple(reasons)


def _sources(doubt: Doubt) -> frozenset[Source]:
    return frozenset() if doubt.source is None else frozenset({doubt.source})


def _missing(timeline: Timeline, relies: frozenset[Source]) -> Iterable[tuple[Doubt, frozenset[Source]]]:
    """Capabilities that were said to be missing, the most harmful first."""
    absent = {c.name: c for c in timeline.capabilities.values() if not c.available}
    for name, harms in HARMS.items():
        if name in absent and harms & relies:
            detail = plain(absent[name].detail, 120)
            yield Doubt(None, f"no {name}" + (f" ({detail})" if detail else "")), harms & relies


def _holes(timeline: Timeline) -> Iterable[tuple[Doubt, frozenset[Source]]]:
    lost = sum(gap.last - gap.first + 1 for gap in timeline.gaps)
    parts = [f"{lost} events are lost"] if lost else []
    parts += [f"{len(timeline.damaged)} lines can't be read"] if timeline.damaged else []
    if parts:
        yield Doubt(None, f"the recording has holes: {', '.join(parts)}"), frozenset()
