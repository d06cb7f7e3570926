"""Owns `DIR/runs/<run_id>/` on disk: names, locks, files that appear whole; must not know what is in them.

Cheap to import: the start of every session looks for runs that were cut off.

A desk holds an exclusive lock on its run for its life. So a `run.json` that says `running` while nobody holds the
lock was left by a desk that died, and the next start marks it (`interrupted`).
"""

import contextlib
import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_megacpp.report.shared_fields import SharedFields

if TYPE_CHECKING:
    from filelock import BaseFileLock

RECORDING = "recording.jsonl"
RUN_JSON = "run.json"
LATEST = "latest"
HISTORY = "history.html"
OWN_ENTRIES = frozenset({"runs", LATEST, HISTORY, "cache", "seeds", ".gitignore"})
RESERVE = ".reserve"
LOCK = ".lock"
RESERVE_BYTES = 128 << 10
READ_S = 2.0
FULL = (errno.ENOSPC, errno.EDQUOT)
UNLOCKABLE = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}", re.ASCII)

Now = Callable[[], datetime]


class LaneDirError(Exception):
    """The lane directory can't be used; the text says how to fix it."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """`2026-11-22T21:45:01.250Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_run_id(now: datetime) -> str:
    """`20261122-214501-3f9a`: sorts by time (UTC)."""
    return f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"


def id_time(run_id: str) -> datetime | None:
    """When a run got its id; None for what is no id of `new_run_id`."""
    if _RUN_ID.fullmatch(run_id) is None:
        return None
    try:
        return datetime.fromisoformat(f"{run_id[:8]}T{run_id[9:15]}+00:00")
    except ValueError:
        return None


class RunDirectory:
    """One run's directory, locked until `close`. Make it with `create`."""

    def __init__(self, lane_dir: Path, run_id: str, lock: "BaseFileLock | None") -> None:
        self.lane_dir = lane_dir
        self.run_id = run_id
        self.path = lane_dir / "runs" / run_id
        self._lock = lock

    @classmethod
    def create(cls, lane_dir: Path, now: Now = utc_now) -> "RunDirectory":
        """A new, empty run, named in `DIR/latest`.

        Raises:
            LaneDirError: the directory can't be made or written.
        """
        try:
            _prepare(lane_dir)
            run_id, lock = _new_run(lane_dir, now)
            replace_file(lane_dir / LATEST, f"{run_id}\n".encode())
        except OSError as error:
            raise LaneDirError(_how_to_fix(lane_dir, error)) from error
        directory = cls(lane_dir, run_id, lock)
        _reserve(directory.path)
        return directory

    @classmethod
    def reopen(cls, lane_dir: Path, run_id: str) -> "RunDirectory":
        """The directory of a run that began before, perhaps elsewhere.

        Raises:
            LaneDirError: it can't be made or written, or another desk works with it.
        """
        path = lane_dir / "runs" / run_id
        try:
            _prepare(lane_dir)
            path.mkdir(exist_ok=True)
            lock = _lock_where_possible(path)
            replace_file(lane_dir / LATEST, f"{run_id}\n".encode())
        except OSError as error:
            raise LaneDirError(_how_to_fix(lane_dir, error)) from error
        if lock is None and (path / ".lock").exists():
            raise LaneDirError(
                f"another desk works with run {run_id} in {lane_dir}: wait for it, or name another --lane-dir"
            )
        return cls(lane_dir, run_id, lock)

    def is_latest(self) -> None:
        """Names the run in `DIR/latest` again, after others. Raises OSError."""
        replace_file(self.lane_dir / LATEST, f"{self.run_id}\n".encode())

    @property
    def recording(self) -> Path:
        return self.path / RECORDING

    def write_json(self, name: str, document: Mapping[str, object], *, fsync: bool = False) -> Path:
        """`name` (relative to the run) with `document`, whole or not at all. Raises OSError."""
        return self.write(name, dump_json(document), fsync=fsync)

    def write(self, name: str, data: bytes, *, fsync: bool = False) -> Path:
        """`name` (relative to the run) with `data`, whole or not at all. Raises OSError.

        On a full disk `run.json` gets the room that was reserved for it.
        """
        target = self.path / name
        try:
            replace_file(target, data, fsync=fsync)
        except FileNotFoundError:  # the first one in its directory
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, data, fsync=fsync)
        except OSError as error:
            if name != RUN_JSON or error.errno not in FULL:
                raise
            free_reserve(self.path)
            replace_file(target, data, fsync=fsync)
        return target

    def close(self) -> None:
        """Lets go of the run. Its `run.json` should be final by now."""
        free_reserve(self.path)
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dump_json(document: Mapping[str, object]) -> bytes:
    """JSON to be read by people too: a line per field, entry of a field or item of it, written at C speed.

    Numbers that JSON can't say (NaN, infinity) are written as texts.
    """
    try:
        return _spread(document)
    except ValueError:
        return _spread({key: finite(value) for key, value in document.items()})


def changed_json(data: bytes, values: Mapping[str, object]) -> bytes:
    """A document that `dump_json` wrote, with other values of some of its fields, which takes a fraction of the time
    that making it again does. Raises ValueError if it was not written so, or lacks such a field.
    """
    if not data.endswith(b"\n}\n"):
        raise ValueError("it has no end")
    for key, value in values.items():
        changed = dump_json({key: value})[1:-3]  # only a line that begins a field is indented by one
        begin = data.index(changed[: changed.index(b": ", len(_text(key))) + 2])
        end = data.find(b',\n "', begin)
        data = data[:begin] + changed + (data[end:] if end >= 0 else b"\n}\n")
    return data


def _spread(document: Mapping[str, object]) -> bytes:
    fields = (f"{_compact(key)}: {_field(value)}" for key, value in document.items())
    return ("{\n " + ",\n ".join(fields) + "\n}\n").encode()


def _field(value: object) -> str:
    match value:
        case SharedFields():
            value.encoded = value.encoded or _field(dict(value))
            return value.encoded
        case dict() if value:
            entries = (f"{_text(str(key))}: {_compact(item)}" for key, item in value.items())
            return "{\n  " + ",\n  ".join(entries) + "\n }"
        case list() if value:
            return "[\n  " + ",\n  ".join(map(_compact, value)) + "\n ]"
        case _:
            return _compact(value)


def _compact(value: object) -> str:
    """As `json` encodes it. That takes a microsecond to begin with, which is more than most values of a document do."""
    if value is None:
        return "null"
    return _text(value) if type(value) is str else _encode(value)


_text = json.encoder.encode_basestring_ascii
_encode = json.JSONEncoder(allow_nan=False).encode


def finite(value: object) -> object:
    """The value with texts for the numbers that JSON can't say."""
    match value:
        case float():
            return value if value - value == 0 else repr(value)
        case Mapping():
            return {key: finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def replace_file(target: Path, data: bytes, *, fsync: bool = False) -> None:
    """Writes beside `target`, then renames. Raises OSError and leaves nothing behind."""
    beside = f"{target.parent}/.{target.name[:80]}.{os.getpid()}.{os.urandom(2).hex()}"
    try:
        with open(beside, "wb") as file:  # a run has thousands of small files, and paths take their time
            file.write(data)
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        _move_over(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _move_over(beside: str, target: Path) -> None:
    """Renames. Windows refuses that while another process has `target` open, which takes moments: to read it."""
    until = time.monotonic() + (READ_S if sys.platform == "win32" else 0.0)
    while True:
        try:
            os.replace(beside, target)
            return
        except PermissionError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)


def _prepare(lane_dir: Path) -> None:
    """The directory with its `.gitignore`; one that holds other things too is only ignored from `runs` down."""
    runs = lane_dir / "runs"
    ours = not lane_dir.is_dir() or all(entry.name in OWN_ENTRIES for entry in lane_dir.iterdir())
    runs.mkdir(parents=True, exist_ok=True)
    if not (lane_dir / ".gitignore").exists():
        replace_file((lane_dir if ours else runs) / ".gitignore", b"*\n")


def _new_run(lane_dir: Path, now: Now) -> "tuple[str, BaseFileLock | None]":
    while True:
        run_id = new_run_id(now())
        with contextlib.suppress(FileExistsError):
            (lane_dir / "runs" / run_id).mkdir()
            return run_id, _lock_where_possible(lane_dir / "runs" / run_id)


def _reserve(run: Path) -> None:
    """Room on the disk for the last `run.json`: whatever else fills it, a run can say how it ended."""
    with contextlib.suppress(OSError), (run / RESERVE).open("wb") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        else:
            file.write(bytes(RESERVE_BYTES))


def free_reserve(run: Path) -> None:
    with contextlib.suppress(OSError):
        (run / RESERVE).unlink()


def _lock_where_possible(run: Path) -> "BaseFileLock | None":
    """A file system without locks costs only the mark on interrupted runs. Raises OSError for other reasons."""
    try:
        return try_lock(run)
    except OSError as error:
        if error.errno in UNLOCKABLE:
            return None
        raise


def _how_to_fix(lane_dir: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    at = f" ({error.filename})" if error.filename and Path(error.filename) != lane_dir else ""
    return (
        f"the lane directory {lane_dir} can't be used: {reason}{at}. "
        "Free or fix it, or name a directory that can be written: --lane-dir DIR (lane_dir in [tool.pytest_megacpp])"
    )


def try_lock(run: Path) -> "BaseFileLock | None":
    """The run's lock, or None while another process holds it. Raises OSError."""
    from filelock import FileLock, Timeout

    lock = FileLock(run / LOCK, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except NotImplementedError as error:  # how it says that the file system has no locks
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(run / LOCK)) from error
    return lock


def is_held(run: Path) -> bool:
    """Whether a desk works with the run; also where that can't be found out."""
    if not (run / LOCK).exists():
        return False
    try:
        lock = try_lock(run)
    except OSError as error:
        return error.errno not in UNLOCKABLE
    if lock is None:
        return True
    lock.release()
    return False


def run_paths(lane_dir: Path) -> list[Path]:
    """The runs of a lane directory, oldest first: the directories that are named as runs are. What has another name,
    such as a copy, was put there by somebody, and a link leads to what isn't ours.
    """
    try:
        with os.scandir(lane_dir / "runs") as found:
            names = [one.name for one in found if id_time(one.name) and one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [lane_dir / "runs" / name for name in sorted(names)]


def inside(run: Path, name: str) -> Path | None:
    """What a document of a run calls `name`, relative to the run; None where that lies outside of it, or is no path."""
    try:
        is_inside = (run / name).resolve().is_relative_to(run.resolve())
    except (OSError, ValueError, RuntimeError):  # the last one of a loop of links, before Python 3.13
        return None
    return run / name if is_inside else None


def read_run_json(run: Path) -> dict[str, Any] | None:
    """What `run.json` says; None when there is none or it can't be read."""
    try:
        document = json.loads((run / RUN_JSON).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
