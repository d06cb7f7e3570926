"""Owns the record of first forwards without the test's help; must not know pytest or what a forward computes.

All module calls go through one function of torch. It keeps its identity: only its code is exchanged until a module is
called, and torch's own is back before that call goes on. So what is compiled in it, and whatever holds the function
(torch's compiler, a compiled module), meets torch as it is. Where the compiler is at work already, the exchanged code
does what torch's does; a compiled function that has its modules inlined makes no such call.

Seconds are those of the call: nothing waits for the device, compiling happens before that.
"""

import contextlib
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from time import monotonic  # a test may replace what the module `time` has
from typing import Any, TypeAlias

from pytest_megacpp.rank.compiler import Unwatchable, as_torchs

KEPT_MODULES = 4  # different ones, per test
WATCHED_CALLS = 64  # outermost ones, per test; later ones aren't even looked at
_TORCHS_NAMES = ("_compiled_call_impl", "_call_impl")

OnForward: TypeAlias = Callable[[str, float], None]
"""Gets the class name of a module and the seconds of its first call."""


class _Watch:
    """The first forwards of one test. Modules are distinguished as objects."""

    def __init__(self, function: types.FunctionType, tell: OnForward) -> None:
        self.untouched = types.FunctionType(function.__code__, function.__globals__, function.__name__)
        self._function = function
        self._tell = tell
        self._calls = 0
        self._seen: list[weakref.ref[Any]] = []
        self._code = as_torchs(_watched.__code__, function.__code__)

    def begin(self) -> None:
        self._function.__code__ = self._code

    def end(self) -> None:
        self._function.__code__ = self.untouched.__code__

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Makes the outermost call; calls within it are not watched."""
        __tracebackhide__ = True
        self.end()
        start_s = monotonic()
        try:
            result = self._function(module, *args, **kwargs)
            self._forwarded(module, monotonic() - start_s)
            return result
        finally:
            self._calls += 1
            if self._calls < WATCHED_CALLS and len(self._seen) < KEPT_MODULES:
                self.begin()

    def _forwarded(self, module: Any, seconds: float) -> None:
        if not any(ref() is module for ref in self._seen):
            self._seen.append(weakref.ref(module))
            self._tell(_name(module), seconds)


_watch: _Watch | None = None


@contextlib.contextmanager
def watching(tell: OnForward) -> Iterator[None]:
    """Calls `tell` with the first outermost call of each module that the main thread makes in this block. Raises
    Unwatchable before the block.
    """
    import torch

    global _watch
    function: Any = torch.nn.Module.__call__
    code = getattr(function, "__code__", None)
    if code is None or code.co_names != _TORCHS_NAMES or code.co_freevars:
        raise Unwatchable("torch.nn.Module.__call__ isn't the function that it was")
    _watch = watch = _Watch(function, tell)
    watch.begin()
    try:
        yield
    finally:
        watch.end()  # a thread may still be on its way to `called`


def _watched(self, *args, **kwargs):  # type: ignore[no-untyped-def]
    """The code that torch's function has meanwhile. Its globals are torch's; its last lines are torch's own."""
    __tracebackhide__ = True
    if not (torch.compiler.is_compiling() or torch._C._dynamo.eval_frame.get_eval_frame_callback()):  # type: ignore[name-defined] # noqa: F821
        from pytest_megacpp.rank.first_forward import called

        return called(self, args, kwargs)
    if self._compiled_call_impl is not None:
        return self._compiled_call_impl(*args, **kwargs)
    return self._call_impl(*args, **kwargs)


def called(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Makes an outermost call, in whichever thread."""
    __tracebackhide__ = True
    assert _watch is not None
    if threading.current_thread() is not threading.main_thread():
        return _watch.untouched(module, *args, **kwargs)
    return _watch.call(module, args, kwargs)


def _name(module: Any) -> str:
    """Returns the name of the class that the user wrote, without what `fully_shard` and
    `torch.compile` put around it.
    """
    kind = type(module)
    if kind.__name__.startswith("FSDP") and len(kind.__bases__) == 2 and kind.__bases__[0].__name__ == "FSDPModule":
        kind = kind.__bases__[1]
    inner = module._modules.get("_orig_mod") if kind.__name__ == "OptimizedModule" else None
    return kind.__name__ if inner is None else _name(inner)
