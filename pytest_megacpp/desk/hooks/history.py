"""Owns `history.html` at the end of a session, and a line about what its tests did worse than before; must not know how
a page is made.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_megacpp.desk.run.directory import HISTORY
from pytest_megacpp.desk.run.history_file import history_document
from pytest_megacpp.desk.run.receipts import newest_receipts, newest_two
from pytest_megacpp.report.layout import counted
from pytest_megacpp.report.reporter import Line, Output, Reporter, SessionResults, document

if TYPE_CHECKING:
    from pytest_megacpp.report.history.series import Series

READ_RECEIPTS = 1_000  # at the end of a session, 0.1 s; `megacpp history --html` reads all of them
FEWER_TESTS = 100  # where two runs alone have more receipts than that


class HistoryPage(Reporter):
    """The tests over the newest runs, as soon as there are two."""

    name = "history"

    def __init__(self, lane_dir: Path) -> None:
        self._lane_dir = lane_dir

    def closing(self, session: SessionResults) -> Iterator[Output]:
        if not any(run.written for run in session.runs):
            return
        at_least = newest_two(self._lane_dir)
        if not at_least:
            return
        names = None if at_least <= READ_RECEIPTS else _telling(session)
        history = newest_receipts(self._lane_dir, READ_RECEIPTS, names=names)
        made = history_document(history)
        if made is not None:
            found, page = made
            yield document(HISTORY, page)
            yield from _line(found, session, self._lane_dir / HISTORY)
        elif history.is_whole:
            (self._lane_dir / HISTORY).unlink(missing_ok=True)  # of runs that are gone


def _telling(session: SessionResults) -> list[str]:
    """The names of receipts of some of the session's tests: those that failed, then those that took longest."""
    ranked = [
        (
            not result.outcome.is_red,
            -sum(result.durations.values()),
            run.receipt_names[index],
        )
        for run in session.runs
        for index, result in run.judged.items()
    ]
    return [name for _, _, name in sorted(ranked)[:FEWER_TESTS]]


def _line(found: "list[Series]", session: SessionResults, page: Path) -> Iterator[Line]:
    """What is slower or flaky among the tests of this session."""
    from pytest_megacpp.report.history.findings import changes, flaky

    ran = {(run.plan.run_id, nodeid) for run in session.runs for nodeid in run.nodeids}
    mine = [one for one in found if (one.last.run_id, one.nodeid) in ran]
    slower = [one for one in mine if any(change.is_regression for change in changes(one))]
    unsteady = [one for one in mine if flaky(one) is not None]
    kinds = [(slower, "slower than its median", "slower than their medians"), (unsteady, "flaky", "flaky")]
    parts = [f"{counted(len(tests), 'test')} {one if len(tests) == 1 else many}" for tests, one, many in kinds if tests]
    if parts:
        yield Line(f"history: {', '.join(parts)}, see megacpp history or {page}", yellow=True)
