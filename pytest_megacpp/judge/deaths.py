"""Owns failures of ranks by themselves: raised, exited, killed; must not know limits or compiling.

If others waited for a rank whose failure is its own, or a process ended, the verdict is a rank-death, of the rank that
began it (`origins`); if no rank was left waiting for them, it is an ordinary failure of every rank that raised.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge import accusations, aftermath, devices, messages, origins, unrelated
from pytest_megacpp.judge.case import NO_OOM_WITNESS, Case, FailureSource, RankFailure, may_be_oom
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import joined, of_ranks, plain
from pytest_megacpp.judge.verdicts import Code, Evidence, Witness
from pytest_megacpp.recording.errors import Kind, classify
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.operations import bare_op
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.reports import is_xfail
from pytest_megacpp.recording.vocabulary import ReportOutcome, Stage, Stream, TestPhase

TOGETHER_S = 1.0  # the same failure on several ranks within this time counts as one
KEPT_FAILURES = 8
KEPT_PLACES = 2
AFTERWARDS_S = 1.0  # a look that began before an exit may be recorded this long after it
_FATAL = ("terminate called", "what():", "Fatal Python error")


def find(case: Case) -> Finding | None:
    """Returns the finding for the failures that are a rank's own; None if there is none."""
    own = [t for t in case.failures.values() if not t.is_secondary and t.kind is not Kind.MISMATCH]
    if not own:
        return None
    if (joining := _rendezvous(case, own)) is not None:
        return joining
    first = origins.find(case, own)
    if (refused := _multicast(own, first)) is not None:
        others = [t for t in own if t.kind is not Kind.NVLS]
        return devices.multicast(case, refused, origins.uncertainties(refused, others))
    if (named := accusations.find(case, own, first)) is not None:
        return named
    together = [t for t in own if t.signature == first.signature and abs(t.time_s - first.time_s) <= TOGETHER_S]
    blamed = {t.rank for t in together}
    died = bool(case.exits) or any(t.source is not FailureSource.REPORT for t in own)
    if not died and unrelated.are_all(case):
        return _test_failed(case, own)
    if died or aftermath.victims(case) or aftermath.stuck(case, [t.rank for t in own]):
        return _rank_death(case, own, first, tuple(sorted(blamed)))
    return _test_failed(case, own)


def _multicast(own: Sequence[RankFailure], first: RankFailure) -> RankFailure | None:
    """Returns the earliest failure to set up NVLS, unless a rank failed in another way before."""
    refused = [t for t in own if t.kind is Kind.NVLS and origins.may_precede(t, first)]
    return min(refused, key=lambda t: t.time_s, default=None)


def _rank_death(case: Case, own: Sequence[RankFailure], first: RankFailure, blamed: tuple[int, ...]) -> Finding:
    others = [t for t in own if t.rank not in blamed]
    what = of_ranks(blamed, aftermath.described(first))
    went_on = _went_on(case, blamed)
    places = _places(case, went_on)
    return Finding(
        Code.RANK_DEATH,
        joined((what, _where(places), aftermath.sentence(case, blamed))),
        blamed,
        first.cause,
        _phase(own, blamed),
        (
            *_evidence(case, [t for t in case.failures.values() if t.rank in blamed], blamed),
            *(evidence for _, evidence in places.values()),
        ),
        aftermath.consequences(case, blamed),
        _relies(case, first, blamed),
        (
            *origins.uncertainties(first, others),
            *_exit_uncertainties(case, blamed),
            *_doubts(case, went_on, blamed),
            *aftermath.patience_uncertainties(case, blamed)[:1],  # what the blamed reported stands by itself
        ),
        time_s=first.time_s,
    )


def _phase(own: Sequence[RankFailure], blamed: Collection[int]) -> TestPhase:
    """Returns the phase of those blamed, or the call: one that failed on any rank has not passed. The set-up of another
    rank, whose failure did not end the test, makes no error of that.
    """
    counts = [t.phase for t in own if t.rank in blamed or t.phase is not TestPhase.SETUP]
    return min(counts, key=[*TestPhase].index)


def _went_on(case: Case, blamed: Sequence[int]) -> dict[int, Collective]:
    """Returns what ranks that raised, and are still in the test, came to afterwards as others did."""
    there = (r for r in blamed if not case.is_through(r))
    return {r: entry for r in there if (entry := origins.went_on(case, case.failures[r])) is not None}


