"""Owns recognising error texts of torch, gloo, NCCL, CUDA and the kernel; must not know ranks, times or blame.

One table. The texts are torch 2.13's as measured, NCCL's as read in its source, and for NVLS those of public logs
(NVIDIA/nccl#1672 and #1788, pytorch#177472, google/gvisor#10413): a CUDA error 401 counts only where NCCL reports it.
A *secondary* error only says that a peer is gone or late: it never is the cause of anything.
"""

import re
from collections.abc import Sequence
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
    NVLS = "nvls"

    @property
    def secondary(self) -> bool:
        """Whether such an error can only follow from what a peer did."""
        return self in (Kind.PEER, Kind.JOIN)

    @property
    def cause(self) -> str:
        """The verdict's cause, where such an error is one."""
        return self.value if self in (Kind.CUDA_OOM, Kind.CUDA, Kind.NVLS) else "exception"


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
    _sign(Kind.JOIN, r"[Ww]ait timeout after \d+ ?ms|connectFullMesh failed|Connect timeout \["),
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
    _sign(
        Kind.PEER, r"Connection (?:closed|reset) by peer|Broken pipe|Connection refused|Socket Timeout", in_torch=True
    ),
)

# A test that fails by its own words is no victim, whatever it quotes, unless it says that a peer's error is the cause.
_OWN_WORDS = frozenset({"AssertionError", "Failed", "SystemExit", "KeyboardInterrupt"})
# These quote what processes of the test's own said to each other.
_OF_CHILDREN = frozenset({"ProcessRaisedException", "ProcessExitedException", "ChildFailedError", "CalledProcessError"})
_TYPES = {"OutOfMemoryError": Kind.CUDA_OOM, "MemoryError": Kind.MEMORY, "AcceleratorError": Kind.CUDA}
_CAUSE = "The above exception was the direct cause"
_CHAINED = re.compile(rf"{_CAUSE}|During handling of the above exception")
_RAISED = re.compile(r"^(?:E +)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Timeout)): .*$", re.MULTILINE)


def short_type(name: str) -> str:
    """`torch.distributed.DistBackendError` → `DistBackendError`."""
    return name.rpartition(".")[2]


def classify(type_name: str, message: str, traceback: str = "", context: Sequence[str] = ()) -> Kind:
    """What an exception is about. One raised from a peer's error, or while one was handled, is a peer's too."""
    short = short_type(type_name)
    if short in _OF_CHILDREN:
        return Kind.OWN
    handled = (_kind_of(text, in_torch=text.startswith("Dist") or "gloo/transport/" in text) for text in context)
    if secondary := next((kind for kind in handled if kind.secondary), None):
        return secondary
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


_KEY_OF_RANK = re.compile(r"keys: \S*//cpu//\d+/(\d{1,6})\b")
_KEY_OF_RANK_0 = re.compile(r"keys: \S*//cuda//0\b|retr(?:ei|ie)ving ncclUniqueId from \[0\]")


def awaited(message: str) -> int | None:
    """The rank whose entry in the store was waited for, where an error says so: gloo's address, NCCL's unique id."""
    if named := _KEY_OF_RANK.search(message):
        return int(named[1])
    return 0 if _KEY_OF_RANK_0.search(message) else None


_ELSEWHERE = re.compile(r"Caught \w+ in (.+?)\.?$")  # how torch hands on what a worker or a replica raised
_CHILD = re.compile(r"-- (Process \d+) terminated with the following error:$")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*: (.+)")
_COMPILER_SAID = re.compile(r"^.*(?::\d+:\d+: (?:fatal )?error: |\berror: ).*$", re.MULTILINE)
_LAST_ERROR = re.compile(r"^Last error:\s*\n\s*(\S.*)$", re.MULTILINE)
KEPT_HEADS = 3


def essence(message: str) -> str:
    """What a message of many lines comes to: its first line, unless torch, NCCL or a compiler say it further down."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    raised = next((m for line in reversed(lines[1:]) if (m := _EXCEPTION.match(line))), None)
    if raised and (handed_on := _ELSEWHERE.match(lines[0])):
        return f"{raised[1]}, in {handed_on[1]}"
    if raised and (child := _CHILD.match(lines[0])):
        return f"{child[1]}: {raised[0]}"
    if lines[0].startswith("NCCL error in: ") and (last := _LAST_ERROR.search(message)):
        what = lines[0].partition(", ")[2].partition(" (run with")[0].partition(", NCCL version")[0]
        return f"NCCL: {what}: {last[1]}"
    heads = [lines.pop(0)]
    while heads[-1].endswith(":") and lines and len(heads) < KEPT_HEADS:
        heads.append(lines.pop(0))
    said = _COMPILER_SAID.search("\n".join(lines)) if "ompile" in heads[-1] else None
    return " ".join(heads) + (f": {said[0]}" if said else "")


_FINGERPRINT = re.compile(
    r"[Rr]ank (\d{1,6}) is running collective: CollectiveFingerPrint\((.{0,400}?)\)(?=, but|\.|$)"
)


def fingerprints(message: str) -> dict[int, str]:
    """The collectives that torch's own wrapper (TORCH_DISTRIBUTED_DEBUG=DETAIL) names, by rank."""
    return {int(rank): text for rank, text in _FINGERPRINT.findall(message)}
