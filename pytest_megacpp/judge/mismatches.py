"""Owns ranks that issued different collectives; must not know limits or whose process ended.

There are three ways to see it, the most reliable first: flight recorder entries under one sequence number, ranks that
wait for each other across groups, and the messages of gloo and torch. The majority counts as right; on a tie no rank is
blamed.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from pytest_megacpp.judge import aftermath, deaths, in_vain, members, messages, wait_roots
from pytest_megacpp.judge.case import Case, FailureSource, RankFailure, crash_call
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import joined, of_ranks, plain, seconds
from pytest_megacpp.judge.verdicts import Certainty, Code, Evidence, Witness
from pytest_megacpp.judge.wait_roots import is_message
from pytest_megacpp.recording.agreement import Aspect, Disagreement, disagreements
from pytest_megacpp.recording.errors import Kind
from pytest_megacpp.recording.operations import bare_op, signature_of
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.stacks import communication_call
from pytest_megacpp.recording.vocabulary import TestPhase
from pytest_megacpp.recording.waits import Wait

KEPT_VARIANTS = 3
_RELIES = frozenset({Source.COLLECTIVES, Source.GROUPS})


def find(case: Case) -> Finding | None:
    """Returns the finding for a mismatch; None if there is none.

    The flight recorders and what ranks announced of groups come first, whichever is earlier; then errors of the
    runtime; then the ranks' own digests.
    """
    sure = [found for found in (_from_recorders(case), members.find(case)) if found is not None]
    first = min(sure, key=lambda found: found.time_s, default=None)
    return first or _from_runtime_errors(case) or _from_digests(case) or _left_open(case)


def without_victims(case: Case, found: Finding) -> Finding | None:
    """Returns what is left of a mismatch if ranks that had lost a peer have no part in it; None if nothing is."""
    if found.cause is VerdictCause.MEMBERS:
        return found
    return unexplained(case) or (members.find(case) if is_explained(case) else found)


def unexplained(case: Case) -> Finding | None:
    """Returns the finding for a mismatch that failures of ranks before it don't explain: also without those that had
    failed, or waited in vain for one of these, ranks differ, and the majority of the others counts as right (decision
    0035). None after a death: what the others do then, they do because of it.
    """
    first = earliest(case)
    failed = _failed_before(case, first) if first is not None else ()
    left = _left_unexplained(case, first, failed) if first is not None and failed else None
    if first is None or left is None:
        return None
    found = _disagreement(case, left, _diverged_s(case, first))
    doubt = Uncertainty(Source.COLLECTIVES, f"{ranks_named(t.rank for t in failed)} had failed before, and may be why")
    return replace(
        found,
        summary=joined((found.summary, f"{deaths.raised_what(failed)}, before that")),
        evidence=(*found.evidence, *(aftermath.failure_evidence(t) for t in failed[: 2 * KEPT_VARIANTS])),
        uncertainties=(*found.uncertainties, doubt),
    )


def is_explained(case: Case) -> bool:
    """Returns whether ranks agree but for those that had failed, or waited in vain for one of these."""
    first = earliest(case)
    failed = _failed_before(case, first) if first is not None else ()
    others = any(t.kind is not Kind.MISMATCH for t in failed)
    return first is not None and others and _left_unexplained(case, first, failed) is None


def _left_unexplained(case: Case, first: Disagreement, failed: Sequence[RankFailure]) -> Disagreement | None:
    """Returns in what ranks differ without those that had failed; None if they agree, or one had died before they came
    to differ.
    """
    diverged_s = _diverged_s(case, first)
    if any(t.rank in case.exits and case.exits[t.rank][0] <= diverged_s for t in failed):
        return None
    return _without(case, first, {*_led_astray(case, first), *(t.rank for t in failed)})


def _failed_before(case: Case, found: Disagreement) -> tuple[RankFailure, ...]:
    """Returns the failures of ranks that had failed when they came to this number."""
    before = _before(case, found, {t.rank: t.time_s for t in case.failures.values()})
    return tuple(t for t in case.failures.values() if t.rank in before)


def _before(case: Case, found: Disagreement, since_s: Mapping[int, float]) -> frozenset[int]:
    """Returns the ranks of which that was so when they came to this number, or, if they never did, when others differed
    under it.
    """
    came_s = {r: _entered_s(case, found, r) for _, ranks in found.variants for r in ranks}
    diverged_s = _diverged_s(case, found)
    return frozenset(r for r, time_s in since_s.items() if time_s <= came_s.get(r, diverged_s))


def _led_astray(case: Case, found: Disagreement) -> frozenset[int]:
    """Returns the ranks that had waited in vain for one that failed, or were handling that, when they came to this
    number.
    """
    handled = {r for r in case.ranks if in_vain.is_handled(case, r, _entered_s(case, found, r))}
    return _before(case, found, in_vain.since_s(case, (found.group, found.seq))) | handled


def _without(case: Case, found: Disagreement, out: Collection[int]) -> Disagreement | None:
    """Returns in what the ranks differ if some are left out, and which then are the odd ones; None if they agree."""
    if not out:
        return found
    seen = {rank: view.collectives for rank, view in case.ranks.items() if rank not in out}
    names = {(name, found.seq) for r in seen if (name := case.test.groups.name_to(r, found.group)) is not None}
    left = next((d for d in disagreements(seen, case.test.groups, names) if d.group == found.group), None)
    return replace(found, aspect=left.aspect, odd=left.odd) if left is not None else None


# -- under one number --------------------------------------------------------------------------------------


def _from_recorders(case: Case) -> Finding | None:
    first = earliest(case)
    return _disagreement(case, first, _diverged_s(case, first)) if first is not None else None


def earliest(case: Case) -> Disagreement | None:
    """Returns the number under which ranks first issued different collectives, as far as it is recorded, and as far as
    they don't agree but for ranks that had left the test before: these go to a teardown that the others come to later.
    """
    found = sorted(case.test.disagreements(), key=lambda d: (_diverged_s(case, d), d.group, d.seq))
    left = (_without(case, d, _gone_before(case, d)) for d in found)
    return next((d for d in left if d is not None), None)


def of_those_gone(case: Case) -> Finding | None:
    """Returns the finding for a test that the box ended because ranks differed that had left it, before it was known
    whether the others get through; None if it was not for that.
    """
    found = min(case.test.disagreements(), key=lambda d: (_diverged_s(case, d), d.group, d.seq), default=None)
    gone = _gone_before(case, found) if found is not None else frozenset()
    if found is None or not gone or earliest(case) is not None:
        return None
    what = f"{ranks_named(gone)} had skipped or failed as expected, and then differed in {found.aspect} from the others"
    return Finding(
        Code.UNCLEAR,
        f"the box ended the test because ranks issued different collectives, but {what}",
        evidence=tuple(
            _variant_evidence(case, found, text, ranks) for text, ranks in found.variants[: 2 * KEPT_VARIANTS]
        ),
        certainty=Certainty.GUESS,
        time_s=case.end_s,
    )


def _gone_before(case: Case, found: Disagreement) -> frozenset[int]:
    """Returns the ranks that had skipped the test, or failed as expected; none if all that differ had."""
    gone = _before(case, found, case.gone_s)
    return gone if any(r not in gone for _, ranks in found.variants for r in ranks) else frozenset()


def _diverged_s(case: Case, found: Disagreement) -> float:
    """Returns when the second kind of collective was first entered under this number."""
    firsts = [min(_entered_s(case, found, r) for r in ranks) for _, ranks in found.variants]
    return sorted(firsts)[1] if len(firsts) > 1 else firsts[0]


def _entered_s(case: Case, found: Disagreement, rank: int) -> float:
    entry = case.test.entry_of(rank, found.group, found.seq)
    return entry.entered_s if entry else case.end_s


def _disagreement(case: Case, found: Disagreement, since_s: float) -> Finding:
    aborted = () if found.odd else _aborted_unseen(case, found)
    found = _with_aborted(case, found, aborted) if aborted else found
    gone = {r for _, ranks in found.variants for r in ranks} & _gone_before(case, found)
    silent = _undecided(case, found) if found.odd else ()
    doubts = (
        (aborted, f"what {ranks_named(aborted)} issued is inferred from the abort"),
        (gone, f"{ranks_named(gone)} had skipped or failed as expected before, and may be why"),
        (silent, f"{ranks_named(silent)} had not come to it, and may make another majority"),
    )
    texts = [f"{ranks_named(ranks)} {plain(text, 120)}" for text, ranks in _rarest_first(found)]
    variants = ", ".join(texts[:KEPT_VARIANTS]) + (", …" if len(texts) > KEPT_VARIANTS else "")
    head = (
        f"{ranks_named(found.odd)} differ{'s' if len(found.odd) == 1 else ''} in"
        if found.odd
        else "ranks disagree on the"
    )
    return Finding(
        Code.COLLECTIVE_MISMATCH,
        joined(
            (
                f"{head} {found.aspect} at collective #{found.seq} of group {plain(found.group, 40)}: {variants}",
                _effect(case),
            )
        ),
        found.odd,
        found.aspect,
        _phase(case, found.odd or tuple(r for _, ranks in found.variants for r in ranks)),
        (
            *(_variant_evidence(case, found, text, ranks) for text, ranks in found.variants[: 2 * KEPT_VARIANTS]),
            *_places(case, found),
        ),
        aftermath.consequences(case, found.odd),
        _RELIES,
        tuple(Uncertainty(Source.COLLECTIVES, text) for ranks, text in doubts if ranks),
        time_s=since_s,
    )


def _undecided(case: Case, found: Disagreement) -> tuple[int, ...]:
    """Returns the members that may still have issued either, if they are so many that the majority is not known."""
    issued = {r for _, ranks in found.variants for r in ranks}
    silent = tuple(r for r in sorted(case.test.groups.of(found.group, issued) - issued) if case.stays(r))
    votes = sorted((len(ranks) for _, ranks in found.variants), reverse=True)
    return silent if votes[0] <= votes[1] + len(silent) else ()


def _aborted_unseen(case: Case, found: Disagreement) -> tuple[int, ...]:
    """Returns ranks that gloo aborted because they received more than they expected, and whose own entry is lost with
    them.
    """
    aborted = [t.rank for t in case.failures.values() if t.kind is Kind.MISMATCH and t.source is FailureSource.EXIT]
    members = case.test.groups.of(found.group, ()) if found.aspect is Aspect.SIZE else frozenset()
    return tuple(sorted(r for r in aborted if r in members and not case.test.entry_of(r, found.group, found.seq)))


def _with_aborted(case: Case, found: Disagreement, aborted: Sequence[int]) -> Disagreement:
    """Returns the disagreement with the aborted ranks among those of the smallest size, which is what they expected."""
    entries = {text: case.test.entry_of(ranks[0], found.group, found.seq) for text, ranks in found.variants}
    sizes = {text: signature_of(entry)[2] for text, entry in entries.items() if entry is not None}
    smallest = min(sizes, key=sizes.__getitem__, default=None)
    variants = {text: (*ranks, *aborted) if text == smallest else ranks for text, ranks in found.variants}
    variants = {text: tuple(sorted(ranks)) for text, ranks in variants.items()}
    return replace(found, variants=tuple(variants.items()), odd=_odd(variants))


def _rarest_first(found: Disagreement) -> list[tuple[str, tuple[int, ...]]]:
    return sorted(found.variants, key=lambda variant: len(variant[1])) if found.odd else list(found.variants)


def _effect(case: Case) -> str:
    """Returns a warning if the runtime let the mismatch pass."""
    if case.why is None and not case.failures:
        return "no rank noticed, but the results can't be right"
    return ""


def _phase(case: Case, ranks: Sequence[int]) -> TestPhase:
    failed = [case.failures[r].phase for r in ranks if r in case.failures]
    if failed:
        return failed[0]
    running = [case.phase_of(r) for r in ranks if not case.is_through(r)]
    return running[0] if running else TestPhase.CALL


def _variant_evidence(case: Case, found: Disagreement, text: str, ranks: Sequence[int]) -> Evidence:
    first_s = min(_entered_s(case, found, r) for r in ranks)
    issued = f"{ranks_named(ranks)} issued {plain(text, 160)} as #{found.seq} of group {plain(found.group, 40)}"
    return Evidence(None, first_s, Witness.FLIGHT_RECORDER, issued)


def _places(case: Case, found: Disagreement) -> tuple[Evidence, ...]:
    """Returns where ranks of each kind were seen in the collective: by their stack, or by the error that it raised."""
    kinds = {ranks[0]: text for text, ranks in _rarest_first(found)[:KEPT_VARIANTS]}
    return aftermath.first_few(kinds, lambda r: _place(case, found, r, kinds[r]))


def _place(case: Case, found: Disagreement, rank: int, text: str) -> Evidence | None:
    wait, failure = case.waiting_in.get(rank), case.failures.get(rank)
    taken, where = case.last_stack(rank), case.location(rank)
    op = bare_op(plain(text, 160).partition("(")[0])
    called = f"{op} #{found.seq} is called at "
    if wait is not None and (wait.group, wait.seq) == (found.group, found.seq) and taken and where:
        call = communication_call(taken[1])
        by = f" by {call}" if call not in (None, op, "wait") else ""  # gloo records a reduce_scatter as an all_reduce
        return Evidence(rank, taken[0], Witness.STACK, f"{called}{where}{by}")
    if (
        failure is not None
        and failure.source is FailureSource.REPORT
        and failure.place
        and _was_in(case, found, failure)
    ):
        return Evidence(rank, failure.time_s, Witness.REPORT, f"{called}{failure.place}")
    return None


def _was_in(case: Case, found: Disagreement, failure: RankFailure) -> bool:
    """Returns whether the rank's error came out of this collective: it entered no later one."""
    last = case.last_entered(failure.rank, failure.time_s)
    named = case.test.groups.as_named_by
    return last is not None and (named(failure.rank, last.group), last.seq) == (found.group, found.seq)


