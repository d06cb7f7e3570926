"""Owns which files of the desk a box elsewhere gets, and where each path is there; must not know a surface.

The working tree is sent as it is: what git tracks and what it would track, with uncommitted changes, without deleted
files. Never sent are the files of repositories themselves, caches, and files that are named like secrets, which are
listed. A file that `include` names without a wildcard is always sent.
"""

import contextlib
import fnmatch
import hashlib
import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from pathspec import PathSpec

MIB = 1 << 20
GIT_S = 60.0
SHOWN_LARGEST = 5
_REPOSITORY_OF_GITS_OWN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")
_NEVER_DIRS = frozenset({".git", ".hg", ".svn", ".jj", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
_IGNORED_WITHOUT_GIT = frozenset(
    {".venv", "venv", "env", "node_modules", ".tox", ".nox", ".eggs", "build", "dist", ".cache", ".idea", ".vscode"}
    | {".ipynb_checkpoints", "htmlcov", ".hypothesis", "wandb", "mlruns"}
)
_SECRET_DIRS = frozenset({".ssh", ".aws", ".gnupg", ".azure", ".kube", ".gcloud"})
_SECRET_FILES = (
    *(".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".npmrc", ".yarnrc.yml", ".pypirc"),
    *(".git-credentials", ".htpasswd", ".pgpass", ".modal.toml", ".vault-token", ".dockercfg", ".dockerconfigjson"),
    *("credentials", "credentials.*", "*credentials.json", "*service-account*.json", "*service_account*.json"),
    *("secrets.*", ".secrets", ".secrets.*"),
)
_NO_SECRETS = (
    *("*.pub", "*.example", "*.sample", "*.template", "*.dist", "*.example.*", "*.sample.*", "*.template.*"),
    *("*.py", "*.pyi", "*.md", "*.rst"),
)


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """`include` and `exclude` are gitignore's patterns from the project's top; `include` brings in what git ignores.
    `extra` are further directories, seen from there (`../library`).
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    max_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the desk and where it goes, relative to the place of all sources in the box."""

    path: Path
    remote: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that one might expect in the box and that isn't sent; `path` is relative to the project's top."""

    path: str
    why: str


class SourceError(Exception):
    """The source can't be sent as it is; the text says why and how to fix it."""


@dataclass(frozen=True)
class Layout:
    """Maps paths of the desk to paths in the box.

    `base` contains the project and all extra directories and is at `home` in the box, so relative paths between them
    stay the same.
    """

    base: Path
    home: str
    roots: tuple[Path, ...]

    def to_box(self, path: Path) -> str | None:
        """Returns where a path of the desk is in the box; None if it isn't sent."""
        if not any(path == root or path.is_relative_to(root) for root in self.roots):
            return None
        return str(PurePosixPath(self.home, path.relative_to(self.base).as_posix()))

    def argument(self, argument: str) -> str:
        """Returns an argument of pytest with the paths in it (`--rootdir=/p`, `/p/a.py::b`) as the box has them."""
        return self._paths.sub(lambda found: f"{found[1]}{self.to_box(type(self.base)(found[2]))}", argument)

    @cached_property
    def _paths(self) -> re.Pattern[str]:
        longest_first = sorted((root.as_posix() for root in self.roots), key=len, reverse=True)
        if self.base.drive:  # Windows has two separators, and doesn't tell cases apart
            roots = "|".join(re.escape(root).replace("/", r"[/\\]") for root in longest_first)
            return re.compile(rf"(^|[=,\s'\"])((?:{roots})(?:[/\\][^:,\s'\"]*)?)(?=$|[:,\s'\"])", re.IGNORECASE)
        roots = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(^|[=:,\s'\"])({roots})(?=$|[/:,\s'\"])")


@dataclass(frozen=True)
class Source:
    """What is sent. `notice` is one line that tells the user about it."""

    layout: Layout
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...] = ()
    by_git: bool = True

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @cached_property
    def digest(self) -> str:
        """A hash of names, contents and execute bits: equal for equal trees, wherever they are."""
        total = hashlib.sha256()
        for file in self.files:
            with file.path.open("rb") as content:
                inner = hashlib.file_digest(content, "sha256").hexdigest()
            executable = "x" if os.access(file.path, os.X_OK) else "-"
            total.update(f"{file.remote}\0{executable}{inner}\n".encode())
        return total.hexdigest()[:16]

    @property
    def notice(self) -> str:
        files = f"{len(self.files)} files, {self.size_bytes / MIB:.1f} MiB"
        files += "" if self.by_git else " (no git here: everything but caches and build results)"
        if not self.left_out:
            return files
        names = [left.path for left in self.left_out[:SHOWN_LARGEST]]
        more = f" and {len(self.left_out) - len(names)} more" if len(self.left_out) > len(names) else ""
        reasons = " and ".join(dict.fromkeys(left.why for left in self.left_out))
        return f"{files}; not sent ({reasons}): {', '.join(names)}{more}"


def top_of(directory: Path) -> Path:
    """Returns the top of the project: that of its git repository, else the directory itself."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    return Path(top.rstrip("\n")).resolve() if top else directory.resolve()


def gather(top: Path, config: SourceConfig, home: str, never: Collection[Path] = ()) -> Source:
    """Returns the files to send, sorted. `never` are directories of the plugin in the tree, such as that of the runs.

    Raises:
        SourceError: the source is too large, or an extra directory does not exist.
    """
    layout = _layout(top.resolve(), config, home)
    found = _Gatherer(layout, config, frozenset(path.resolve() for path in never))
    for root in layout.roots:
        found.tree(root)
    for path in _included(layout.roots[0], config.include):
        found.add(path, by_name=True)
    found.follow_links()
    files = tuple(sorted(found.files.values(), key=lambda file: file.remote))
    source = Source(layout, files, tuple(found.left_out), found.by_git)
    _check_size(source, config.max_bytes)
    return source


def _layout(top: Path, config: SourceConfig, home: str) -> Layout:
    extras = [(top / extra).resolve() for extra in config.extra]
    for given, extra in zip(config.extra, extras, strict=True):
        if not extra.is_dir():
            raise SourceError(f"the extra source directory {given!r} does not exist ({extra}): fix extra")
    base = Path(os.path.commonpath([top.parent, *(extra.parent for extra in extras)]))
    return Layout(base, home, (top, *extras))


def _included(top: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Yields what the patterns of `include` match, ignored or not."""
    for pattern in patterns:
        yield from sorted(top.glob(pattern.strip("/")))


@dataclass
class _Gatherer:
    """Decides file by file. `by_git` becomes False if a tree has no git."""

    layout: Layout
    config: SourceConfig
    never: frozenset[Path]
    files: dict[str, SourceFile] = field(default_factory=dict)
    links: dict[Path, Path] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    by_git: bool = True

    def __post_init__(self) -> None:
        self._excluded = PathSpec.from_lines("gitignore", self.config.exclude)
        self._by_name = {pattern for pattern in self.config.include if not re.search(r"[*?\[]", pattern)}

    def tree(self, root: Path) -> None:
        tracked = _tracked(root)
        self.by_git = self.by_git and tracked is not None
        for relative in _walked(root, _IGNORED_WITHOUT_GIT) if tracked is None else tracked:
            self.add(root / relative)

    def add(self, path: Path, *, by_name: bool = False) -> None:
        """Adds a file, a link, or a directory with all that belongs to it."""
        if self._is_out(path):
            return
        try:
            mode = path.lstat().st_mode
        except OSError:  # deleted, but git still lists it
            return
        if stat.S_ISLNK(mode):
            self._link(path)
        elif stat.S_ISDIR(mode):
            self._directory(path, by_name)
        elif stat.S_ISREG(mode):
            self._file(path, path)

    def _is_out(self, path: Path) -> bool:
        if not _NEVER_DIRS.isdisjoint(path.relative_to(self.layout.base).parts) or path.suffix == ".pyc":
            return True
        if self.never and self.never & {path, *path.parents}:
            return True
        return self._excluded.match_file(self._from_top(path))

    def _from_top(self, path: Path) -> str:
        return os.path.relpath(path, self.layout.roots[0]).replace(os.sep, "/")

    def _directory(self, path: Path, by_name: bool) -> None:
        """Adds a directory. A nested repository is listed by its own git, unless `include` names it."""
        if not by_name and (path / ".git").exists():
            self.tree(path)
            return
        for relative in _walked(path, frozenset()):
            self.add(path / relative)

    def _link(self, link: Path) -> None:
        """Adds what a link leads to, unless it leads out of the source."""
        with contextlib.suppress(OSError, RuntimeError):
            target = link.resolve(strict=True)
            if self.layout.to_box(target) is None:
                self._leave_out(link, "links that lead out of the source")
            elif target.is_file():
                self._file(link, target)
            elif not link.is_relative_to(target):
                self.links[link] = target

    def follow_links(self) -> None:
        """Adds all that is sent of the directories that links lead to; twice, since one may lead to another."""
        for link, target in sorted(self.links.items()) * 2:
            inside = f"{target.relative_to(self.layout.base).as_posix()}/"
            for remote, file in list(self.files.items()):
                if remote.startswith(inside):
                    self._file(link / remote.removeprefix(inside), file.path)

    def _file(self, path: Path, real: Path) -> None:
        if self._is_out(real):
            return
        remote, leads_to = (one.relative_to(self.layout.base) for one in (path, real))
        try:
            remote.as_posix().encode()
        except UnicodeEncodeError:
            self._leave_out(path, "names that are not UTF-8")
            return
        if (is_secret(remote) or is_secret(leads_to)) and self._from_top(path) not in self._by_name:
            self._leave_out(path, "named like secrets")
            return
        with contextlib.suppress(OSError):
            self.files[remote.as_posix()] = SourceFile(real, remote.as_posix(), real.stat().st_size)

    def _leave_out(self, path: Path, why: str) -> None:
        shown = os.fsencode(self._from_top(path)).decode(errors="replace")
        if (left := LeftOut(shown, why)) not in self.left_out:
            self.left_out.append(left)


def is_secret(path: Path) -> bool:
    """Returns whether a file is named like a secret; sources, templates and public keys are not."""
    name = path.name.lower()
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in _NO_SECRETS):
        return False
    return not _SECRET_DIRS.isdisjoint(path.parts) or any(fnmatch.fnmatchcase(name, p) for p in _SECRET_FILES)


def _tracked(root: Path) -> list[str] | None:
    """Returns what git tracks or would track below `root`, with deleted files; None if there is no git."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return None if listed is None else [name for name in dict.fromkeys(listed.split("\0")) if name]


def _git(directory: Path, *arguments: str) -> str | None:
    """Returns git's output for the repository around the directory, despite a hook's environment; None if it failed."""
    environment = {name: value for name, value in os.environ.items() if name not in _REPOSITORY_OF_GITS_OWN}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            timeout=GIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def _walked(root: Path, ignored: Collection[str]) -> Iterator[str]:
    """Yields files and links below `root`, but not in links, caches, virtual environments and what is `ignored`."""
    for folder, inner, names in os.walk(root):
        links = [name for name in inner if os.path.islink(os.path.join(folder, name))]
        inner[:] = sorted(n for n in inner if n not in links and not _is_skipped(folder, n, ignored))
        for name in sorted([*names, *links]):
            yield os.path.relpath(os.path.join(folder, name), root)


def _is_skipped(folder: str, name: str, ignored: Collection[str]) -> bool:
    if name in _NEVER_DIRS or name in ignored:
        return True
    return bool(ignored) and (name.endswith(".egg-info") or os.path.exists(os.path.join(folder, name, "pyvenv.cfg")))


def _check_size(source: Source, max_bytes: int) -> None:
    if source.size_bytes <= max_bytes:
        return
    largest = sorted(source.files, key=lambda file: -file.size_bytes)[:SHOWN_LARGEST]
    named = ", ".join(f"{file.remote} ({file.size_bytes / MIB:.1f} MiB)" for file in largest)
    raise SourceError(
        f"the source is {source.size_bytes / MIB:.1f} MiB in {len(source.files)} files, more than the "
        f"{max_bytes / MIB:g} MiB of max_mib. The largest: {named}. Leave them out (exclude in "
        "[tool.pytest_megacpp.source], or .gitignore), put data on a volume, or raise max_mib there"
    )


# -- the plugin itself ---------------------------------------------------------------------------------------------


def own_package() -> tuple[SourceFile, ...]:
    """Returns this package with the metadata that make it a plugin, so that desk and box have one version."""
    package = Path(__file__).resolve().parents[1]
    modules = [path for path in sorted(package.rglob("*")) if path.suffix in (".py", ".typed") and path.is_file()]
    files = [SourceFile(p, p.relative_to(package.parent).as_posix(), p.stat().st_size) for p in modules]
    return (*files, *_own_metadata())


def _own_metadata() -> Iterator[SourceFile]:
    """Yields name, version and entry point, by which pytest finds the plugin."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        distribution = importlib.metadata.distribution("pytest-megacpp")
        folder = f"pytest_megacpp-{distribution.version}.dist-info"
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if file.name in ("METADATA", "entry_points.txt") and path.is_file():
                yield SourceFile(path, f"{folder}/{file.name}", path.stat().st_size)


def stage(files: Sequence[SourceFile], directory: Path) -> None:
    """Copies the files to `directory`, in the layout of the box.

    They are not linked, because a file that changes during the upload, such as the log of this run, would be torn.
    """
    made: set[Path] = set()
    for file in files:
        target = directory / file.remote
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            shutil.copy2(file.path, target)
