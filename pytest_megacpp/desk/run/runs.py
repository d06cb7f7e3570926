"""Owns finding and reading the runs of a lane directory; must not know how they came to be or what they mean."""

import contextlib
import difflib
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytest_megacpp.desk.run.directory import LATEST, RECORDING, RUN_JSON, read_run_json, run_paths
from pytest_megacpp.desk.run.joint import parts_of
from pytest_megacpp.recording.events import Event
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.wire import Decoder
from pytest_megacpp.report.clean import one_line

LAST = "last"
STDIN = Path("/dev/stdin")  # by that name on systems, too, that have no such file
NEAREST = 5
CHUNK_BYTES = 1 << 15  # small portions stay in the processor's cache: a third of the time to read a long recording


class RunNotFound(Exception):
    """No run answers to a name; the text says which ones there are."""


def find_run(lane_dir: Path, name: str = LATEST) -> Path:
    """The run directory for `latest` or `last`, a run id, a unique beginning of one, or a path to a run or its
    recording. Copies of runs, and links to them, are found by their paths only.

    Raises:
        RunNotFound: nothing or more than one answers to `name`.
    """
    if name in (LATEST, LAST):
        return _latest(lane_dir)
    runs = run_paths(lane_dir)
    named = [run for run in runs if run.name == name] or [run for run in runs if name and run.name.startswith(name)]
    if len(named) == 1:
        return named[0]
    if named:
        raise RunNotFound(f"{name!r} is the beginning of {len(named)} runs: {', '.join(run.name for run in named[:8])}")
    path = Path(name)
    if (path / RECORDING).is_file() or (path / RUN_JSON).is_file():
        return path.resolve()  # its name is the id, also where the path is `.`
    if path.is_file():
        return path.parent.resolve()
    if name and path.is_dir():
        raise RunNotFound(f"{name!r} is a directory without a {RECORDING}, so it is no run. {_hint(runs)}")
    raise RunNotFound(
        f"no run {name!r} in {lane_dir}. {_by_path(lane_dir, name) or _nearest(name, runs) or _hint(runs)}"
    )


def find_box_run(lane_dir: Path, name: str = LATEST) -> Path:
    """As `find_run`, the run of one box. Raises RunNotFound for a joint run, with the runs of its boxes."""
    run = find_run(lane_dir, name)
    if parts := parts_of_run(run):
        raise RunNotFound(
            f"run {one_line(run.name)} is that of {len(parts)} boxes together: name one of {', '.join(parts)}"
        )
    return run


def parts_of_run(run: Path) -> list[str]:
    """The ids of the runs, one per box, of which this is the joint run; empty for any other."""
    return parts_of(read_run_json(run) or {})


def named_recording(name: str) -> Path | None:
    """The file, if `name` is that of a recording by itself."""
    path = Path(name)
    return path if path.is_file() and path.name not in (RUN_JSON, RECORDING) else None


def find_recording(lane_dir: Path, name: str = LATEST) -> Path:
    """The recording for what `find_run` accepts, or a recording file under any name. Raises RunNotFound."""
    if Path(name).is_file() and Path(name).name != RUN_JSON:
        return Path(name)
    run = find_box_run(lane_dir, name)
    if not (run / RECORDING).is_file():
        raise RunNotFound(f"run {run.name} has no {RECORDING} ({run}): it ended before anything was recorded")
    return run / RECORDING


def _latest(lane_dir: Path) -> Path:
    """The run that `DIR/latest` names, else the newest there is."""
    runs = run_paths(lane_dir)
    with contextlib.suppress(OSError, ValueError):
        name = (lane_dir / LATEST).read_text(encoding="utf-8").strip()
        runs = [run for run in runs if run.name == name] or runs
    if not runs:
        raise RunNotFound(f"no runs in {lane_dir} yet: start one with pytest -m LANE, or name another --lane-dir")
    return runs[-1]


def _by_path(lane_dir: Path, name: str) -> str:
    """What to say of a copy of a run, or a link to one, that lies among the runs; empty where there is none."""
    found = lane_dir / "runs" / name
    if found.name != name or name.startswith(".") or not os.path.isdir(found):
        return ""
    return (
        f"What has that name there is no run of this directory, but a copy or a link; it is read by its path: {found}"
    )


def _nearest(name: str, runs: list[Path]) -> str:
    """The runs whose ids are most like `name`; empty where none is."""
    near = difflib.get_close_matches(name, [run.name for run in runs], NEAREST)
    return f"The nearest are {', '.join(near)}" if near else ""


def _hint(runs: list[Path]) -> str:
    names = ", ".join(run.name for run in runs[:-6:-1])
    return f"The newest are {names}" if names else "There are none yet: start one with pytest -m LANE"


def read_timeline(recording: Path) -> Timeline:
    """The fold of a recording, read in portions; what can't be read of it is in its own lists. Raises OSError."""
    timeline, decoder = Timeline(), Decoder()
    with no_garbage_collection():
        for chunk in _chunks(recording):
            for event in decoder.feed(chunk):
                timeline.add(event)
    for event in decoder.close():
        timeline.add(event)
    return timeline


@dataclass
class GrowingRecording:
    """A recording that is still written; there may be none yet."""

    path: Path
    _decoder: Decoder = field(default_factory=Decoder)
    _offset: int = 0

    def read(self) -> Iterator[Event]:
        """The events since the last call. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            while data := file.read(CHUNK_BYTES):
                self._offset += len(data)
                yield from self._decoder.feed(data)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """What is read and judged holds no cycles; looking for some takes a fifth of the time for a long recording."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def first_damage(timeline: Timeline) -> str:
    """Why the first unreadable line couldn't be read, in brackets; empty when all could."""
    found = next(iter(timeline.damaged), None)
    return f" (line {found.line}: {one_line(found.why)})" if found else ""


def _chunks(path: Path) -> Iterator[bytes]:
    with contextlib.nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
