"""Reading dumps of faulthandler and py-spy: whose thread, which line, does it wait for a peer."""

import faulthandler
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.recording.stacks import (
    Frame,
    Thread,
    communication_call,
    formats_exception,
    imports_compiler,
    is_elsewhere,
    joins_group,
    main_first,
    main_thread,
    sleeps,
    threads,
    user_frame,
    waits_for_peer,
)

SITE = "/opt/env/lib/python3.12/site-packages"
WAITING = f"""\
Thread 0x00007f1a2b3c4d00 (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 331 in wait
  File "/usr/lib/python3.12/threading.py", line 629 in wait
  File "/usr/lib/python3.12/threading.py", line 1032 in _bootstrap

Thread 0x00007f1a99999700 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 2500 in recv
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/home/me/suite/test_pipe.py", line 12 in exchange
  File "/home/me/suite/test_pipe.py", line 30 in test_pipe
  File "{SITE}/_pytest/python.py", line 166 in pytest_pyfunc_call
"""
COMPUTING = f"""\
Current thread 0x00007f1a99999700 (most recent call first):
  File "{SITE}/torch/nn/modules/linear.py", line 134 in forward
  File "{SITE}/torch/nn/modules/module.py", line 1779 in _call_impl
  File "/home/me/suite/model.py", line 7 in forward
  File "{SITE}/torch/distributed/fsdp/_fully_shard/_fsdp_state.py", line 220 in forward
"""
PYSPY = f"""\
Process 21: /opt/env/bin/python -c from multiprocessing.forkserver import main; main(9, 11, ['a (b:3)'])
Python v3.11.7 (/usr/bin/python3.11)

Thread 21 (active+gil): "MainThread"
    native_step (/home/me/suite/train.py:59)
    Trainer.run.<locals>.<lambda> (/home/me/suite/train.py:80)
    pytest_pyfunc_call ({SITE}/_pytest/python.py:187)
    <module> (<string>:1)
Thread 0x7F1A2B3C4D00 (idle): "watch-dog"
    wait (/usr/lib/python3.11/threading.py:331)
Thread 24 (idle)
"""


def main(dump: str, identity: str = "") -> Thread:
    thread = main_thread(dump, identity)
    assert thread is not None
    return thread


def test_threads_and_frames_innermost_first() -> None:
    first, second = threads(WAITING)
    assert first.identity == "0x00007f1a2b3c4d00"
    assert second.frames[2] == Frame("/home/me/suite/test_pipe.py", 12, "exchange")
    assert str(second.frames[2]) == "/home/me/suite/test_pipe.py:12 in exchange"


@pytest.mark.parametrize("identity", ["0x7f1a99999700", "0x00007F1A99999700", "0x7f1a2b3c4d00"])
def test_the_main_thread_is_the_one_the_rank_named(identity: str) -> None:
    assert int(main(WAITING, identity).identity, 16) == int(identity, 16)


@pytest.mark.parametrize("identity", ["", "0x7f1a2b3c4d00"])
def test_py_spy_says_which_is_the_main_thread(identity: str) -> None:
    """Its numbers are the kernel's, not those that Python knows its threads by."""
    assert len(threads(PYSPY)) == 3
    assert user_frame(main(PYSPY, identity)) == Frame("/home/me/suite/train.py", 59, "native_step")
    assert main(PYSPY).frames[1].function == "Trainer.run.<locals>.<lambda>"
    assert threads(PYSPY)[2].frames == ()


@pytest.mark.parametrize("identity", ["", "0x1", "main", "0x", "0xé", "12 34", "-"])
def test_without_a_usable_name_it_is_the_last(identity: str) -> None:
    assert main(WAITING, identity) == threads(WAITING)[-1]


def test_the_main_thread_comes_first_and_threads_without_a_frame_last() -> None:
    silent = "Current thread 0x00007f1a00000001 (most recent call first):\n  <no Python frame>"
    ordered = main_first(f"{silent}\n\n{WAITING}", "0x7f1a99999700")
    of_waiting = {thread.identity: thread for thread in threads(WAITING)}
    assert threads(ordered) == (
        of_waiting["0x00007f1a99999700"],
        of_waiting["0x00007f1a2b3c4d00"],
        Thread("0x00007f1a00000001", ()),
    )
    assert sorted(filter(None, ordered.splitlines())) == sorted(
        filter(None, [*silent.splitlines(), *WAITING.splitlines()])
    )


def test_what_stands_before_the_threads_stays_there() -> None:
    assert main_first(PYSPY).splitlines()[:2] == PYSPY.splitlines()[:2]
    assert main_first("Fatal Python error: Aborted\n") == "Fatal Python error: Aborted\n"
    assert threads(main_first(PYSPY)) == threads(PYSPY)


def test_nothing_to_read() -> None:
    assert threads("") == ()
    assert main_thread("Fatal Python error: Aborted\n") is None
    assert main_thread('  File "a.py", line 1 in f') is None


def test_the_users_line() -> None:
    assert user_frame(main(WAITING)) == Frame("/home/me/suite/test_pipe.py", 12, "exchange")
    assert user_frame(threads(WAITING)[0]) is None
    assert user_frame(main(COMPUTING)) == Frame("/home/me/suite/model.py", 7, "forward")


