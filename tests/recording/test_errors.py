"""Every text that torch, gloo, NCCL and CUDA are known to say is put into the right kind."""

from dataclasses import replace

import pytest

from pytest_megacpp.judge.causes import VerdictCause, cause_of
from pytest_megacpp.recording.errors import Kind, classify, classify_output, nvls_line, origin
from pytest_megacpp.recording.events import Cause, Error
from tests.scenario import ENFORCE, PEER_CLOSED, TIMED_OUT

C10D = '  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 81, in wrapper\nE   RuntimeError: x'
NCCL = (
    "NCCL error in: /pytorch/ProcessGroupNCCL.cpp:1, {} (run with NCCL_DEBUG=INFO), NCCL version 2.27\nLast error:\n{}"
)
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
    (Kind.CUDA_OOM, "torch.AcceleratorError", "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'", ""),
    (Kind.CUDA, "RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", ""),
    (Kind.MEMORY, "MemoryError", "", ""),
    (Kind.MEMORY, "RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to", ""),
    (Kind.RENDEZVOUS, "torch.distributed.DistNetworkError", "The server socket has failed … name: EADDRINUSE", ""),
    (Kind.OWN, "RuntimeError", "Failed to bind to 127.0.0.1:50051: EADDRINUSE", ""),
    (Kind.CUDA_OOM, "RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", ""),
    (Kind.CUDA_OOM, "RuntimeError", "Triton Error [CUDA]: out of memory", ""),
    (
        Kind.CUDA_OOM,
        "torch.distributed.DistBackendError",
        NCCL.format("unhandled cuda error", "Cuda failure 2 'out of memory'"),
        "",
    ),
    (
        Kind.CUDA,
        "torch.distributed.DistBackendError",
        NCCL.format("unhandled cuda error", "Cuda failure 1 'invalid argument'"),
        "",
    ),
    (Kind.CUDA, "RuntimeError", "Triton Error [CUDA]: misaligned address", ""),
    (Kind.PEER, "torch.distributed.DistBackendError", NCCL.format("unhandled system error", "read failed"), ""),
    (Kind.PEER, "RuntimeError", "ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress", ""),
    (
        Kind.JOIN,
        "torch.distributed.DistBackendError",
        NCCL.format("unhandled system error", "socketStartConnect: Connect to 10.0.0.2<5> failed : Connection refused"),
        "",
    ),
    (
        Kind.JOIN,
        "torch.distributed.DistBackendError",
        "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0]",
        "",
    ),
    (
        Kind.RENDEZVOUS,
        "torch.distributed.DistBackendError",
        NCCL.format("internal error", "Bootstrap : no socket interface found"),
        "",
    ),
    (
        Kind.RENDEZVOUS,
        "torch.distributed.DistBackendError",
        NCCL.format(
            "unhandled system error", "Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)"
        ),
        "",
    ),
    (
        Kind.OWN,
        "torch.distributed.DistBackendError",
        NCCL.format("internal error", "Attribute busid of node nic not found"),
        "",
    ),
    *(
        (Kind.NVLS, "torch.distributed.DistBackendError", NCCL.format("unhandled cuda error", last), "")
        for last in (
            "Failed to bind NVLink SHARP (NVLS) Multicast memory of size 2097152 : CUDA error 401 'the operation cannot"
            " be performed in the present state'.",
            "Failed to bind NVLink SHARP (NVLS) Multicast memory: CUDA error 1 'invalid argument'",
            "Cuda failure 401 'the operation cannot be performed in the present state'",
            "Cuda failure 'the operation cannot be performed in the present state'",
        )
    ),
    *(
        (Kind.CUDA_OOM, "torch.distributed.DistBackendError", NCCL.format("unhandled cuda error", last), "")
        for last in (
            "Failed to bind NVLink SHARP (NVLS) Multicast memory of size 2097152 : CUDA error 2 'out of memory'.",
            "Cuda failure 2 'out of memory'",
        )
    ),
    (Kind.NVLS, "RuntimeError", "W0509 frontend.go:521] nvproxy: unknown control command 0x3d05 (paramsSize=24)", ""),
    (Kind.NVLS, "RuntimeError", "nvproxy: unknown frontend ioctl 212 == 0xd4 (argSize=128, cmd=0xc08046d4)", ""),
    (Kind.OWN, "OSError", "the camera answers: unsupported ioctl", ""),
    (Kind.CUDA, "RuntimeError", "CUDA error: the operation cannot be performed in the present state", ""),
    (Kind.CUDA, "torch.AcceleratorError", "CUDA error: the operation cannot be performed in the present state", ""),
    (Kind.OWN, "AssertionError", "expected no NVLink SHARP (NVLS) Multicast memory", ""),
    (Kind.OWN, "ValueError", "no shards", ""),
    (Kind.OWN, "ConnectionResetError", "[Errno 104] Connection reset by peer", "urllib3/connection.py:1: in get"),
    (Kind.OWN, "BrokenPipeError", "[Errno 32] Broken pipe", ""),
    (Kind.OWN, "RuntimeError", "data server: Connection closed by peer", "suite/reader.py:9: in fetch"),
    (Kind.PEER, "RuntimeError", "Connection closed by peer", "torch/distributed/distributed_c10d.py:9: in recv"),
    (Kind.OWN, "AssertionError", f"Regex pattern did not match.\n Actual message: {PEER_CLOSED!r}", ""),
    (Kind.OWN, "SystemExit", "3", ""),
    (Kind.OWN, "", "", ""),
]


