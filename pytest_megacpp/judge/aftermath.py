"""Owns the consequences of a cause on other ranks: which waited in what, lost a peer, or failed by themselves.

Must not know how the cause was found.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from pytest_megacpp.judge.case import Case, FailureSource, RankFailure, error_text
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Source, Uncertainty
from pytest_megacpp.judge.patience import left_open, opened
from pytest_megacpp.judge.phrases import file_line, plain, seconds
from pytest_megacpp.judge.verdicts import Consequence, Evidence, Witness
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.events import BucketRead, ThreadRaised
from pytest_megacpp.recording.operations import bare_op
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import ReportOutcome
from pytest_megacpp.recording.waits import Wait

KEPT_GROUPS = 3


def victims(case: Case) -> tuple[RankFailure, ...]:
    """Returns the failures that are only about a peer that was gone or late."""
    return tuple(t for t in case.failures.values() if t.is_secondary)


def patience_uncertainties(case: Case, blamed: Collection[int]) -> tuple[Uncertainty, ...]:
    """Returns why ranks that are blamed may be victims, or those taken for victims may not be: that a rank gave up
    waiting for a peer is inferred from the collective that it was in.
    """
    gave_up = [t for t in victims(case) if t.gave_up]
    if gave_up:
        error = gave_up[0].text.partition(":")[0]
        text = f"{error} does not say that {ranks_named(t.rank for t in gave_up)} waited for a peer"
        alone = (Uncertainty(Source.STACKS, "only one rank says so"),) if len(gave_up) == 1 else ()
        return (Uncertainty(Source.COLLECTIVES, text), *alone)
    raised = (case.failures[r] for r in blamed if r in case.failures)
    for failure in (t for t in raised if t.source is FailureSource.REPORT and t.kind is Kind.OWN):
        held = opened(failure.rank, failure.time_s, case.ranks, case.test.groups)
        failed_before = {r for r, t in case.failures.items() if t.time_s <= failure.time_s}
        absent = [r for r in held.absent if r not in failed_before] if held else []
        if held and absent:
            text = f"rank {failure.rank} was in {held.what}, which {ranks_named(absent)} had not entered"
            return (Uncertainty(Source.COLLECTIVES, text),)
        report = case.ranks[failure.rank].failure
        if what := left_open(failure.rank, failure.time_s, report[1].error if report else None, case.ranks):
            text = f"rank {failure.rank} was in {what}, which may not have completed"
            return (Uncertainty(Source.COLLECTIVES, text),)
    return ()


def stuck(case: Case, blamed: Collection[int]) -> tuple[int, ...]:
    """Returns the ranks that waited for a blamed one when the box acted, or where the recording stops: directly, or
    through others. Who waits by its stack only, in a group of unknown members, or only as the box says, may wait for
    any; and if nobody is blamed, whoever waits for somebody counts.
    """
    waiting = {*led_to(case, blamed), *case.blocked}
    if case.test.acted is not None and case.test.acted.why.is_waiting:
        unrecorded = case.ranks.keys() - case.waiting_in.keys()
        waiting |= {r for r in case.test.acted.waiting if r in unrecorded and not case.has_finished(r)}
    return tuple(sorted(r for r in waiting if r not in blamed and r not in case.failures))


def led_to(case: Case, blamed: Collection[int]) -> frozenset[int]:
    """Returns the ranks whose recorded waits lead to a blamed one, or to one that may wait for it."""
    ends = {*blamed, *case.blocked, *lost_a_peer(case)} if blamed else {r for w in case.graph.waits for r in w.missing}
    return case.graph.led_to(ends, (w for w in case.graph.waits if _may_be_for(case, w, blamed)))


def _may_be_for(case: Case, wait: Wait, blamed: Collection[int]) -> bool:
    """Returns whether a wait may be for the blamed ranks though these aren't missing."""
    if not case.knows_for_whom(wait):
        return True
    return not wait.missing and (not set(blamed).isdisjoint(wait.waiting) or _has_failed_ranks(case, wait))


def lost_a_peer(case: Case) -> frozenset[int]:
    """Returns the ranks that had lost a peer by the moment and aren't recorded to wait for one: what they came to no
    more, they may have missed because of any failure.
    """
    gone = {t.rank for t in victims(case) if t.time_s <= case.moment_s}
    return frozenset(r for r in gone if r not in case.waiting_in or not case.waiting_in[r].missing)


def _has_failed_ranks(case: Case, wait: Wait) -> bool:
    """Returns whether ranks entered it that had failed before."""
    if wait.partner is not None:
        return False
    entries = {r: case.test.entry_of(r, wait.group, wait.seq) for r in case.failures}
    return any(e is not None and e.entered_s > case.failures[r].time_s for r, e in entries.items())


