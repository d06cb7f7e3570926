"""Owns a stand-in for a test module, made of its source without running any of it; must not know pytest's collection.

The stand-in has the module's classes, its functions with their signatures, lines and marks, and its fixtures, so that
pytest itself collects it and gives every test the name that it would have. What could not be read is in `Stub`.
"""

import ast
import inspect
import types
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.source.values import Names, Unreadable, changed_elsewhere, imported

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_OF_XUNIT = ("setup_module", "teardown_module", "setup_function", "teardown_function", "setUpModule", "tearDownModule")
_OF_XUNIT_CLASSES = ("setup_class", "teardown_class", "setup_method", "teardown_method")
_CONDITIONAL = ("skipif", "xfail")  # one that can't be read never holds here: the box knows
_NEEDS_THE_FILE = ast.parse("raise RuntimeError('this test was read from its source: it has no body here')").body


@dataclass
class Stub:
    """`module` is to be collected. In `unread` are functions and classes that may have other tests than it shows (the
    module itself: all of them), with the reason. `without_arguments` has the names of marks whose arguments are
    unknown, by function or class (None: the module's); `lines` where each class begins, counted from 1.
    """

    module: types.ModuleType
    unread: dict[object, str] = field(default_factory=dict)
    without_arguments: dict[object, set[str]] = field(default_factory=dict)
    lines: dict[type, int] = field(default_factory=dict)


