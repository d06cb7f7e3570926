"""Owns marking runs whose desk died: their processes are ended, their files cleaned, and `run.json` says so.

A `run.json` that says `running` while nobody holds the run's lock was left by a desk that died. Cheap to import: the
start of every session looks for such runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.directory import (
    RECORDING,
    RUN_JSON,
    Now,
    dump_json,
    free_reserve,
    iso,
    read_run_json,
    replace_file,
    run_paths,
    try_lock,
    utc_now,
)

HEAD_BYTES = 4096

Sweep = Callable[[str], object]
"""Ends what is left of a run's processes, by run id."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A run whose desk died. `problem` says what could not be cleaned up after it."""

    run_id: str
    problem: str | None = None


def mark_interrupted(lane_dir: Path, sweep: Sweep | None = None, now: Now = utc_now) -> tuple[Interrupted, ...]:
    """Ends what dead desks left: their processes by `sweep`, then their `run.json`. Never raises."""
    marked = (_mark(run, sweep, now) for run in run_paths(lane_dir) if _says_running(run))
    return tuple(entry for entry in marked if entry is not None)


def _says_running(run: Path) -> bool:
    try:
        with (run / RUN_JSON).open("rb") as file:
            return b'"running"' in file.read(HEAD_BYTES)
    except OSError:
        return False


def _mark(run: Path, sweep: Sweep | None, now: Now) -> Interrupted | None:
    try:
        lock = try_lock(run)
    except OSError:
        return None
    if lock is None:
        return None
    try:
        return _mark_locked(run, sweep, now)
    finally:
        lock.release()


def _mark_locked(run: Path, sweep: Sweep | None, now: Now) -> Interrupted | None:
    document = read_run_json(run)
    if document is None or document.get("status") != "running":
        return None
    problem = _swept(run.name, sweep)
    document |= {"status": "interrupted", "finished_at": iso(_last_sign(run, now))}
    document, unclean = _tidied(run, document, sweep, now)
    problem = problem or unclean
    free_reserve(run)
    try:
        replace_file(run / RUN_JSON, dump_json(document))
    except OSError as error:
        problem = problem or f"{run / RUN_JSON} can't be rewritten: {error.strerror}"
    return Interrupted(run.name, problem)


def _swept(run_id: str, sweep: Sweep | None) -> str | None:
    try:
        if sweep is not None:
            sweep(run_id)
    except Exception as error:  # cleaning up after another run must not fail this one
        return f"its processes could not be ended: {error!r}"
    return None


def _tidied(run: Path, document: dict[str, Any], sweep: Sweep | None, now: Now) -> tuple[dict[str, Any], str | None]:
    """The document as far as the run's files tell it, once they are clean; the problem if they can't be cleaned. Of a
    joint run, the runs of its boxes come first.
    """
    from pytest_megacpp.desk.run.joint import completed, parts_of
    from pytest_megacpp.desk.run.leftovers import clean, known_secrets, with_receipts

    if parts := parts_of(document):
        for part in parts:
            _mark(run.parent / part, sweep, now)
        return {**document, **completed(run, document)}, None
    unclean = clean(run, known_secrets(run))
    return with_receipts(run, document), unclean


def _last_sign(run: Path, now: Now) -> datetime:
    """When the run's recording last grew; without a recording, now."""
    try:
        return datetime.fromtimestamp((run / RECORDING).stat().st_mtime, UTC)
    except OSError:
        return now()
