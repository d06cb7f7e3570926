"""Owns which files a test file imports, directly or not, read from the sources; must not import or run any of them.

It follows import statements anywhere in a file, the `__init__.py` of packages, the `conftest.py` files that apply to
the test, `pytest_plugins`, and strings that name a module or a Python file of the repository (`-m pkg.worker`,
`Path(__file__).with_name("worker.py")`). A name is looked up where Python would look. If that isn't in the sources (a
`.pth` file, `sys.path.insert`), every file of the repository whose path ends like the name counts. `Reach.opaque` has
what can't be read from the sources.
"""

import ast
import posixpath
import re
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_BY_NAME = frozenset({"import_module", "__import__", "importorskip"})
_BY_OTHER_MEANS = frozenset({"spec_from_file_location", "run_path", "run_module", "SourceFileLoader", "exec"})


@dataclass(frozen=True, slots=True)
class Reach:
    """All files that a test file reaches, each with the file that imports it (None: the test file and its conftests).

    `opaque` has the places where a file imports something whose name is computed.
    """

    files: Mapping[str, str | None]
    opaque: tuple[str, ...] = ()

    def chain(self, path: str) -> list[str]:
        """Returns the imports from the test file to `path`."""
        steps: list[str] = []
        at: str | None = path
        while at is not None:
            steps.append(at)
            at = self.files[at]
        return steps[::-1]


@dataclass(frozen=True, slots=True)
class _Named:
    """`from ..a import b` is (2, "a", "b"). `sure` is false for a string that need not be a module."""

    level: int
    module: str
    name: str = ""
    sure: bool = True


@dataclass(frozen=True, slots=True)
class _Read:
    """What one file imports or names."""

    names: tuple[_Named, ...] = ()
    scripts: tuple[str, ...] = ()
    opaque: str = ""


@dataclass
class ImportGraph:
    """All paths are relative to `root`. `files` are all Python files, deleted ones too; `places` are on `sys.path`."""

    root: Path
    files: Collection[str]
    places: Sequence[str] = ("",)
    _read: dict[str, _Read] = field(default_factory=dict)
    _edges: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    _tops: dict[str, frozenset[str]] = field(default_factory=dict)

    def reach(self, test: str) -> Reach:
        """Returns everything that running the tests of this file imports."""
        base = _import_base(test, self.files)
        found: dict[str, str | None] = dict.fromkeys((test, *self._governing(test)))
        opaque: list[str] = []
        waiting = deque(found)
        while waiting:
            importer = waiting.popleft()
            read = self._what(importer)
            opaque += [read.opaque] if read.opaque else []
            new = sorted(self._imports_of(importer, base).difference(found))
            found.update(dict.fromkeys(new, importer))
            waiting.extend(new)
        return Reach(found, tuple(opaque))

    def _governing(self, test: str) -> Iterator[str]:
        """Yields the conftest and package files of its directory and of all directories above."""
        for folder in _upwards(posixpath.dirname(test)):
            for name in ("conftest.py", "__init__.py"):
                if (path := posixpath.join(folder, name)) in self.files:
                    yield path

    def _what(self, path: str) -> _Read:
        if path not in self._read:
            self._read[path] = _read_file(self.root / path, path)
        return self._read[path]

    def _imports_of(self, importer: str, base: str) -> frozenset[str]:
        """Returns what a file imports when a test of `base` runs; cached, since every test that reaches it asks."""
        key = importer, base
        if key not in self._edges:
            read = self._what(importer)
            if base and not any(not n.level and n.module.partition(".")[0] in self._tops_of(base) for n in read.names):
                self._edges[key] = self._imports_of(importer, "")
            else:
                self._edges[key] = frozenset(self._imported(importer, read, (*self.places, base)))
        return self._edges[key]

    def _tops_of(self, base: str) -> frozenset[str]:
        """Returns the names of the modules and packages in a directory."""
        if base not in self._tops:
            below = (path[len(base) + 1 :] for path in self.files if path.startswith(f"{base}/"))
            self._tops[base] = frozenset(path.partition("/")[0].removesuffix(".py") for path in below)
        return self._tops[base]

    # -- names to files ----------------------------------------------------------------------------------------

    def _imported(self, importer: str, read: _Read, places: Sequence[str]) -> Iterator[str]:
        for named in read.names:
            if named.level:
                yield from self._relative(importer, named)
            else:
                yield from self._absolute(named, places)
        for script in read.scripts:
            beside = posixpath.join(posixpath.dirname(importer), script)
            yield from (p for p in (posixpath.normpath(beside), posixpath.normpath(script)) if p in self.files)

    def _relative(self, importer: str, named: _Named) -> Iterator[str]:
        base = posixpath.dirname(importer)
        for _ in range(named.level - 1):
            base = posixpath.dirname(base)
        parts = [part for part in named.module.split(".") if part]
        if (package := posixpath.join(base, "__init__.py")) in self.files:
            yield package
        yield from self._along(base, [*parts, *_submodule(named)])
        if named.name == "*":
            yield from self._all_of(posixpath.join(base, *parts))

    def _absolute(self, named: _Named, places: Sequence[str]) -> Iterator[str]:
        parts = [*named.module.split("."), *_submodule(named)]
        found = [path for place in dict.fromkeys(places) for path in self._along(place, parts)]
        if not found and named.sure and parts[0] not in sys.stdlib_module_names:
            found = [p for n in range(len(parts), 0, -1) for p in self._ending(parts[:n])]
        yield from found
        if named.name == "*":
            for path in found:
                if path.endswith("/__init__.py"):
                    yield from self._all_of(posixpath.dirname(path))

    def _along(self, base: str, parts: Sequence[str]) -> Iterator[str]:
        """Yields the package files on the way and the module at its end."""
        for n in range(1, len(parts) + 1):
            stem = posixpath.join(base, *parts[:n])
            yield from (path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in self.files)

    def _all_of(self, package: str) -> Iterator[str]:
        """`from package import *` imports what `__all__` names, which may be modules."""
        return (path for path in self.files if posixpath.dirname(path) == package)

    def _ending(self, parts: Sequence[str]) -> Iterator[str]:
        tail = "/".join(parts)
        for path in self._by_name.get(parts[-1], ()):
            if path.removesuffix(".py").removesuffix("/__init__").endswith(f"/{tail}"):
                yield path

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.files:
            stem = path.removesuffix(".py").removesuffix("/__init__")
            found.setdefault(posixpath.basename(stem), []).append(path)
        return found