def test_a_thread_in_a_distributed_call_waits_and_one_that_was_called_from_there_does_not() -> None:
    assert waits_for_peer(main(WAITING))
    assert communication_call(main(WAITING)) == "recv"
    assert not waits_for_peer(main(COMPUTING))
    assert communication_call(main(COMPUTING)) is None
    assert not waits_for_peer(Thread("0x1", ()))


def test_a_thread_in_ordinary_code_is_elsewhere() -> None:
    """It sleeps in its own line or in a library, and nobody else of the process waits for a peer."""
    sleeping = Thread("0x12", (Frame("/home/me/a.py", 4, "load"),), "time.sleep(9)")
    reading = Thread("0x12", (Frame("/usr/lib/python3.11/socket.py", 4, "recv"), *sleeping.frames))
    assert is_elsewhere("", sleeping)
    assert is_elsewhere("", reading)
    assert not is_elsewhere(WAITING, sleeping)


@pytest.mark.parametrize(
    "thread",
    [
        Thread("0x12", ()),
        Thread("0x12", (Frame("/home/me/a.py", 4, "load"),), "work.wait()"),
        Thread("0x12", (Frame("/home/me/a.py", 4, "load"),), "while not work.is_completed(): time.sleep(0.1)"),
        Thread("0x12", (Frame("/home/me/a.py", 4, "load"),)),
        Thread("0x12", (Frame(f"{SITE}/torch/autograd/graph.py", 4, "run"), Frame("/home/me/a.py", 4, "load")), "x"),
        Thread("0x12", (Frame("/usr/lib/python3.11/socket.py", 4, "recv"),), "x"),
    ],
    ids=[
        "no frames",
        "a native wait",
        "asking for the end",
        "a line that isn't known",
        "inside torch",
        "no line of the user's",
    ],
)
def test_what_could_be_a_wait_is_not_elsewhere(thread: Thread) -> None:
    assert not is_elsewhere("", thread)


def test_loading_torchs_compiler_in_any_thread_is_seen() -> None:
    importing = f"""\
Thread 0x12 (most recent call first):
  File "/usr/lib/python3.11/enum.py", line 826 in __setattr__
  File "{SITE}/triton/knobs.py", line 15 in <module>
  File "{SITE}/torch/_dynamo/utils.py", line 2874 in <module>
  File "/home/me/suite/test_pipe.py", line 30 in test_pipe

Thread 0x13 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 1119 in join
  File "/home/me/suite/test_pipe.py", line 30 in test_pipe
"""
    assert imports_compiler(importing)
    assert not imports_compiler(importing.replace("<module>", "convert_frame"))
    assert not imports_compiler('Thread 0x12 (\n  File "/home/me/slow.py", line 1 in <module>')


def test_making_a_group_is_known_from_other_waits() -> None:
    """Some of its stores ask again and again, which isn't progress."""
    calls = ("wait", "_new_process_group_helper", "init_process_group")
    frames = tuple(Frame(f"{SITE}/torch/distributed/distributed_c10d.py", 9, call) for call in calls)
    assert joins_group(Thread("0x1", frames))
    assert not joins_group(main(WAITING))
    assert not joins_group(Thread("0x1", (Frame("/home/me/dist.py", 9, "init_process_group"),)))


def test_a_thread_that_sleeps_chose_for_how_long() -> None:
    assert sleeps(Thread("0x1", (), "while busy(): time.sleep(0.1)"))
    assert not sleeps(Thread("0x1", (), "process.wait()"))
    assert not sleeps(Thread("0x1", (), ""))


@pytest.mark.parametrize("module", ["distributed_c10d", "_functional_collectives", "rendezvous", "device_mesh"])
def test_calls_that_wait_for_peers(module: str) -> None:
    frames = (Frame("/usr/lib/python3.11/x.py", 1, "f"), Frame(f"{SITE}/torch/distributed/{module}.py", 1, "g"))
    assert waits_for_peer(Thread("0x1", frames))


@pytest.mark.parametrize(
    "innermost",
    [
        f"{SITE}/torch/distributed/rpc/api.py",
        f"{SITE}/torch/distributed/elastic/rendezvous/dynamic_rendezvous.py",
        f"{SITE}/torch/futures/__init__.py",
        f"{SITE}/torch/distributed/utils.py",
        f"{SITE}/torch/nn/parallel/distributed.py",
        "/x/pytest_megacpp/rank/native_calls.py",
    ],
)
def test_other_places_where_ranks_wait_for_each_other(innermost: str) -> None:
    frames = (Frame(innermost, 9, "f"), Frame("/home/me/a.py", 4, "step"))
    assert waits_for_peer(Thread("0x1", frames, framed=True))
    assert not is_elsewhere("", Thread("0x1", frames, framed=True))


