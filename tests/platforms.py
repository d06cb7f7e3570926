"""What a desk on another system runs: the modules that it may load, and what of them can be reached there. Which names
of the standard library a system lacks, typeshed says, which mypy brings along.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.test_layers import MODULES, folder_of, imported, own, part_of

DARWIN, WINDOWS = OTHERS = ("darwin", "win32")
Names = frozenset[str]


# -- what can be reached ---------------------------------------------------------------------------------------------


def reachable(path: Path, platform: str) -> Iterator[ast.AST]:
    """The nodes of a module that `sys.platform` doesn't keep a system from, as mypy sees it."""
    yield from _Reach(platform).block(ast.parse(path.read_text(encoding="utf-8")).body)


class _Reach:
    def __init__(self, platform: str) -> None:
        self._platform = platform

    def block(self, statements: Iterable[ast.stmt]) -> Iterator[ast.AST]:
        for statement in statements:
            yield from self._node(statement)
            if self._ends(statement):
                return

    def _ends(self, statement: ast.stmt) -> bool:
        """Whether nothing behind it in its block is reached because of the system."""
        match statement:
            case ast.Assert(test=test):
                return self.truth(test) is False
            case ast.If(test=test, body=body, orelse=orelse):
                truth = self.truth(test)
                taken = [] if truth is None else body if truth else orelse
                return bool(taken) and isinstance(taken[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
            case _:
                return False

    def _node(self, node: ast.AST) -> Iterator[ast.AST]:
        yield node
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                truth = self.truth(test)
                yield from self._node(test)
                yield from self.block(body) if truth is not False else ()
                yield from self.block(orelse) if truth is not True else ()
            case ast.IfExp(test=test, body=yes, orelse=no):
                truth = self.truth(test)
                yield from self._node(yes) if truth is not False else ()
                yield from self._node(no) if truth is not True else ()
            case ast.BoolOp(op=op, values=values):
                for value in values:
                    yield from self._node(value)
                    if self.truth(value) is isinstance(op, ast.Or):
                        break
            case _:
                for _, field in ast.iter_fields(node):
                    if isinstance(field, list) and field and isinstance(field[0], ast.stmt):
                        yield from self.block(field)
                    else:
                        inner = field if isinstance(field, list) else [field]
                        for one in inner:
                            yield from self._node(one) if isinstance(one, ast.AST) else ()

    def truth(self, test: ast.expr) -> bool | None:
        """What a condition is there; None where that depends on something else than system and Python."""
        match test:
            case ast.Name(id="TYPE_CHECKING"):
                return False
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                known = self.truth(operand)
                return None if known is None else not known
            case ast.BoolOp(op=op, values=values):
                decides = isinstance(op, ast.Or)
                known_ones = [self.truth(value) for value in values]
                if decides in known_ones:
                    return decides
                return None if None in known_ones else not decides
            case ast.Compare(left=ast.Attribute(value=ast.Name(id="sys"), attr="platform"), ops=[op], comparators=[to]):
                return _compared(op, self._platform, ast.literal_eval(to))
            case ast.Compare(
                left=ast.Attribute(value=ast.Name(id="sys"), attr="version_info"), ops=[op], comparators=[to]
            ):
                return _compared(op, sys.version_info[:2], ast.literal_eval(to))
            case _:
                return None


def _compared(op: ast.cmpop, here: object, to: object) -> bool | None:
    match op:
        case ast.Eq():
            return here == to
        case ast.NotEq():
            return here != to
        case ast.In():
            return isinstance(to, tuple) and here in to
        case ast.NotIn():
            return isinstance(to, tuple) and here not in to
        case ast.GtE() if isinstance(here, tuple) and isinstance(to, tuple):
            return here >= to
        case ast.Lt() if isinstance(here, tuple) and isinstance(to, tuple):
            return here < to
        case _:
            return None


# -- what the desk loads ---------------------------------------------------------------------------------------------


@cache
def desk_modules(platform: str) -> Names:
    """Modules of the package that a desk may load there: what the plugin, the `megacpp` command and the surfaces'
    providers import, wherever they do.
    """
    found = set[str]()
    waiting = [name for name in MODULES if part_of(name) in ("plugin", "desk", "__main__") or _is_provider(name)]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += own(imported(reachable(MODULES[module], platform), MODULES[module])) & MODULES.keys()
    return frozenset(found)


def _is_provider(module: str) -> bool:
    """Of a surface, which the registry imports by name."""
    return folder_of(folder_of(module)) == "surfaces" and module.endswith(".provider")


# -- what a system lacks ---------------------------------------------------------------------------------------------


@cache
def lacking(module: str, platform: str) -> Names:
    """The names of a module of the standard library that Linux has and this system doesn't."""
    return _names(module, "linux") - _names(module, platform)


@cache
def is_lacking(module: str, platform: str) -> bool:
    """Whether a system has no such module at all."""
    here, there = ({name for name in _names(module, one) if not name.startswith("_")} for one in ("linux", platform))
    return bool(here) and not there


@cache
def lacking_modules(platform: str) -> Names:
    return frozenset(path.stem for path in _stubs().glob("*.pyi") if is_lacking(path.stem, platform))


def _stubs() -> Path:
    spec = find_spec("mypy")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "typeshed" / "stdlib"


@cache
def _names(module: str, platform: str) -> Names:
    places = [_stubs() / f"{module.replace('.', '/')}{end}" for end in (".pyi", "/__init__.pyi")]
    path = next((place for place in places if place.exists()), None)
    return frozenset(_bound(reachable(path, platform))) if path is not None else frozenset()


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Public names, those inside of classes included, which are none of other modules' business."""
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.ImportFrom(names=aliases):
                yield from (alias.asname for alias in aliases if alias.asname is not None)
            case _:
                pass
