"""Runs the fault drills and keeps each one's recording, cut down, as a golden case.

`python -m tests.golden.drills [PYTEST ARGUMENT…]`, at the root of a checkout; without arguments all drills run, and
cases of drills that are no more are removed. `--from DIR` takes the runs of a lane directory in place of new ones, the
newest of each drill. A drill that didn't reach its verdict keeps the case that it has.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.lanes import DRILL_MARK
from pytest_megacpp.desk.config.markers import Expectation, expectation
from pytest_megacpp.desk.run.directory import RECORDING, run_paths
from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.events import Event
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import read_all
from tests.golden.drills import cases
from tests.golden.drills.distil import Changed, Neutral, distilled

ROOT = Path(__file__).parents[3]
DRILLS = "smoke_suites/drills"
LANE = ("-m", "h200x8", "--surface", "local", "--dry-run")


class Collected:
    """A pytest plugin that learns what each drill expects; one without a mark expects to pass."""

    def __init__(self) -> None:
        self.expected: dict[str, Expectation] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            mark = item.get_closest_marker(DRILL_MARK)
            passes = Expectation(Code.PASSED)
            self.expected[item.nodeid] = expectation(mark, item.nodeid) if mark is not None else passes


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.golden.drills", description=__doc__)
    parser.add_argument("--from", dest="lane_dir", type=Path, metavar="DIR", help="a lane directory with runs")
    options, selection = parser.parse_known_args(arguments)
    collected = Collected()
    with tempfile.TemporaryDirectory() as fresh:
        lane_dir = (options.lane_dir or Path(fresh)).resolve()
        only_look = ["--collect-only", "-q"] if options.lane_dir else []
        pytest.main([*LANE, "--lane-dir", str(lane_dir), *only_look, *(selection or [DRILLS])], plugins=[collected])
        kept = _keep(lane_dir, collected.expected)
    if not selection:
        cases.forget(set(cases.load()) - set(collected.expected))
    for nodeid in collected.expected.keys() - kept:
        print(f"not kept: {nodeid}")
    return 0 if kept == collected.expected.keys() else 1


def _keep(lane_dir: Path, expected: dict[str, Expectation]) -> set[str]:
    neutral = Neutral(ROOT, lane_dir)
    kept: set[str] = set()
    for events in _recordings(lane_dir):
        timeline = fold(events)
        for index, planned in timeline.planned.items():
            wanted = expected.get(planned.nodeid)
            if wanted is None or planned.nodeid in kept:
                continue
            verdict = judge_test(timeline, index).verdict
            if cases.differences(wanted, verdict):
                continue
            try:
                cases.keep(planned.nodeid, wanted, distilled(events, index, neutral))
                kept.add(planned.nodeid)
            except Changed as e:
                print(f"{planned.nodeid}: {e}")
    return kept


def _recordings(lane_dir: Path) -> Iterator[list[Event]]:
    """Newest first."""
    for run in reversed(run_paths(lane_dir)):
        if (run / RECORDING).is_file():
            yield read_all((run / RECORDING).read_bytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
