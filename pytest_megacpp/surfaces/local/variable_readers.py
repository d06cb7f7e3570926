"""Owns finding out whether an installed package reads an environment variable; must not know which, or why it matters.

A package reads a variable if its name is quoted in the package's Python sources (not in its tests), or is a word in its
native libraries. That is a search of bytes: nothing is imported or run, and the search ends at a deadline.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

SEARCHED = ("torch", "triton", "nvidia")
DEADLINE_S = 30.0
CHUNK_BYTES = 16 << 20
SKIPPED_FOLDERS = frozenset({"testing", "test", "tests", "include", "share", "__pycache__"})
_NAME_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_QUOTES = frozenset(b"\"'")


@dataclass(frozen=True, slots=True)
class Readers:
    """`found`: variable → the first file that names it. `complete` is False if the deadline came first."""

    found: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    complete: bool = True


def find_readers(names: Iterable[str], packages: Iterable[str] = SEARCHED, deadline_s: float = DEADLINE_S) -> Readers:
    """Returns which of `names` the installed `packages` read. Python sources come first, since they are quick."""
    until_s = monotonic() + deadline_s
    roots = {package: root for package in packages if (root := _root(package)) is not None}
    wanted, found = {name.encode() for name in names}, dict[str, str]()
    for path in (*_files(roots.values(), (".py",)), *_files(roots.values(), (".so", ".pyd", ".dylib"))):
        if not wanted or monotonic() > until_s:
            break
        hits = _named_in(path, wanted, until_s)
        found |= {hit.decode(): _relative(path, roots.values()) for hit in hits}
        wanted -= hits
    return Readers(found, tuple(roots), not wanted or monotonic() <= until_s)


def _root(package: str) -> Path | None:
    """Returns the directory of an installed package, without importing it; None if there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _files(roots: Iterable[Path], endings: tuple[str, ...]) -> Iterator[Path]:
    for root in roots:
        for folder, inner, names in os.walk(root):
            inner[:] = sorted(set(inner) - SKIPPED_FOLDERS)
            yield from (Path(folder, name) for name in names if name.endswith(endings) or _versioned(name, endings))


def _versioned(name: str, endings: tuple[str, ...]) -> bool:
    """`libnccl.so.2`."""
    return any(f"{ending}." in name for ending in endings if ending != ".py")


def _relative(path: Path, roots: Iterable[Path]) -> str:
    return next((str(path.relative_to(root.parent)) for root in roots if path.is_relative_to(root)), str(path))


def _named_in(path: Path, names: set[bytes], until_s: float) -> set[bytes]:
    """Returns those of `names` that are in the file, or in the part of it that can be read."""
    left, hits = set(names), set[bytes]()
    named = _is_quoted_in if path.suffix == ".py" else _is_word_in
    with contextlib.suppress(OSError):
        for data in _windows(path, overlap=max(map(len, names), default=0) + 2):
            now = {name for name in left if named(name, data)}
            hits, left = hits | now, left - now
            if not left or monotonic() > until_s:
                break
    return hits


def _windows(path: Path, overlap: int) -> Iterator[bytes]:
    """Yields the file in overlapping portions, with a NUL before and after: one has every name with its neighbours."""
    with path.open("rb") as file:
        data = b"\0" + file.read(CHUNK_BYTES)
        while more := file.read(CHUNK_BYTES):
            yield data
            data = data[-overlap:] + more
        yield data + b"\0"


def _is_quoted_in(name: bytes, data: bytes) -> bool:
    """Returns whether the file has `"NAME"`; a name in a comment or docstring isn't read."""
    return any(before in _QUOTES and after in _QUOTES for before, after in _neighbours(name, data))


def _is_word_in(name: bytes, data: bytes) -> bool:
    """Returns whether the name is a word: `TORCHINDUCTOR_X` isn't one in `TORCHINDUCTOR_X_BACKENDS`."""
    return any(before not in _NAME_BYTES and after not in _NAME_BYTES for before, after in _neighbours(name, data))


def _neighbours(name: bytes, data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the bytes before and after each occurrence of `name` that has both."""
    start = data.find(name, 1)
    while 0 < start < len(data) - len(name):
        yield data[start - 1], data[start + len(name)]
        start = data.find(name, start + 1)