def said(type_name: str, message: str, traceback: str = "") -> Error:
    """As recordings from before 2026-12 have it."""
    return Error(type_name, message, "train.py", 3, traceback)


@pytest.mark.parametrize(("kind", "type_name", "message", "traceback"), SAID, ids=lambda v: str(v)[:40])
def test_texts(kind: Kind, type_name: str, message: str, traceback: str) -> None:
    assert classify(said(type_name, message, traceback)) is kind


@pytest.mark.parametrize(
    "text",
    [
        "bind: EADDRINUSE, address already in use",
        "no socket interface found for the test's server",
        "failed to extend /dev/shm/plasma-1 to 4096 bytes",
        "Error while creating shared memory segment /dev/shm/mine",
    ],
)
def test_what_a_server_of_the_tests_own_lacks_has_nothing_to_do_with_a_rendezvous(text: str) -> None:
    error = replace(said("RuntimeError", text), raised_in="/usr/lib/python3.11/site-packages/grpc/_server.py")
    assert classify(error) is Kind.OWN
    assert classify_output(f"RuntimeError: {text}\n") is Kind.OWN
    in_torch = "/usr/lib/python3.11/site-packages/torch/distributed/rendezvous.py"
    assert classify(replace(error, raised_in=in_torch)) is Kind.RENDEZVOUS


def test_an_error_raised_from_a_peers_error_is_one_too() -> None:
    traceback = (
        f"E   RuntimeError: {PEER_CLOSED}\n\n"
        "The above exception was the direct cause of the following exception:\n\nE   my.StepFailed: step 4 failed"
    )
    assert classify(said("my.StepFailed", "step 4 failed", traceback)).secondary
    assert classify(said("AssertionError", "ranks differ", traceback)).secondary
    assert not classify(said("my.StepFailed", "step 4 failed", f"    raise RuntimeError({PEER_CLOSED!r})")).secondary


def test_only_peers_errors_are_secondary() -> None:
    assert {kind for kind in Kind if kind.secondary} == {Kind.PEER, Kind.JOIN}
    named = {Kind.CUDA_OOM: VerdictCause.CUDA_OOM, Kind.CUDA: VerdictCause.CUDA_ERROR, Kind.NVLS: VerdictCause.NVLS}
    assert {kind: cause_of(kind) for kind in Kind} == dict.fromkeys(Kind, VerdictCause.EXCEPTION) | named