# -- by the ranks' own digests ---------------------------------------------------------------------------------


def _from_digests(case: Case) -> Finding | None:
    """Returns the finding for a test that passed, if the ranks' digests differ in collectives that no recorder kept."""
    found = case.test.differing() if case.test.passed and not case.failures and case.why is None else ()
    if not found:
        return None
    group, _, variants = found[0]
    members = case.test.groups.of(group, case.ranks)
    odd = _odd(variants) if 2 * max(map(len, variants.values())) > len(members) else ()
    where = f"group {plain(group, 40)}"
    head = (
        f"{ranks_named(odd)} issued different collectives than the other ranks"
        if odd
        else "ranks issued different collectives"
    )
    return Finding(
        Code.COLLECTIVE_MISMATCH,
        f"{head} in {where}: no rank noticed, but the results can't be right",
        odd,
        None,
        TestPhase.CALL,
        tuple(
            Evidence(None, None, Witness.REPORT, f"{ranks_named(ranks)} issued {_stretch(digest, where)}")
            for digest, ranks in list(variants.items())[: 2 * KEPT_VARIANTS]
        ),
        relies=frozenset({Source.REPORTS, Source.GROUPS}),
        time_s=case.end_s,
    )


def _left_open(case: Case) -> Finding | None:
    """Returns the finding for a test that passed although ranks left a collective open without which others are
    through: it can never complete. A test may do so on purpose, and poll.
    """
    found = case.test.left_open() if case.test.passed and not case.failures and case.why is None else ()
    if not found:
        return None
    left = found[0]
    entries = (case.test.entry_of(rank, left.group, left.seq) for rank in left.issued)
    op = next((bare_op(entry.op) for entry in entries if entry is not None), "collective")
    what = f"{op} #{left.seq} of group {plain(left.group, 40)}"
    size = len(left.issued) + len(left.lacking)
    odd = next((few for few in (left.lacking, left.issued) if 2 * len(few) < size), ())
    return Finding(
        Code.COLLECTIVE_MISMATCH,
        f"{ranks_named(left.issued)} left {what} open, which {ranks_named(left.lacking)} never issued: no rank waited"
        " for it, but it can't complete",
        odd,
        None,
        TestPhase.CALL,
        (
            Evidence(
                None, None, Witness.REPORT, f"{what} is open on {ranks_named(left.issued)} at the end of the test"
            ),
            Evidence(None, None, Witness.REPORT, f"{ranks_named(left.lacking)} finished the test without it"),
        ),
        relies=frozenset({Source.REPORTS, Source.GROUPS}),
        uncertainties=(Uncertainty(Source.COLLECTIVES, "a test that gives up on a collective looks the same"),),
        time_s=case.end_s,
    )


