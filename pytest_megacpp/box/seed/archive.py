"""Owns a cache directory ↔ one tar file, and what of such a file is believed; must not know seeds or their store.

A tar file of regular files only: what is read is checked header by header by this module alone, so that the format's
extensions (links, sparse files, attributes) can't even be spoken of. Only long names can: Triton's are.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_megacpp.box.host.plain_files import open_plain
from pytest_megacpp.recording.seed_layout import SeedError, SeedRefused
from pytest_megacpp.recording.texts import beginning

MAX_BYTES = 64 << 30
MAX_FILES = 500_000
MAX_NAME_CHARS = 1000
MAX_NAME_SLASHES = 32
MAX_NAMES_CHARS = 100_000_000
CHUNK_BYTES = 1 << 20
BLOCK_BYTES = tarfile.BLOCKSIZE
_LATEST_TIME = 1 << 40
_PASSING = (".lock", ".tmp")  # of other processes, at work or gone
_PASSING_DIRECTORIES = re.compile(r"locks|tmp\..*")


@dataclass(frozen=True, slots=True)
class Packed:
    """What is in an archive (`cache_bytes` in `files`), and the size and checksum of its file."""

    cache_bytes: int
    files: int
    archive_bytes: int
    sha256: str


class _Hashing:
    """A file whose bytes are counted and hashed as they pass."""

    def __init__(self, file: IO[bytes], each_chunk: Callable[[], object] = lambda: None) -> None:
        self._file = file
        self._each_chunk = each_chunk
        self._hash = hashlib.sha256()
        self.total_bytes = 0

    def write(self, data: bytes) -> int:
        self._pass(data)
        return self._file.write(data)

    def read(self, limit_bytes: int) -> bytes:
        data = self._file.read(limit_bytes)
        self._pass(data)
        return data

    def tell(self) -> int:
        return self.total_bytes

    def _pass(self, data: bytes) -> None:
        before_bytes = self.total_bytes
        self._hash.update(data)
        self.total_bytes += len(data)
        if before_bytes // CHUNK_BYTES != self.total_bytes // CHUNK_BYTES:
            self._each_chunk()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


# -- packing -------------------------------------------------------------------------------------------------------


def pack(cache_dir: Path, archive: Path, max_bytes: int, each_chunk: Callable[[], object] = lambda: None) -> Packed:
    """Writes `archive`, which must not exist yet, and syncs it to the disk. Locks, temporary files, links and sockets
    are left out. `each_chunk` is called throughout; what it raises ends the work. Raises OSError, and SeedError for a
    cache that is too large or changes meanwhile.
    """
    files = sorted(_regular_files(cache_dir))
    sizes_bytes = sum((cache_dir / name).lstat().st_size + 2 * BLOCK_BYTES for name in files)
    if len(files) > MAX_FILES or sizes_bytes > min(max_bytes, MAX_BYTES):
        raise SeedError(
            f"the cache in {cache_dir} has {len(files)} files and {sizes_bytes >> 20} MiB, more than a seed may have "
            f"({MAX_FILES}, {min(max_bytes, MAX_BYTES) >> 20} MiB, half of what the store may hold): raise max_bytes "
            "in [tool.pytest_megacpp.seed], or start over with --cache-seed cold"
        )
    with archive.open("xb") as raw:
        out = _Hashing(raw, each_chunk)
        with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[arg-type]
            packed_bytes = sum(_add(tar, cache_dir, name) for name in files)
        raw.flush()
        os.fsync(raw.fileno())
    return Packed(packed_bytes, len(files), out.total_bytes, out.sha256)


def _regular_files(top: Path, below: str = "") -> Iterator[str]:
    with os.scandir(top / below) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if not _PASSING_DIRECTORIES.fullmatch(entry.name):
                    yield from _regular_files(top, f"{name}/")
            elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(_PASSING) and _is_plain(name):
                yield name


def _add(tar: tarfile.TarFile, top: Path, name: str) -> int:
    with (top / name).open("rb") as file:
        found = os.fstat(file.fileno())
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = found.st_size, _mode(found.st_mode), int(found.st_mtime)
        try:
            tar.addfile(info, file)
        except OSError as error:
            if error.errno is None:  # tarfile's own: the file ended too soon
                raise SeedError(f"{top / name} changed while it was packed: something still compiles; rerun") from error
            raise
    return found.st_size


def _is_plain(name: str) -> bool:
    """Returns whether a name can only be that of a file below a directory, and can be shown."""
    if not name.isprintable() or len(name) > MAX_NAME_CHARS or name.count("/") > MAX_NAME_SLASHES:
        return False
    return not any(part in ("", ".", "..") or len(part.encode()) > 255 for part in name.split("/"))


def _mode(mode: int) -> int:
    return 0o755 if mode & stat.S_IXUSR else 0o644


def receive(archive: Path, write: Callable[[IO[bytes]], object]) -> tuple[int, str]:
    """Has `write` bring the bytes of an archive, which must not exist yet. Returns how many came, and their sha256."""
    with archive.open("xb") as raw:
        out = _Hashing(raw)
        write(out)  # type: ignore[arg-type]
        raw.flush()
        os.fsync(raw.fileno())
    return out.total_bytes, out.sha256


# -- unpacking -----------------------------------------------------------------------------------------------------


def unpack(archive: Path, expected: Packed, target: Path, each_chunk: Callable[[], object] = lambda: None) -> None:
    """Makes `target`, which must not exist or be empty, whole or not at all. `each_chunk` is called throughout; what it
    raises ends the work and leaves nothing. Raises OSError, and SeedRefused for an archive that isn't what was
    expected, or has anything but regular files with plain names.
    """
    if expected.files > MAX_FILES or expected.archive_bytes > MAX_BYTES:
        raise SeedRefused(f"it has {expected.files} files in {expected.archive_bytes} bytes, more than any seed")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name[:80]}.{os.getpid()}.{os.urandom(2).hex()}")
    beside.mkdir()
    try:
        with _opened(archive, expected) as raw:
            _Unpacking(_Hashing(raw, each_chunk), expected, beside).run()
        beside.rename(target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


@contextlib.contextmanager
def _opened(archive: Path, expected: Packed) -> Iterator[IO[bytes]]:
    with open_regular(archive) as raw:
        size_bytes = os.fstat(raw.fileno()).st_size
        if size_bytes != expected.archive_bytes:
            raise SeedRefused(f"its archive has {size_bytes} bytes, and should have {expected.archive_bytes}")
        yield raw


def open_regular(path: Path) -> IO[bytes]:
    """Returns a regular file to read. Anything else, links included, is an OSError, and nothing that could block is
    waited for.
    """
    return os.fdopen(open_plain(path, os.O_RDONLY), "rb")


class _Unpacking:
    """One archive into one empty directory."""

    def __init__(self, source: _Hashing, expected: Packed, top: Path) -> None:
        self._source = source
        self._expected = expected
        self._top = top
        self._left_bytes = expected.cache_bytes
        self._names: set[str] = set()
        self._names_chars = 0
        self._made: set[str] = set()

    def run(self) -> None:
        while (info := self._header()) is not None:
            self._check(info)
            self._write(info)
        self._check_end()

    def _header(self) -> tarfile.TarInfo | None:
        """Returns the next header, with its long name if it has one; None at the end mark."""
        info = self._block()
        if info is None or info.type != tarfile.GNUTYPE_LONGNAME:
            return info
        if not 0 < info.size <= 4 * MAX_NAME_CHARS:
            raise SeedRefused(f"a name in its archive has {info.size} bytes")
        name = self._read(info.size + -info.size % BLOCK_BYTES).rstrip(b"\0")
        info = self._block()
        if info is not None:
            info.name = name.decode("utf-8", "surrogateescape")
        return info

    def _block(self) -> tarfile.TarInfo | None:
        block = self._read(BLOCK_BYTES)
        if not any(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            at = self._source.total_bytes - BLOCK_BYTES
            raise SeedRefused(f"its archive is damaged at byte {at}: {error}") from None

    def _check(self, info: tarfile.TarInfo) -> None:
        name = info.name
        if info.type != tarfile.REGTYPE:
            raise SeedRefused(f"{beginning(name, 200)!r} in its archive is no regular file")
        if not _is_plain(name):
            raise SeedRefused(f"{beginning(name, 200)!r} in its archive is no plain name below a directory")
        if info.mode & ~0o777:
            raise SeedRefused(f"{name!r} in its archive has special bits")
        if name in self._names:
            raise SeedRefused(f"{name!r} is in its archive twice")
        self._names.add(name)
        self._names_chars += len(name)
        self._left_bytes -= info.size
        if info.size < 0 or self._left_bytes < 0 or len(self._names) > self._expected.files:
            raise SeedRefused("its archive has more than its manifest says")
        if self._names_chars > MAX_NAMES_CHARS:
            raise SeedRefused(f"the names in its archive have more than {MAX_NAMES_CHARS} letters")

    def _write(self, info: tarfile.TarInfo) -> None:
        path = self._top / info.name
        self._make_parents(info.name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            file = os.fdopen(open_plain(path, flags, _mode(info.mode)), "wb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise SeedRefused(f"{info.name!r} in its archive is a file and a directory") from None
        with file:
            left = info.size
            while left:
                data = self._read(min(CHUNK_BYTES, left))
                file.write(data)
                left -= len(data)
        self._read(-info.size % BLOCK_BYTES)
        moment = min(max(int(info.mtime), 0), _LATEST_TIME)
        os.utime(path, (moment, moment))

    def _make_parents(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent and parent not in self._made:
            try:
                (self._top / parent).mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise SeedRefused(f"{parent!r} in its archive is a file and a directory") from None
            self._made.add(parent)

    def _check_end(self) -> None:
        """Reads what follows the end mark, only to hash it."""
        while self._source.read(CHUNK_BYTES):
            pass
        if self._source.total_bytes != self._expected.archive_bytes or self._source.sha256 != self._expected.sha256:
            raise SeedRefused("its archive doesn't have the checksum that its manifest says")
        if self._left_bytes or len(self._names) != self._expected.files:
            raise SeedRefused("its archive has less than its manifest says")

    def _read(self, wanted_bytes: int) -> bytes:
        data = self._source.read(wanted_bytes) if wanted_bytes else b""
        if len(data) != wanted_bytes:
            raise SeedRefused("its archive is cut off")
        return data
