"""Owns what an error is about: a peer that is gone or late, memory, a device, or the rank itself; must not know ranks,
times or blame.

Box and judge ask here. An error is about a peer when only gloo, NCCL or c10d say what it says. Texts that others say as
well ("Connection reset by peer") are about a peer only where ranks communicate: `raised_in` a module of torch's that
does, or by its C++. What stands behind an exception counts like the exception itself: one that was raised from a peer's
error, while one was handled, or as a group that holds one, is about the peer too. Such an error is *secondary*: never
the cause of anything.

The texts are torch 2.13's as measured, NCCL's as read in its source, and for NVLS those of public logs
(NVIDIA/nccl#1672 and #1788, pytorch#177472, google/gvisor#10413): a CUDA error 401 counts only where NCCL reports it.
Recordings from before 2026-12 don't say where an error was raised; of these the traceback must tell.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from pytest_megacpp.recording.events import Cause, Error
from pytest_megacpp.recording.stacks import is_communication

TAIL_CHARS = 6_000


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
    """A text that gives an error away; `in_torch`: only where torch.distributed raised it, others say so too."""

    kind: Kind
    pattern: re.Pattern[str]
    in_torch: bool = False


def _sign(kind: Kind, text: str, *, in_torch: bool = False) -> Sign:
    return Sign(kind, re.compile(text), in_torch)


_FULL = "'out of memory'"  # of a device: NVLS takes its buffers from the same memory
SIGNS = (
    _sign(
        Kind.NVLS,
        r"(?:Failed to (?:bind|create|map|add) NVLink SHARP \(NVLS\)|NVLink SHARP \(NVLS\) Multicast memory)"
        rf"(?![^\n]{{0,200}}{_FULL})",
    ),
    _sign(
        Kind.NVLS,
        r"\btransport/nvls\.cc:\d+[^\n]{0,80} NCCL WARN [^\n]{0,80}(?:Cuda failure|CUDA error)"
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
    _sign(Kind.RENDEZVOUS, r"EADDRINUSE|failed to listen on any local network address"),
    _sign(Kind.RENDEZVOUS, r"Duplicate GPU detected|[Nn]o socket interface found"),
    _sign(Kind.RENDEZVOUS, r"Error while \w+(?: to)? shared memory segment|failed to extend /dev/shm"),
    _sign(Kind.RENDEZVOUS, r"ncclCommInit\w*.*ncclSystemError|Failed to initialize NCCL communicator"),
    _sign(Kind.JOIN, r"seconds waiting for clients\. \d+/\d+ clients joined"),
    _sign(Kind.JOIN, r"client socket has (?:timed out after|failed to connect)"),
    _sign(
        Kind.JOIN,
        r"[Ww]ait timeout after \d+ ?ms, keys: [^\n]{0,2000}(?://c(?:pu|uda)//|default_pg|store_based_barrier)",
    ),
    _sign(Kind.JOIN, r"connectFullMesh failed|Connect timeout \["),
    _sign(Kind.PEER, r"[Ww]ait timeout after \d+ ?ms"),  # for a key of the test's own
    _sign(Kind.JOIN, r"retr(?:ei|ie)ving ncclUniqueId|Timeout waiting for key"),
    _sign(Kind.JOIN, r"socket(?:Start|Poll|Finalize)Connect\b|Call to connect to \S+ failed"),
    _sign(Kind.JOIN, r"Timed out waiting for .*(?:store|key)", in_torch=True),
    _sign(Kind.PEER, r"typically caused by a remote worker crashing"),
    _sign(Kind.PEER, r"Timed out waiting \d+ms for (?:recv|send) operation|Application timeout caused pair closure"),
    _sign(Kind.PEER, r"failed to pass monitoredBarrier|reached monitoredBarrier, but received errors"),
    _sign(Kind.PEER, r"Watchdog caught collective operation timeout|failure detected by watchdog"),
    _sign(Kind.PEER, r"flight recorder dump signal|[Cc]ollective timeout from\s+rank"),
    _sign(Kind.PEER, r"ncclRemoteError|remote process exited or there was a network error"),
    _sign(Kind.PEER, r"NCCL communicator was aborted|Some NCCL operations have failed or timed out"),
    _sign(Kind.PEER, r"socketProgress\b|Connection closed by remote peer|Socket recv failed while polling"),
    _sign(Kind.PEER, r"unhandled system error|ncclSystemError"),
    _sign(Kind.PEER, r"watchdog got stuck for \d+ seconds|[Hh]eartbeat monitor timed out"),
    _sign(Kind.PEER, r"Failed to check the .should dump. flag|Terminating the process after attempting to dump"),
    _sign(Kind.PEER, r"[Dd]id the remote server shutdown or crash|failed to recv, got 0 bytes"),
    _sign(Kind.PEER, r"originated at tensorpipe/|\bRPCErr:\d+:RPC ran for more than"),
    _sign(
        Kind.PEER, r"Connection (?:closed|reset) by peer|Broken pipe|Connection refused|Socket Timeout", in_torch=True
    ),
)

# A test that fails by its own words is no victim, whatever it quotes, unless it says that a peer's error is the cause.
_OWN_WORDS = frozenset({"AssertionError", "Failed", "SystemExit", "KeyboardInterrupt"})
# These quote what processes of the test's own said to each other.
_OF_CHILDREN = frozenset({"ProcessRaisedException", "ProcessExitedException", "ChildFailedError", "CalledProcessError"})
_TYPES = {"OutOfMemoryError": Kind.CUDA_OOM, "MemoryError": Kind.MEMORY, "AcceleratorError": Kind.CUDA}
_NATIVE = re.compile(
    r"\[[^\]\n]{0,300}(?:gloo|c10d|nccl|tensorpipe)[^\]\n]{0,300}:\d+\]|originated at tensorpipe/|\bRPCErr:"
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
    short = short_type(error.type)
    if short in _OF_CHILDREN:
        return Kind.OWN
    if secondary := next((kind for cause in error.chain if (kind := _kind_behind(cause)).secondary), None):
        return secondary
    in_own_words = short in _OWN_WORDS
    if in_own_words and (error.raised_in or _CAUSE not in error.traceback):
        return Kind.OWN
    communicating = _is_of_communication(short, error)
    said = Kind.OWN if in_own_words else _kind_of(f"{short}: {error.message}", in_torch=communicating)
    kind = _TYPES.get(short) or said
    if kind is Kind.OWN and not error.raised_in and _CHAINED.search(error.traceback):
        kinds = [_kind_of(raised[0], in_torch=communicating) for raised in _RAISED.finditer(error.traceback)]
        return next((k for k in kinds if k.secondary), kind)
    return kind


def _is_of_communication(short: str, error: Error) -> bool:
    """Whether it was raised where ranks communicate. Without `raised_in`, whether that is on its way."""
    if short.startswith("Dist") or _NATIVE.search(error.message):
        return True
    return is_communication(error.raised_in) if error.raised_in else "torch/distributed/" in error.traceback


def _kind_behind(cause: Cause) -> Kind:
    communicating = cause.type.startswith("Dist") or bool(_NATIVE.search(cause.message))
    communicating |= is_communication(cause.raised_in)
    return _kind_of(f"{cause.type}: {cause.message}", in_torch=communicating)


def classify_output(text: str) -> Kind:
    """What a process that ended wrote last about it; `OWN` when it says nothing that is known.

    NCCL can do without NVLS and go on: a failure of it is the reason only where no other error comes later.
    """
    in_torch = "c10d" in text or "torch/distributed/" in text
    tail = text[-TAIL_CHARS:]
    kind = _kind_of(tail, in_torch=in_torch)
    if kind is not Kind.NVLS:
        return kind
    later = tail[_nvls_end(tail) :]
    then = _kind_of(later, in_torch=in_torch)
    is_other = (then is not Kind.OWN or _FAILED.search(later)) and not _NCCL_GAVE_UP.search(later)
    return then if is_other else kind


_FAILED = re.compile(
    r"^(?:\S*\])?:? ?Traceback \(most recent call last\)|^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)\b"
    r"|^terminate called |^Fatal Python error: (?!Aborted)",
    re.MULTILINE,
)
_NCCL_GAVE_UP = re.compile(r"ncclUnhandledCudaError|unhandled cuda error|\bwhat\(\): [^\n]{0,200}NCCL")


def _kind_of(text: str, *, in_torch: bool) -> Kind:
    signs = (s for s in SIGNS if (in_torch or not s.in_torch) and s.pattern.search(text))
    return next((s.kind for s in signs), Kind.OWN)


_NVLS_SIGNS = tuple(sign.pattern for sign in SIGNS if sign.kind is Kind.NVLS)


def _nvls_end(text: str) -> int:
    """Where the last words of NVLS end in a text that has some."""
    return max((said.end() for pattern in _NVLS_SIGNS for said in pattern.finditer(text)), default=0)


def nvls_line(text: str) -> str:
    """The line of a text of kind `NVLS` that says what failed, the last of several."""
    end = _nvls_end(text)
    return (text[:end].rpartition("\n")[2] + text[end:].partition("\n")[0]).strip()
