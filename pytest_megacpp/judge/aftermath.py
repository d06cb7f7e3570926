"""Owns what the other ranks showed because of a cause: who waited in what, who lost its peer, who failed on its own.

Must not know how the cause was found.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from pytest_megacpp.judge.case import Case, Trouble, TroubleSource, error_text
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Doubt, Source
from pytest_megacpp.judge.patience import opened
from pytest_megacpp.judge.phrases import file_line, plain, seconds
from pytest_megacpp.judge.verdicts import Consequence, Evidence, Witness
from pytest_megacpp.recording.collectives import bare_op
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.events import BucketRead, ThreadRaised
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import TestView
from pytest_megacpp.recording.vocabulary import ReportOutcome
from pytest_megacpp.recording.waits import Wait

KEPT_GROUPS = 3


def victims(case: Case) -> tuple[Trouble, ...]:
    """Ranks that failed only because a peer was gone or late."""
    return tuple(t for t in case.troubles.values() if t.secondary)


def patience_doubts(case: Case) -> tuple[Doubt, ...]:
    """That ranks lost patience with a peer is concluded; that others, who failed, may have is possible."""
    lost = [t for t in victims(case) if t.impatient]
    if lost:
        said_by = lost[0].text.partition(":")[0]
        text = f"that {ranks_named(t.rank for t in lost)} waited for a peer is not said by {said_by}"
        return (Doubt(Source.COLLECTIVES, text),)
    raised = (t for t in case.troubles.values() if t.source is TroubleSource.REPORT and t.kind is Kind.OWN)
    for trouble in raised:
        held = opened(trouble, case.ranks, case.test.groups)
        absent = [r for r in held.absent if r not in case.troubles] if held else []
        if held and absent:
            text = f"rank {trouble.rank} had been in {held.what}, which {ranks_named(absent)} had not entered"
            return (Doubt(Source.COLLECTIVES, text),)
    return ()


def stuck(case: Case, blamed: Collection[int]) -> tuple[int, ...]:
    """Ranks that waited for a peer when the box acted, or where the recording stops."""
    waiting = {r for r, wait in case.waiting_in.items() if wait.missing or set(wait.waiting) & set(blamed)}
    waiting |= case.blocked.keys()
    if case.test.acted is not None and case.test.acted.why.is_waiting:
        waiting |= {r for r in case.test.acted.waiting if r in case.ranks and not case.has_finished(r)}
    return tuple(sorted(r for r in waiting if r not in blamed and r not in case.troubles))


def sentence(case: Case, blamed: Collection[int]) -> str:
    """`ranks 0-2,4-7 then waited in all_gather #12`; empty when nothing followed."""
    waited: dict[str, list[int]] = defaultdict(list)
    lost: dict[str, list[int]] = defaultdict(list)
    for rank in stuck(case, blamed):
        waited[_in_what(case, rank)].append(rank)
    for trouble in victims(case):
        if trouble.rank not in blamed:
            where = _in_last(case, trouble)
            (waited if where in waited else lost)[where].append(trouble.rank)
    parts = [f"{ranks_named(ranks)} then waited {where}" for where, ranks in _largest(waited)]
    parts += [f"{ranks_named(ranks)} then lost {_its(ranks)} peer {where}".rstrip() for where, ranks in _largest(lost)]
    return " and ".join(parts[:KEPT_GROUPS])


def _largest(groups: Mapping[str, list[int]]) -> list[tuple[str, list[int]]]:
    return sorted(groups.items(), key=lambda g: (-len(g[1]), g[1]))


def _its(ranks: Collection[int]) -> str:
    return "its" if len(ranks) == 1 else "their"


def _in_what(case: Case, rank: int) -> str:
    wait = case.waiting_in.get(rank)
    if wait is not None:
        return f"in {wait}"
    return f"in {case.blocked[rank]}" if rank in case.blocked else "for a peer"


def _in_last(case: Case, trouble: Trouble) -> str:
    last = case.last_entered(trouble.rank, trouble.time_s)
    return f"in {bare_op(last.op)} #{last.seq}" if last else ""


def consequences(case: Case, blamed: Collection[int]) -> tuple[Consequence, ...]:
    """One per rank that isn't blamed and isn't well, in rank order."""
    waiting = set(stuck(case, blamed))
    found = []
    for rank in sorted(case.ranks):
        trouble = case.troubles.get(rank)
        if rank in blamed:
            found += _later_failures(case, rank)
        elif trouble is not None:
            found.append(_failed(trouble))
        elif rank in waiting:
            found.append(Consequence(rank, f"waited {_how_long(case, rank)}{_in_what(case, rank)}"))
    return tuple(found)


def _later_failures(case: Case, rank: int) -> list[Consequence]:
    """What a blamed rank failed at besides: a teardown after its call."""
    failed = [entry for entry in case.ranks[rank].reports.values() if entry[1].outcome is ReportOutcome.FAILED]
    later = sorted(failed, key=lambda entry: entry[0])[1:]
    return [
        Consequence(
            rank, f"{plain(r.error.type, 80)}: {plain(r.error.message, 160)} in {r.when}", VerdictCause.EXCEPTION
        )
        for _, r in later
        if r.error is not None
    ]


def _how_long(case: Case, rank: int) -> str:
    wait = case.waiting_in.get(rank)
    return f"{seconds(case.waited_s(wait.since_s))} " if wait else ""


def _failed(trouble: Trouble) -> Consequence:
    if trouble.secondary or trouble.kind is Kind.MISMATCH:
        return Consequence(trouble.rank, trouble.text)
    return Consequence(trouble.rank, said(trouble), trouble.cause)


def said(trouble: Trouble) -> str:
    """`raised ValueError: boom (train.py:31)`, `was OOM-killed`."""
    where = f" ({trouble.place})" if trouble.place else ""
    verb = "raised " if trouble.source is TroubleSource.REPORT else ""
    return f"{verb}{trouble.text}{where}"


def wait_evidence(wait: Wait) -> Evidence:
    """Who was in a collective and who wasn't."""
    absent = f", {ranks_named(wait.missing)} did not" if wait.missing else ""
    verb = "began" if wait.began else "entered"
    text = f"{ranks_named(wait.waiting)} {verb} {wait} of group {wait.group}{absent}"
    return Evidence(None, wait.since_s, Witness.FLIGHT_RECORDER, text)


