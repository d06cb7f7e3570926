"""Owns the failure text of one test, what a person sees at 2 a.m.; must not know pytest, files or how it was judged.

The cause comes first, then a picture of all ranks, what the blamed ranks raised or where they were, the evidence in
order of time, the consequences for other ranks, and what to do next. It reads the same for 2 ranks and 1,024.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import Certainty, Consequence, Evidence, TestResult, Verdict
from pytest_megacpp.recording.events import Capability
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import EvidenceSource, Stream, TestPhase, WarmUp
from pytest_megacpp.report.attempts import attempt_lines
from pytest_megacpp.report.clean import clean, one_line
from pytest_megacpp.report.holes import holes
from pytest_megacpp.report.layout import WIDTH, counted, grouped_texts, listed, wrapped
from pytest_megacpp.report.rank_output import last_lines, what_ranks_wrote
from pytest_megacpp.report.states import RankState, Scene, rank_states, scene
from pytest_megacpp.report.ticket import ticket
from pytest_megacpp.report.tones import Tone, TonedLine, pictured, plain, raised, text_of, titled

ITEMISED_RANKS = 16
KEPT_EVIDENCE = 14
SAME_MOMENT_S = 1.0  # between ranks in one line of evidence; further apart, both times are shown
KEPT_GROUPS = 8
KEPT_OTHERS = 2
KEPT_LOGS = 2  # ranks of which both are named
CAN_BE_INSTALLED = EvidenceSource.PY_SPY
_NEEDS_DETAIL = ("wait", "busy")
LABEL = 9
MISSED_CHARS = 2_000
NO_TEXT: TonedLine = (("", Tone.PLAIN),)
_COMMAND = re.compile(r"\A(?:[A-Za-z_]\w*=(?:'[^'\n]*'|[^\s'])* )*(?:pytest|megacpp|modal|pip) ")  # with its variables
_CLAUSE_END = re.compile(r"; |: | \(| while ")


def headline(verdict: Verdict) -> str:
    """`rank-death · rank 3 was killed …`: one line, cause first; the blamed ranks are in it, but only once."""
    summary = one_line(verdict.summary, 400)
    blamed = ranks_named(verdict.blamed_ranks) if verdict.blamed_ranks else ""
    if summary and blamed:
        return f"{verdict.code} · {summary}" if says(summary, blamed) else f"{verdict.code} · {blamed}: {summary}"
    return " · ".join(part for part in (verdict.code, summary or blamed) if part)


def said(result: TestResult) -> str:
    """One line of a test's result: its verdict, or of a drill that failed what it missed."""
    return one_line(result.missed, 400) if result.missed else headline(result.verdict)


def headlines(verdict: Verdict) -> list[str]:
    """The headline and its beginnings that still name code and blamed ranks, the longest first; last of all code, ranks
    and cause alone.
    """
    whole = headline(verdict)
    blamed = ranks_named(verdict.blamed_ranks) if verdict.blamed_ranks else ""
    cuts = [whole[: found.start()] for found in _CLAUSE_END.finditer(whole)]
    found = [c for c in reversed(cuts) if c.count("(") == c.count(")") and (not blamed or says(c, blamed))]
    words = [str(verdict.code), blamed, one_line(str(verdict.cause), 80)] if verdict.cause else []
    least = " · ".join(word for word in words if word)
    return [whole, *found, *([least] if least and all(len(least) < len(c) for c in (whole, *found)) else [])]