def _places(case: Case, went_on: Mapping[int, Collective]) -> dict[int, tuple[str, Evidence]]:
    """Returns where ranks were that had gone on and left that again, and what shows it."""
    found = {}
    for rank, entry in went_on.items():
        taken = case.location_since(rank, entry.entered_s) if case.ranks[rank].collectives.is_done(entry) else None
        if taken is not None:
            found[rank] = taken[1], Evidence(rank, taken[0], Witness.STACK, f"is in {taken[1]}")
    return found


def _where(places: Mapping[int, tuple[str, Evidence]]) -> str:
    return ", ".join(f"rank {rank} was then in {where}" for rank, (where, _) in list(places.items())[:KEPT_PLACES])


def _doubts(case: Case, went_on: Mapping[int, Collective], blamed: Sequence[int]) -> Iterable[Uncertainty]:
    """Yields why the others may have waited for something else than these ranks, or for another reason."""
    if went_on and len(went_on) == len(blamed):
        last = next(iter(went_on.values()))
        text = f"{ranks_named(went_on)} went on to {plain(bare_op(last.op), 60)} #{last.seq} after that, as others did"
        yield Uncertainty(Source.COLLECTIVES, text)
    if all(_lost_a_peer(case, r) for r in blamed):
        yield Uncertainty(Source.COLLECTIVES, f"{ranks_named(blamed)} lost a peer as well after that")


def _lost_a_peer(case: Case, rank: int) -> bool:
    """Returns whether the rank waited for a peer after its failure, in vain."""
    reports = ((t, r) for t, r in case.ranks[rank].reports.values() if not is_xfail(r))
    later = (r.error for t, r in reports if t <= case.cutoff_s and r.error is not None)
    return case.failures[rank].source is FailureSource.REPORT and any(classify(error).secondary for error in later)


def _relies(case: Case, first: RankFailure, blamed: Sequence[int]) -> frozenset[Source]:
    order = {Source.CLOCKS} if len(case.failures) > len(blamed) else set()
    if first.source is not FailureSource.EXIT:
        return frozenset({Source.REPORTS} | order)
    memory = {Source.MEMORY} if _may_be_oom(case, blamed) else set()
    return frozenset({Source.EXITS, Source.REPORTS} | memory | order)


def _may_be_oom(case: Case, blamed: Sequence[int]) -> bool:
    return may_be_oom(case.exits[r][1] for r in blamed if r in case.exits)


def _exit_uncertainties(case: Case, blamed: Sequence[int]) -> tuple[Uncertainty, ...]:
    exits = {r: case.exits[r][1] for r in blamed if r in case.exits}
    uncertainties: list[Uncertainty] = []
    if any(e.code is None and e.signal is None for e in exits.values()):
        uncertainties.append(Uncertainty(Source.EXITS, "how the process ended is unknown"))
    if _may_be_oom(case, blamed):
        uncertainties.append(Uncertainty(Source.MEMORY, NO_OOM_WITNESS))
    odd = [r for r, e in exits.items() if e.oom_killed and e.signal not in (None, "SIGKILL")]
    if odd:
        uncertainties.append(
            Uncertainty(Source.MEMORY, f"an OOM kill was recorded, but {ranks_named(odd)} ended by another signal")
        )
    alive = [r for r in exits if _answered_afterwards(case, r)]
    if alive:
        uncertainties.append(Uncertainty(Source.EXITS, f"{ranks_named(alive)} still responded afterwards"))
    return tuple(uncertainties)


def _answered_afterwards(case: Case, rank: int) -> bool:
    view = case.ranks[rank]
    return view.answered_s is not None and view.answered_s > case.exits[rank][0] + AFTERWARDS_S


def _test_failed(case: Case, own: Sequence[RankFailure]) -> Finding:
    blamed = tuple(sorted(t.rank for t in own))
    causes = {t.cause for t in own}
    return Finding(
        Code.TEST_FAILED,
        raised_what(own),
        blamed,
        causes.pop() if len(causes) == 1 else VerdictCause.EXCEPTION,
        min(own, key=lambda t: t.time_s).phase,
        _evidence(case, own, blamed),
        aftermath.consequences(case, blamed),
        frozenset({Source.REPORTS}),
        aftermath.patience_uncertainties(case, blamed),
        time_s=min(t.time_s for t in own),
    )