def read(path: Path, name: str) -> Stub:
    """Returns the stand-in for a file. Raises OSError, SyntaxError and ValueError for a file that is no Python."""
    source = path.read_bytes()
    tree = ast.parse(source, str(path))
    stub = Stub(types.ModuleType(name, ast.get_docstring(tree)))
    stub.module.__file__ = str(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the box imports the file, and warns of marks that nobody knows
        _Scope(stub, str(path), vars(stub.module), Names(), changed_elsewhere(tree), owner=None).read(tree.body)
    return stub


def shows_lane_tests(stub: Stub, lanes: Sequence[str]) -> bool:
    """Returns whether a function or class of the stand-in, or all of it, is marked for one of these lanes."""
    fixtures = {f"modal_{lane}" for lane in lanes}
    waiting: list[object] = [stub.module]
    while waiting:
        value = waiting.pop()
        marks = getattr(value, "pytestmark", ())
        if any(mark.name in lanes for mark in marks):
            return True
        if isinstance(value, types.FunctionType) and not fixtures.isdisjoint(value.__code__.co_varnames):
            return True
        if value is stub.module or inspect.isclass(value):
            waiting += [_plain_function(one) or one for name, one in vars(value).items() if name != "pytestmark"]
    return False


@dataclass
class _Scope:
    """The body of a module, or of a class of it: `namespace` is what comes of it."""

    stub: Stub
    path: str
    namespace: dict[str, Any]
    names: Names
    changed: set[str]
    owner: object  # None: the module

    def read(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement, "")
        if self._generates(body):
            for value in list(self.namespace.values()):
                self._unread(value, "pytest_generate_tests")

    @staticmethod
    def _generates(body: Sequence[ast.stmt]) -> bool:
        return any(isinstance(node, _Function) and node.name == "pytest_generate_tests" for node in body)

    def _statement(self, node: ast.stmt, condition: str) -> None:
        """`condition`: the statement around, by which this one may not be run, or more than once. A test in it is read
        as if it were: one that the box lacks fails.
        """
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._define(node.name, self._function(node), condition)
            case ast.ClassDef():
                self._define(node.name, self._class(node), condition)
            case ast.Import() | ast.ImportFrom():
                for name, value in imported(node):
                    self._bind(name, value, is_known=value is not None and not condition)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value, condition)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, value, condition)
            case ast.AugAssign(target=target):
                self._assign(target, None, condition)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._delete(target, condition)
            case _:
                self._block(node)

    def _block(self, node: ast.stmt) -> None:
        """A compound statement: what it defines may be there or not."""
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.orelse:
                self._statement(statement, "")
            return
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return
        for bound in ast.walk(node):
            if isinstance(bound, ast.Name) and isinstance(bound.ctx, ast.Store) and self._is_here(bound, node):
                self._bind(bound.id, None, is_known=False)
        for statement in _statements_in(node):
            self._statement(statement, type(node).__name__.lower())

    @staticmethod
    def _is_here(bound: ast.Name, node: ast.stmt) -> bool:
        """Not a local name of a function in the statement."""
        inner = (f for f in ast.walk(node) if isinstance(f, _Function | ast.ClassDef | ast.Lambda))
        return not any(bound is one for function in inner for one in ast.walk(function))

    # -- names -------------------------------------------------------------------------------------------------

    def _bind(self, name: str, value: object, *, is_known: bool) -> None:
        if is_known and not (name in self.changed and isinstance(value, list | dict | set)):
            self.names.bind(name, value)
        else:
            self.names.forget(name)
        if name in self.namespace:
            self._unread(self.namespace[name], f"{name} is bound again")

    def _assign(self, target: ast.expr, value: ast.expr | None, condition: str) -> None:
        match target:
            case ast.Name(id="pytestmark"):
                self._pytestmark(value, condition)
            case ast.Name(id=name):
                self._assign_name(name, value, condition)
            case ast.Attribute(value=ast.Name(id=name), attr="__test__") if name in self.namespace:
                self._set_test(self.namespace[name], value)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                for one in targets:
                    self._assign(one, None, condition)
            case ast.Starred(value=inner):
                self._assign(inner, None, condition)
            case _:
                pass

    def _assign_name(self, name: str, node: ast.expr | None, condition: str) -> None:
        try:
            if node is None or condition:
                raise Unreadable(condition)
            value = self.names.value(node)
            if isinstance(node, ast.Name) and isinstance(value, list | dict | set):
                raise Unreadable("one value under two names")
        except Unreadable:
            self._bind(name, None, is_known=False)
            return
        self._bind(name, value, is_known=True)
        if name == "__test__":
            self.namespace[name] = value

    def _set_test(self, target: object, node: ast.expr | None) -> None:
        try:
            target.__test__ = self.names.value(node) if node is not None else True  # type: ignore[attr-defined]
        except Unreadable:
            self._unread(target, "__test__")

    def _delete(self, target: ast.expr, condition: str) -> None:
        if isinstance(target, ast.Name):
            self.names.forget(target.id)
            if not condition:
                self.namespace.pop(target.id, None)

    def _define(self, name: str, value: object, condition: str) -> None:
        is_again = name in self.namespace
        self.names.forget(name)
        if value is None or name.startswith("pytest_") or name in (*_OF_XUNIT, *_OF_XUNIT_CLASSES):
            return
        self.namespace[name] = value
        if inspect.isclass(value) and not condition:
            self.names.bind(name, value)
        if condition and is_again:
            self._unread(value, f"it is defined more than once ({condition})")

    # -- marks -------------------------------------------------------------------------------------------------

    def _unread(self, value: object, why: str) -> None:
        """Functions and classes, and what is in classes."""
        if inspect.isclass(value):
            self.stub.unread.setdefault(value, why)
        elif (function := _plain_function(value)) is not None:
            self.stub.unread.setdefault(function, why)

    def _pytestmark(self, node: ast.expr | None, condition: str) -> None:
        elements = node.elts if isinstance(node, ast.List | ast.Tuple) else [node] if node is not None else []
        known: list[pytest.MarkDecorator] = []
        unknown = "" if node is not None and not condition else "pytestmark"
        for element in elements:
            try:
                known += self._marks(element, self.owner)
            except Unreadable as e:
                unknown = f"pytestmark: {e}"
        self.namespace["pytestmark"] = known
        if unknown:
            self.stub.unread.setdefault(self.stub.module if self.owner is None else self.owner, unknown)

    def _marks(self, node: ast.expr, target: object) -> list[pytest.MarkDecorator]:
        """The marks that an expression is, of which one may lack its arguments. Raises Unreadable, also where
        parameters are unknown.
        """
        try:
            value = self.names.value(node)
        except Unreadable:
            return [self._bare(node, target)]
        found = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(one, pytest.MarkDecorator) for one in found):
            raise Unreadable(_spelt(node))
        return list(found)

    def _bare(self, node: ast.expr, target: object) -> pytest.MarkDecorator:
        called = self.names.value(node.func) if isinstance(node, ast.Call) else None
        if not isinstance(called, pytest.MarkDecorator) or called.name == "parametrize":
            raise Unreadable(_spelt(node))
        self.stub.without_arguments.setdefault(target, set()).add(called.name)
        return called.with_args(False, reason="") if called.name in _CONDITIONAL else called

    # -- functions ---------------------------------------------------------------------------------------------

    def _function(self, node: _Function) -> object | None:
        """Returns a function without its body; with its decorators, as far as they are marks or make a fixture."""
        function = _without_body(node, self.path, self.stub.module.__name__)
        made: Any = function
        marks: list[pytest.MarkDecorator] = []
        why = ""
        for decorator in reversed(node.decorator_list):
            if isinstance(decorator, ast.Name) and decorator.id in ("staticmethod", "classmethod"):
                made = staticmethod(function) if decorator.id == "staticmethod" else classmethod(function)
                continue
            if isinstance(decorator, ast.Name) and decorator.id == "property":
                return None
            if (options := self._fixture_options(decorator)) is not None:
                return self._fixture(function, options)
            try:
                marks += self._marks(decorator, function)
            except Unreadable as e:
                why = why or f"@{e}"
        if why:
            self.stub.unread[function] = why
        for mark in marks:
            if not (why and mark.name == "parametrize"):
                mark(function)
        result: object = made
        return result

    def _fixture_options(self, decorator: ast.expr) -> list[ast.keyword] | None:
        """The options of a decorator that makes a fixture; None for another one."""
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        try:
            is_fixture = self.names.value(called) is pytest.fixture
        except Unreadable:
            return None
        if not is_fixture:
            return None
        return decorator.keywords if isinstance(decorator, ast.Call) else []

    def _fixture(self, function: types.FunctionType, options: list[ast.keyword]) -> object | None:
        known: dict[str, Any] = {}
        unknown: set[str | None] = set()
        for option in options:
            try:
                known[str(option.arg)] = self.names.value(option.value)
            except Unreadable:
                unknown.add(option.arg)
        if "name" in unknown or None in unknown:
            return None
        if unknown & {"params", "ids"}:
            self.stub.unread[function] = "its params"
            known.pop("params", None)
            known.pop("ids", None)
        if "autouse" in unknown:
            known["autouse"] = True
        return pytest.fixture(**known)(function)  # type: ignore[no-any-return]

    # -- classes -----------------------------------------------------------------------------------------------

    def _class(self, node: ast.ClassDef) -> type:
        bases, why = self._bases(node)
        namespace: dict[str, Any] = {"__module__": self.stub.module.__name__, "__qualname__": node.name}
        if (text := ast.get_docstring(node)) is not None:
            namespace["__doc__"] = text
        made_in = object()
        scope = _Scope(self.stub, self.path, namespace, Names(self.names), self.changed, owner=made_in)
        scope.read(node.body)
        marks: list[pytest.MarkDecorator] = []
        for decorator in reversed(node.decorator_list):
            try:
                marks += self._marks(decorator, made_in)
            except Unreadable as e:
                why = why or f"@{e}"
        try:
            made = type(node.name, bases, namespace)
        except TypeError as e:
            made, why = type(node.name, (), namespace), str(e)
        for mark in marks:
            mark(made)
        if made_in in self.stub.without_arguments:
            self.stub.without_arguments[made] = self.stub.without_arguments.pop(made_in)
        if made_in in self.stub.unread:
            why = why or self.stub.unread.pop(made_in)
        self.stub.lines[made] = min((d.lineno for d in node.decorator_list), default=node.lineno)
        inherited = next((self.stub.unread[base] for base in made.__mro__ if base in self.stub.unread), "")
        if why or inherited:
            self.stub.unread[made] = why or inherited
        return made

    def _bases(self, node: ast.ClassDef) -> tuple[tuple[type, ...], str]:
        """Returns the bases that could be read, and the spelling of one that could not."""
        found: list[type] = []
        why = f"{node.keywords[0].arg}=" if node.keywords else ""
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id == "object" and not self.names.knows("object"):
                continue
            try:
                value = self.names.value(base)
            except Unreadable:
                value = None
            if inspect.isclass(value):
                found.append(value)
            else:
                why = why or f"it inherits from {_spelt(base)}"
        return tuple(found), why