@pytest.mark.parametrize(
    "line",
    [
        "ccw-gpu-128:3485254:3487188 [0] transport/nvls.cc:598 NCCL WARN Cuda failure 1 'invalid argument'",
        "[1] transport/nvls.cc:254 NCCL WARN Cuda failure 401 'the operation cannot be performed in the present state'",
        "[5] transport/nvls.cc:379 (nvlsAllocateMem) NCCL WARN Failed to bind NVLink SHARP (NVLS) Multicast memory of"
        " size 2097152 : CUDA error 401 'the operation cannot be performed in the present state'.",
    ],
)
def test_what_nccl_warns_of_nvls_is_known_in_a_process_s_output(line: str) -> None:
    assert classify_output(f"[2025-07-21 19:05:29] {line}\n") is Kind.NVLS


FELL_BACK = (
    "[1] transport/nvls.cc:254 NCCL WARN Cuda failure 401 'the operation cannot be performed in the present state'\n"
)
REFUSED = "Cuda failure 401 'the operation cannot be performed in the present state'"


@pytest.mark.parametrize(
    "text",
    [
        "node004:27907:27907 [1] transport/nvls.cc:271 NCCL WARN Cuda failure 2 'out of memory'\n",
        "[5] transport/nvls.cc:379 NCCL WARN Failed to bind NVLink SHARP (NVLS) Multicast memory of size 2097152 : CUDA"
        " error 2 'out of memory'.\n",
        f"{FELL_BACK}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.\n",
    ],
)
def test_a_device_without_memory_is_out_of_memory_in_nvls_too(text: str) -> None:
    assert classify_output(text) is Kind.CUDA_OOM


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        (Kind.OWN, 'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\nValueError: no shards\n'),
        (Kind.OWN, '[rank1]: Traceback (most recent call last):\n[rank1]:   File "a.py", line 3\n'),
        (Kind.OWN, "my.ConfigError: no such preset\n"),
        (Kind.OWN, "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"),
        (Kind.CUDA, "RuntimeError: CUDA error: device-side assert triggered\n"),
        (Kind.PEER, f"{PEER_CLOSED}\n"),
        (Kind.NVLS, "[1] NCCL INFO transport/nvls.cc:401 -> 1\nbye\n"),
        (Kind.NVLS, "Fatal Python error: Aborted\n\nThread 0x7f01 (most recent call first):\n"),
        (Kind.NVLS, "terminate called after throwing an instance of 'Failed'\n  what():  NCCL could not begin\n"),
        (Kind.NVLS, "Traceback (most recent call last):\n" + NCCL.format("unhandled cuda error", REFUSED)),
    ],
)
def test_what_comes_after_a_warning_of_nvls_is_the_reason(kind: Kind, later: str) -> None:
    """NCCL falls back to what else there is, and the process goes on until it fails of something else."""
    assert classify_output(FELL_BACK + later) is kind


def test_the_last_words_of_nvls_are_quoted() -> None:
    assert nvls_line(f"[0] NCCL WARN Cuda failure 2 'out of memory'\n{FELL_BACK}bye\n") == FELL_BACK.strip()


def test_that_nvls_is_there_is_no_failure() -> None:
    said = "NCCL INFO NVLS multicast support is available on dev 3\n[0] NCCL INFO transport/nvls.cc:401 -> 1\n"
    assert classify_output(said) is Kind.OWN


def test_a_dying_process_is_read_by_the_end_of_its_output() -> None:
    assert classify_output(ENFORCE) is Kind.MISMATCH
    assert classify_output(f"{PEER_CLOSED}{'x' * 10_000}") is Kind.OWN
    assert classify_output("") is Kind.OWN


LOST = f"RuntimeError: {PEER_CLOSED}"


