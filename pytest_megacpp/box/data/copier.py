"""Owns copying a directory once: whole files, checked, resumable, one copier at a time; must not know a plan or a run.

Beside the target, in `.megacpp-NAME`, lie the manifest (what was copied, from where), the lock, and files that are half
done. What the manifest names and the source no longer has is removed; anything else in the target is left alone.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import IO

from pytest_megacpp.box.data.failures import EXCLUDE, READABLE, Cancelled, CopyFailed, shown
from pytest_megacpp.box.data.manifest import CopiedFile, Manifest, state_of
from pytest_megacpp.box.data.source import SourceFile, listing

BLOCK_BYTES = 8 << 20
WORKERS = 16  # a bucket answers each file late, and several at once as fast as one
ASK_AGAIN_S = 0.2
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_NAME = (errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)


@dataclass
class Tally:
    """How far a copy is. `moved_bytes` came from the source now; the rest was there already. `waits_for` names who
    copies the same at the moment.
    """

    files: int = 0
    of_files: int = 0
    done_bytes: int = 0
    of_bytes: int = 0
    moved_bytes: int = 0
    waits_for: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, size_bytes: int, *, moved: bool) -> None:
        with self._lock:
            self.done_bytes += size_bytes
            self.moved_bytes += size_bytes if moved else 0

    def finish(self, files: int) -> None:
        with self._lock:
            self.files += files


@dataclass(frozen=True)
class Copier:
    """Makes `target` hold what `source` has. `include` (empty: everything) and `exclude` are regular expressions that
    are matched from the start of a relative path. `origin` is what the user calls the source: a target belongs to one.
    `who` is shown to others that wait.
    """

    source: Path
    target: Path
    origin: str
    who: str
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    tally: Tally = field(default_factory=Tally)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def _state(self) -> Path:
        return state_of(self.target)

    def copy(self) -> None:
        """Makes the target whole. Raises CopyFailed or Cancelled."""
        if _is_below(self.target, self.source):
            raise CopyFailed(f"{self.target} is in {self.source}: each copy would copy those before it", _NOT_WITHIN)
        wanted = listing(self.source, self.include, self.exclude)
        self.tally.of_files, self.tally.of_bytes = len(wanted), sum(file.size_bytes for file in wanted)
        with self._explaining_errors("prepared"):
            self.target.mkdir(parents=True, exist_ok=True)
            self._state.mkdir(exist_ok=True)
            with self._alone():
                self._bring(wanted)

    def _bring(self, wanted: Sequence[SourceFile]) -> None:
        manifest = Manifest.read(self.target, self.origin)
        there = [file for file in wanted if self._has(manifest, file)]
        self.tally.add(sum(file.size_bytes for file in there), moved=False)
        self.tally.finish(len(there))
        missing = set(wanted).difference(there)
        gone = manifest.files.keys() - {file.path for file in wanted}
        if not (missing or gone) and manifest.complete:
            return
        manifest.complete = False
        manifest.files |= {file.path: CopiedFile(file.size_bytes, file.mtime_ns, "") for file in missing}
        manifest.save()
        (self._state / "parts").mkdir(exist_ok=True)
        for path in gone:
            self._remove(path)
            del manifest.files[path]
        try:
            self._copy_all(sorted(missing, key=lambda file: (-file.size_bytes, file.path)), manifest)
        except BaseException:
            with suppress(OSError):  # on a full disk this fails as well, and says less
                manifest.save()
            raise
        manifest.complete = True
        manifest.save()
        shutil.rmtree(self._state / "parts", ignore_errors=True)

    def _has(self, manifest: Manifest, file: SourceFile) -> bool:
        kept = manifest.files.get(file.path)
        if kept is None or not kept.sha256 or (kept.size_bytes, kept.mtime_ns) != (file.size_bytes, file.mtime_ns):
            return False
        try:
            seen = os.lstat(self.target / file.path)
        except OSError:
            return False
        return stat.S_ISREG(seen.st_mode) and seen.st_size == file.size_bytes

    def _remove(self, path: str) -> None:
        """Removes a file that the source no longer has, and directories that are empty without it."""
        file = self._place(path)
        with suppress(FileNotFoundError, NotADirectoryError):
            file.unlink()
        for directory in takewhile(lambda parent: parent != self.target, file.parents):
            with suppress(OSError):
                directory.rmdir()

    def _place(self, path: str) -> Path:
        """Returns where a file goes. Raises CopyFailed where that isn't in the target: earlier
        tests could write there.
        """
        place = self.target / path
        root = os.path.realpath(self.target)
        parent = os.path.realpath(place.parent)
        if (parent != root and not parent.startswith(f"{root}/")) or place.name in ("", ".."):
            raise CopyFailed(f"{shown(path)} would be copied to {parent}, outside of {self.target}", _START_ANEW)
        return place

    # -- many files --------------------------------------------------------------------------------------

    def _copy_all(self, files: Sequence[SourceFile], manifest: Manifest) -> None:
        """Copies several files at a time; the first failure ends all."""
        stopped = threading.Event()
        with ThreadPoolExecutor(WORKERS, "megacpp-copy") as pool:
            work = [pool.submit(self._copy_one, file, manifest, stopped) for file in files]
            try:
                done, _ = wait(work, return_when=FIRST_EXCEPTION)
            finally:
                stopped.set()
                pool.shutdown(cancel_futures=True)
        failed = [error for future in done if not future.cancelled() and (error := future.exception()) is not None]
        if failed:
            raise min(failed, key=lambda error: isinstance(error, Cancelled))

    def _copy_one(self, file: SourceFile, manifest: Manifest, stopped: threading.Event) -> None:
        with self._explaining_errors("copied", file):
            place = self._place(file.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            part = self._state / "parts" / file.part
            try:
                digest = self._fill(file, part, stopped)
            except OSError as error:
                if error.errno in _FULL:  # room for the manifest
                    part.unlink()
                raise
            os.replace(part, place)
            manifest.add(file.path, CopiedFile(file.size_bytes, file.mtime_ns, digest))
        self.tally.finish(1)

    def _fill(self, file: SourceFile, part: Path, stopped: threading.Event) -> str:
        """Completes the partial copy; returns its digest, which was read back. Raises Cancelled or CopyFailed."""
        with (self.source / file.path).open("rb", buffering=0) as source:
            with part.open("r+b" if part.exists() else "w+b", buffering=0) as target:
                digest, done_bytes = self._resume(source, target)
                target.truncate(done_bytes)
                while block := source.read(BLOCK_BYTES):
                    if self.cancelled.is_set() or stopped.is_set():
                        raise Cancelled
                    digest.update(block)
                    _write(target, block)
                    done_bytes += len(block)
                    self.tally.add(len(block), moved=True)
                os.fsync(target.fileno())
            seen = os.fstat(source.fileno())
        if done_bytes != file.size_bytes or (seen.st_size, seen.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
            part.unlink()
            raise CopyFailed(f"{shown(file.path)} changed while it was copied", "run it again once nobody writes there")
        if _digest_of(part) != digest.hexdigest():
            part.unlink()
            raise CopyFailed(f"{shown(file.path)} reads differently than it was written", _BAD_STORE)
        return digest.hexdigest()

    def _resume(self, source: IO[bytes], target: IO[bytes]) -> "tuple[hashlib._Hash, int]":
        """Returns the digest and the length of what can be kept of an earlier partial copy, and positions both files
        behind it. Its last block may be torn, and the one before must still be the source's.
        """
        digest = hashlib.sha256()
        blocks = (os.fstat(target.fileno()).st_size - 1) // BLOCK_BYTES
        last = b""
        for _ in range(blocks):
            last = _read(target, BLOCK_BYTES)
            digest.update(last)
        kept_bytes = max(blocks, 0) * BLOCK_BYTES
        source.seek(max(kept_bytes - BLOCK_BYTES, 0))
        if kept_bytes and _read(source, BLOCK_BYTES) != last:
            digest, kept_bytes = hashlib.sha256(), 0
        source.seek(kept_bytes)
        target.seek(kept_bytes)
        self.tally.add(kept_bytes, moved=False)
        return digest, kept_bytes

    @contextmanager
    def _explaining_errors(self, what: str, file: SourceFile | None = None) -> Iterator[None]:
        """Raises CopyFailed with what the user can do in place of an OSError."""
        try:
            yield
        except OSError as error:
            name = shown(file.path) if file is not None else str(self.target)
            raise _explained(error, f"{name} can't be {what}", self) from error

    # -- one copier at a time ------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits until no other process copies to this target. The kernel frees the lock of a copier that dies; where
        there are no locks, nothing is guarded.
        """
        with (self._state / "lock").open("a+", encoding="utf-8", errors="replace") as lock:
            while not _locked(lock):
                lock.seek(0)
                self.tally.waits_for = lock.read(200).strip() or "another run"
                if self.cancelled.wait(ASK_AGAIN_S):
                    raise Cancelled
            self.tally.waits_for = ""
            lock.truncate(0)
            lock.write(f"{self.who} on {socket.gethostname()}, process {os.getpid()}")
            lock.flush()
            yield


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _read(file: IO[bytes], size_bytes: int) -> bytes:
    """Returns up to `size_bytes`, as much as there is; a single read may return less."""
    found = b""
    while len(found) < size_bytes and (more := file.read(size_bytes - len(found))):
        found += more
    return found


