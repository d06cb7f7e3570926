"""Owns running every backward pass within a context; must not know what for.

All passes go through one function of torch. As with `first_forward`, it keeps its identity and its file: torch's
compiler tells by these which frames it leaves alone, and a function of ours in its place changes where graphs break
(seen with DDP on torch 2.13). Where the compiler is at work, the exchanged code only does what torch's does.
"""

import contextlib
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pytest_megacpp.rank.compiler import Unwatchable, as_torchs

_around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
untouched: Callable[..., Any]
"""Torch's own function."""


def watch(around: Callable[[], AbstractContextManager[object]]) -> None:
    """Has every backward pass of this process run within `around()` from now on. Raises Unwatchable."""
    import torch
    from torch.autograd import graph

    global _around, untouched
    function: Any = getattr(graph, "_engine_run_backward", None)
    if not isinstance(function, types.FunctionType) or function.__closure__:
        raise Unwatchable("torch.autograd.graph._engine_run_backward isn't the function that it was")
    if not hasattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback"):
        raise Unwatchable("this torch doesn't say whether its compiler is at work")
    own = function.__code__
    untouched = types.FunctionType(own, function.__globals__, function.__name__, function.__defaults__)
    _around = around
    function.__code__ = as_torchs(_watched.__code__, own)


def _watched(*args, **kwargs):  # type: ignore[no-untyped-def]
    """The code that torch's function gets. Its globals are torch's."""
    __tracebackhide__ = True
    from pytest_megacpp.rank.backward import called, untouched

    if torch.compiler.is_compiling() or torch._C._dynamo.eval_frame.get_eval_frame_callback():  # type: ignore[name-defined] # noqa: F821
        return untouched(*args, **kwargs)
    return called(args, kwargs)


def called(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs one pass."""
    __tracebackhide__ = True
    with _around():
        return untouched(*args, **kwargs)
