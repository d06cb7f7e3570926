"""Owns which files of a source are to be copied; must not know where to."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pytest_megacpp.box.data.failures import EXCLUDE, READABLE, CopyFailed, shown


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the source. `path` is relative, with `/`."""

    path: str
    size_bytes: int
    mtime_ns: int

    @property
    def part(self) -> str:
        """The name of its partial copy, which a changed file doesn't share."""
        text = f"{self.path}\0{self.size_bytes}\0{self.mtime_ns}"
        return hashlib.blake2s(os.fsencode(text), digest_size=16).hexdigest()


def listing(source: Path, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[SourceFile]:
    """Returns the files of a directory that are wanted, in order. Raises CopyFailed for what can't be copied, and where
    there are none: a mount that shows nothing must not empty a copy.
    """
    root = Path(os.path.realpath(source))
    wanted, unwanted = _any(include) if include else None, _any(exclude)
    try:
        found = sorted(_walk(root, "", wanted, unwanted, (str(root),)), key=lambda file: file.path)
    except OSError as error:
        raise CopyFailed(f"{error.filename or source} can't be read: {error.strerror}", READABLE) from error
    if not found:
        raise CopyFailed(f"there is no file to copy in {source}", "look at source, include and exclude of the data set")
    return found


_Pattern: TypeAlias = re.Pattern[str] | None


def _walk(root: Path, below: str, wanted: _Pattern, unwanted: _Pattern, way: tuple[str, ...]) -> Iterator[SourceFile]:
    """Yields the wanted files below a directory; `way` are the real directories that led to it."""
    with os.scandir(root / below) as entries:
        inside = list(entries)
    for entry in inside:
        path = f"{below}{entry.name}"
        if unwanted and (unwanted.match(path) or (entry.is_dir() and unwanted.match(f"{path}/"))):
            continue
        real = _real(entry, root, path) if entry.is_symlink() else None
        if entry.is_dir():
            real = real or f"{way[-1]}/{entry.name}"
            if real in way:
                raise CopyFailed(f"the link {shown(path)} leads back to a directory around it", EXCLUDE)
            yield from _walk(root, f"{path}/", wanted, unwanted, (*way, real))
        elif wanted is None or wanted.match(path):
            seen = entry.stat()
            if not stat.S_ISREG(seen.st_mode):
                raise CopyFailed(f"{shown(path)} is no file", EXCLUDE)
            yield SourceFile(path, seen.st_size, seen.st_mtime_ns)


def _real(entry: "os.DirEntry[str]", root: Path, path: str) -> str:
    """Returns where a link leads. Raises CopyFailed when that is nowhere, or outside of the source."""
    real = os.path.realpath(entry.path)
    if not real.startswith(f"{str(root).rstrip('/')}/"):
        raise CopyFailed(f"the link {shown(path)} leads out of the source, to {real}", EXCLUDE)
    if not os.path.exists(real):
        raise CopyFailed(f"the link {shown(path)} leads to {real}, which isn't there", EXCLUDE)
    return real


def _any(patterns: Sequence[str]) -> _Pattern:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None
