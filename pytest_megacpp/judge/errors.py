"""Owns recognising error texts of torch, gloo, NCCL, CUDA and the kernel; must not know ranks, times or blame.

One table. The texts are torch 2.13's as measured, and NCCL's as read in its source. A *secondary* error only
says that a peer is gone or late: it never is the cause of anything.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

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

    @property
    def secondary(self) -> bool:
        """Whether such an error can only follow from what a peer did."""
        return self in (Kind.PEER, Kind.JOIN)

    @property
    def cause(self) -> str:
        """The verdict's cause, where such an error is one."""
        return self.value if self in (Kind.CUDA_OOM, Kind.CUDA) else "exception"


@dataclass(frozen=True, slots=True)
class Sign:
    """A text that gives an error away; `in_torch`: only where torch.distributed raised it, others say so too."""

    kind: Kind
    pattern: re.Pattern[str]
    in_torch: bool = False


def _sign(kind: Kind, text: str, *, in_torch: bool = False) -> Sign:
    return Sign(kind, re.compile(text), in_torch)


SIGNS = (
    _sign(Kind.MISMATCH, r"Detected mismatch between collectives on ranks"),
    _sign(Kind.MISMATCH, r"op\.preamble\.length <= op\.nbytes|Is there a distributed collective mismatch in your code"),
    _sign(Kind.CUDA_OOM, r"(?:CUDA|HIP) out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation"),
    _sign(Kind.CUDA, r"CUDA error: |an illegal memory access was encountered|device-side assert triggered"),
    _sign(Kind.CUDA, r"CUDNN_STATUS_(?!SUCCESS)|CUBLAS_STATUS_(?!SUCCESS)"),
    _sign(Kind.MEMORY, r"DefaultCPUAllocator: (?:can't|not enough)|\[Errno 12\] Cannot allocate memory"),
    _sign(Kind.RENDEZVOUS, r"EADDRINUSE|failed to listen on any local network address"),
    _sign(Kind.RENDEZVOUS, r"Duplicate GPU detected|Bootstrap : no socket interface found"),
    _sign(Kind.RENDEZVOUS, r"ncclCommInit\w*.*ncclSystemError|Failed to initialize NCCL communicator"),
    _sign(Kind.JOIN, r"seconds waiting for clients\. \d+/\d+ clients joined"),
    _sign(Kind.JOIN, r"client socket has (?:timed out after|failed to connect)"),
    _sign(Kind.JOIN, r"[Ww]ait timeout after \d+ ?ms|connectFullMesh failed|Connect timeout \["),
    _sign(Kind.JOIN, r"Timed out waiting for .*(?:store|key)", in_torch=True),
    _sign(Kind.PEER, r"typically caused by a remote worker crashing"),
    _sign(Kind.PEER, r"Timed out waiting \d+ms for (?:recv|send) operation|Application timeout caused pair closure"),
    _sign(Kind.PEER, r"failed to pass monitoredBarrier|reached monitoredBarrier, but received errors"),
    _sign(Kind.PEER, r"Watchdog caught collective operation timeout|failure detected by watchdog"),
    _sign(Kind.PEER, r"flight recorder dump signal|[Cc]ollective timeout from\s+rank"),
    _sign(Kind.PEER, r"ncclRemoteError|remote process exited or there was a network error"),
    _sign(Kind.PEER, r"NCCL communicator was aborted|Some NCCL operations have failed or timed out"),
    _sign(Kind.PEER, r"[Dd]id the remote server shutdown or crash|failed to recv, got 0 bytes"),
    _sign(
        Kind.PEER, r"Connection (?:closed|reset) by peer|Broken pipe|Connection refused|Socket Timeout", in_torch=True
    ),
)

# A test that fails by its own words is no victim, whatever it quotes, unless it says that a peer's error is the cause.
_OWN_WORDS = frozenset({"AssertionError", "Failed", "SystemExit", "KeyboardInterrupt"})
_TYPES = {"OutOfMemoryError": Kind.CUDA_OOM, "MemoryError": Kind.MEMORY, "AcceleratorError": Kind.CUDA}
_CAUSE = "The above exception was the direct cause"
_CHAINED = re.compile(rf"{_CAUSE}|During handling of the above exception")
_RAISED = re.compile(r"^(?:E +)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Timeout)): .*$", re.MULTILINE)


def short_type(name: str) -> str:
    """`torch.distributed.DistBackendError` → `DistBackendError`."""
    return name.rpartition(".")[2]


def classify(type_name: str, message: str, traceback: str = "") -> Kind:
    """What an exception is about. One that was raised from a peer's error is a peer's error too."""
    short = short_type(type_name)
    if short in _OWN_WORDS and _CAUSE not in traceback:
        return Kind.OWN
    in_torch = short.startswith("Dist") or "torch/distributed/" in traceback or "gloo/transport/" in message
    said = Kind.OWN if short in _OWN_WORDS else _kind_of(f"{short}: {message}", in_torch=in_torch)
    kind = _TYPES.get(short) or said
    if kind is Kind.OWN and _CHAINED.search(traceback):
        kinds = [_kind_of(raised[0], in_torch=in_torch) for raised in _RAISED.finditer(traceback)]
        return next((k for k in kinds if k.secondary), kind)
    return kind


def classify_output(text: str) -> Kind:
    """What a process that ended wrote last about it; `OWN` when it says nothing that is known."""
    return _kind_of(text[-TAIL_CHARS:], in_torch="c10d" in text or "torch/distributed/" in text)


def _kind_of(text: str, *, in_torch: bool) -> Kind:
    signs = (s for s in SIGNS if (in_torch or not s.in_torch) and s.pattern.search(text))
    return next((s.kind for s in signs), Kind.OWN)


_FINGERPRINT = re.compile(
    r"[Rr]ank (\d{1,6}) is running collective: CollectiveFingerPrint\((.{0,400}?)\)(?=, but|\.|$)"
)


def fingerprints(message: str) -> dict[int, str]:
    """The collectives that torch's own wrapper (TORCH_DISTRIBUTED_DEBUG=DETAIL) names, by rank."""
    return {int(rank): text for rank, text in _FINGERPRINT.findall(message)}
