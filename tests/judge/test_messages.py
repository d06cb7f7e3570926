"""What is read out of the texts of errors: their essence, and the ranks that they name."""

import pytest

from pytest_megacpp.judge.messages import (
    Awaited,
    absent,
    awaited,
    failures,
    fingerprints,
    parameters,
    place_of,
    short_message,
)

NCCL = (
    "NCCL error in: /pytorch/ProcessGroupNCCL.cpp:1, {} (run with NCCL_DEBUG=INFO), NCCL version 2.27\nLast error:\n{}"
)
CHECKPOINT = """CheckpointException ranks:dict_keys([2])
Traceback (most recent call last): (RANK 2)
  File "/x/site-packages/torch/distributed/checkpoint/utils.py", line 241, in all_reduce
    local_data = map_fun()
                 ^^^^^^^^^
  File "/me/test_writer.py", line 17, in write_data
    raise OSError(28, "No space left on device")
OSError: [Errno 28] No space left on device
"""
NOT_CLOSE = """Tensor-likes are not close!

Mismatched elements: 16 / 16 (100.0%)
Greatest absolute difference: 0.5 at index (0, 0) (up to 1e-05 allowed)
Greatest relative difference: 0.5 at index (0, 0) (up to 1.3e-06 allowed)"""


def test_fingerprints() -> None:
    text = (
        "Rank 0 is running collective: CollectiveFingerPrint(SequenceNumber=1, OpType=ALLREDUCE, TensorShape=[10]), "
        "but Rank 1 is running collective: CollectiveFingerPrint(SequenceNumber=1, OpType=BROADCAST)."
    )
    assert fingerprints(text) == {
        0: "SequenceNumber=1, OpType=ALLREDUCE, TensorShape=[10]",
        1: "SequenceNumber=1, OpType=BROADCAST",
    }


GXX = """backend='inductor' raised:
CppCompileError: C++ compile error

Command:
g++ /x/a.cpp -o a

Output:
/x/a.cpp:12:5: error: no match"""
LOADER = """Caught KeyError in DataLoader worker process 1.
Original Traceback:
  File "a.py", line 3
KeyError: 'image 3'
"""


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("", ""),
        ("no shards", "no shards"),
        ("\n first of two\nsecond", "first of two"),
        (
            "backend='mine' raised:\nValueError: no kernel\nSet TORCH_LOGS",
            "backend='mine' raised: ValueError: no kernel",
        ),
        (GXX, "backend='inductor' raised: CppCompileError: C++ compile error: /x/a.cpp:12:5: error: no match"),
        (LOADER, "'image 3', in DataLoader worker process 1"),
        (
            NCCL.format("unhandled cuda error", "Cuda failure 2 'oom'"),
            "NCCL: unhandled cuda error: Cuda failure 2 'oom'",
        ),
        ("Caught it in time", "Caught it in time"),
        (
            "-- Process 1 terminated with the following error:\nTraceback:\nKeyError: 'lr'\n",
            "Process 1: KeyError: 'lr'",
        ),
        ("a:\nb:\nc:\nd", "a: b: c:"),
    ],
)
def test_what_a_long_message_comes_to(message: str, short: str) -> None:
    assert short_message(message) == short


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("wait timeout after 4000ms, keys: /default_pg/0//cpu//0/2", Awaited(2, "0")),
        ("wait timeout after 2000ms, keys: /default_pg/0//1//cpu//0/1", Awaited(1, "1")),
        ("wait timeout after 600000ms, keys: /default_pg/0//cuda//0", Awaited(0, "0")),
        ("[3] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d", Awaited(0, "", 3)),
        ("wait timeout after 4000ms, keys: /mine/7", None),
        ("Timed out after 5 seconds waiting for clients. 1/2 clients joined.", None),
    ],
)
def test_whom_the_store_says_was_waited_for(message: str, found: Awaited | None) -> None:
    assert awaited(message) == found


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (CHECKPOINT, "OSError: [Errno 28] No space left on device"),
        (
            NOT_CLOSE,
            "Tensor-likes are not close! Mismatched elements: 16 / 16 (100.0%); "
            "Greatest absolute difference: 0.5 at index (0, 0) (up to 1e-05 allowed)",
        ),
        ("\nwhile lowering layers.3.attention", "while lowering layers.3.attention"),
    ],
)
def test_the_essence_stands_further_down(message: str, short: str) -> None:
    assert short_message(message) == short


def test_which_worker_of_elastic_failed() -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    failed = ProcessFailure(local_rank=1, pid=4, exitcode=3, error_file="<N/A>")
    short = "train.py FAILED: worker 1 exited with code 3"
    assert short_message(str(ChildFailedError("train.py", {1: failed}))) == short
    failed.message = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\nValueError: no shards\n'
    assert short_message(str(ChildFailedError("train.py", {1: failed}))) == f"{short}: ValueError: no shards"


def test_ranks_that_checkpointing_names() -> None:
    both = CHECKPOINT + CHECKPOINT.partition("\n")[2].replace("RANK 2", "RANK 0").replace("28", "5")
    said = {rank: f"OSError: [Errno {number}] No space left on device" for rank, number in ((2, 28), (0, 5))}
    assert failures(both) == said
    assert place_of(both, 2) == ("/me/test_writer.py", 17)
    assert failures("no shards") == {}
    assert place_of("no shards", 2) == ("", 0)


def test_ranks_that_a_monitored_barrier_names() -> None:
    assert absent("[Rank 0]: Ranks 1, 3 failed to pass monitoredBarrier in 2000 ms") == (0, frozenset({1, 3}))
    assert absent("[Rank 0]: Rank 2 failed to pass monitoredBarrier in 2000 ms\n Original exception: …") == (
        0,
        frozenset({2}),
    )
    assert absent("Rank 1 successfully reached monitoredBarrier, but received errors … from rank 0.") is None


def test_models_that_ddp_compares() -> None:
    text = "DDP expects same model across all ranks, but Rank 3 has 4 params, while rank 2 has inconsistent 6 params."
    assert parameters(text) == "4 params"
    assert parameters("4 params") == ""
