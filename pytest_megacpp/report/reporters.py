"""Owns the reports that every run leaves in its directory, and JUnit's properties; must not know how they are written.

Their order in the list matters: a receipt names the flight records that were written, `run.json` the receipts.
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.report.flight_dump import flight_dumps, record_name
from pytest_megacpp.report.properties import properties
from pytest_megacpp.report.receipt import receipt
from pytest_megacpp.report.reporter import Artefact, ChangedFields, Reporter, RunResults, document
from pytest_megacpp.report.run_json import redacted, run_json
from pytest_megacpp.report.seed import has_compiled, seed_json


def receipt_path(run: RunResults, index: int) -> str | None:
    """Where the receipt of a test is, relative to the run; None where it was not written."""
    path = _receipt_path(run, index)
    return path if path in run.written else None


def _receipt_path(run: RunResults, index: int) -> str:
    return f"receipts/{run.receipt_names[index]}"


def flight_records(run: RunResults, result: TestResult) -> dict[int, str]:
    """The directories with the flight records of a test's attempts, by their numbers, as far as they were written."""
    numbers = [attempt.number for attempt in result.attempts] or [result.number]
    paths = {number: record_name(run.receipt_names[result.index], result, number) for number in numbers}
    return {number: path for number, path in paths.items() if path in run.written}


class FlightRecords(Reporter):
    """What ranks did together in each attempt that isn't green, a file per rank, as torch itself would dump it."""

    name = "flight records"

    def tested(self, run: RunResults, index: int) -> Iterator[Artefact]:
        result = run.judged[index]
        if result.verdict.cause is VerdictCause.NOT_RECORDED:  # its number is perhaps another test's
            return
        codes = {attempt.number: attempt.verdict.code for attempt in result.attempts}
        for number, code in (codes or {result.number: result.verdict.code}).items():
            path = record_name(run.receipt_names[index], result, number)
            if number in run.timeline.tests and not code.is_green and path not in run.written:
                yield Artefact(path, _dumps(run, number, path))


def _dumps(run: RunResults, number: int, path: str) -> Iterator[tuple[str, bytes]]:
    for rank, dump in enumerate(flight_dumps(run.timeline.tests[number], run.timeline, run.redact)):
        yield f"{path}/rank_{rank}", pickle.dumps(dump)


class Receipts(Reporter):
    """A document per test: all that is known of it."""

    name = "receipts"

    def tested(self, run: RunResults, index: int) -> Iterator[Artefact]:
        result = run.judged[index]
        flights = flight_records(run, result)
        content = receipt(result, run.timeline, run.meta, flights, redact=run.redact)
        yield document(_receipt_path(run, index), content)

    def ended(self, run: RunResults) -> Iterator[Artefact]:
        """Changes what is known only after all tests: the compile cache that the run kept, of tests that compiled."""
        for index in run.judged if run.timeline.kept is not None else ():
            if not has_compiled(run.timeline, index):
                continue
            if (path := receipt_path(run, index)) is None:
                yield from self.tested(run, index)
            else:
                seed = redacted({"seed": seed_json(run.timeline, index)}, run.redact)
                yield document(path, ChangedFields(seed))


class RunJson(Reporter):
    """`run.json`, as running and as it ended."""

    name = "run.json"

    def started(self, run: RunResults) -> Iterable[Artefact]:
        receipts = {index: path for index in run.judged if (path := receipt_path(run, index)) is not None}
        content = run_json(run.meta, run.status, run.nodeids, run.judged, receipts, run.timeline, redact=run.redact)
        return [document("run.json", content)]

    ended = started


class JUnitProperties(Reporter):
    """What JUnit files keep of a test beside its outcome."""

    name = "JUnit properties"

    def properties(self, run: RunResults, index: int) -> Mapping[str, object]:
        return properties(run, index)