@pytest.mark.parametrize(
    ("type_name", "message", "context", "kind"),
    [
        ("AssertionError", "the loss didn't fall", (LOST,), Kind.PEER),
        ("SystemExit", "1", ("ValueError: step 3", LOST), Kind.PEER),
        ("AssertionError", "the loss didn't fall", ("KeyError: 'lr'",), Kind.OWN),
        ("ValueError", "no shards", ("ConnectionResetError: [Errno 104] Connection reset by peer",), Kind.OWN),
        ("torch.multiprocessing.spawn.ProcessRaisedException", PEER_CLOSED, (), Kind.OWN),
    ],
)
def test_what_was_being_handled(type_name: str, message: str, context: tuple[str, ...], kind: Kind) -> None:
    assert classify(replace(said(type_name, message), context=context)) is kind


DISTRIBUTED = "/x/site-packages/torch/distributed"
RESET = "[Errno 104] Connection reset by peer"
TENSORPIPE = "eof (this error originated at tensorpipe/transport/shm/connection_impl.cc:259)"
REFUSED = "[Errno 111] Connection refused"


@pytest.mark.parametrize(
    ("type_name", "message", "raised_in", "kind"),
    [
        ("RuntimeError", "Connection closed by peer", f"{DISTRIBUTED}/distributed_c10d.py", Kind.PEER),
        ("RuntimeError", "Connection closed by peer", "/x/pytest_megacpp/rank/native_calls.py", Kind.PEER),
        ("ConnectionResetError", RESET, "/usr/lib/python3.11/socket.py", Kind.OWN),
        ("ConnectionResetError", RESET, f"{DISTRIBUTED}/checkpoint/filesystem.py", Kind.OWN),
        ("ConnectionRefusedError", REFUSED, f"{DISTRIBUTED}/elastic/agent/server/api.py", Kind.OWN),
        ("RuntimeError", "data server: Connection closed by peer", "/me/reader.py", Kind.OWN),
        ("RuntimeError", "NCCL error: remote process exited or there was a network error", "/x/pynccl.py", Kind.PEER),
        ("RuntimeError", PEER_CLOSED, "/x/site-packages/torch/autograd/graph.py", Kind.PEER),
        ("torch.distributed.DistNetworkError", "failed to recv, got 0 bytes", "/me/train.py", Kind.PEER),
        ("RuntimeError", TENSORPIPE, "/me/a.py", Kind.PEER),
        ("RuntimeError", "CUDA error: out of memory", "/me/train.py", Kind.CUDA_OOM),
    ],
)
def test_an_error_is_about_a_peer_where_ranks_communicate(
    type_name: str, message: str, raised_in: str, kind: Kind
) -> None:
    traceback = "torch/distributed/checkpoint/api.py:9: in load"
    assert classify(Error(type_name, message, "train.py", 3, traceback, raised_in=raised_in)) is kind


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize(
    ("cause", "secondary"),
    [
        (("ConnectionResetError", RESET, "/me/fetch.py"), False),
        (("RuntimeError", "Connection closed by peer", f"{DISTRIBUTED}/distributed_c10d.py"), True),
        (("RuntimeError", PEER_CLOSED, "/me/train.py"), True),
    ],
)
def test_what_stands_behind_an_error_is_judged_by_where_it_was_raised(
    cause: tuple[str, str, str], secondary: bool, explicit: bool
) -> None:
    outer = Error("my.DownloadError", f"gave up: {RESET}", "a.py", 3, "", raised_in="/me/a.py")
    assert classify(replace(outer, causes=(Cause(*cause, explicit),))).secondary is secondary


OWN_WORDS = [
    ("TimeoutError", "wait timeout after 500 ms"),
    ("RuntimeError", "Call to connect to db.example.com failed"),
    ("TimeoutError", "Timeout waiting for key 'epoch-3'"),
    ("ConnectTimeout", "Connect timeout [hub]"),
    ("RuntimeError", "loader: unhandled system error"),
    ("RuntimeError", "heartbeat monitor timed out: data worker 3"),
    ("RuntimeError", "remote process exited or there was a network error"),
    ("RuntimeError", "Did the remote server shutdown or crash?"),
]


