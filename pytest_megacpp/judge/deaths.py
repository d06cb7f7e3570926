"""Owns failures that ranks have of themselves: raised, exited, killed; must not know limits or compiling.

The initiating rank is the earliest whose trouble is its own. If others waited for it, or a process ended, that is
a rank-death; if nobody was left waiting, an ordinary failure of every rank that raised.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pytest_megacpp.judge import accusations, aftermath, devices, messages
from pytest_megacpp.judge.case import NO_OOM_WITNESS, Case, Trouble, TroubleSource, may_be_oom
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Doubt, Finding, Source
from pytest_megacpp.judge.phrases import joined, of_ranks, plain
from pytest_megacpp.judge.verdicts import Code, Evidence, Witness
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.vocabulary import ReportOutcome, Stage, Stream, TestPhase

TOGETHER_S = 1.0  # the same trouble on several ranks within this time has one origin
TOO_CLOSE_S = 0.01  # two clocks of one host can't order what is closer
KEPT_TROUBLES = 8
AFTERWARDS_S = 1.0  # a look that was under way when a process ended is written soon after
_FATAL = ("terminate called", "what():", "Fatal Python error")


def find(case: Case) -> Finding | None:
    """The finding for the earliest trouble that is a rank's own, None when there is none."""
    own = [t for t in case.troubles.values() if not t.secondary and t.kind is not Kind.MISMATCH]
    if not own:
        return None
    if (joining := _rendezvous(case, own)) is not None:
        return joining
    first = _first(own)
    if (refused := _multicast(own, first)) is not None:
        return devices.multicast(case, refused, _order_doubts(refused, [t for t in own if t.kind is not Kind.NVLS]))
    if (named := accusations.find(case, own, first)) is not None:
        return named
    together = [t for t in own if t.signature == first.signature and t.time_s <= first.time_s + TOGETHER_S]
    blamed = {t.rank for t in together}
    died = bool(case.exits) or any(t.source is not TroubleSource.REPORT for t in own)
    if died or aftermath.victims(case) or aftermath.stuck(case, [t.rank for t in own]):
        return _rank_death(case, own, first, tuple(sorted(blamed)))
    return _test_failed(case, own)


def _multicast(own: Sequence[Trouble], first: Trouble) -> Trouble | None:
    """The earliest failure to set up NVLS, unless a rank had trouble of another kind before."""
    refused = [t for t in own if t.kind is Kind.NVLS and _may_precede(t, first)]
    return min(refused, key=lambda t: t.time_s, default=None)


def _first(own: Sequence[Trouble]) -> Trouble:
    """Of what can't be ordered, what can follow from others the least: a signal, then an exit, then a report."""
    begun = min(own, key=lambda t: t.time_s)
    close = [t for t in own if _may_precede(t, begun)]
    return min(close, key=lambda t: (not _was_killed(t), t.source is not TroubleSource.EXIT, t.time_s, t.rank))


def _was_killed(trouble: Trouble) -> bool:
    """By what no rank does to itself when it loses a peer; libraries abort then, launchers send SIGTERM."""
    return trouble.cause.startswith(("signal:", "oom-")) and trouble.cause not in ("signal:SIGABRT", "signal:SIGTERM")


def _may_precede(trouble: Trouble, other: Trouble) -> bool:
    """A kill may be as old as the box's look before it; of anything else its stamp is believed, as far as clocks go."""
    if _was_killed(trouble) and trouble.since_s < trouble.time_s:
        return trouble.since_s <= other.time_s
    return trouble.time_s <= other.time_s + TOO_CLOSE_S


def _rank_death(case: Case, own: Sequence[Trouble], first: Trouble, blamed: tuple[int, ...]) -> Finding:
    others = [t for t in own if t.rank not in blamed]
    what = of_ranks(blamed, aftermath.said(first))
    return Finding(
        Code.RANK_DEATH,
        joined((what, aftermath.sentence(case, blamed))),
        blamed,
        first.cause,
        first.phase,
        _evidence(case, [t for t in case.troubles.values() if t.rank in blamed], blamed),
        aftermath.consequences(case, blamed),
        _relies(case, first, blamed),
        (*_order_doubts(first, others), *_exit_doubts(case, blamed), *aftermath.patience_doubts(case)),
        time_s=first.time_s,
    )


def _relies(case: Case, first: Trouble, blamed: Sequence[int]) -> frozenset[Source]:
    order = {Source.CLOCKS} if len(case.troubles) > len(blamed) else set()
    if first.source is not TroubleSource.EXIT:
        return frozenset({Source.REPORTS} | order)
    memory = {Source.MEMORY} if _may_be_oom(case, blamed) else set()
    return frozenset({Source.EXITS, Source.REPORTS} | memory | order)


def _may_be_oom(case: Case, blamed: Sequence[int]) -> bool:
    return may_be_oom(case.exits[r][1] for r in blamed if r in case.exits)


