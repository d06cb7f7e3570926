"""Owns one lane's run at the desk: plan, surface, recording, judgement, artefacts; must not know pytest's hooks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_megacpp.desk.rundir import RunDirectory, iso, utc_now
from pytest_megacpp.judge.arbiter import judge_run, judge_test
from pytest_megacpp.judge.verdicts import TestResult
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.wire import Decoder
from pytest_megacpp.report.receipt import receipt, receipt_name
from pytest_megacpp.report.run_json import Cost, RunMeta, RunStatus, run_json, run_status
from pytest_megacpp.surfaces.protocol import RunningBox, Surface, SurfaceFailed

POLL_S = 0.004
READ_BYTES_AT_ONCE = 8 << 20


@dataclass
class LaneRun:
    """One box and what comes of it. `judged` by the plan's index."""

    plan: Plan
    directory: RunDirectory
    redactor: Redactor
    meta: RunMeta
    timeline: Timeline = field(default_factory=Timeline)
    judged: dict[int, TestResult] = field(default_factory=dict)
    receipts: dict[int, str] = field(default_factory=dict)
    last_words: str = ""
    _box: RunningBox | None = None
    _decoder: Decoder = field(default_factory=Decoder)
    _over: bool = False
    _finished: bool = False

    def start(self, surface: Surface) -> None:
        """Writes `run.json` as running, then starts the box. A surface that fails ends the run with its words."""
        self._write_run_json(RunStatus.RUNNING)
        try:
            self._box = surface.start(self.plan, self.directory.path)
        except SurfaceFailed as e:
            self.last_words, self._over = str(e), True

    def wait_for(self, index: int) -> TestResult:
        """The result of a test, judged as soon as the box is through with it; writes its receipt."""
        while not self._over and not self._is_through(index):
            if not self._read():
                time.sleep(POLL_S)
        return self._judge(index)

    def _is_through(self, index: int) -> bool:
        test = self.timeline.tests.get(index)
        return (test is not None and test.ended is not None) or index in self.timeline.unreached

    def _read(self) -> bool:
        """Takes in what came; True when something did. The end of the box ends the run."""
        assert self._box is not None
        words = self._box.ended()
        got = self._take(self._box.read())
        if words is not None and not got:
            self._end_of_recording(words)
        return got

    def _take(self, data: bytes) -> bool:
        for event in self._decoder.feed(data):
            self.timeline.add(event)
        return bool(data)

    def _end_of_recording(self, words: str) -> None:
        for event in self._decoder.close():
            self.timeline.add(event)
        self.last_words, self._over = words, True

    def _judge(self, index: int) -> TestResult:
        if index not in self.judged:
            result = judge_test(self.timeline, index)
            if result.nodeid == "":
                result = replace(result, nodeid=self.plan.tests[index].nodeid)
            self.judged[index] = result
            self._write_receipt(index, result)
        return self.judged[index]

    def amend(self, index: int, result: TestResult) -> None:
        """Puts another outcome in place of the judged one (a drill's)."""
        self.judged[index] = result
        self._write_receipt(index, result)

    def stop(self, reason: str) -> None:
        """Asks the box to end; what it still says is read by `finish`."""
        if self._box is not None and not self._over:
            self._box.stop(reason)

    def finish(self, *, interrupted: bool = False) -> None:
        """Ends the box, reads its last events, judges what is left and writes the final `run.json`."""
        if self._finished:
            return
        self._finished = True
        try:
            self._end_box()
            for index in range(len(self.plan.tests)):
                if self._is_through(index):
                    self._judge(index)
        finally:
            self._write_run_json(RunStatus.INTERRUPTED if interrupted else self._status())
            self.directory.close()

    def _end_box(self) -> None:
        if self._box is None:
            return
        self._box.end()
        while not self._over:
            self._read()

    def _status(self) -> RunStatus:
        everything = judge_run(self.timeline).tests if self.timeline.planned else ()
        results = {r.index: r for r in everything} | self.judged
        return run_status(results[i] for i in sorted(results)) if results else RunStatus.ERROR

    def _write_receipt(self, index: int, result: TestResult) -> None:
        name = f"receipts/{receipt_name(self.redactor.text(result.nodeid))}"
        document = receipt(result, self.timeline, self._meta_now(), redact=self.redactor.text)
        self.directory.write_json(name, document)
        self.receipts[index] = name

    def receipt_path(self, index: int, relative_to: Path) -> str | None:
        """Where the user finds the receipt."""
        name = self.receipts.get(index)
        if name is None:
            return None
        path = self.directory.path / name
        return str(path.relative_to(relative_to)) if path.is_relative_to(relative_to) else str(path)

    def _meta_now(self) -> RunMeta:
        seconds = round(self.timeline.last_s, 3)
        gpus = 0 if self.plan.dry_run else self.plan.devices
        return replace(self.meta, cost=Cost(seconds, round(seconds * gpus, 3), None))

    def _write_run_json(self, status: RunStatus) -> None:
        meta = self._meta_now()
        if status is not RunStatus.RUNNING:
            meta = replace(meta, finished_at=iso(utc_now()))
        nodeids = [t.nodeid for t in self.plan.tests]
        document = run_json(meta, status, nodeids, self.judged, self.receipts, self.timeline, redact=self.redactor.text)
        self.directory.write_json("run.json", document)


def summary_counts(results: Sequence[TestResult]) -> dict[str, dict[str, int]]:
    """Verdict codes counted per test file."""
    table: dict[str, dict[str, int]] = {}
    for result in results:
        counts = table.setdefault(result.nodeid.partition("::")[0], {})
        code = str(result.verdict.code)
        counts[code] = counts.get(code, 0) + 1
    return table
