"""Reads and judges a recording in a process of its own, then writes what that took: RECORDING, TARGET."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from pytest_megacpp.desk.run.runs import no_garbage_collection, read_timeline
from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.report.text import Whereabouts, failure_text


def main(recording: Path, target: Path) -> None:
    """As `megacpp judge` does it, the text of the last test included."""
    wall_s, cpu_s = [time.perf_counter()], [time.process_time()]

    def lap() -> None:
        wall_s.append(time.perf_counter())
        cpu_s.append(time.process_time())

    with no_garbage_collection():
        timeline = read_timeline(recording)
        lap()
        tests = judge_run(timeline).tests
    lap()
    text = failure_text(tests[-1], timeline, Whereabouts("lane"))
    lap()
    seen = {
        "read_cpu_s": cpu_s[1] - cpu_s[0],
        "judge_cpu_s": cpu_s[2] - cpu_s[1],
        "text_cpu_s": cpu_s[3] - cpu_s[2],
        "cpu_s": cpu_s[3] - cpu_s[0],
        "wall_s": wall_s[3] - wall_s[0],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "verdicts": sorted({str(test.verdict.code) for test in tests}),
        "blamed": list(tests[-1].verdict.blamed_ranks),
        "lines": text.count("\n") + 1,
    }
    target.write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