@pytest.mark.parametrize(
    "frames",
    [
        (f"{SITE}/torch/nn/modules/linear.py", f"{SITE}/torch/nn/parallel/distributed.py"),
        (f"{SITE}/torch/distributed/elastic/agent/server/api.py", f"{SITE}/torch/distributed/launcher/api.py"),
        (f"{SITE}/torch/distributed/checkpoint/filesystem.py",),
        ("/usr/lib/python3.11/threading.py", "/usr/lib/python3.11/concurrent/futures/_base.py"),
        ("/usr/lib/python3.11/queue.py",),
        ("/usr/lib/python3.11/subprocess.py",),
        (),
    ],
    ids=["a DDP model's forward", "workers of its own", "a disk", "a future", "a queue", "a child", "os.wait()"],
)
@pytest.mark.parametrize("line", ["x.wait()", "os.wait()", "future.result()", "queue.get()"])
def test_waiting_for_something_else_is_no_wait_for_a_peer(frames: tuple[str, ...], line: str) -> None:
    """What a frame is decides, not how its line reads."""
    thread = Thread("0x1", (*(Frame(f, 9, "f") for f in frames), Frame("/home/me/a.py", 4, "step")), line, framed=True)
    assert not waits_for_peer(thread)


def test_native_calls_are_named() -> None:
    framed = Frame("/x/pytest_megacpp/rank/native_calls.py", 40, "get")
    mine = Frame("/home/me/a.py", 4, "step")
    assert communication_call(Thread("0x1", (framed, mine), framed=True)) == "Store.get"
    recv = Frame(f"{SITE}/torch/distributed/distributed_c10d.py", 9, "recv")
    assert communication_call(Thread("0x1", (framed, recv, mine), framed=True)) == "recv"
    rpc = Frame(f"{SITE}/torch/distributed/rpc/api.py", 9, "shutdown")
    assert communication_call(Thread("0x1", (framed, rpc, mine), framed=True)) == "rpc.shutdown"


def test_what_inductor_generates_is_nobodys_own() -> None:
    generated = Frame(f"/tmp/x/inductor/sc/c{'a' * 51}.py", 33, "call")
    mine = Frame("/home/me/a.py", 4, "step")
    assert user_frame(Thread("0x1", (generated, mine))) == mine


def test_a_checkout_may_have_this_packages_name() -> None:
    test = Frame("/src/pytest_megacpp/smoke_suites/drills/test_stalls.py", 4, "test_ring")
    assert (
        user_frame(Thread("0x1", (Frame("/src/pytest_megacpp/pytest_megacpp/rank/session.py", 9, "f"), test))) == test
    )
    assert waits_for_peer(Thread("0x1", (test,), "work.wait()"))


def test_a_users_own_file_of_that_name_is_none() -> None:
    assert not waits_for_peer(Thread("0x1", (Frame("/home/me/distributed_c10d.py", 1, "recv"),)))


def test_a_dump_of_this_python_is_understood(tmp_path: Path) -> None:
    release = threading.Event()
    other = threading.Thread(target=release.wait)
    other.start()
    with (tmp_path / "dump").open("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        dump = file.read()
    release.set()
    other.join()
    found = main(dump, hex(threading.get_ident()))
    assert found.frames[0].function == "test_a_dump_of_this_python_is_understood"
    assert found.frames[0].file == __file__
    assert len(threads(dump)) >= 2


LINES = st.sampled_from(
    [
        "Thread 0x12 (most",
        "Current thread 0xZZ",
        '  File "a", line 3 in f',
        '  File "',
        "",
        "  ...",
        'Thread 7 (idle): "MainThread"',
        "    f (a.py:3)",
        "    f (a.py:)",
    ]
)


@given(st.lists(LINES | st.text(max_size=20)).map("\n".join), st.text(max_size=6))
def test_any_text_is_read(dump: str, identity: str) -> None:
    thread = main_thread(dump, identity)
    if thread is not None:
        assert user_frame(thread) in (None, *thread.frames)
        waits_for_peer(thread)
        communication_call(thread)


def test_a_call_is_named_as_users_call_it() -> None:
    c10d = f"{SITE}/torch/distributed/distributed_c10d.py"
    frames = (Frame(c10d, 9, "_new_process_group_helper"), Frame(c10d, 8, "init_process_group"))
    assert communication_call(Thread("0x1", frames)) == "init_process_group"
    assert communication_call(Thread("0x1", frames[:1])) == "_new_process_group_helper"


def test_a_rank_that_formats_an_exception_is_known_by_pytest_s_own_frames() -> None:
    pytest_s = 'File "/v/lib/python3.11/site-packages/_pytest/_code/code.py", line 304 in getsource'
    outer = 'File "/repo/conftest.py", line 9 in pytest_runtest_makereport'
    parsing = (
        f'Thread 0x1 (most recent call first):\n  File "/usr/lib/python3.11/ast.py", line 50 in parse\n  {pytest_s}'
    )
    showing = f'Thread 0x1 (most recent call first):\n  File "/repo/model.py", line 3 in __repr__\n  {pytest_s}'
    calling = f"Thread 0x1 (most recent call first):\n  {outer}"
    known = [formats_exception(threads(f"{dump}\n  {outer}\n")[0]) for dump in (parsing, showing, calling)]
    assert known == [True, False, False]