def _stretch(digest: str, where: str) -> str:
    numbers, _, hashed = digest.partition(":")
    first, _, last = numbers.partition("-")
    return f"collectives #{plain(first, 20)} to #{plain(last, 20)} of {where} with digest {plain(hashed, 20)}"


# -- by what the runtime said --------------------------------------------------------------------------------


def _from_runtime_errors(case: Case) -> Finding | None:
    """Returns the finding for a mismatch that gloo or torch reported."""
    runtime_errors = [t for t in case.failures.values() if t.kind is Kind.MISMATCH]
    if not runtime_errors:
        return None
    first = runtime_errors[0]
    variants = _variants_named(case, runtime_errors)
    received = _received_too_much(case, runtime_errors)
    odd = _odd(variants) or (() if received else _by_elimination(case, runtime_errors))
    what = "; ".join(f"{ranks_named(ranks)}: {plain(text, 120)}" for text, ranks in variants.items())
    head = (
        f"{ranks_named(odd)} issued a different collective than the other ranks"
        if odd
        else received or "ranks issued different collectives"
    )
    return Finding(
        Code.COLLECTIVE_MISMATCH,
        f"{head}: {what or f'{of_ranks([first.rank], aftermath.described(first))}, sizes did not match'}",
        odd,
        None if variants else Aspect.SIZE,
        first.phase,
        (*(aftermath.failure_evidence(t) for t in runtime_errors[:4]), *_aborts(runtime_errors)),
        aftermath.consequences(case, odd),
        frozenset({Source.REPORTS, Source.COLLECTIVES}),
        ()
        if variants
        else (Uncertainty(Source.COLLECTIVES, "only the runtime's error shows it, not the flight recorder"),),
        time_s=min(t.time_s for t in runtime_errors),
    )


