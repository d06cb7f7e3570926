"""Owns the values of expressions in a source that is read, not run; must not know what they are for.

What can be read: literals, arithmetic on them, names bound to such values once, `range` and the like, and what pytest
offers to test files: marks, `pytest.param`, `pytest.fixture`. Nothing of the project is called or imported.
"""

import ast
import operator
import unittest
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

MAX_LENGTH = 100_000  # of a value with parts
MAX_NUMBER = 1 << 128
_OF_PYTEST = ("mark", "param", "fixture")
_MUTATING = frozenset(
    [
        "append",
        "extend",
        "insert",
        "pop",
        "popitem",
        "remove",
        "clear",
        "sort",
        "reverse",
        "update",
        "add",
        "discard",
        "setdefault",
        "difference_update",
        "intersection_update",
        "symmetric_difference_update",
    ]
)
_BUILTINS: Mapping[str, Callable[..., object]] = {"range": range, "list": list, "tuple": tuple}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], object]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class Unreadable(Exception):
    """An expression whose value only running the file would tell."""


class Names:
    """What names stand for in a module, or in a class of it (`outer` is its module's)."""

    def __init__(self, outer: "Names | None" = None) -> None:
        self._outer = outer
        self._values: dict[str, object] = {}
        self._hidden: set[str] = set()

    def bind(self, name: str, value: object) -> None:
        self._hidden.discard(name)
        self._values[name] = value

    def forget(self, name: str) -> None:
        """The name stands for something that can't be read from now on."""
        self._values.pop(name, None)
        self._hidden.add(name)

    def knows(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> object:
        """Raises Unreadable."""
        if name in self._values:
            return self._values[name]
        if name in self._hidden:
            raise Unreadable(name)
        if self._outer is not None:
            return self._outer.get(name)
        if name in _BUILTINS:
            return _BUILTINS[name]
        raise Unreadable(name)

    def value(self, node: ast.expr) -> Any:
        """Returns what an expression comes to. Raises Unreadable."""
        try:
            return self._value(node)
        except (TypeError, ValueError, ArithmeticError, RecursionError) as e:
            raise Unreadable(str(e)) from e

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.get(node.id)
            case ast.Tuple():
                return tuple(self._elements(node.elts))
            case ast.List():
                return list(self._elements(node.elts))
            case ast.Set():
                return set(self._elements(node.elts))
            case ast.Dict():
                return self._dict(node)
            case ast.UnaryOp():
                return _UNARY[type(node.op)](self._plain(node.operand))
            case ast.BinOp():
                return self._binary(node)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Call():
                return self._call(node)
            case _:
                raise Unreadable(type(node).__name__)

    def _elements(self, nodes: list[ast.expr]) -> Iterator[object]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self._value(node.value)
            else:
                yield self._value(node)

    def _dict(self, node: ast.Dict) -> dict[object, object]:
        found: dict[object, object] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found.update(self._value(value))
            else:
                found[self._value(key)] = self._value(value)
        return found

    def _plain(self, node: ast.expr) -> Any:
        """A value with operators of its own: a number, a text, a sequence."""
        value = self._value(node)
        if not isinstance(value, int | float | complex | str | bytes | tuple | list | set | dict):
            raise Unreadable(type(value).__name__)
        return value

    def _binary(self, node: ast.BinOp) -> object:
        if type(node.op) not in _BINARY:
            raise Unreadable(type(node.op).__name__)
        left, right = self._plain(node.left), self._plain(node.right)
        if isinstance(node.op, ast.Mult):
            for value, times in ((left, right), (right, left)):
                if hasattr(value, "__len__") and len(value) * times > MAX_LENGTH:
                    raise Unreadable("too long")
        result = _BINARY[type(node.op)](left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise Unreadable("too large")
        return result

    def _attribute(self, node: ast.Attribute) -> object:
        owner = self._value(node.value)
        if owner is pytest.mark and not node.attr.startswith("_"):
            return getattr(pytest.mark, node.attr)
        if (owner is pytest and node.attr in _OF_PYTEST) or (owner is unittest and node.attr == "TestCase"):
            return getattr(owner, node.attr)
        raise Unreadable(node.attr)

    def _call(self, node: ast.Call) -> object:
        called: Any = self._value(node.func)
        args, options = list(self._elements(node.args)), self._options(node.keywords)
        if isinstance(called, pytest.MarkDecorator):
            return called.with_args(*args, **options)
        if called is range:
            numbers: Any = args
            found = range(*numbers)
            if len(found) > MAX_LENGTH:
                raise Unreadable("too long")
            return found
        if called is pytest.param or called in _BUILTINS.values():
            return called(*args, **options)
        raise Unreadable("a call")

    def _options(self, keywords: list[ast.keyword]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in keywords:
            value = self._value(keyword.value)
            found.update({keyword.arg: value} if keyword.arg is not None else value)
        return found


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, object]]:
    """Yields the names that an import binds, each with its value, or None where it can't be read."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            known = {"pytest": pytest, "unittest": unittest}.get(alias.name)
            yield alias.asname or alias.name.partition(".")[0], known
        elif node.module == "pytest" and not node.level and alias.name in _OF_PYTEST:
            yield alias.asname or alias.name, getattr(pytest, alias.name)
        elif node.module == "unittest" and not node.level and alias.name == "TestCase":
            yield alias.asname or alias.name, unittest.TestCase
        else:
            yield alias.asname or alias.name, None


def changed_elsewhere(tree: ast.Module) -> set[str]:
    """Returns names whose value may change in place, as a list that is appended to or given to a call."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr in _MUTATING:
                found.add(name)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                found.add(name)
            case _:
                pass
    for node in _outside_of_functions(tree.body):
        if isinstance(node, ast.Call) and not _leaves_arguments_alone(node.func):
            given = (*node.args, *(keyword.value for keyword in node.keywords))
            found |= {one.id for one in given if isinstance(one, ast.Name)}
    return found


def _leaves_arguments_alone(node: ast.expr) -> bool:
    """Whether a call is one of a mark, a parameter or a known function, by its spelling."""
    match node:
        case ast.Attribute(value=inner, attr=attr):
            return attr in _OF_PYTEST or _leaves_arguments_alone(inner)
        case ast.Name(id=name):
            return name in _OF_PYTEST or name in _BUILTINS
        case _:
            return False


def _outside_of_functions(body: list[ast.stmt]) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += node.decorator_list
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
