"""Owns what pytest's summary says of lanes; must not know how a line gets to the terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult
from pytest_megacpp.recording.endings import bad_endings
from pytest_megacpp.report.attempts import attempts_line
from pytest_megacpp.report.brief import standing
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.data import bucket_lines
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.money import cost, footer
from pytest_megacpp.report.page.timelines import PAGE
from pytest_megacpp.report.reporter import GateResults, Line, Reporter, RunResults, SessionResults
from pytest_megacpp.report.run_json import RunStatus
from pytest_megacpp.report.seed import seed_lines
from pytest_megacpp.report.text import headline, said

_WORDS = {Outcome.FAILED: "FAILED", Outcome.ERROR: "ERROR"}  # as pytest has them


class TerminalSummary(Reporter):
    """A section each for tests without a result, for the gate, and for every run."""

    name = "terminal summary"

    def closing(self, session: SessionResults) -> Iterator[Line]:
        if session.unreported:
            yield Line("lane tests without a result", title=True, red=True)
            yield from (Line(line, red=True) for line in session.unreported)
        if session.overruled:
            yield Line("lane tests that hooks reported otherwise", title=True, red=True)
            yield from (Line(line, red=True) for line in session.overruled)
        if session.gate is not None:
            yield from _gate_lines(session.gate)
        for run in session.runs:
            dry = ", dry run on CPU/gloo" if run.plan.dry_run else ""
            yield Line(one_line(f"lane {run.plan.lane}{run.meta.box.title}{dry}", 200), title=True)
            yield from _run_lines(run)
            if run.meta.box.is_last:
                yield from map(Line, _joint_lines(run))


def failure_lines(run: RunResults) -> Iterator[Line]:
    """A line for each failure, also for those that pytest has not got."""
    for index in run.reported:
        result = run.judged[index]
        if result.outcome.is_red:
            yield _failure_line(run, result, said(result))
    yield from lines_cut_off(run)


def lines_cut_off(run: RunResults) -> Iterator[Line]:
    """A line for each failure that pytest has not got: of a test that was interrupted, with what its ranks were in."""
    for index in cut_off(run):
        result = run.judged[index]
        where = standing(result, run.timeline) if result.verdict.code is Code.NOT_RUN else ""
        yield _failure_line(run, result, "; ".join(filter(None, (headline(result.verdict), where))))


def _failure_line(run: RunResults, result: TestResult, said: str) -> Line:
    nodeid = one_line(run.nodeids[result.index], 400)
    return Line(run.redact(f"{_WORDS[result.outcome]} {nodeid} - {said}"), red=True)


def cut_off(run: RunResults) -> list[int]:
    """Tests of an interrupted run that began and failed, and of which pytest has not got it: why a job was cancelled is
    often the test that ran then. Of a drill nobody knows then whether it did.
    """
    if run.status is not RunStatus.INTERRUPTED:
        return []
    begun = sorted(run.judged.keys() & run.timeline.tests.keys() - {*run.reported})
    red = (index for index in begun if run.judged[index].outcome.is_red)
    return [index for index in red if not run.plan.tests[index].drill]


def failures(run: RunResults, heard: int) -> Iterator[tuple[str, str]]:
    """Node ids and headlines of the failures among the results that pytest has got, beyond the first `heard` ones.
    Until then a drill's outcome may still take the place of its verdict.
    """
    for index in run.reported[heard:]:
        result = run.judged[index]
        if result.outcome.is_red:
            yield run.nodeids[index], run.redact(said(result))


def _gate_lines(gate: GateResults) -> Iterator[Line]:
    if gate.notes or gate.complaints:
        yield Line("gate", title=True)
        yield from map(Line, gate.notes)
        yield from (Line(complaint, red=True) for complaint in gate.complaints)


def _run_lines(run: RunResults) -> Iterator[Line]:
    directory = shown(run.directory, Path.cwd())
    yield from map(Line, _counts_by_file(run))
    if run.unfinished:
        yield Line(run.unfinished, red=True)
    yield from map(Line, (*_attempts(run), *seed_lines(run.timeline)))
    for ending in bad_endings(run.timeline):
        yield Line(f"{ending}: see its log in {directory}/ranks", red=True)
    for line in bucket_lines(run.timeline):
        yield Line(run.redact(line), yellow=True)
    for problem in run.unwritten:
        yield Line(problem, red=True)
    seconds, rate = run.timeline.last_s, run.meta.rate
    spent = ", ".join(part for part in (f"{seconds:.1f} s", footer(cost(seconds, rate), rate)) if part)
    yield Line(f"run {run.plan.run_id}, {spent}: {directory}")
    if PAGE in run.written and not all(result.verdict.code.is_green for result in run.judged.values()):
        yield Line(f"its verdicts and lanes of ranks, for a browser: {directory}/{PAGE}")
    if run.is_still_running:
        yield Line(f"still running; reattach with: pytest --attach {run.plan.run_id}")


def _joint_lines(run: RunResults) -> Iterator[str]:
    box = run.meta.box
    if box.part_of is not None:
        directory = shown(run.directory.parent / box.part_of, Path.cwd())
        yield f"together: run {box.part_of}, {box.boxes} boxes: {directory}"


def _counts_by_file(run: RunResults) -> list[str]:
    """A line per test file: verdict codes counted, drills apart, since theirs are wanted, or another one was."""
    files: dict[str, dict[str, Counter[str]]] = {}
    for index, result in sorted(run.judged.items()):
        kind = "not as expected" if result.missed else ""
        if run.plan.tests[index].drill and result.outcome is Outcome.PASSED:
            kind = "as expected"
        kinds = files.setdefault(result.nodeid.partition("::")[0], {})
        kinds.setdefault(kind, Counter())[str(result.verdict.code)] += 1
    return [f"{file}: {_counted(kinds)}" for file, kinds in files.items()]


def _counted(kinds: Mapping[str, Counter[str]]) -> str:
    parts = []
    for kind, codes in sorted(kinds.items()):
        verdicts = ", ".join(f"{n} {code}" for code, n in sorted(codes.items()))
        parts.append(f"{counted(codes.total(), 'drill')} {kind} ({verdicts})" if kind else verdicts)
    return ", ".join(parts)


def _attempts(run: RunResults) -> list[str]:
    """A line per test at which further attempts were ordered."""
    steps_of = ((result.nodeid, attempts_line(result)) for _, result in sorted(run.judged.items()))
    return [f"{one_line(nodeid)}: {steps}" for nodeid, steps in steps_of if steps is not None]


def shown(path: Path, relative_to: Path) -> str:
    """The path as the terminal shows it."""
    return str(path.relative_to(relative_to)) if path.is_relative_to(relative_to) else str(path)