def _submodule(named: _Named) -> list[str]:
    """`from a import b`: b may be a module."""
    return [named.name] if named.name not in ("", "*") else []


def _upwards(folder: str) -> Iterator[str]:
    yield folder
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def _import_base(test: str, files: Collection[str]) -> str:
    """Returns the directory that pytest puts on `sys.path` for a test file: the first upwards that is no package."""
    return next(f for f in _upwards(posixpath.dirname(test)) if not f or posixpath.join(f, "__init__.py") not in files)


# -- one file --------------------------------------------------------------------------------------------------


def _read_file(path: Path, name: str) -> _Read:
    try:
        tree = ast.parse(path.read_bytes())
    except FileNotFoundError:
        return _Read()  # deleted: the files that import it matter
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _Read(opaque=f"{name} can't be read ({type(error).__name__})")
    names: list[_Named] = []
    scripts: list[str] = []
    opaque = ""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names += [_Named(0, alias.name) for alias in node.names]
            case ast.ImportFrom():
                names += [_Named(node.level, node.module or "", alias.name) for alias in node.names]
            case ast.Constant(value=str(text)):
                names += [_Named(0, text, sure=False)] if _DOTTED.fullmatch(text) else []
                scripts += [text] if text.endswith(".py") and len(text) < 500 else []
            case ast.Call() if _is_dynamic(node):
                opaque = opaque or f"{name}:{node.lineno} imports a module whose name is computed"
            case ast.Call() if _called(node) in _BY_NAME:
                names.append(_Named(0, _constant(node.args[0])))
            case ast.Assign() | ast.AnnAssign() if _is_plugins(node):
                plugins = list(_plugins(node.value))
                names += [_Named(0, plugin) for plugin in plugins if plugin]
                if "" in plugins:
                    opaque = opaque or f"{name}:{node.lineno} names plugins that are computed"
    return _Read(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(scripts)), opaque)


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _is_dynamic(node: ast.Call) -> bool:
    name = _called(node)
    if name in _BY_OTHER_MEANS:
        return name != "exec" or isinstance(node.func, ast.Name)
    first = _constant(node.args[0]) if node.args else ""
    return name in _BY_NAME and (not first or first.startswith("."))


def _constant(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_plugins(node: ast.Assign | ast.AnnAssign) -> bool:
    targets: Iterable[ast.expr] = node.targets if isinstance(node, ast.Assign) else (node.target,)
    return any(isinstance(target, ast.Name) and target.id == "pytest_plugins" for target in targets)


def _plugins(value: ast.expr | None) -> Iterator[str]:
    """Yields the names of plugins; an empty one for what isn't a string."""
    if isinstance(value, ast.List | ast.Tuple | ast.Set):
        yield from (_constant(element) for element in value.elts)
    elif value is not None:
        yield _constant(value)
