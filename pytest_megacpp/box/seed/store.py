"""Owns a store of seeds in a directory: what it has, what is added, marked good, dropped; must not know when or why.

Whatever is published appears whole, under a name of its own, by a rename. A lock only keeps two publishers from both
being compared with the same last known good seed: where a file system has none, the store stays whole without it.
"""

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from pytest_megacpp.box.seed import archive
from pytest_megacpp.box.seed.compiled_graphs import has_graph
from pytest_megacpp.recording.seed import Manifest, SeededTest
from pytest_megacpp.recording.seed_layout import (
    ARCHIVE,
    GOOD,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    NONCE_BYTES,
    Kept,
    SeedError,
    SeedRefused,
    good_id,
    is_id,
    is_key,
    looked_at,
    named,
    new_id,
    newest_first,
    next_good,
    smaller,
    surplus,
    write_manifest,
)

DEFAULT_KEEP = 5
DEFAULT_MAX_BYTES = 20 << 30
LOCK_S = 10.0
STALE_S = 86_400.0
_BESIDE = ".new-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Published:
    """A new seed. One that wasn't `promoted` is kept beside the last known good one; `reason` says why."""

    manifest: Manifest
    promoted: bool
    reason: str = ""


class SeedStore:
    """A directory of seeds, which need not exist yet. Every method raises SeedError where it can't do its work."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def place(self) -> str:
        return str(self.directory)

    # -- what it has -----------------------------------------------------------------------------------------------

    def seeds(self, key: str | None = None) -> list[Kept]:
        """Returns all seeds, or those of one shape, the newest first, damaged ones included."""
        with self._explaining_errors("read"):
            self._must_be_a_directory()
            keys = [key] if key is not None else self._keys()
            return newest_first(seed for one in keys for seed in self._of_shape(one))

    def _keys(self) -> list[str]:
        return [name for name in _listed(self.directory) if is_key(name)]

    def _must_be_a_directory(self) -> None:
        if self.directory.exists() and not self.directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is no directory", str(self.directory))

    def _of_shape(self, key: str) -> Iterator[Kept]:
        """Yields the seeds of a shape. One that another run removes meanwhile is left out, not damaged."""
        good = self._good_id(key)
        for name in filter(is_id, _listed(self.directory / key)):
            seed = self._look(key, name, good)
            if seed.manifest is not None or (self.directory / key / name).exists():
                yield seed

    def _look(self, key: str, seed_id: str, good: str | None) -> Kept:
        directory = self.directory / key / seed_id
        manifest = _read(directory / MANIFEST, MAX_MANIFEST_BYTES + 1)
        return looked_at(key, seed_id, manifest, _size_bytes(directory / ARCHIVE), good)

    def _good_id(self, key: str) -> str | None:
        return good_id(_read(self.directory / key / GOOD, 64) or b"")

    def good(self, key: str) -> Manifest | None:
        """Returns the last known good seed of a shape; None where there is none, or it is damaged."""
        with self._explaining_errors("read"):
            self._must_be_a_directory()
            seed_id = self._good_id(key) if GOOD in _listed(self.directory / key) else None
        return None if seed_id is None else self._look(key, seed_id, seed_id).manifest

    def find(self, name: str) -> Kept:
        """Returns the seed of this id, or of the only id that begins so."""
        return named(self.seeds(), name)

    # -- what changes ----------------------------------------------------------------------------------------------

    def publish(
        self,
        manifest: Manifest,
        cache_dir: Path,
        max_bytes: int = DEFAULT_MAX_BYTES // 2,
        each_chunk: Callable[[], object] = lambda: None,
    ) -> Published:
        """Packs a cache directory under a new id; `manifest` has everything but that and the sizes. The seed becomes
        the last known good one of its shape unless it is smaller than that. What `each_chunk` raises ends the packing.
        """
        shape = self.directory / manifest.shape.key
        manifest = replace(manifest, id=new_id(manifest.created_at, os.urandom(NONCE_BYTES)))
        with self._explaining_errors("written"):
            shape.mkdir(parents=True, exist_ok=True)
            _sweep(shape)
            with _beside(shape, manifest.id) as directory:
                packed = archive.pack(cache_dir, directory / ARCHIVE, max_bytes, each_chunk)
                manifest = replace(
                    manifest,
                    cache_bytes=packed.cache_bytes,
                    files=packed.files,
                    archive_bytes=packed.archive_bytes,
                    sha256=packed.sha256,
                )
                _write(directory / MANIFEST, write_manifest(manifest))
                with self._locked():
                    reason = smaller(manifest, self.good(manifest.shape.key))
                    directory.rename(shape / manifest.id)
                    if not reason:
                        self._mark(manifest.shape.key, manifest.id)
            _sync(shape)
        return Published(manifest, not reason, reason)

    def promote(self, name: str) -> Kept:
        """Makes a seed the last known good one of its shape, whatever its size."""
        seed = self.find(name)
        if seed.manifest is None:
            raise SeedError(f"{seed.id} is damaged and can't be promoted: {seed.damage}; megacpp seed drop {seed.id}")
        with self._explaining_errors("written"), self._locked():
            self._mark(seed.key, seed.id)
        return replace(seed, good=True)

    def drop(self, name: str) -> tuple[Kept, Kept | None]:
        """Removes a seed. Returns it and the last known good one of its shape, which is the newest whole one if the
        removed one was it.
        """
        seed = self.find(name)
        with self._explaining_errors("written"), self._locked():
            self._remove(seed)
            good = next_good(self.seeds(seed.key))
            if good is None:
                (self.directory / seed.key / GOOD).unlink(missing_ok=True)
            elif not good.good:
                self._mark(seed.key, good.id)
        return seed, good

    def prune(self, keep: int = DEFAULT_KEEP, max_bytes: int = DEFAULT_MAX_BYTES) -> list[Kept]:
        """Removes what is more than `keep` seeds of a shape, then the oldest ones until the store has at most
        `max_bytes`; never a last known good one. Returns what it removed.
        """
        if not self.directory.is_dir():
            return []
        with self._explaining_errors("written"), self._locked():
            gone = surplus(self.seeds(), keep, max_bytes)
            for seed in gone:
                self._remove(seed)
            for key in self._keys():
                _sweep(self.directory / key)
        return gone

    def adopt(self, manifest: Manifest, write: Callable[[IO[bytes]], object]) -> None:
        """Takes over a seed of another store, whose archive `write` brings, as the last known good one of its shape."""
        shape = self.directory / manifest.shape.key
        with self._explaining_errors("written"):
            shape.mkdir(parents=True, exist_ok=True)
            _sweep(shape)
            there = self._look(manifest.shape.key, manifest.id, None)
            if there.manifest != manifest:
                with _beside(shape, manifest.id) as directory:
                    came = archive.receive(directory / ARCHIVE, write)
                    if came != (manifest.archive_bytes, manifest.sha256):
                        raise SeedRefused(f"seed {manifest.id} is damaged: its archive isn't what its manifest says")
                    _write(directory / MANIFEST, write_manifest(manifest))
                    self._remove(there)
                    directory.rename(shape / manifest.id)
            with self._locked():
                self._mark(manifest.shape.key, manifest.id)

    def _remove(self, seed: Kept) -> None:
        """Renames the seed away, so that it is gone at once, and then removes its files."""
        gone = self.directory / seed.key / f"{_BESIDE}{seed.id}.gone"
        with contextlib.suppress(FileNotFoundError):
            (self.directory / seed.key / seed.id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _mark(self, key: str, seed_id: str) -> None:
        shape = self.directory / key
        beside = shape / f"{_BESIDE}{GOOD}.{os.getpid()}.{os.urandom(2).hex()}"
        try:
            _write(beside, f"{seed_id}\n".encode())
            beside.replace(shape / GOOD)
        finally:
            beside.unlink(missing_ok=True)
        _sync(shape)

    # -- what is taken out -----------------------------------------------------------------------------------------

    def copy(self, manifest: Manifest, file: IO[bytes]) -> None:
        """Writes the archive of a seed to a file, unchecked."""
        with self._explaining_errors("read"), archive.open_regular(self._archive(manifest)) as source:
            shutil.copyfileobj(source, file, archive.CHUNK_BYTES)

    def _archive(self, manifest: Manifest) -> Path:
        return self.directory / manifest.shape.key / manifest.id / ARCHIVE

    def unpack(self, manifest: Manifest, target: Path, each_chunk: Callable[[], object] = lambda: None) -> None:
        """Unpacks the cache of a seed as directory `target`, which must not exist or be empty, whole or not at all.
        Raises SeedRefused for one that is damaged or hostile. What `each_chunk` raises ends the work.
        """
        packed = archive.Packed(manifest.cache_bytes, manifest.files, manifest.archive_bytes, manifest.sha256)
        path = self._archive(manifest)
        try:
            archive.unpack(path, packed, target, each_chunk)
        except SeedRefused as refused:
            raise SeedRefused(f"seed {manifest.id} is refused: {refused}; megacpp seed drop {manifest.id}") from None
        except OSError as error:
            raise SeedError(_unpacking_failed(manifest.id, path, target, error)) from error

    # -- for all ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock of the marks, as far as the file system has locks. A process that stopped while holding it is
        waited for LOCK_S at most.
        """
        with (self.directory / ".lock").open("ab") as file:
            deadline = time.monotonic() + LOCK_S
            while not _tried(file.fileno()) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield

    @contextlib.contextmanager
    def _explaining_errors(self, done: str) -> Iterator[None]:
        """Raises SeedError with what the user can do in place of an OSError."""
        try:
            yield
        except OSError as error:
            raise SeedError(_failed(self.directory, done, error)) from error