def raised_what(own: Sequence[RankFailure]) -> str:
    """Returns a text about the exceptions: the same one of several ranks once, and of several different ones the first
    two.
    """
    groups: dict[tuple[str, ...], list[RankFailure]] = defaultdict(list)
    for failure in own:
        groups[failure.signature].append(failure)
    parts = [_raised_alike(alike) for alike in groups.values()]
    others = len(parts) - 2
    more = f"{others} other failure{'s' if others > 1 else ''}" if others > 0 else ""
    return joined((*parts[:2], more))


def _raised_alike(alike: Sequence[RankFailure]) -> str:
    """Returns what several ranks raised; where only some of them did so from another exception, which: the
    others had heard of it from them.
    """
    caused = {t.rank: t.raised_from for t in alike if t.raised_from}
    first = next((t for t in alike if t.rank not in caused), alike[0])
    what = of_ranks([t.rank for t in alike], aftermath.described(first))
    if not caused or first.rank in caused:
        return what
    return f"{what}, on {ranks_named(caused)} from {next(iter(caused.values()))}"


def _was_joining(case: Case, failure: RankFailure) -> bool:
    """Returns whether the rank failed on its way into a process group, before any collective but those of a default
    group that it had destroyed.
    """
    last, destroyed_s = case.last_entered(failure.rank, failure.time_s), case.ranks[failure.rank].collectives.floor_s
    return (
        failure.kind in (Kind.JOIN, Kind.RENDEZVOUS)
        and failure.phase is not TestPhase.TEARDOWN
        and (last is None or last.entered_s <= destroyed_s <= failure.time_s)
        and not failure.own_store
    )


def _rendezvous(case: Case, own: Sequence[RankFailure]) -> Finding | None:
    """Returns the finding for ranks that could not meet and so never reached what is tested."""
    if case.exits or any(t.kind is not Kind.RENDEZVOUS or not _was_joining(case, t) for t in own):
        return None
    blamed = tuple(sorted(t.rank for t in own))
    return Finding(
        Code.STARTUP_FAILURE,
        f"{ranks_named(blamed)} could not join the process group: {own[0].text}",
        blamed,
        Stage.RENDEZVOUS,
        TestPhase.SETUP,
        _evidence(case, own, blamed),
        aftermath.consequences(case, blamed),
        frozenset({Source.REPORTS}),
        time_s=own[0].time_s,
    )


def _evidence(case: Case, failures: Sequence[RankFailure], blamed: Sequence[int]) -> tuple[Evidence, ...]:
    found = [aftermath.failure_evidence(t) for t in failures[:KEPT_FAILURES]]
    found += aftermath.first_few(blamed, lambda r: _no_oom_kill(case, r), 1)
    found += aftermath.first_few(blamed, lambda r: _last_output(case, r), 2)
    found += devices.evidence(case, blamed)
    waiting = set(aftermath.stuck(case, blamed))
    return (*found, *(aftermath.wait_evidence(w) for w in case.waits[:2] if waiting & set(w.waiting)))


def _no_oom_kill(case: Case, rank: int) -> Evidence | None:
    time_s, exited = case.exits.get(rank, (0.0, None))
    if exited is None or exited.signal != "SIGKILL" or exited.oom_killed is not False:
        return None
    return Evidence(rank, time_s, Witness.BOX, "the kernel reports no OOM kill, so SIGKILL came from another process")


def _last_output(case: Case, rank: int) -> Evidence | None:
    """Returns what an ended process wrote about its end: the first lines of a fatal error, else its last line."""
    stderr = case.ranks[rank].output.get(Stream.STDERR)
    if rank not in case.exits or stderr is None:
        return None
    lines = [line for line in stderr.text.splitlines() if line.strip()]
    fatal = [line.strip() for line in lines if line.lstrip().startswith(_FATAL)]
    shown = " · ".join(plain(line) for line in fatal[-len(_FATAL) :] or lines[-1:])
    return Evidence(rank, case.exits[rank][0], Witness.OUTPUT, f"stderr: {shown}") if shown else None


