"""Owns what git says of the working tree; a tree without git is no error."""

import subprocess
from pathlib import Path

from pytest_megacpp.report.run_json import Git

ASK_S = 5.0


def look(directory: Path) -> Git:
    """Revision and whether anything differs from it; both None outside git."""
    revision = _git(directory, "rev-parse", "HEAD")
    if revision is None:
        return Git()
    changes = _git(directory, "status", "--porcelain", "--untracked-files=normal")
    return Git(revision, None if changes is None else bool(changes))


def named(git: Git) -> str:
    """`3f9a…`, `3f9a…+` for a tree that differs from it, nothing where it isn't known."""
    return f"{git.revision}{'+' * bool(git.dirty)}" if git.revision else ""


def origin(directory: Path) -> str | None:
    """Where the repository was cloned from, as it is configured."""
    return _git(directory, "config", "--get", "remote.origin.url")


def prefix(directory: Path) -> str | None:
    """The directory as seen from the top of its repository; empty at the top."""
    return _git(directory, "rev-parse", "--show-prefix")


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=directory,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=ASK_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