def _received_too_much(case: Case, runtime_errors: Sequence[RankFailure]) -> str:
    """Returns a sentence about the first rank that gloo aborted in a call in which each peer may send another size:
    that one sent more than it expected, and either of them may be wrong.
    """
    aborted = (t.rank for t in runtime_errors if t.source is FailureSource.EXIT)
    calls = ((r, crash_call(case.ranks[r])) for r in aborted)
    found = next(((r, c) for r, c in calls if c is not None and (is_message(c) or c.startswith("all_to_all"))), None)
    if found is None:
        return ""
    rank, call = found
    where = "what it waited for" if call == "wait" else call
    return f"rank {rank} got more than it expects in {where}, from a rank that is not recorded"


def _by_elimination(case: Case, runtime_errors: Sequence[RankFailure]) -> tuple[int, ...]:
    """Returns the ranks that gloo aborted, if all others agree.

    gloo aborts the rank that expects less than it receives.
    """
    aborted = tuple(sorted(t.rank for t in runtime_errors if t.source is FailureSource.EXIT))
    groups = case.test.groups
    others = {r: e for r in case.ranks if r not in aborted and (e := case.last_entered(r, case.end_s)) is not None}
    alike = {(groups.as_named_by(r, e.group), e.seq, e.op, e.numel_in, e.dtype) for r, e in others.items()}
    if len(alike) != 1 or len(others) <= max(1, len(aborted)):
        return ()
    group, seq, *_ = alike.pop()
    unseen = all(r in groups.of(group, case.ranks) and not case.test.entry_of(r, group, seq) for r in aborted)
    return aborted if unseen else ()