def skipped_on_some(case: Case) -> Finding | None:
    """Returns the finding for ranks that skipped what others ran: a skip that depends on the rank is a mistake in the
    test.
    """
    skipped = {r: s for r in case.ranks if (s := _skip_of(case, r)) is not None}
    if not skipped or len(skipped) == len(case.ranks):
        return None
    blamed = tuple(sorted(skipped))
    reason = next(iter(skipped.values()))[1]
    return Finding(
        Code.TEST_FAILED,
        joined((f"only {ranks_named(blamed)} skipped the test ({reason})", aftermath.sentence(case, blamed))),
        blamed,
        VerdictCause.SKIPPED_ON_SOME_RANKS,
        TestPhase.CALL,
        aftermath.first_few(blamed, lambda r: Evidence(r, skipped[r][0], Witness.REPORT, f"skipped: {skipped[r][1]}")),
        aftermath.consequences(case, blamed),
        frozenset({Source.REPORTS}),
        time_s=min(time_s for time_s, _ in skipped.values()),
    )


def _skip_of(case: Case, rank: int) -> tuple[float, str] | None:
    for time_s, report in case.ranks[rank].reports.values():
        if report.outcome is ReportOutcome.SKIPPED and report.xfail is None and time_s <= case.cutoff_s:
            return time_s, plain(report.skip.reason).removeprefix("Skipped: ") if report.skip else "no reason given"
    return None


def not_joined(case: Case) -> Finding | None:
    """Returns the finding for ranks that waited for others to join until their time-out.

    Blamed are the ranks that the store named, else the members of the group that were elsewhere.
    """
    lost = aftermath.victims(case)
    if not lost or case.exits or len(lost) < len(case.failures) or not all(_was_joining(case, t) for t in lost):
        return None
    had_met = any(case.last_entered(t.rank, t.time_s) is not None for t in lost)
    if had_met and len(lost) < len(case.ranks):
        return None  # one that comes to no second group is late, as to any other call
    sought = [_sought(case, t) for t in lost]
    named, elsewhere = _named({t.rank: s for t, s in zip(lost, sought, strict=True)})
    busy = {t.rank for t in lost} | case.blocked.keys() | case.waiting_in.keys()
    absent = named or {r for s in sought for r in s.members} - busy
    strangers = {s.number for s in sought if s.number is not None and s.number >= len(case.ranks)}
    all_came = bool(strangers) or all(s.members for s in sought)
    blamed = tuple(sorted(absent or (busy if all_came else ())))
    return Finding(
        Code.STARTUP_FAILURE,
        joined((_who_did_not_join(case, absent, strangers), raised_what(lost))),
        blamed,
        Stage.RENDEZVOUS,
        TestPhase.SETUP,
        tuple(aftermath.failure_evidence(t) for t in lost[:KEPT_FAILURES]),
        aftermath.consequences(case, blamed),
        frozenset({Source.REPORTS}),
        tuple(_doubts_of_joining(named or strangers, elsewhere)),
        time_s=lost[0].time_s,
    )


def _named(sought: Mapping[int, "_Sought"]) -> tuple[set[int], set[int]]:
    """Returns, by whom each rank's store lacked, the ranks that did not come, and which of them came elsewhere: they
    lacked others of the same group, or each was held up by another of them. Then those count that most ranks lacked.
    One that lacks itself has a number that is another's; one that lacks a member of another group is held up by that.
    """
    votes = Counter(s.named for s in sought.values() if s.named is not None)
    lacking = {r for r in votes if r in sought and sought[r].named not in (None, r)}
    groups = {(s.named, s.members) for s in sought.values()}
    elsewhere = {r for r in lacking if (r, sought[r].members) in groups}
    if not elsewhere and len(lacking) < len(votes):
        return {*votes} - lacking, set()
    most = {r for r, count in votes.items() if count == max(votes.values())}
    return most, (elsewhere or lacking) & most


def _doubts_of_joining(are_named: Collection[int], elsewhere: Collection[int]) -> Iterator[Uncertainty]:
    if not are_named:
        yield Uncertainty(Source.GROUPS, "the recording doesn't show which ranks they waited for")
    if elsewhere:
        text = f"{ranks_named(elsewhere)} came as well, but to another store or group, or with another prefix"
        yield Uncertainty(Source.GROUPS, text)


@dataclass(frozen=True, slots=True)
class _Sought:
    """The group that a rank could not join.

    `members` are in the order of their numbers in the group, and empty if they aren't known. `number` is the number in
    the group that the error names.
    """

    members: tuple[int, ...]
    number: int | None

    @property
    def named(self) -> int | None:
        return self.members[self.number] if self.number is not None and self.number < len(self.members) else None