def lacking(tests: Sequence[SeededTest], cache_dir: Path) -> dict[str, set[str]]:
    """Returns the keys, by cache, that tests name and an unpacked cache doesn't have. Only Inductor's graphs and
    autograd's have a place by their key; other keys count as there.
    """
    named_keys: dict[str, set[str]] = {}
    for keys in (rank.keys for test in tests for rank in test.ranks):
        for cache, some in keys.items():
            named_keys.setdefault(cache, set()).update(some)
    lost = {cache: {key for key in keys if not has_graph(cache_dir, cache, key)} for cache, keys in named_keys.items()}
    return {cache: keys for cache, keys in lost.items() if keys}


# -- files ---------------------------------------------------------------------------------------------------------


def _listed(directory: Path) -> list[str]:
    """Returns the names in a directory; none where there is no such directory."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path, limit_bytes: int) -> bytes | None:
    """Returns the beginning of a regular file; None for one that isn't there or can't be read."""
    try:
        with archive.open_regular(path) as file:
            return file.read(limit_bytes)
    except OSError:
        return None


def _size_bytes(path: Path) -> int | None:
    try:
        with archive.open_regular(path) as file:
            return os.fstat(file.fileno()).st_size
    except OSError:
        return None


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Has renames in the directory survive a crash, where the file system can."""
    if sys.platform == "win32":  # it opens no directories
        return
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _beside(shape: Path, seed_id: str) -> Iterator[Path]:
    """Yields a new directory, to be filled and renamed; removes it where it was not renamed."""
    directory = shape / f"{_BESIDE}{seed_id}.{os.urandom(2).hex()}"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(shape: Path) -> None:
    """Removes what publishers left that were killed a day ago or more."""
    for name in _listed(shape):
        if name.startswith(_BESIDE):
            with contextlib.suppress(OSError):
                if time.time() - (shape / name).lstat().st_mtime > STALE_S:
                    shutil.rmtree(shape / name, ignore_errors=True)
                    (shape / name).unlink()


