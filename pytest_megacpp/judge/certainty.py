"""Owns how certain a finding is: one step less for each source it rests on that is missing, degraded or contradicted.

A table says which missing capability affects which source. A capability that affects several sources counts once.
"""

from collections.abc import Iterable, Mapping

from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import plain
from pytest_megacpp.judge.verdicts import Certainty, Evidence, Witness
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import EvidenceSource

HARMS: Mapping[EvidenceSource, frozenset[Source]] = {
    EvidenceSource.WORKER_SERVER: frozenset({Source.COLLECTIVES, Source.COUNTERS, Source.STACKS}),
    EvidenceSource.FLIGHT_RECORDER: frozenset({Source.COLLECTIVES}),
    EvidenceSource.GROUP_MEMBERS: frozenset({Source.GROUPS}),
    EvidenceSource.WAIT_COUNTERS: frozenset({Source.COUNTERS}),
    EvidenceSource.TRACEBACK: frozenset({Source.STACKS}),
    EvidenceSource.THREAD_RUNS: frozenset({Source.WAKEUPS}),
    EvidenceSource.EXIT_CODE: frozenset({Source.EXITS}),
    EvidenceSource.MEMORY_EVENTS: frozenset({Source.MEMORY}),
    EvidenceSource.KERNEL_LOG: frozenset({Source.MEMORY}),
}


def weigh(finding: Finding, timeline: Timeline, world: str | None) -> tuple[Certainty, tuple[Evidence, ...]]:
    """Returns the certainty of a finding and the reasons why it isn't higher.

    `world` is where it happened, None if that isn't known.
    """
    certainty, reasons = finding.certainty, []
    harmed: set[Source] = set()
    uncertainties = (*_missing(timeline, finding.relies), *((d, _sources(d)) for d in finding.uncertainties))
    uncertainties = (*uncertainties, *_clocks(timeline, finding.relies), *_holes(timeline, world))
    for uncertainty, sources in uncertainties:
        if sources and sources <= harmed:
            continue
        harmed |= sources
        certainty = certainty.lowered()
        reasons.append(Evidence(None, None, Witness.BOX, f"less certain: {uncertainty.text}"))
    return certainty, tuple(reasons)


def _sources(uncertainty: Uncertainty) -> frozenset[Source]:
    return frozenset() if uncertainty.source is None else frozenset({uncertainty.source})


def _missing(timeline: Timeline, relies: frozenset[Source]) -> Iterable[tuple[Uncertainty, frozenset[Source]]]:
    """Yields the capabilities that were reported missing and on which the finding rests, the most harmful first."""
    absent = {c.name: c for c in timeline.capabilities.values() if not c.available}
    for name, harms in HARMS.items():
        if name in absent and harms & relies:
            detail = plain(absent[name].detail, 120)
            yield Uncertainty(None, f"no {name}" + (f" ({detail})" if detail else "")), harms & relies


def _clocks(timeline: Timeline, relies: frozenset[Source]) -> Iterable[tuple[Uncertainty, frozenset[Source]]]:
    """Yields whether timestamps contradict each other."""
    if timeline.backwards and Source.CLOCKS in relies:
        text = f"{timeline.backwards} timestamps run backwards, so order and durations are uncertain"
        yield Uncertainty(None, text), frozenset({Source.CLOCKS})


def _holes(timeline: Timeline, world: str | None) -> Iterable[tuple[Uncertainty, frozenset[Source]]]:
    """Yields what is missing from the recording of this world, and what can't be assigned to any world."""
    lost = sum(n for name, n in timeline.lost.items() if world is None or name in ("", world))
    parts = [
        f"{what}: {number}"
        for number, what in (
            (lost, "missing events"),
            (len(timeline.damaged), "unreadable lines"),
            (timeline.unknown, "events of unknown kinds"),
            (timeline.stray, "events that don't belong to the run"),
        )
        if number
    ]
    if parts:
        yield Uncertainty(None, f"the recording is incomplete: {', '.join(parts)}"), frozenset()