def _sought(case: Case, failure: RankFailure) -> _Sought:
    """Returns the group that a rank tried to join.

    Numbers in an error are the group's: they name a rank only if the group's members are known in their order.
    """
    awaited = messages.awaited(failure.message or failure.text)
    groups, number = case.test.groups, awaited.number if awaited else None
    if (name := _group_sought(case, failure, awaited)) is not None:
        return _Sought(groups.in_order(name, failure.rank), number)
    if awaited is not None and awaited.seeker is not None:
        at = awaited.seeker
        fit = [members for members in groups.orders(failure.rank) if members[at : at + 1] == (failure.rank,)]
        return _Sought(fit[0] if len(fit) == 1 else (), number)
    return _Sought(tuple(r for r in sorted(case.ranks) if r == failure.rank or not _has_own_world(case, r)), number)


def _group_sought(case: Case, failure: RankFailure, awaited: messages.Awaited | None) -> str | None:
    """Returns the group's name, by the rank's own announcement or by the store's key.

    None if the rank had not announced it yet, and if NCCL doesn't name it.
    """
    view = case.ranks[failure.rank]
    if (joining := view.not_joined(failure.time_s)) is not None:
        return joining.group
    return view.collectives.named(awaited.group) if awaited is not None and awaited.group else None


def _has_own_world(case: Case, rank: int) -> bool:
    """Returns whether the rank is in a default group that doesn't span the whole launch."""
    seen = case.ranks[rank]
    return bool(seen.collectives.scope) or any("~" in j.group for j in seen.joinings)


def _who_did_not_join(case: Case, absent: Collection[int], strangers: Collection[int]) -> str:
    if absent:
        return f"{ranks_named(absent)} did not join the process group in time"
    if strangers:
        return f"the process group expects {ranks_named(strangers)}, but the world has only {case.test.size} ranks"
    return "ranks could not join the process group"


def only_peers_errors(case: Case, lost: Sequence[RankFailure], summary: str = "") -> Finding:
    """Returns the finding for errors about peers without any rank that could have caused them (decision 0076)."""
    blamed = tuple(sorted(t.rank for t in lost))
    causes = {t.cause for t in lost}
    cause = causes.pop() if len(causes) == 1 else VerdictCause.EXCEPTION
    what = joined((summary, of_ranks(blamed, aftermath.described(lost[0]))), ": ")
    uncertainties = (
        Uncertainty(Source.COLLECTIVES, "no rank was found that caused this"),
        *_exit_uncertainties(case, blamed),
    )
    return _of_victims(case, lost, what, cause, uncertainties)


def _of_victims(
    case: Case, victims: Sequence[RankFailure], what: str, cause: str, uncertainties: tuple[Uncertainty, ...]
) -> Finding:
    """Returns the finding for ranks that lost their peers and are blamed themselves."""
    blamed = tuple(sorted(t.rank for t in victims))
    return Finding(
        _left_others_waiting(case, blamed),
        joined((what, aftermath.sentence(case, blamed))),
        blamed,
        cause,
        victims[0].phase,
        _evidence(case, victims, blamed),
        aftermath.consequences(case, blamed),
        frozenset({Source.REPORTS, Source.COLLECTIVES}),
        uncertainties,
        time_s=victims[0].time_s,
    )


def _left_others_waiting(case: Case, blamed: Collection[int]) -> Code:
    others = any(t.rank not in blamed for t in aftermath.victims(case))
    return Code.RANK_DEATH if others or case.exits or aftermath.stuck(case, blamed) else Code.TEST_FAILED


def handled_own_error(case: Case) -> Finding | None:
    """Returns the finding for a rank that lost its peers while it handled an error of its own, in `except` or
    `finally`.
    """
    found = [t for t in aftermath.victims(case) if t.own_error]
    if not found:
        return None
    own = list(dict.fromkeys(t.own_error for t in found))[:2]
    raised = (of_ranks([t.rank for t in found if t.own_error == error], f"raised {error}") for error in own)
    then = of_ranks([found[0].rank], f"then lost its peer while handling this error ({found[0].place})")
    uncertainty = Uncertainty(
        Source.COLLECTIVES, "the recording doesn't show that its peers waited because of this error"
    )
    return _of_victims(case, found, joined((*raised, then)), VerdictCause.EXCEPTION, (uncertainty,))