def _plain_function(value: object) -> types.FunctionType | None:
    function = getattr(value, "__func__", value)
    return function if isinstance(function, types.FunctionType) else None


def _spelt(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _statements_in(node: ast.stmt) -> Iterator[ast.stmt]:
    for name in ("body", "orelse", "finalbody"):
        yield from getattr(node, name, ())
    for handler in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield from handler.body


def _without_body(node: _Function, path: str, module: str) -> types.FunctionType:
    """Returns a function with this name, these arguments and this place, which raises RuntimeError."""
    arguments = ast.arguments(
        posonlyargs=[_bare_argument(a) for a in node.args.posonlyargs],
        args=[_bare_argument(a) for a in node.args.args],
        vararg=_bare_argument(node.args.vararg) if node.args.vararg else None,
        kwonlyargs=[_bare_argument(a) for a in node.args.kwonlyargs],
        kw_defaults=[None if one is None else ast.Constant(None) for one in node.args.kw_defaults],
        kwarg=_bare_argument(node.args.kwarg) if node.args.kwarg else None,
        defaults=[ast.Constant(None) for _ in node.args.defaults],
    )
    made: Any = type(node)(name=node.name, args=arguments, body=_NEEDS_THE_FILE, decorator_list=[])
    if "type_params" in made._fields:
        made.type_params = []
    tree = ast.fix_missing_locations(ast.Module([ast.copy_location(made, node)], []))
    namespace: dict[str, Any] = {"__name__": module}
    exec(compile(tree, path, "exec"), namespace)  # a definition and nothing else
    function: types.FunctionType = namespace[node.name]
    first = min((d.lineno for d in node.decorator_list), default=node.lineno)
    function.__code__ = function.__code__.replace(co_firstlineno=first)
    function.__doc__ = ast.get_docstring(node)
    return function


def _bare_argument(node: ast.arg) -> ast.arg:
    return ast.arg(node.arg)