def says(summary: str, ranks: str) -> bool:
    """Whether a summary names exactly these ranks."""
    return re.search(rf"\b{re.escape(ranks)}(?![-,\d])", summary) is not None


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What a text says that isn't in the recording. Paths are as the user can open them: `flight` is the directory with
    the flight records of all ranks, `logs` that with the logs of all worlds. `known` is what else of the run a support
    ticket needs.
    """

    lane: str
    receipt: str | None = None
    flight: str | None = None
    logs: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)


def failure_text(result: TestResult, timeline: Timeline, around: Whereabouts, width: int = WIDTH) -> str:
    """The whole text, plain, without a final newline."""
    return "\n".join(map(text_of, failure_lines(result, timeline, around, width)))


def failure_lines(
    result: TestResult, timeline: Timeline, around: Whereabouts, width: int = WIDTH, *, is_short: bool = False
) -> list[TonedLine]:
    """The lines of the text. The headline, what ranks wrote, paths and commands may be wider than `width` columns. A
    short text is without the consequences for other ranks.
    """
    verdict, where = result.verdict, scene(result, timeline)
    cwd = timeline.started.cwd if timeline.started else ""
    blocks = [
        plain([one_line(result.missed, MISSED_CHARS)] if result.missed else [], Tone.HEADLINE),
        [((headline(verdict), Tone.HEADLINE),), *plain(_facts(verdict, where, timeline, around.lane, width))],
        titled(attempt_lines(result, timeline, width)),
        pictured(picture(rank_states(where, verdict), verdict.blamed_ranks, width)),
        *map(raised, what_ranks_wrote(verdict, where, result.nodeid, cwd)),
        _evidence(verdict, where, width),
        *([] if is_short else map(titled, _consequences(verdict.consequences, width))),
        titled([] if is_short else last_lines(verdict, where)),
        titled(ticket(result, timeline, around.known, width) if verdict.cause == VerdictCause.INFRASTRUCTURE else []),
        [
            *_ending(verdict, around.flight, width),
            *_log_lines(verdict, where, around.logs),
            *_receipt_line(around.receipt),
        ],
    ]
    first, *others = [block for block in blocks if block]
    return [*first, *(line for block in others for line in (NO_TEXT, *block))]


def _facts(verdict: Verdict, where: Scene, timeline: Timeline, lane: str, width: int) -> list[str]:
    return [*listed(facts(verdict, where, timeline, lane), "  ", width), *_incomplete(verdict, timeline, width)]


def facts(verdict: Verdict, where: Scene, timeline: Timeline, lane: str) -> list[str]:
    """How certain a verdict is, of what cause, and where the test ran."""
    found = [str(verdict.certainty)]
    found += [f"cause {one_line(verdict.cause, 120)}"] if verdict.cause else []
    found += [f"in {verdict.phase}"] if verdict.phase is not TestPhase.CALL else []
    found += ["while warming up"] if where.test is not None and where.test.warmup is WarmUp.RUNS else []
    found.append(f"lane {one_line(lane)}" + (f", {counted(where.size, 'rank')}" if where.size else ""))
    if timeline.started is not None and timeline.started.dry_run:
        found.append("dry run (CPU/gloo: says nothing about GPUs)")
    return found


def _incomplete(verdict: Verdict, timeline: Timeline, width: int) -> list[str]:
    """Sources of evidence that the verdict rests on or that can be installed, where they are missing and it isn't
    certain; holes in the recording, wherever there are some.
    """
    missing: list[str] = []
    if verdict.certainty is not Certainty.CERTAIN:
        absent = {c.name: c.detail for c in timeline.capabilities.values() if not c.available and _matters(c, verdict)}
        missing += [f"no {one_line(n, 40)}" + (f" ({one_line(d, 80)})" if d else "") for n, d in absent.items()]
    missing += holes(timeline)
    return wrapped("incomplete evidence: " + "; ".join(missing), "  ", width=width) if missing else []


def _matters(missing: Capability, verdict: Verdict) -> bool:
    named = f"less certain: no {missing.name}"
    return missing.name == CAN_BE_INSTALLED or any(e.text.startswith(named) for e in verdict.evidence)


def picture(states: Sequence[RankState], blamed: Sequence[int], width: int = WIDTH) -> list[str]:
    """All ranks in one line: one by one while they fit, else in groups."""
    if not states:
        return []
    guilty = set(blamed)
    line = "   ".join(f"{s.rank} {'✗' if s.rank in guilty else ''}{s.word}" for s in states)
    if len(states) > ITEMISED_RANKS or len(line) > width - 2:
        return listed(_in_groups(states, guilty), "  ", width)
    return [f"  {line}", *listed(_in_groups([s for s in states if s.word in _NEEDS_DETAIL], guilty), "  ", width)]


def _in_groups(states: Sequence[RankState], guilty: set[int]) -> list[str]:
    """`ranks 0-2,4-1023 waiting in all_reduce #7 · ✗ rank 3 died (SIGKILL)`; of many groups the largest, and always
    some of the blamed and some of the others.
    """
    blamed = grouped_texts([(s.rank, s.text) for s in states if s.rank in guilty], KEPT_GROUPS)
    others = grouped_texts([(s.rank, s.text) for s in states if s.rank not in guilty], KEPT_GROUPS)
    room = max(KEPT_GROUPS - len(blamed), KEPT_OTHERS)
    kept = [*_the_largest(blamed, KEPT_GROUPS - min(room, len(others))), *_the_largest(others, room)]
    shown = [f"{'✗ ' if ranks[0] in guilty else ''}{ranks_named(ranks)} {text}" for ranks, text in sorted(kept)]
    left = len(states) - sum(len(ranks) for ranks, _ in kept)
    return [*shown, *([f"{counted(left, 'rank')} in other states"] if left else [])]


def _the_largest(groups: Sequence[tuple[list[int], str]], most: int) -> list[tuple[list[int], str]]:
    return sorted(groups, key=lambda group: -len(group[0]))[:most]


def _evidence(verdict: Verdict, where: Scene, width: int) -> list[TonedLine]:
    """In order of time, what several ranks share in one line; times count from the test's start where it has one."""
    if not verdict.evidence:
        return []
    start_s, blamed = where.test.started_s if where.test else 0.0, set(verdict.blamed_ranks)
    groups = _shared(verdict.evidence)
    rows = [_evidence_row(group, start_s) for group in groups[:KEPT_EVIDENCE]]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines: list[TonedLine] = []
    for group, row in zip(groups, rows, strict=False):
        of_blamed = all(item.rank in blamed for item in group)
        lines += plain(_aligned(row, widths, width), Tone.EVIDENCE if of_blamed else Tone.PLAIN)
    left = len(groups) - KEPT_EVIDENCE
    more = [f"  … {counted(left, 'more line')} in the receipt"] if left > 0 else []
    title = f"evidence (+ seconds since the {'test' if where.test else 'run'} began)"
    return [*plain([title], Tone.TITLE), *lines, *plain(more)]