def sentence(case: Case, blamed: Collection[int], hit: Collection[int] = ()) -> str:
    """Returns for example `ranks 0-2,4-7 then waited in all_gather #12`; empty if there were no consequences. `hit`:
    ranks that failed because of the blamed ones, in whatever words.
    """
    waited: dict[str, list[int]] = defaultdict(list)
    lost: dict[str, list[int]] = defaultdict(list)
    for rank in stuck(case, {*blamed, *hit}):
        waited[_in_what(case, rank)].append(rank)
    for failure in victims(case):
        if failure.rank not in blamed:
            where = _in_last(case, failure)
            (waited if where in waited else lost)[where].append(failure.rank)
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


def _in_last(case: Case, failure: RankFailure) -> str:
    last = case.last_entered(failure.rank, failure.time_s)
    return f"in {bare_op(last.op)} #{last.seq}" if last else ""


def consequences(case: Case, blamed: Collection[int]) -> tuple[Consequence, ...]:
    """Returns one consequence for each rank that isn't blamed and didn't pass, in order of ranks."""
    waiting = set(stuck(case, {*blamed, *case.failures} if blamed else ()))
    found = []
    for rank in sorted(case.ranks):
        failure = case.failures.get(rank)
        if rank in blamed:
            found += _later_failures(case, rank)
        elif failure is not None:
            found.append(_failed(failure))
        elif rank in waiting:
            found.append(Consequence(rank, waited(case, rank)))
    return tuple(found)


def waited(case: Case, rank: int) -> str:
    """Returns the predicate of a sentence about a rank that waits: `waited 31 s in all_gather #12`."""
    return f"waited {_how_long(case, rank)}{_in_what(case, rank)}"


def _later_failures(case: Case, rank: int) -> list[Consequence]:
    """Returns further failures of a blamed rank, such as a teardown that failed after its call."""
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
    return f"{seconds(case.has_waited_s(rank, wait))} " if wait else ""


def _failed(failure: RankFailure) -> Consequence:
    if failure.is_secondary or failure.kind is Kind.MISMATCH:
        return Consequence(failure.rank, failure.text)
    return Consequence(failure.rank, described(failure), failure.cause)


def described(failure: RankFailure) -> str:
    """Returns the predicate of a sentence about a rank: `raised ValueError: boom (train.py:31)`, `was OOM-killed`."""
    where = f" ({failure.place})" if failure.place else ""
    verb = "raised " if failure.source in (FailureSource.REPORT, FailureSource.HANDLED) else ""
    return f"{verb}{failure.text}{where}"


def wait_evidence(wait: Wait) -> Evidence:
    """Returns which ranks entered a collective and which did not, or entered another one under its number."""
    others = {rank for _, ranks in wait.otherwise for rank in ranks}
    alike = [rank for rank in wait.waiting if rank not in others]
    verb = "started" if wait.began else "entered"
    differ = "".join(
        f", {ranks_named(ranks)} {plain(op, 60)} #{wait.seq}" for op, ranks in wait.otherwise[:KEPT_GROUPS]
    )
    absent = f", {ranks_named(wait.missing)} did not" if wait.missing else ""
    text = f"{ranks_named(alike)} {verb} {wait} of group {wait.group}{differ}{absent}"
    return Evidence(None, wait.since_s, Witness.FLIGHT_RECORDER, text)


def failure_evidence(failure: RankFailure) -> Evidence:
    return Evidence(failure.rank, failure.time_s, failure.source.witness, f"{described(failure)} in {failure.phase}")


def threads_that_raised(view: TestView) -> tuple[Evidence, ...]:
    """Returns the exceptions that ended other threads than the main one: a main thread that joins such a thread may
    wait for ever.
    """
    found = [(time_s, rank, fact) for rank, seen in view.ranks.items() for time_s, fact in seen.threads]
    return tuple(_thread_evidence(*entry) for entry in sorted(found, key=lambda f: f[:2])[:KEPT_GROUPS])


def _thread_evidence(time_s: float, rank: int, fact: ThreadRaised) -> Evidence:
    place = file_line(fact.error.file, fact.error.line)
    text = f"thread {plain(fact.thread, 60)} died with {error_text(fact.error)}" + (f" ({place})" if place else "")
    return Evidence(rank, time_s, Witness.REPORT, text)


def bucket_reads(view: TestView) -> tuple[Evidence, ...]:
    """Returns reads of a data set from its source. They are slow, and slower the more ranks read."""
    found = [(time_s, rank, fact) for rank, seen in view.ranks.items() for time_s, fact in seen.bucket_reads.values()]
    return tuple(_read_evidence(*entry) for entry in sorted(found, key=lambda f: f[:2]))


def _read_evidence(time_s: float, rank: int, fact: BucketRead) -> Evidence:
    name = plain(fact.name, 80)
    text = f"read data set {name!r} from its source instead of its local copy: use lane.data({name!r})"
    return Evidence(rank, time_s, Witness.REPORT, text)


def first_few(
    ranks: Collection[int], evidence_of: Callable[[int], Evidence | None], limit: int = 4
) -> tuple[Evidence, ...]:
    """Returns evidence about the first `limit` ranks: a thousand alike add nothing."""
    found = (evidence_of(rank) for rank in sorted(ranks)[:limit])
    return tuple(evidence for evidence in found if evidence is not None)
