"""Owns what a target says about itself: which files it has, from where; must not know how they are copied."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_megacpp.box.data.failures import CopyFailed

SCHEMA = "megacpp.data/1"
SAVE_EVERY_S = 5.0  # what a killed copier may have to do again


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of the target, as the source had it. Without a digest it may be there or not."""

    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclass
class Manifest:
    """What the target holds, by path. Written whole or not at all; safe to use from several threads."""

    file: Path
    origin: str
    files: dict[str, CopiedFile] = field(default_factory=dict)
    complete: bool = False
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _saved_s: float = 0.0

    @classmethod
    def read(cls, target: Path, origin: str) -> "Manifest":
        """Returns the manifest of the target, an empty one where there is none that is valid. Raises CopyFailed where
        the target belongs to another source.
        """
        manifest = cls(state_of(target) / "manifest.json", origin)
        found = read_manifest(target)
        if found is None:
            return manifest
        if found.get("origin") != origin:
            raise CopyFailed(
                f"{target} is a copy of {found.get('origin')}, not of {origin}",
                "give this data set another directory (volume), or remove that one",
            )
        try:
            manifest.files = {str(path): _kept(*entry) for path, entry in dict(found["files"]).items()}
            manifest.complete = found["complete"] is True
        except (KeyError, TypeError, ValueError):
            manifest.files = {}
        return manifest

    def add(self, path: str, kept: CopiedFile) -> None:
        with self._lock:
            self.files[path] = kept
            if self.clock() - self._saved_s > SAVE_EVERY_S:
                self._save()

    def save(self) -> None:
        with self._lock:
            self._save()

    def _save(self) -> None:
        began_s = self.clock()
        files = {path: [kept.size_bytes, kept.mtime_ns, kept.sha256] for path, kept in self.files.items()}
        written = {"schema": SCHEMA, "origin": self.origin, "complete": self.complete, "files": files}
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps(written), encoding="utf-8")
        os.replace(beside, self.file)
        self._saved_s = self.clock() + 10 * (self.clock() - began_s)  # a large one less often


def state_of(target: Path) -> Path:
    """Returns the directory of a copy's state, beside the copy, so that this holds nothing but the source's files."""
    return target.with_name(f".megacpp-{target.name}")


def read_manifest(target: Path) -> dict[str, Any] | None:
    """Returns the manifest of a target; None where there is none that can be read."""
    try:
        found = json.loads((state_of(target) / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None


def _kept(size_bytes: object, mtime_ns: object, sha256: object) -> CopiedFile:
    if not (isinstance(size_bytes, int) and isinstance(mtime_ns, int) and isinstance(sha256, str)):
        raise ValueError(size_bytes)
    return CopiedFile(size_bytes, mtime_ns, sha256)