def _variants_named(case: Case, runtime_errors: Iterable[RankFailure]) -> dict[str, tuple[int, ...]]:
    issued: dict[int, str] = {}
    for failure in runtime_errors:
        reported = case.ranks[failure.rank].failure
        error = reported[1].error if reported else None
        issued |= {r: t for r, t in messages.fingerprints(error.message if error else "").items() if r in case.ranks}
    by_text: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(issued):
        by_text[issued[rank]].append(rank)
    return {text: tuple(ranks) for text, ranks in by_text.items()}


def _odd(variants: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Returns the ranks outside the majority; none on a tie."""
    votes = Counter({text: len(ranks) for text, ranks in variants.items()}).most_common()
    if len(votes) < 2 or votes[0][1] == votes[1][1]:
        return ()
    return tuple(sorted(r for text, ranks in variants.items() if text != votes[0][0] for r in ranks))


def _aborts(runtime_errors: Iterable[RankFailure]) -> list[Evidence]:
    aborted = [t for t in runtime_errors if t.source is FailureSource.EXIT]
    return [
        Evidence(t.rank, t.time_s, Witness.OUTPUT, "stderr: gloo::EnforceNotMet, sizes don't match")
        for t in aborted[:4]
    ]


# -- across groups -----------------------------------------------------------------------------------------


def across_groups(case: Case, cycle: Sequence[Wait]) -> Finding:
    """Returns the finding for ranks that entered collectives of several groups in different orders and wait for each
    other.
    """
    contradicted = {c.group for c in case.test.groups.contradictions()}
    if all(w.makes_group for w in cycle) or contradicted & {members.name_of(w) for w in cycle}:
        return _other_members(case, cycle)
    in_all = [r for r in sorted(case.ranks) if all(r in (*w.waiting, *w.missing) for w in cycle)]
    votes = {str(i): tuple(r for r in w.waiting if r in in_all) for i, w in enumerate(cycle)}
    odd = _odd({key: ranks for key, ranks in votes.items() if ranks})
    waiting = ", ".join(f"{ranks_named(w.waiting)} in {w} of group {plain(w.group, 40)}" for w in cycle[:KEPT_VARIANTS])
    head = (
        f"{ranks_named(odd)} used the groups in a different order"
        if odd
        else "ranks used the groups in different orders"
    )
    return _tangled(case, cycle, odd, VerdictCause.GROUP_ORDER, f"{head}: {waiting}")


def _tangled(case: Case, cycle: Sequence[Wait], odd: tuple[int, ...], cause: str, what: str) -> Finding:
    """Returns the finding for waits that wait for each other. `what` comes before how long they waited."""
    since_s = min(w.since_s for w in cycle)
    evidence = tuple(aftermath.wait_evidence(w) for w in cycle[: 2 * KEPT_VARIANTS])
    return Finding(
        Code.COLLECTIVE_MISMATCH,
        f"{what} each waited {seconds(case.waited_s(since_s))} for the others",
        odd,
        cause,
        _phase(case, odd or cycle[0].waiting),
        (*evidence, *wait_roots.call_evidence(case, _tied(cycle))),
        aftermath.consequences(case, odd),
        _RELIES,
        time_s=since_s,
    )


def _tied(cycle: Sequence[Wait]) -> dict[int, str]:
    """Returns for each wait a rank in it, one that another wait lacks where there is one, and the call."""
    lacking = {rank for w in cycle for rank in w.missing}
    return {next((r for r in w.waiting if r in lacking), w.waiting[0]): str(w) for w in cycle[:KEPT_VARIANTS]}


def _other_members(case: Case, cycle: Sequence[Wait]) -> Finding:
    """Returns the finding for ranks that create or use different groups where all should be in one."""
    odd = _odd({str(i): w.waiting for i, w in enumerate(cycle)})
    made = next((w.op for w in cycle if w.makes_group), None)
    call = made or f"the group of {cycle[0]}"
    head = f"{ranks_named(odd)} called {call} for a different group than the other ranks"
    head = head if odd else f"ranks called {call} for different groups"
    groups = "; ".join(_which_group(case, w) for w in cycle[:KEPT_VARIANTS])
    return _tangled(case, cycle, odd, VerdictCause.MEMBERS, f"{head}: {groups};")


def _which_group(case: Case, wait: Wait) -> str:
    """Returns for example `rank 3 in group 1 (ranks 0-3), at test_tp.py:28 (test_groups)`."""
    of = sorted(wait.members or {*wait.waiting, *wait.missing})
    where = case.location(wait.waiting[0])
    name = plain(members.name_of(wait).partition("@")[0], 40)
    return f"{ranks_named(wait.waiting)} in group {name} ({ranks_named(of)})" + (f", at {where}" if where else "")