def _shared(evidence: Iterable[Evidence]) -> list[list[Evidence]]:
    ordered = sorted(evidence, key=lambda e: (e.time_s is None, e.time_s or 0.0))
    groups: dict[tuple[str, str, bool], list[Evidence]] = {}
    for item in ordered:
        groups.setdefault((item.source, item.text, item.rank is None), []).append(item)
    return list(groups.values())


def _evidence_row(group: Sequence[Evidence], start_s: float) -> tuple[str, str, str, str]:
    first = group[0]
    ranks = [item.rank for item in group if item.rank is not None]
    times_s = [item.time_s - start_s for item in group if item.time_s is not None]
    return _times(times_s), ranks_named(ranks) if ranks else "box", first.source, one_line(first.text, 400)


def _times(times_s: Sequence[float]) -> str:
    """The first of them, and the last where ranks differ by more than a moment."""
    if not times_s:
        return ""
    first_s, last_s = min(times_s), max(times_s)
    return f"{first_s:+.2f} to {last_s:+.2f} s" if last_s - first_s > SAME_MOMENT_S else f"{first_s:+.2f} s"


def _aligned(row: tuple[str, str, str, str], widths: Sequence[int], width: int) -> list[str]:
    """The text beside its columns; on a narrow page below them."""
    time, ranks, source, text = row
    head = f"  {time:>{widths[0]}}  {ranks:<{widths[1]}}  {source:<{widths[2]}}  "
    if len(head) > width // 2:
        return [head.rstrip(), *wrapped(text or "-", " " * (widths[0] + 4), width=width)]
    return wrapped(text or "-", head, " " * len(head), width)


def _consequences(consequences: Sequence[Consequence], width: int) -> list[list[str]]:
    """What followed, then failures with a cause of their own."""
    followed = [(c.rank, one_line(c.text)) for c in consequences if c.cause is None]
    own = [(c.rank, f"{one_line(c.text)} (cause {one_line(c.cause, 80)})") for c in consequences if c.cause is not None]
    return [_group_lines("consequences", followed, width), _group_lines("failures of their own", own, width)]


def _group_lines(title: str, texts: Sequence[tuple[int, str]], width: int) -> list[str]:
    if not texts:
        return []
    groups = grouped_texts(texts)
    shown = (wrapped(text, f"  {ranks_named(ranks)}: ", "    ", width) for ranks, text in groups[:KEPT_GROUPS])
    left = sum(len(ranks) for ranks, _ in groups[KEPT_GROUPS:])
    more = [f"  … and {counted(left, 'more rank')}, see the receipt"] if left else []
    return [title, *(line for lines in shown for line in lines), *more]


def _ending(verdict: Verdict, flight: str | None, width: int) -> list[TonedLine]:
    """Commands are there to be copied, and never broken."""
    steps = clean(verdict.next_step).strip().split("\n") if verdict.next_step.strip() else []
    lines: list[TonedLine] = []
    for number, step in enumerate(steps):
        label = "next" if number == 0 else ""
        if _COMMAND.match(step):
            lines.append(_labelled(label, step, Tone.COMMAND))
        else:
            first, *rest = wrapped(step, " " * LABEL, width=width) or [""]
            lines += [_labelled(label, first[LABEL:]), *plain(rest)]
    if flight and verdict.code.traits.is_about_collectives:
        command = f"torchfrtrace {shlex.quote(one_line(flight, 1000))} -p rank_"
        lines.append(_labelled("flight", command, Tone.COMMAND))
    return lines


def _log_lines(verdict: Verdict, where: Scene, logs: str | None) -> list[TonedLine]:
    """The logs of the ranks that are blamed, or where those of all ranks of the world are."""
    world = where.test.world if where.test else where.world.name if where.world else None
    if logs is None or world is None:
        return []
    directory = one_line(f"{logs}/{world}", 1000)
    blamed = [rank for rank in verdict.blamed_ranks if rank < where.size]
    named = [f"{directory}/{r}/{stream}.log" for r in blamed[:KEPT_LOGS] for stream in reversed(Stream)]
    left = len(blamed) - KEPT_LOGS
    more = [f"… and those of {counted(left, 'more rank')} in {directory}"] if left > 0 else []
    paths = [*named, *more] or [f"{directory}/*/{stream}.log" for stream in reversed(Stream)]
    return [_labelled("" if number else "logs", path) for number, path in enumerate(paths)]


def _receipt_line(receipt: str | None) -> list[TonedLine]:
    return [_labelled("receipt", one_line(receipt, 1000))] if receipt else []


def _labelled(label: str, text: str, tone: Tone = Tone.PLAIN) -> TonedLine:
    return (f"{label:<{LABEL}}", Tone.TITLE), (text, tone)