def trouble_evidence(trouble: Trouble) -> Evidence:
    return Evidence(trouble.rank, trouble.time_s, trouble.source.witness, f"{said(trouble)} in {trouble.phase}")


def threads_that_raised(view: TestView) -> tuple[Evidence, ...]:
    """What ended threads beside the main one: a main thread that waits for one waits for good."""
    found = [(time_s, rank, fact) for rank, seen in view.ranks.items() for time_s, fact in seen.threads]
    return tuple(_thread_evidence(*entry) for entry in sorted(found, key=lambda f: f[:2])[:KEPT_GROUPS])


def _thread_evidence(time_s: float, rank: int, fact: ThreadRaised) -> Evidence:
    place = file_line(fact.error.file, fact.error.line)
    text = f"thread {plain(fact.thread, 60)} ended: {error_text(fact.error)}" + (f" ({place})" if place else "")
    return Evidence(rank, time_s, Witness.REPORT, text)


def bucket_reads(view: TestView) -> tuple[Evidence, ...]:
    """Reads of data in its source, which are slow, and the slower the more ranks do it."""
    found = [(time_s, rank, fact) for rank, seen in view.ranks.items() for time_s, fact in seen.bucket_reads.values()]
    return tuple(_read_evidence(*entry) for entry in sorted(found, key=lambda f: f[:2]))


def _read_evidence(time_s: float, rank: int, fact: BucketRead) -> Evidence:
    name = plain(fact.name, 80)
    text = f"read the source of data set {name!r}, not its copy: use lane.data({name!r})"
    return Evidence(rank, time_s, Witness.REPORT, text)


def first_few(ranks: Collection[int], tell: Callable[[int], Evidence | None], limit: int = 4) -> tuple[Evidence, ...]:
    """Evidence about the first ranks; a thousand alike say no more."""
    told = (tell(rank) for rank in sorted(ranks)[:limit])
    return tuple(e for e in told if e is not None)
