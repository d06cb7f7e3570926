"""Owns what an error is about: a peer that is gone or late, memory, a device, or the rank itself; must not know ranks,
times or blame.

Box and judge ask here. An error is about a peer when only gloo, NCCL or c10d say what it says. Texts that others say as
well ("Connection reset by peer", "wait timeout after 500 ms") are about a peer only where ranks communicate:
`raised_in` a module of torch's that does, or by its C++, or where NCCL is named. The causes of an exception count
like the exception itself: one that was raised from a peer's error, or while one was handled, is about the peer too, and
so is a group of which all parts are. Such an error is *secondary*: it is the cause only where no rank has a failure of
its own and none is missing (decision 0076).

In a process's output the same line must say it, or the frame above it. Warnings of torch's C++ count for
nothing there: the process went on.

The texts are torch 2.13's as measured, NCCL's as read in its source, and for NVLS those of public logs
(NVIDIA/nccl#1672 and #1788, pytorch#177472, google/gvisor#10413): a CUDA error 401 counts only where NCCL reports it.
Recordings from before 2026-12 don't say where an error was raised; of these the traceback must tell.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from pytest_megacpp.recording.events import Cause, Error
from pytest_megacpp.recording.stacks import is_communication

TAIL_CHARS = 6_000
TEXT_CHARS = 24_000
"""As much as a rank tells of one exception; what sends more isn't one, and the box has no time for it. Patterns are
bounded for the same reason: its only thread reads by them, and a line may be a megabyte of anything.
"""
KEPT_CAUSES = 16


class Kind(StrEnum):
    """What an error is about."""

    OWN = "own"
    MEMORY = "memory"
    PEER = "peer"
    JOIN = "join"
    MISMATCH = "mismatch"
    CUDA_OOM = "cuda-oom"
    CUDA = "cuda-error"
    RENDEZVOUS = "rendezvous"
    NVLS = "nvls"

    @property
    def secondary(self) -> bool:
        """Whether such an error can only follow from what a peer did."""
        return self in (Kind.PEER, Kind.JOIN)


@dataclass(frozen=True, slots=True)
class Sign:
    """A text that gives an error away. What others say too counts only if ranks communicated there; where that isn't
    known, `loose` ones count and those `in_torch` don't.
    """

    kind: Kind
    pattern: re.Pattern[str]
    in_torch: bool = False
    loose: bool = False

    def counts(self, communicating: bool | None) -> bool:
        """Whether the sign counts. `communicating`: whether the error was raised where ranks communicate, None where
        that isn't known.
        """
        return communicating or not (self.in_torch or (self.loose and communicating is False))


def _sign(kind: Kind, text: str, *, in_torch: bool = False, loose: bool = False) -> Sign:
    return Sign(kind, re.compile(text), in_torch, loose)


_FULL = "'out of memory'"  # of a device: NVLS takes its buffers from the same memory
SIGNS = (
    _sign(
        Kind.NVLS,
        r"(?:Failed to (?:bind|create|map|add) NVLink SHARP \(NVLS\)|NVLink SHARP \(NVLS\) Multicast memory)"
        rf"(?![^\n]{{0,200}}{_FULL})",
    ),
    _sign(
        Kind.NVLS,
        r"\btransport/nvls\.cc:\d{1,6}[^\n]{0,80} NCCL WARN [^\n]{0,80}(?:Cuda failure|CUDA error)"
        rf"(?![^\n]{{0,9}}{_FULL})",
    ),
    _sign(
        Kind.NVLS,
        r"(?:NCCL error in|NCCL WARN|ncclUnhandledCudaError)[\s\S]{0,2000}?Cuda failure (?:401 )?"
        r"'the operation cannot be performed in the present state'",
    ),
    _sign(Kind.NVLS, r"\bnvproxy: (?:unknown|unsupported|unimplemented) "),
    _sign(Kind.NVLS, r"(?:nvproxy|NCCL|/dev/nvidia)[^\n]{0,160}\bunsupported ioctl\b"),
    _sign(Kind.MISMATCH, r"Detected mismatch between collectives on ranks"),
    _sign(Kind.MISMATCH, r"op\.preamble\.length <= op\.nbytes|Is there a distributed collective mismatch in your code"),
    _sign(Kind.CUDA_OOM, r"(?:CUDA|HIP) out of memory|(?:CUDA|HIP)(?: driver)? error: out of memory"),
    _sign(Kind.CUDA_OOM, r"cudaErrorMemoryAllocation|hipErrorOutOfMemory|Triton Error \[\w+\]: out of memory"),
    _sign(Kind.CUDA_OOM, r"(?:Cuda failure|CUDA error) (?:\d+ )?'out of memory'|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"),
    _sign(Kind.CUDA, r"(?:CUDA|HIP)(?: driver)? error: |an illegal memory access was encountered"),
    _sign(Kind.CUDA, r"device-side assert triggered|Triton Error \[\w+\]"),
    _sign(Kind.CUDA, r"CUDNN_STATUS_(?!SUCCESS)|CUBLAS_STATUS_(?!SUCCESS)"),
    _sign(Kind.CUDA, r"Cuda failure (?:\d+ )?'|ncclUnhandledCudaError|unhandled cuda error"),
    _sign(Kind.MEMORY, r"DefaultCPUAllocator: (?:can't|not enough)|\[Errno 12\] Cannot allocate memory"),
    _sign(Kind.RENDEZVOUS, r"failed to listen on any local network address|Duplicate GPU detected"),
    _sign(Kind.RENDEZVOUS, r"EADDRINUSE", in_torch=True),  # of a test's own server as well
    _sign(Kind.RENDEZVOUS, r"[Nn]o socket interface found|failed to extend /dev/shm", loose=True),
    _sign(Kind.RENDEZVOUS, r"Error while \w+(?: to)? shared memory segment", loose=True),
    _sign(Kind.RENDEZVOUS, r"ncclCommInit[^\n]{0,400}?ncclSystemError|Failed to initialize NCCL communicator"),
    _sign(Kind.JOIN, r"seconds waiting for clients\. \d+/\d+ clients joined"),
    _sign(Kind.JOIN, r"client socket has (?:timed out after|failed to connect)"),
    _sign(
        Kind.JOIN,
        r"[Ww]ait timeout after \d+ ?ms, keys: [^\n]{0,2000}(?://c(?:pu|uda)//|default_pg|store_based_barrier)",
    ),
    _sign(Kind.JOIN, r"connectFullMesh failed|retr(?:ei|ie)ving ncclUniqueId"),
    _sign(Kind.JOIN, r"socket(?:Start|Poll|Finalize)Connect\b"),
    _sign(Kind.JOIN, r"\ARuntimeError: Wait timeout\Z", in_torch=True),  # of a store in a file
    _sign(Kind.PEER, r"[Ww]ait timeout after \d+ ?ms", loose=True),  # for a key of the test's own
    _sign(Kind.JOIN, r"Connect timeout \[|Timeout waiting for key|Call to connect to \S{1,300} failed", loose=True),
    _sign(Kind.JOIN, r"Timed out waiting for [^\n]{0,400}?(?:store|key)", in_torch=True),
    _sign(Kind.PEER, r"typically caused by a remote worker crashing"),
    _sign(Kind.PEER, r"Timed out waiting \d+ms for (?:recv|send) operation|Application timeout caused pair closure"),
    _sign(Kind.PEER, r"\ARuntimeError: Operation timed out!\Z", in_torch=True),  # of `Work.wait`
    _sign(Kind.PEER, r"failed to pass monitoredBarrier|reached monitoredBarrier, but received errors"),
    _sign(Kind.PEER, r"Watchdog caught collective operation timeout|failure detected by watchdog"),
    _sign(Kind.PEER, r"flight recorder dump signal|[Cc]ollective timeout from\s+rank"),
    _sign(Kind.PEER, r"ncclRemoteError|ncclSystemError"),
    _sign(Kind.PEER, r"NCCL communicator was aborted|Some NCCL operations have failed or timed out"),
    _sign(Kind.PEER, r"socketProgress\b|ProcessGroupNCCL's watchdog got stuck for \d+ seconds"),
    _sign(Kind.PEER, r"Failed to check the .should dump. flag|Terminating the process after attempting to dump"),
    _sign(Kind.PEER, r"unhandled system error|remote process exited or there was a network error", loose=True),
    _sign(Kind.PEER, r"Connection closed by remote peer|Socket recv failed while polling", loose=True),
    _sign(Kind.PEER, r"watchdog got stuck for \d+ seconds|[Hh]eartbeat monitor timed out", loose=True),
    _sign(Kind.PEER, r"[Dd]id the remote server shutdown or crash|failed to recv, got 0 bytes", loose=True),
    _sign(Kind.PEER, r"originated at tensorpipe/|\bRPCErr:\d+:RPC ran for more than"),
    _sign(
        Kind.PEER, r"Connection (?:closed|reset) by peer|Broken pipe|Connection refused|Socket Timeout", in_torch=True
    ),
)

_OF_TORCH = frozenset({Kind.MISMATCH, Kind.JOIN, Kind.RENDEZVOUS})
"""What code that doesn't communicate only quotes: a test's own, or a part of torch that passes on what others raised
(workers, checkpoints). Who calls for this gets it from where torch communicates, or torch says which C++ raised it.
"""
_TORCH = "/torch/"  # finds a mismatch anywhere: DDP's reducer fails in autograd, a compiled collective in `_ops.py`
_OF_CALLED = "On WorkerInfo("  # of the function that an rpc called
# A test that fails by its own words is no victim, whatever it quotes, unless it says that a peer's error is the cause.
_OWN_WORDS = frozenset({"AssertionError", "Failed", "SystemExit", "KeyboardInterrupt"})
# These quote what processes of the test's own said to each other.
_OF_CHILDREN = frozenset({"ProcessRaisedException", "ProcessExitedException", "ChildFailedError", "CalledProcessError"})
_TYPES = {"OutOfMemoryError": Kind.CUDA_OOM, "MemoryError": Kind.MEMORY, "AcceleratorError": Kind.CUDA}
_NATIVE = re.compile(
    r"\[[^][\n]{0,300}?(?:gloo|c10d|nccl|tensorpipe)[^][\n]{0,300}:\d{1,6}\]|originated at tensorpipe/|\bRPCErr:"
    r"|\bnccl[A-Z]\w{2,40}\b|\bNCCL (?:error|WARN|communicator|version)|\bNCCL_DEBUG\b|\bProcessGroup[A-Z]\w{2,20}\b"
)
_CAUSE = "The above exception was the direct cause"
_CHAINED = re.compile(rf"{_CAUSE}|During handling of the above exception")
_RAISED = re.compile(r"^(?:E +)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Timeout)): .*$", re.MULTILINE)


def short_type(name: str) -> str:
    """`torch.distributed.DistBackendError` → `DistBackendError`."""
    return name.rpartition(".")[2]


@lru_cache(maxsize=1024)
def classify(error: Error) -> Kind:
    """What an exception is about."""
    return _classified(_cut(error))


def _cut(error: Error) -> Error:
    """As much of the text as is read."""
    chain = error.chain[:KEPT_CAUSES]
    causes = tuple(replace(c, type=c.type[-300:], message=c.message[:TEXT_CHARS]) for c in chain)
    message, traceback = error.message[:TEXT_CHARS], error.traceback[-TEXT_CHARS:]
    return replace(error, type=error.type[-300:], message=message, traceback=traceback, context=(), causes=causes)


def _classified(error: Error) -> Kind:
    short = short_type(error.type)
    if short in _OF_CHILDREN:
        return Kind.OWN
    held = _held(error)
    behind = (_kind_behind(cause) for cause in error.chain if cause not in held)
    if secondary := next((kind for kind in behind if kind.secondary), None):
        return secondary
    if held:
        return _kind_together([_kind_behind(cause) for cause in held])
    in_own_words = short in _OWN_WORDS
    if in_own_words and (error.raised_in or _CAUSE not in error.traceback):
        return Kind.OWN
    communicating = _is_of_communication(short, error.message, error.raised_in, error.traceback)
    said = Kind.OWN if in_own_words else _kind_of(f"{short}: {error.message}", communicating, error.raised_in)
    kind = said if said is Kind.CUDA_OOM else _TYPES.get(short) or said  # an AcceleratorError is for any CUDA error
    if kind is Kind.OWN and not error.raised_in and _CHAINED.search(error.traceback):
        kinds = [_kind_of(raised[0], communicating) for raised in _RAISED.finditer(error.traceback)]
        return next((k for k in kinds if k.secondary), kind)
    return kind


def origin(error: Error) -> Cause | None:
    """The rank's own error at the beginning of one about a peer: a collective in `except` or `finally` lost its peer
    while that was handled.
    """
    cut = _cut(error)
    held = _held(cut)
    chain = [cause for cause in cut.chain if cause not in held]
    if not chain or not chain[-1].raised_in or "torch/distributed/" in chain[-1].raised_in:
        return None
    return None if _kind_behind(chain[-1]).secondary else chain[-1]


def _is_of_communication(short: str, message: str, raised_in: str, traceback: str = "") -> bool | None:
    """Whether the error was raised where ranks communicate, None where that isn't known. Without `raised_in` a
    traceback that is on its way tells. An rpc raises what the function that it called raised elsewhere.
    """
    if _OF_CALLED in message:
        return None
    if short.startswith("Dist") or _NATIVE.search(message):
        return True
    if raised_in:
        return is_communication(raised_in)
    return "torch/distributed/" in traceback or None


_PART = " · "  # `rank.errors` puts it between a group's own words and those of its parts


def _held(error: Error) -> tuple[Cause, ...]:
    """The causes of an error that an exception group holds."""
    if _PART not in error.message:
        return ()
    return tuple(c for c in error.chain if not c.explicit and f"{_PART}{c.type}: " in error.message)


def _kind_together(kinds: Sequence[Kind]) -> Kind:
    """What an exception group is about: a peer only if all its parts are."""
    return next((kind for kind in kinds if not kind.secondary), kinds[0])


def _kind_behind(cause: Cause) -> Kind:
    short = short_type(cause.type)
    parts = cause.message.split(_PART)[1:]
    if parts and short.endswith("Group"):
        return _kind_together([_kind_of(part, None) for part in parts])
    communicating = _is_of_communication(short, cause.message, cause.raised_in)
    return _kind_of(f"{cause.type}: {cause.message}", communicating, cause.raised_in)


def classify_output(text: str) -> Kind:
    """What a process that ended wrote last about it; `OWN` when it says nothing that is known.

    NCCL can do without NVLS and go on: a failure of it is the reason only where no other error comes later.
    """
    tail = text[-TAIL_CHARS:]
    kind = _kind_of_output(tail)
    if kind is not Kind.NVLS:
        return kind
    later = tail[_nvls_end(tail) :]
    then = _kind_of_output(later)
    is_other = (then is not Kind.OWN or _FAILED.search(later)) and not _NCCL_GAVE_UP.search(later)
    return then if is_other else kind


_WARNING = re.compile(r"^(?:\[rank\d{1,6}\]:?)?\[[WI]\d{3,4} [^\n]*\n?", re.MULTILINE)  # of torch's C++
_SPEAKERS = ("c10d", "gloo", "nccl", "NCCL", "tensorpipe", "torch.distributed.Dist", "ProcessGroup", "TCPStore")


def _kind_of_output(text: str) -> Kind:
    lasting = _WARNING.sub("", text)
    return next((s.kind for s in SIGNS if _is_said(s, lasting if s.kind.secondary else text)), Kind.OWN)


def _is_said(sign: Sign, text: str) -> bool:
    if not (sign.in_torch or sign.loose):
        return sign.pattern.search(text) is not None
    return any(_is_spoken_by_torch(text, found) for found in sign.pattern.finditer(text))


def _is_spoken_by_torch(text: str, found: re.Match[str]) -> bool:
    """Whether the line names who communicates, or the frame right above it is one that does."""
    begin = text.rfind("\n", 0, found.start()) + 1
    line = text[begin : found.end()] + text[found.end() :].partition("\n")[0]
    if any(speaker in line for speaker in _SPEAKERS):
        return True
    above = "\n".join(text[:begin].splitlines()[-_FRAME_LINES:])
    frames = _FRAME.findall(above)
    return bool(frames) and is_communication(frames[-1])


_FRAME = re.compile(r'^[^\n"]{0,40}File "([^"\n]{1,300})", line \d', re.MULTILINE)
_FRAME_LINES = 3  # with the source line, and the marks under it
_FAILED = re.compile(
    r"^(?:\S*\])?:? ?Traceback \(most recent call last\)|^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)\b"
    r"|^terminate called |^Fatal Python error: (?!Aborted)",
    re.MULTILINE,
)
_NCCL_GAVE_UP = re.compile(r"ncclUnhandledCudaError|unhandled cuda error|\bwhat\(\): [^\n]{0,200}NCCL")


def _kind_of(text: str, communicating: bool | None, raised_in: str = "") -> Kind:
    signs = (s for s in SIGNS if s.counts(communicating) and s.pattern.search(text))
    quoted = _OF_TORCH if communicating is False else frozenset()
    if _TORCH in raised_in:
        quoted -= {Kind.MISMATCH}
    return next((s.kind for s in signs if s.kind not in quoted), Kind.OWN)


_NVLS_SIGNS = tuple(sign.pattern for sign in SIGNS if sign.kind is Kind.NVLS)


def _nvls_end(text: str) -> int:
    """The position at which the last message about NVLS ends, in a text that has one."""
    return max((said.end() for pattern in _NVLS_SIGNS for said in pattern.finditer(text)), default=0)


def nvls_line(text: str) -> str:
    """The line of a text of kind `NVLS` that says what failed, the last of several."""
    end = _nvls_end(text)
    return (text[:end].rpartition("\n")[2] + text[end:].partition("\n")[0]).strip()