@pytest.mark.parametrize(("type_name", "message"), OWN_WORDS)
def test_what_others_say_too_counts_where_ranks_communicate(type_name: str, message: str) -> None:
    error = Error(type_name, message, "data.py", 3, "")
    assert classify(replace(error, raised_in="/me/data.py")) is Kind.OWN
    assert classify(replace(error, raised_in=f"{DISTRIBUTED}/distributed_c10d.py")).secondary
    assert classify(replace(error, raised_in="/me/pynccl.py", message=f"NCCL error: {message}")).secondary
    assert classify(error).secondary  # recordings from before 2026-12 don't say where


QUOTED = [
    "inference server: failed to listen on any local network address",
    "metrics: client socket has timed out after 3 s",
    "gave up after 30 seconds waiting for clients. 3/4 clients joined the chat load test",
    "log of job 17 contains 'Detected mismatch between collectives on ranks'",
]


@pytest.mark.parametrize("message", QUOTED)
def test_what_a_test_quotes_is_its_own_word(message: str) -> None:
    error = Error("RuntimeError", message, "serve.py", 3, "")
    assert classify(replace(error, raised_in="/me/serve.py")) is Kind.OWN
    assert classify(replace(error, raised_in=f"{DISTRIBUTED}/rendezvous.py")) is not Kind.OWN
    assert classify(error) is not Kind.OWN  # recordings from before 2026-12 don't say where


@pytest.mark.parametrize(
    ("raised_in", "kind"), [("/x/pytest_megacpp/rank/native_calls.py", Kind.PEER), ("/me/a.py", Kind.OWN)]
)
def test_a_work_that_times_out_says_no_more(raised_in: str, kind: Kind) -> None:
    """`Work.wait(timeout)` has a frame in ranks; a test may say the same of a database."""
    assert classify(Error("RuntimeError", "Operation timed out!", "a.py", 3, "", raised_in=raised_in)) is kind


@pytest.mark.parametrize(
    "file", ["autograd/graph.py", "_ops.py", "nn/parallel/distributed.py", "_dynamo/eval_frame.py"]
)
def test_a_mismatch_that_torch_finds_anywhere_is_one(file: str) -> None:
    raised_in, message = f"/x/site-packages/torch/{file}", "Detected mismatch between collectives on ranks."
    assert classify(Error("RuntimeError", message, "a.py", 3, "", raised_in=raised_in)) is Kind.MISMATCH


@pytest.mark.parametrize("file", ["distributed/checkpoint/utils.py", "_utils.py", "utils/data/dataloader.py"])
@pytest.mark.parametrize(
    "said", ["The client socket has failed to connect to any network address of (s3, 1).", "socketStartConnect: s3"]
)
def test_what_torch_only_passes_on_is_the_error_of_whoever_raised_it(file: str, said: str) -> None:
    """A checkpoint's writer, or a worker of a DataLoader, does not reach a server of its own."""
    raised_in = f"/x/site-packages/torch/{file}"
    message = f"Traceback (most recent call last): (RANK 3)\nRuntimeError: {said}"
    assert classify(Error("CheckpointException", message, "a.py", 3, "", raised_in=raised_in)) is Kind.OWN


def test_what_an_rpc_s_function_raised_is_its_own_error() -> None:
    message = "ConnectionRefusedError: On WorkerInfo(id=1, name=w1):\nConnectionRefusedError(111, 'Connection refused')"
    raised_in = f"{DISTRIBUTED}/rpc/internal.py"
    assert classify(Error("ConnectionRefusedError", message, "a.py", 3, "", raised_in=raised_in)) is Kind.OWN


