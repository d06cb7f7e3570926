"""Owns bringing a plan's data sets to where ranks read them, and reporting how far that is; must not know a test."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_megacpp.box.data.copier import Copier, Tally, gib
from pytest_megacpp.box.data.failures import Cancelled, CopyFailed
from pytest_megacpp.box.data.manifest import read_manifest
from pytest_megacpp.recording.events import ProblemFound, Progress
from pytest_megacpp.recording.plan import DataSet
from pytest_megacpp.recording.vocabulary import BoxStep, ProblemCode

REPORT_EVERY_S = 1.0
REPORT_SELDOM_S = 10.0  # in a long copy


class Fetch(threading.Thread):
    """Checks each data set, or copies it where it has a source, one after another. `problem` is set before the thread
    ends.
    """

    def __init__(self, data: Sequence[DataSet], run_id: str) -> None:
        super().__init__(daemon=True, name="megacpp-data")
        self.problem: ProblemFound | None = None
        self._data = data
        self._run_id = run_id
        self._cancelled = threading.Event()
        self._now: tuple[str, Tally] | None = None
        self._over: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._began_s: float | None = None
        self._next_s = 0.0

    def run(self) -> None:
        try:
            for one in self._data:
                self._bring(one)
        except Cancelled:
            return
        except CopyFailed as error:
            self.problem = ProblemFound(
                ProblemCode.ENVIRONMENT, "data", f"data set {one.name!r}: {error}", error.remedy
            )
        except Exception as error:
            self.problem = ProblemFound(
                ProblemCode.ENVIRONMENT, "data", f"data set {one.name!r} can't be copied: {error!r}"
            )

    def _bring(self, one: DataSet) -> None:
        if not one.source:
            _look(one)
            return
        copier = Copier(
            Path(one.source),
            Path(one.target),
            one.origin,
            f"run {self._run_id}",
            one.include,
            one.exclude,
            cancelled=self._cancelled,
        )
        self._now, began_s = (one.name, copier.tally), time.monotonic()
        copier.copy()
        self._now = None
        self._over.put(f"{one.name} {described(copier.tally, time.monotonic() - began_s)}")

    def cancel(self) -> None:
        """Ends the thread soon; what is copied stays."""
        self._cancelled.set()

    def news(self, now_s: float) -> Iterator[Progress]:
        """Yields what is done, and how far the copy is: every second, and more rarely in a long one."""
        while not self._over.empty():
            yield Progress(BoxStep.DATA, self._over.get())
        now = self._now
        if now is None:
            self._began_s = None
            return
        if self._began_s is None:
            self._began_s, self._next_s = now_s, now_s + REPORT_EVERY_S
        if now_s >= self._next_s:
            running_s = now_s - self._began_s
            self._next_s = now_s + min(max(REPORT_EVERY_S, running_s / 20), REPORT_SELDOM_S)
            yield Progress(BoxStep.DATA, f"{now[0]} {described(now[1], running_s)}")


def described(tally: Tally, running_s: float) -> str:
    """Returns a text such as `3 of 12 files, 1.2 of 4.0 GiB, 310 MB/s`."""
    if tally.waits_for:
        return f"waits for {tally.waits_for}, which copies the same"
    if not tally.of_files:
        return "is listed"
    done = f"{tally.files} of {tally.of_files} files, {gib(tally.done_bytes)} of {gib(tally.of_bytes)} GiB"
    if not tally.moved_bytes:
        return f"{done}, nothing to copy" if tally.files == tally.of_files else done
    return f"{done}, {tally.moved_bytes / max(running_s, 1e-3) / 1e6:.0f} MB/s"


def _look(one: DataSet) -> None:
    """Checks that a data set that nobody copies here is there, and whole. Raises CopyFailed."""
    if not one.target:
        return
    target = Path(one.target)
    manifest = read_manifest(target)
    if manifest is not None and manifest.get("complete") is not True:
        raise CopyFailed(f"{target} is a copy that isn't whole", "have a run copy it that is allowed to: docs/data.md")
    if not target.is_dir() or not any(target.iterdir()):
        raise CopyFailed(f"there is nothing in {target}", "put the files there, or name where they come from (source)")