def _write(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _digest_of(file: Path) -> str:
    """Returns the digest of a file as its store has it, after having the system drop its cached pages."""
    with file.open("rb") as opened:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _explained(error: OSError, what: str, copier: Copier) -> CopyFailed:
    if error.errno in _FULL:
        left = copier.tally.of_bytes - copier.tally.done_bytes
        return CopyFailed(
            f"{what}: no space is left for {copier.target}, and {gib(left)} GiB are to come",
            f"make room there, or copy less (include, exclude); what is copied already stays: {copier.target}",
        )
    if error.errno in _NO_NAME:
        return CopyFailed(f"{what}: {copier.target} takes no such name ({error.strerror})", EXCLUDE)
    return CopyFailed(f"{what}: {error.strerror or error}", READABLE)


def gib(size_bytes: int) -> str:
    """Returns GiB as a number such as `1.2`; small sizes keep enough digits not to be zero."""
    value = size_bytes / (1 << 30)
    return f"{value:.1f}" if value >= 0.1 or not size_bytes else f"{value:.2g}"


def _is_below(target: Path, source: Path) -> bool:
    inner, outer = os.path.realpath(target), os.path.realpath(source)
    return inner == outer or inner.startswith(f"{outer.rstrip('/')}/")


_NOT_WITHIN = "name a source that doesn't hold its own copy (the copy moves with XDG_CACHE_HOME)"
_START_ANEW = "remove what is in its way in the target"
_BAD_STORE = "the store doesn't keep what is written: try again, and look at the disk or volume"
