"""Owns what differs between a revision and the working tree, by git; must not know what follows from it.

Compared is the merge base, not the revision itself: what others merged meanwhile is not this change. Counted are
commits since, the index, the working tree and untracked files that are not ignored; a rename is both of its names.
What git can't determine is an answer too (`unknown`); then everything must be taken as changed.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_megacpp.report.clean import one_line

ASK_S = 120.0
OPTION = "--gate-since"
_NULL_REVISION = "0" * 40
_NEVER_SOURCES = "__pycache__"
_DELETED, _SUBMODULE = "D", "160000"


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths count from `root`, the top of the repository, with `/`. `deleted` are among `paths`; `opaque` are those
    whose content isn't ours to see (submodules, repositories inside this one). `base`: the commit compared with.
    """

    root: Path
    base: str = ""
    paths: tuple[str, ...] = ()
    deleted: frozenset[str] = frozenset()
    opaque: frozenset[str] = frozenset()
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    ok: bool
    out: str
    message: str


class _Undetermined(Exception):
    """The changes can't be determined; the text says why."""


def changes_since(revision: str, project: Path) -> Changes:
    """What changed in the repository around `project` since it left `revision`. Raises UsageError when there is no
    such revision.
    """
    try:
        root = Path(_must(_git(project, "rev-parse", "--show-toplevel")).rstrip("\n"))
    except _Undetermined as error:
        return Changes(project, unknown=str(error))
    try:
        bases = _merge_bases(root, revision)
        return _differences(root, bases)
    except _Undetermined as error:
        return Changes(root, unknown=str(error))


def python_files(root: Path) -> frozenset[str]:
    """All Python files that git knows or would add, from the top of the repository. Raises OSError."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.py")
    if not listed.ok:
        raise OSError(listed.message)
    return frozenset(path for path in listed.out.split("\0") if path)


# -- the base --------------------------------------------------------------------------------------------------


def _merge_bases(root: Path, revision: str) -> list[str]:
    """All of them: histories that merged criss-cross have several."""
    if set(revision) == {"0"} and len(revision) >= len(_NULL_REVISION):
        raise _Undetermined("the null revision means that there is nothing to compare with")
    if not _git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").ok:
        raise _Undetermined("this repository has no commit yet")
    commit = _commit(root, revision)
    found = _git(root, "merge-base", "--all", commit, "HEAD")
    bases = found.out.split()
    if found.ok and bases:
        return bases
    if _git(root, "rev-parse", "--is-shallow-repository").out.strip() == "true":
        raise _Undetermined(
            f"this clone is shallow and lacks the merge base of {revision} and HEAD; fetch it:"
            " git fetch --unshallow (actions/checkout: fetch-depth: 0)"
        )
    raise _Undetermined(found.message or f"{revision} and HEAD have no commit in common")


def _commit(root: Path, revision: str) -> str:
    named = (
        None if revision.startswith("-") else _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    )
    if named is not None and named.ok:
        return named.out.strip()
    remote, slash, branch = revision.partition("/")
    fetch = f"git fetch {remote} {branch}" if slash and branch and remote in _remotes(root) else "git fetch"
    raise pytest.UsageError(
        f"{OPTION} {revision}: git finds no such revision here. Fetch it first ({fetch}; actions/checkout:"
        " fetch-depth: 0), or name a branch, tag or commit that is there"
    )


def _remotes(root: Path) -> list[str]:
    return _git(root, "remote").out.split()


# -- the difference --------------------------------------------------------------------------------------------


def _differences(root: Path, bases: list[str]) -> Changes:
    states: dict[str, str] = {}
    opaque: set[str] = set()
    for base in bases:
        raw = _git(root, "diff", "--raw", "-z", "--no-renames", "--no-relative", "--no-ext-diff", base, "--")
        for path, state, modes in _entries(_must(raw)):
            states[path] = state
            opaque |= {path} if _SUBMODULE in modes else set()
    untracked = _must(_git(root, "ls-files", "-z", "--others", "--exclude-standard"))
    for path in filter(None, untracked.split("\0")):
        opaque |= {path.rstrip("/")} if path.endswith("/") else set()
        states[path.rstrip("/")] = "A"
    kept = {path: state for path, state in states.items() if _NEVER_SOURCES not in path.split("/")}
    gone = frozenset(path for path, state in kept.items() if state == _DELETED)
    return Changes(root, bases[0], tuple(sorted(kept)), gone, frozenset(opaque))


def _entries(raw: str) -> list[tuple[str, str, tuple[str, str]]]:
    """Of `git diff --raw -z`: `:100644 100644 1a2b… 3c4d… M`, NUL, path, NUL."""
    fields = raw.split("\0")
    entries = zip(fields[0::2], fields[1::2], strict=False)
    return [(path, head.split()[-1][:1], (head.split()[0].lstrip(":"), head.split()[1])) for head, path in entries]


# -- git -------------------------------------------------------------------------------------------------------


def _git(directory: Path, *arguments: str) -> _Answer:
    """What git says; never asks for anything, and speaks English."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_S,
        )
    except FileNotFoundError:
        return _Answer(False, "", "git is not installed here")
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Answer(False, "", f"git could not be run: {error}")
    lines = os.fsdecode(done.stderr).strip().splitlines()
    return _Answer(done.returncode == 0, os.fsdecode(done.stdout), one_line(lines[0]) if lines else "")


def _must(answer: _Answer) -> str:
    if not answer.ok:
        raise _Undetermined(answer.message or "git failed without a message")
    return answer.out
