"""Every text that torch, gloo, NCCL and CUDA are known to say is put into the right kind."""

import pytest

from pytest_megacpp.judge.errors import SIGNS, Kind, classify, classify_output, fingerprints
from tests.scenario import ENFORCE, PEER_CLOSED, TIMED_OUT

C10D = '  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 81, in wrapper\nE   RuntimeError: x'
SAID = [
    (Kind.PEER, "RuntimeError", PEER_CLOSED, ""),
    (Kind.PEER, "RuntimeError", TIMED_OUT, ""),
    (
        Kind.PEER,
        "RuntimeError",
        "[/gloo/transport/tcp/pair.cc:5] Read error [::1]:4: Connection reset by peer.",
        "",
    ),
    (Kind.PEER, "RuntimeError", "writev [127.0.0.1]:4: Broken pipe", C10D),
    (Kind.PEER, "RuntimeError", "[Rank 0]: Ranks 1 failed to pass monitoredBarrier in 6000 ms", ""),
    (
        Kind.PEER,
        "torch.distributed.DistBackendError",
        "ncclRemoteError: A call failed possibly due to",
        "",
    ),
    (
        Kind.PEER,
        "torch.distributed.DistBackendError",
        "Watchdog caught collective operation timeout: Work",
        "",
    ),
    (Kind.PEER, "RuntimeError", "Received a dump signal due to a collective timeout from  rank 2 and we will try", ""),
    (
        Kind.JOIN,
        "torch.distributed.DistStoreError",
        "Timed out after 7 seconds waiting for clients. 1/2 clients joined",
        "",
    ),
    (Kind.JOIN, "torch.distributed.DistNetworkError", "The client socket has timed out after 6000ms while trying", ""),
    (
        Kind.MISMATCH,
        "RuntimeError",
        "Detected mismatch between collectives on ranks. Rank 0 is running",
        "",
    ),
    (Kind.MISMATCH, "RuntimeError", ENFORCE, ""),
    (Kind.CUDA_OOM, "torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB", ""),
    (Kind.CUDA_OOM, "RuntimeError", "CUDA error: out of memory", ""),
    (Kind.CUDA, "torch.AcceleratorError", "CUDA error: an illegal memory access was encountered", ""),
    (Kind.CUDA, "RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", ""),
    (Kind.MEMORY, "MemoryError", "", ""),
    (Kind.MEMORY, "RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to", ""),
    (Kind.RENDEZVOUS, "torch.distributed.DistNetworkError", "The server socket has failed … name: EADDRINUSE", ""),
    (Kind.OWN, "ValueError", "no shards", ""),
    (Kind.OWN, "ConnectionResetError", "[Errno 104] Connection reset by peer", "urllib3/connection.py:1: in get"),
    (Kind.OWN, "BrokenPipeError", "[Errno 32] Broken pipe", ""),
    (Kind.OWN, "RuntimeError", "data server: Connection closed by peer", "suite/reader.py:9: in fetch"),
    (Kind.PEER, "RuntimeError", "Connection closed by peer", "torch/distributed/distributed_c10d.py:9: in recv"),
    (Kind.OWN, "AssertionError", f"Regex pattern did not match.\n Actual message: {PEER_CLOSED!r}", ""),
    (Kind.OWN, "SystemExit", "3", ""),
    (Kind.OWN, "", "", ""),
]


@pytest.mark.parametrize(("kind", "type_name", "message", "traceback"), SAID, ids=lambda v: str(v)[:40])
def test_texts(kind: Kind, type_name: str, message: str, traceback: str) -> None:
    assert classify(type_name, message, traceback) is kind


def test_an_error_raised_from_a_peers_error_is_one_too() -> None:
    traceback = (
        f"E   RuntimeError: {PEER_CLOSED}\n\n"
        "The above exception was the direct cause of the following exception:\n\nE   my.StepFailed: step 4 failed"
    )
    assert classify("my.StepFailed", "step 4 failed", traceback).secondary
    assert classify("AssertionError", "ranks differ", traceback).secondary
    assert not classify("my.StepFailed", "step 4 failed", f"    raise RuntimeError({PEER_CLOSED!r})").secondary


def test_only_peers_errors_are_secondary() -> None:
    assert {kind for kind in Kind if kind.secondary} == {Kind.PEER, Kind.JOIN}
    assert {kind.cause for kind in Kind} == {"exception", "cuda-oom", "cuda-error"}


def test_a_dying_process_is_read_by_the_end_of_its_output() -> None:
    assert classify_output(ENFORCE) is Kind.MISMATCH
    assert classify_output(f"{PEER_CLOSED}{'x' * 10_000}") is Kind.OWN
    assert classify_output("") is Kind.OWN


def test_every_pattern_is_fast_on_long_lines() -> None:
    for sign in SIGNS:
        assert not sign.pattern.search("Timed out waiting for " + "a" * 24_000)


def test_fingerprints() -> None:
    text = (
        "Rank 0 is running collective: CollectiveFingerPrint(SequenceNumber=1, OpType=ALLREDUCE, TensorShape=[10]), "
        "but Rank 1 is running collective: CollectiveFingerPrint(SequenceNumber=1, OpType=BROADCAST)."
    )
    assert fingerprints(text) == {
        0: "SequenceNumber=1, OpType=ALLREDUCE, TensorShape=[10]",
        1: "SequenceNumber=1, OpType=BROADCAST",
    }