def _order_doubts(first: Trouble, others: Sequence[Trouble]) -> tuple[Doubt, ...]:
    close = [t for t in others if _may_precede(t, first) and _may_precede(first, t)]
    text = f"{ranks_named(t.rank for t in close)} failed at about the same time: which was first can't be told"
    return (Doubt(Source.REPORTS, text),) if close else ()


def _exit_doubts(case: Case, blamed: Sequence[int]) -> tuple[Doubt, ...]:
    exits = {r: case.exits[r][1] for r in blamed if r in case.exits}
    doubts: list[Doubt] = []
    if any(e.code is None and e.signal is None for e in exits.values()):
        doubts.append(Doubt(Source.EXITS, "how the process ended was not learnt"))
    if _may_be_oom(case, blamed):
        doubts.append(Doubt(Source.MEMORY, NO_OOM_WITNESS))
    odd = [r for r, e in exits.items() if e.oom_killed and e.signal not in (None, "SIGKILL")]
    if odd:
        doubts.append(Doubt(Source.MEMORY, f"an OOM kill was seen, but {ranks_named(odd)} ended by another signal"))
    undead = [r for r in exits if _answered_afterwards(case, r)]
    if undead:
        doubts.append(Doubt(Source.EXITS, f"{ranks_named(undead)} still answered after that"))
    return tuple(doubts)


def _answered_afterwards(case: Case, rank: int) -> bool:
    view = case.ranks[rank]
    return view.answered_s is not None and view.answered_s > case.exits[rank][0] + AFTERWARDS_S


def _test_failed(case: Case, own: Sequence[Trouble]) -> Finding:
    blamed = tuple(sorted(t.rank for t in own))
    causes = {t.cause for t in own}
    return Finding(
        Code.TEST_FAILED,
        _raised_what(own),
        blamed,
        causes.pop() if len(causes) == 1 else VerdictCause.EXCEPTION,
        min(own, key=lambda t: t.time_s).phase,
        _evidence(case, own, blamed),
        aftermath.consequences(case, blamed),
        frozenset({Source.REPORTS}),
        aftermath.patience_doubts(case),
        time_s=min(t.time_s for t in own),
    )


def _raised_what(own: Sequence[Trouble]) -> str:
    """The same exception of several ranks once; of many different ones the first two."""
    groups: dict[tuple[str, ...], list[Trouble]] = defaultdict(list)
    for trouble in own:
        groups[trouble.signature].append(trouble)
    parts = [of_ranks([t.rank for t in g], aftermath.said(g[0])) for g in groups.values()]
    more = f"{len(parts) - 2} more different failures" if len(parts) > 2 else ""
    return joined((*parts[:2], more))


def _was_joining(case: Case, trouble: Trouble) -> bool:
    """It failed on its way into a process group, before any collective."""
    return (
        trouble.kind in (Kind.JOIN, Kind.RENDEZVOUS)
        and trouble.phase is not TestPhase.TEARDOWN
        and case.last_entered(trouble.rank, trouble.time_s) is None
    )


def _rendezvous(case: Case, own: Sequence[Trouble]) -> Finding | None:
    """Ranks that could not find together never reached what is tested."""
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


def _evidence(case: Case, troubles: Sequence[Trouble], blamed: Sequence[int]) -> tuple[Evidence, ...]:
    found = [aftermath.trouble_evidence(t) for t in troubles[:KEPT_TROUBLES]]
    found += aftermath.first_few(blamed, lambda r: _no_oom_kill(case, r), 1)
    found += aftermath.first_few(blamed, lambda r: _last_output(case, r), 2)
    found += devices.evidence(case, blamed)
    waiting = set(aftermath.stuck(case, blamed))
    return (*found, *(aftermath.wait_evidence(w) for w in case.waits[:2] if waiting & set(w.waiting)))


def _no_oom_kill(case: Case, rank: int) -> Evidence | None:
    time_s, exited = case.exits.get(rank, (0.0, None))
    if exited is None or exited.signal != "SIGKILL" or exited.oom_killed is not False:
        return None
    return Evidence(rank, time_s, Witness.BOX, "the kernel tells of no OOM kill: some process sent SIGKILL")


def _last_output(case: Case, rank: int) -> Evidence | None:
    """What a process that ended wrote about it: the first lines of a fatal error, else its last line."""
    stderr = case.ranks[rank].output.get(Stream.STDERR)
    if rank not in case.exits or stderr is None:
        return None
    lines = [line for line in stderr.text.splitlines() if line.strip()]
    fatal = [line.strip() for line in lines if line.lstrip().startswith(_FATAL)]
    shown = " · ".join(plain(line) for line in fatal[-len(_FATAL) :] or lines[-1:])
    return Evidence(rank, case.exits[rank][0], Witness.OUTPUT, f"stderr: {shown}") if shown else None