@pytest.mark.parametrize(
    "message",
    ["NCCL communicator was aborted on rank 1", "NCCL error: unhandled system error (run with NCCL_DEBUG=INFO)"],
)
def test_wrappers_of_nccl_tell_of_a_peer_from_the_user_s_files(message: str) -> None:
    assert classify(Error("RuntimeError", message, "a.py", 3, "", raised_in="/me/pynccl.py")) is Kind.PEER


SHARD = Cause("ValueError", "bad shard", "/me/data.py", False)
CLOSED = Cause("RuntimeError", PEER_CLOSED, f"{DISTRIBUTED}/distributed_c10d.py", False)


def group(*held: Cause, behind: tuple[Cause, ...] = ()) -> Error:
    message = " · ".join(("failed (2 sub-exceptions)", *(f"{c.type}: {c.message}" for c in held)))
    return Error("ExceptionGroup", message, "a.py", 3, "", raised_in="/me/a.py", causes=(*behind, *held))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (group(SHARD, CLOSED), Kind.OWN),
        (group(CLOSED, SHARD), Kind.OWN),
        (group(CLOSED, CLOSED), Kind.PEER),
        (group(CLOSED, Cause("OutOfMemoryError", "CUDA out of memory", "/me/a.py", False)), Kind.CUDA_OOM),
        (
            group(CLOSED, Cause("ExceptionGroup", f"in · ValueError: x · RuntimeError: {PEER_CLOSED}", "", False)),
            Kind.OWN,
        ),
        (group(SHARD, behind=(CLOSED,)), Kind.PEER),
    ],
)
def test_a_group_is_about_a_peer_only_if_all_its_parts_are(error: Error, kind: Kind) -> None:
    assert classify(error) is kind


def test_what_a_rank_was_handling_when_it_lost_its_peer() -> None:
    lost = Error("RuntimeError", PEER_CLOSED, "a.py", 3, "", raised_in=f"{DISTRIBUTED}/distributed_c10d.py")
    key = Cause("KeyError", "'lr'", "/me/a.py", False)
    assert origin(replace(lost, causes=(key, SHARD))) == SHARD
    assert origin(replace(lost, causes=(SHARD, CLOSED))) is None
    assert origin(replace(lost, causes=(replace(key, raised_in=f"{DISTRIBUTED}/rendezvous.py"),))) is None
    assert origin(group(SHARD, CLOSED)) is None
    assert origin(lost) is None


RESET_LINE = "ConnectionResetError: [Errno 104] Connection reset by peer"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"[W1130 18:00:00.1 socket.cpp:755] [c10d] The client socket cannot be initialized\n{RESET_LINE}\n", Kind.OWN),
        (
            "[W1130 18:00:00.1 socket.cpp:755] [c10d] The client socket has failed to connect to [localhost]:1\n",
            Kind.OWN,
        ),
        (
            "[E1130 18:00:00.1 socket.cpp:755] [c10d] The client socket has failed to connect to [localhost]:1\n",
            Kind.JOIN,
        ),
        ("worker: unhandled system error, exiting\n", Kind.OWN),
        ("ERROR heartbeat monitor timed out for data worker 3\n", Kind.OWN),
        ("what():  [PG ID 0 Rank 1] NCCL error: unhandled system error (run with NCCL_DEBUG=INFO)\n", Kind.PEER),
        (f'  File "/me/fetch.py", line 9, in fetch\n    read()\n{RESET_LINE}\n', Kind.OWN),
        (f'  File "{DISTRIBUTED}/distributed_c10d.py", line 9, in recv\n    work()\n{RESET_LINE}\n', Kind.PEER),
        (f'  File "{DISTRIBUTED}/distributed_c10d.py", line 9\n  File "/me/a.py", line 3\n{RESET_LINE}\n', Kind.OWN),
    ],
)
def test_the_line_itself_tells_who_communicated(text: str, kind: Kind) -> None:
    assert classify_output(text) is kind