def _tried(handle: int) -> bool:
    """Returns whether there is nothing more to wait for: this process has the lock, or there are no locks here."""
    if sys.platform == "win32":  # a desk that only looks: no box publishes there
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _failed(directory: Path, done: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"no room for a seed in {directory}: {reason}; free some (megacpp seed drop ID), or {_ELSEWHERE}"
    if error.errno in _DENIED:
        return f"the seeds in {directory} can't be {done}: {reason}; grant the permission, or {_ELSEWHERE}"
    why = f"{error.filename or directory}: {reason}"
    return f"the seeds in {directory} can't be {done}: {why}; fix that, or {_ELSEWHERE}"


_ELSEWHERE = "set dir in [tool.pytest_megacpp.seed]"


def _unpacking_failed(seed_id: str, source: Path, target: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"no room to unpack seed {seed_id} in {target.parent}: {reason}; free some there"
    if error.filename == str(source) and error.errno == errno.ENOENT:
        return f"seed {seed_id} is gone: it was removed meanwhile; rerun"
    if error.filename == str(source):
        return f"seed {seed_id} can't be read: {source}: {reason}; check permissions, or megacpp seed drop {seed_id}"
    return f"seed {seed_id} can't be unpacked: {error.filename2 or error.filename or target}: {reason}"