def skipped_on_some(case: Case) -> Finding | None:
    """Some ranks skipped what others ran: a rank-dependent skip is a mistake in the test."""
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
    """Ranks waited in vain for others to join: for those that the store named, else the members that were elsewhere."""
    lost = aftermath.victims(case)
    if not lost or case.exits or len(lost) < len(case.troubles) or not all(_was_joining(case, t) for t in lost):
        return None
    sought = [_sought(case, t) for t in lost]
    named = {s.named for s in sought if s.named is not None}
    busy = {t.rank for t in lost} | case.blocked.keys() | case.waiting_in.keys()
    absent = named or {r for s in sought for r in s.members} - busy
    strangers = {s.number for s in sought if s.number is not None and s.number >= len(case.ranks)}
    all_came = bool(strangers) or all(s.members for s in sought)
    blamed = tuple(sorted(absent or (busy if all_came else ())))
    return Finding(
        Code.STARTUP_FAILURE,
        joined((_who_did_not_join(case, absent, strangers), _raised_what(lost))),
        blamed,
        Stage.RENDEZVOUS,
        TestPhase.SETUP,
        tuple(aftermath.trouble_evidence(t) for t in lost[:KEPT_TROUBLES]),
        aftermath.consequences(case, blamed),
        frozenset({Source.REPORTS}),
        () if named or strangers else (Doubt(Source.GROUPS, "whom they waited for is not recorded"),),
        time_s=lost[0].time_s,
    )


@dataclass(frozen=True, slots=True)
class _Sought:
    """The group that a rank could not join: its `members` in the order of their numbers, empty where that isn't known,
    and the `number` in it that the error names.
    """

    members: tuple[int, ...]
    number: int | None

    @property
    def named(self) -> int | None:
        return self.members[self.number] if self.number is not None and self.number < len(self.members) else None


def _sought(case: Case, trouble: Trouble) -> _Sought:
    """Numbers in an error are the group's: they mean a rank only where its members are known in their order."""
    said = messages.awaited(trouble.message or trouble.text)
    groups, number = case.test.groups, said.number if said else None
    if (name := _group_sought(case, trouble, said)) is not None:
        return _Sought(groups.in_order(name, trouble.rank), number)
    if said is not None and said.seeker is not None:
        at = said.seeker
        fit = [members for members in groups.orders(trouble.rank) if members[at : at + 1] == (trouble.rank,)]
        return _Sought(fit[0] if len(fit) == 1 else (), number)
    return _Sought(tuple(r for r in sorted(case.ranks) if r == trouble.rank or not _has_own_world(case, r)), number)


def _group_sought(case: Case, trouble: Trouble, said: messages.Awaited | None) -> str | None:
    """By the rank's own word, or by the store's key; None before it got so far, and where NCCL doesn't say."""
    view = case.ranks[trouble.rank]
    if (joining := view.not_joined(trouble.time_s)) is not None:
        return joining.group
    return view.collectives.named(said.group) if said is not None and said.group else None


def _has_own_world(case: Case, rank: int) -> bool:
    """Whether it found together with others, or is alone, in a world that isn't the whole launch."""
    seen = case.ranks[rank]
    return bool(seen.collectives.scope) or any("~" in j.group for j in seen.joinings)


def _who_did_not_join(case: Case, absent: Collection[int], strangers: Collection[int]) -> str:
    if absent:
        return f"{ranks_named(absent)} did not join the process group in time"
    if strangers:
        return f"the process group asks for {ranks_named(strangers)}, but the world has {case.test.size} ranks"
    return "ranks could not join the process group"


def gave_up(case: Case, lost: Sequence[Trouble], summary: str = "") -> Finding:
    """Nothing but peers' errors, and no peer that could be their cause: they are all there is to show."""
    blamed = tuple(sorted(t.rank for t in lost))
    causes = {t.cause for t in lost}
    cause = causes.pop() if len(causes) == 1 else VerdictCause.EXCEPTION
    what = joined((summary, of_ranks(blamed, aftermath.said(lost[0]))), ": ")
    doubts = (Doubt(Source.COLLECTIVES, "no rank was found that caused it"), *_exit_doubts(case, blamed))
    return _of_victims(case, lost, what, cause, doubts)


def _of_victims(case: Case, victims: Sequence[Trouble], what: str, cause: str, doubts: tuple[Doubt, ...]) -> Finding:
    """What ranks that lost their peers come to, where they are blamed themselves."""
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
        doubts,
        time_s=victims[0].time_s,
    )


def _left_others_waiting(case: Case, blamed: Collection[int]) -> Code:
    others = any(t.rank not in blamed for t in aftermath.victims(case))
    return Code.RANK_DEATH if others or case.exits or aftermath.stuck(case, blamed) else Code.TEST_FAILED


def began(case: Case) -> Finding | None:
    """Peers' errors only, one of which came while a rank handled an error of its own: in `except` or `finally`."""
    found = [t for t in aftermath.victims(case) if t.began]
    if not found:
        return None
    own = list(dict.fromkeys(t.began for t in found))[:2]
    raised = (of_ranks([t.rank for t in found if t.began == error], f"raised {error}") for error in own)
    then = of_ranks([found[0].rank], f"lost its peer while it handled that ({found[0].place})")
    doubt = Doubt(Source.COLLECTIVES, "it is not known that its peers waited for it because of that")
    return _of_victims(case, found, joined((*raised, then)), VerdictCause.EXCEPTION, (doubt,))
