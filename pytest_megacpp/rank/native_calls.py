"""Owns giving torch's blocking native calls a Python frame, so that a stack shows them, and reporting each collective
that Python issues; must not know who reads stacks, or counts.

`work.wait()`, `store.get()` and the making of a `TCPStore` are C++ and leave no frame of their own: on a stack, a
thread in one of them looks like a thread in `os.wait()` or `time.sleep()` on the same line. The frames added here lie
in this file (`recording.stacks` looks for it) and carry the name of the method.
"""

import functools
from collections.abc import Callable
from typing import Any

from pytest_megacpp.rank.compiler import left_alone_by_compiler

_BLOCKING = {
    "Work": ("wait", "synchronize"),
    "Store": ("get", "multi_get", "wait", "queue_pop", "barrier"),
    "TCPStore": ("__init__",),
}
_ANSWERING = ("exception", "is_success")  # of Work: they tell what became of a collective, and don't block

_ISSUING = (
    *("allreduce", "allreduce_coalesced", "reduce", "broadcast", "barrier", "gather", "scatter"),
    *("allgather", "_allgather_base", "allgather_coalesced", "allgather_into_tensor_coalesced"),
    *("reduce_scatter", "_reduce_scatter_base", "reduce_scatter_tensor_coalesced", "alltoall", "alltoall_base"),
    *("all_gather_single", "all_gather_single_coalesced", "all_to_all_single"),
    *("reduce_scatter_single", "reduce_scatter_single_coalesced", "send", "recv", "recv_anysource"),
    "_start_coalescing",
)


Before = Callable[[], object]
OnCall = Callable[[Any, str, tuple[Any, ...], dict[str, Any], Any], object]
"""Gets the group, the method, its arguments, and what it returned."""
OnSuccess = Callable[[Any], object]
"""Gets the `Work` that is known to have succeeded."""
OnPolled = Callable[[Any, bool], object]
"""Gets the `Work`, and whether it is over."""


def _nothing(*_: object) -> None:
    """Is called about a call that nobody asked about."""


def install(before_store: Before = _nothing) -> None:
    """Gives the blocking methods of `torch.distributed`'s native classes, and of torch's futures, a Python frame. Calls
    `before_store` before those of stores. Raises whatever a torch without these classes raises.
    """
    import torch
    from torch._C import _distributed_c10d as native

    for class_name, methods in _BLOCKING.items():
        owner = getattr(native, class_name)
        for method in methods:
            if hasattr(owner, method):  # queue_pop and barrier are newer than the oldest torch
                before = before_store if class_name == "Store" else _nothing
                framed = _framed(getattr(owner, method), method, before, fails=class_name == "Work")
                setattr(owner, method, framed)
    _future: Any = torch._C.Future
    _future.wait = _framed(_future.wait, "wait", fails=True)


_report_failure: Callable[[], object] = _nothing
_report_success: OnSuccess = _nothing
_report_polled: OnPolled = _nothing


def report_issued(
    about: OnCall,
    failed: Callable[[], object] = _nothing,
    before: Before = _nothing,
    succeeded: OnSuccess = _nothing,
    polled: OnPolled = _nothing,
) -> None:
    """Calls `before` before and `about` after each collective and message that Python issues in a process group,
    `failed` when one raises, waiting for it does, or its `Work` says so, and `succeeded` when that says that it didn't.
    `polled` when somebody asks whether it is over.
    """
    from torch._C import _distributed_c10d as native

    global _report_failure, _report_success, _report_polled
    _report_failure, _report_success, _report_polled = failed, succeeded, polled
    work: Any = native.Work
    for method in filter(lambda name: hasattr(work, name), _ANSWERING):
        setattr(work, method, _answering(getattr(work, method), method, work.is_completed))
    work.is_completed = _polling(work.is_completed)
    group: Any = native.ProcessGroup
    for method in _ISSUING:
        if hasattr(group, method):
            setattr(group, method, _framed(getattr(group, method), method, before, about))


def _framed(
    native: Callable[..., Any],
    method: str,
    before: Before = _nothing,
    about: OnCall | None = None,
    *,
    fails: bool = False,
) -> Callable[..., Any]:
    """Returns a function in Python that calls the method. It has the method's name, and `self` first: by these pybind11
    recognises a call of C++ that comes back to it from an override, which it would otherwise take this for. `fails`:
    what it raises shows that a collective may have failed.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        before()
        return native(self, *args, **kwargs)

    def hearing(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            result = native(self, *args, **kwargs)
        except BaseException:
            _report_failure()
            raise
        if result is True:  # of `Work.wait`
            _report_success(self)
        return result

    def telling(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        before()
        try:
            result = native(self, *args, **kwargs)
        except BaseException:
            _report_failure()
            raise
        about(self, method, args, kwargs, result)  # type: ignore[misc]
        return result

    return _named(telling if about is not None else hearing if fails else call, native, method)


def _answering(native: Callable[..., Any], method: str, is_completed: Callable[[Any], bool]) -> Callable[..., Any]:
    """Returns a function in Python that calls the method of a `Work` and reports what it tells. Of one that is open
    `is_success` says True: it only knows of no error yet.
    """

    def call(self: Any) -> Any:
        __tracebackhide__ = True
        is_over = method == "is_success" and is_completed(self)
        result = native(self)
        if is_over and result is True:
            _report_success(self)
        if result is False or isinstance(result, BaseException):
            _report_failure()
        return result

    return _named(call, native, method)


def _polling(native: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Returns `is_completed`, which reports its answer."""

    def call(self: Any) -> bool:
        __tracebackhide__ = True
        is_over = native(self)
        _report_polled(self, is_over)
        return is_over

    return _named(call, native, "is_completed")


def _named(call: Callable[..., Any], native: Callable[..., Any], method: str) -> Callable[..., Any]:
    call.__code__ = call.__code__.replace(co_name=method)
    left_alone_by_compiler(call.__code__)
    return functools.wraps(native)(call)
